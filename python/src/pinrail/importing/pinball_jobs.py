"""What job classes that were written for Pinball derive from, and how they run here.

``pinrail import pinball`` puts this file into projects whose jobs need it. It uses nothing of Pinball. A job that is
written as a class with ``setup``, ``execute``, ``complete`` and ``cleanup`` needs this file no longer.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from typing import Any, Optional

_ATTRIBUTE = 'PINBALL:EVENT_ATTR:'


class JobBase:
    """A job with Pinball's phases, which all run on one object."""

    def __init__(self, params: Optional[dict[str, Any]] = None, settings: Optional[dict[str, Any]] = None) -> None:
        self.params = params or {}
        self.settings = settings or {}
        self.job_name = type(self).__name__
        self._job_output: Any = None

    def _setup(self) -> None:
        """Prepares."""

    def _execute(self) -> None:
        """Works."""

    def _complete(self) -> None:
        """Runs after success."""

    def _cleanup(self) -> None:
        """Runs in any case."""

    def runjob(self) -> None:
        """Runs the phases in Pinball's order."""
        try:
            self._setup()
            self._execute()
            self._complete()
        finally:
            self._cleanup()


class PythonJob(JobBase):
    """A job whose ``_execute`` does the work."""


class CommandLineJob(JobBase):
    """A job that runs the command of ``_get_command`` with ``self.arguments``."""

    def _setup(self) -> None:
        self.arguments = ' '.join(f'--{name}={value}' for name, value in self.params.items())

    def _get_command(self) -> str:
        raise NotImplementedError('_get_command says which command the job runs')

    def _execute(self) -> None:
        done = subprocess.run(f'{self._get_command()} {self.arguments}', shell=True, stdout=subprocess.PIPE, text=True)
        self._job_output = done.stdout
        print(done.stdout, end='')
        if done.returncode != 0:
            raise RuntimeError(f'the command ended with exit code {done.returncode}')


class _Attributes(io.TextIOBase):
    """Standard output that leaves what is printed as an attribute of Pinball's events as an output of the job."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self._behind: Any = sys.stdout
        self._line = ''

    def write(self, text: str) -> int:
        self._behind.write(text)
        *lines, self._line = (self._line + text).split('\n')
        for line in lines:
            if line.startswith(_ATTRIBUTE):
                name, _, value = line[len(_ATTRIBUTE) :].partition('=')
                self._ctx.output(name, value)
        return len(text)

    def flush(self) -> None:
        self._behind.flush()


def run_job(ctx: Any, job: type[JobBase], **params: str) -> None:
    """Runs a job class of Pinball. Its ``params`` hold ``end_date``, the date of the run, and those of the run."""
    given = {name: str(ctx.params[name]) for name in ctx.params.keys()}
    made = job({**given, 'end_date': str(ctx.ds), **params})
    with contextlib.redirect_stdout(_Attributes(ctx)):
        made.runjob()


def event_attributes(ctx: Any) -> dict[str, str]:
    """The outputs of the jobs above, by name."""
    return {name: str(value) for above in ctx.upstream.values() for name, value in above.outputs.items()}
