"""10,000 jobs that wait for one which does not end."""

from pinrail import template

WAITING = 10_000

workflow = {
    template(name='gate', shell='sleep 3600'): [],
    **{template(name=f'j{i}', shell='true'): ['gate'] for i in range(WAITING)},
}
