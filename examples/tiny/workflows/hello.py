from pinrail import Param, Workflow, template

workflow = Workflow({
    template(name='greet', class_='jobs.greet.greet'): [],
    template(name='tell', shell='echo "$PINRAIL_PARAM_NAME was greeted for $PINRAIL_DS"'): ['greet'],
}, params={'name': Param(str, default='world', help='who is greeted')})
