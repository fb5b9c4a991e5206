"""10,000 jobs in 100 rows, each job after the one above it and its neighbour."""

from pinrail import template

JOBS, WIDTH = 10_000, 100

workflow = {
    template(name=f'j{i}', shell='true'): [f'j{i - WIDTH}', f'j{i - WIDTH + 1}'] if i >= WIDTH else []
    for i in range(JOBS)
}
