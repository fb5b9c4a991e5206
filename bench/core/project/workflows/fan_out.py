"""300 jobs at once that do nothing."""

from pinrail import template

WIDTH = 300

workflow = {template(name=f'j{i}', class_='jobs.work.nothing'): [] for i in range(WIDTH)}
