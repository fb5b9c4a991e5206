"""40 jobs one after the other, 10 ms each."""

from pinrail import template

LENGTH = 40

workflow = {
    template(name=f'j{i}', class_='jobs.work.ten_milliseconds'): [f'j{i - 1}'] if i else [] for i in range(LENGTH)
}
