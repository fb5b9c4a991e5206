from pinrail import Workflow, template

workflow = Workflow({
    template(name='jobA', class_='jobs.example.examplejobA'): [],
    template(name='jobB', class_='jobs.example.examplejobB'): ['jobA'],
    template(name='jobC', class_='jobs.example.examplejobC'): ['jobA', 'jobB'],
})
