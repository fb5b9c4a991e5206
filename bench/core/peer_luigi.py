"""The chain and the fan-out on Luigi: ``python peer_luigi.py chain|fan-out WORKERS`` prints the seconds from start to end.

Each task leaves a file, which is how Luigi remembers what is done; nothing is synced. With one worker all tasks run in
this process; with more, Luigi forks a process for each.
"""

import sys
import tempfile
import time

import luigi

FOLDER = tempfile.mkdtemp()


class Job(luigi.Task):
    index = luigi.IntParameter()
    chained = luigi.BoolParameter()

    def requires(self):
        return [Job(index=self.index - 1, chained=True)] if self.chained and self.index else []

    def output(self):
        return luigi.LocalTarget(f'{FOLDER}/{self.index}')

    def run(self):
        if self.chained:
            time.sleep(0.01)
        with self.output().open('w') as file:
            file.write('done')


def main() -> None:
    chained = sys.argv[1] == 'chain'
    tasks = [Job(index=39, chained=True)] if chained else [Job(index=i, chained=False) for i in range(300)]
    started = time.perf_counter()
    if not luigi.build(tasks, local_scheduler=True, workers=int(sys.argv[2]), log_level='ERROR'):
        sys.exit(1)
    print(time.perf_counter() - started)


if __name__ == '__main__':
    main()
