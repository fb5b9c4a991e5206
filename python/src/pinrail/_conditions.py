"""Conditions: what ``wait_for=`` of a template may hold. The server looks at them; no process and no slot waits.

Texts are templates: ``{{ ds }}``, ``{{ interval.end }}``, ``{{ params.name }}``, ``{{ upstream.job.name }}`` are filled
in for the run. Each condition takes ``timeout`` (how long it is waited for: seven days), ``every`` (how often is
looked) and ``otherwise`` (what becomes of the job after that: ``'fail'`` or ``'skip'``).
"""

from __future__ import annotations

from typing import Any, Literal, Mapping, Optional, Union

from ._names import name_problem
from ._narrow import as_dict, as_list
from ._specs import WrongValue, describe, table_name_problem

Duration = Union[int, float, str, None]
Otherwise = Literal['fail', 'skip']


class Condition:
    """Something outside of the run that must be so before a job begins."""

    kind = ''

    def __init__(self, given: dict[str, object], timeout: Duration, every: Duration, otherwise: Otherwise) -> None:
        self._given = given
        self._timeout = timeout
        self._every = every
        self._otherwise = otherwise

    def __repr__(self) -> str:
        shown = ', '.join(f'{key}={value!r}' for key, value in self._given.items() if value is not None)
        return f'{type(self).__name__}({shown})'

    def to_json(self) -> dict[str, Any]:
        """Its form in the document. Raises ``WrongValue``."""
        from ._settings import positive_seconds

        that: dict[str, Any] = {'kind': self.kind}
        for key, value in self._given.items():
            if value is not None:
                that[key] = self._checked(key, value)
        body: dict[str, Any] = {'that': that}
        if self._timeout is not None:
            body['timeout_seconds'] = positive_seconds(self._timeout)
        if self._every is not None:
            body['every_seconds'] = positive_seconds(self._every)
        if self._otherwise not in ('fail', 'skip'):
            raise WrongValue(f'made of conditions whose otherwise is "fail" or "skip", not {describe(self._otherwise)}')
        if self._otherwise != 'fail':
            body['otherwise'] = self._otherwise
        return body

    def _checked(self, key: str, value: object) -> object:
        if not isinstance(value, str) or not value.strip():
            raise WrongValue(f'made of conditions, and "{key}" of {type(self).__name__} is {describe(value)}')
        return value


class File(Condition):
    """A file of the project's folder is there: a relative path, or a pattern such as ``'in/*.csv'``."""

    kind = 'file'

    def __init__(
        self, path: str, *, timeout: Duration = None, every: Duration = None, otherwise: Otherwise = 'fail'
    ) -> None:
        super().__init__({'path': path}, timeout, every, otherwise)


class _OfTable(Condition):
    def _checked(self, key: str, value: object) -> object:
        if key == 'partition':
            entries = as_dict(value)
            if not entries:
                raise WrongValue(f'made of conditions, and "partition" is {describe(value)}, not a dict')
            return {str(column): one if isinstance(one, str) else str(one) for column, one in entries.items()}
        problem = table_name_problem(value) if key == 'table' else None
        if problem is not None:
            raise WrongValue(f'made of conditions, and {problem[0]}', problem[1])
        return super()._checked(key, value)


class Rows(_OfTable):
    """A table has rows; with ``partition``, a dict of columns to values, rows in it."""

    kind = 'partition'

    def __init__(
        self,
        table: str,
        partition: Optional[Mapping[str, object]] = None,
        *,
        timeout: Duration = None,
        every: Duration = None,
        otherwise: Otherwise = 'fail',
    ) -> None:
        super().__init__({'table': table, 'partition': partition}, timeout, every, otherwise)


class Watermark(_OfTable):
    """The greatest value of a table's column has come as far as ``reaches``."""

    kind = 'watermark'

    def __init__(
        self,
        table: str,
        column: str,
        reaches: str = '{{ interval.end }}',
        *,
        timeout: Duration = None,
        every: Duration = None,
        otherwise: Otherwise = 'fail',
    ) -> None:
        super().__init__({'table': table, 'column': column, 'reaches': reaches}, timeout, every, otherwise)


class RunOf(Condition):
    """Another workflow, or one job of it, has succeeded for the matching intervals.

    Those are all of its intervals that lie within the run's own, or else the one in which the run's own begins.
    """

    kind = 'run'

    def __init__(
        self,
        workflow: str,
        job: Optional[str] = None,
        *,
        timeout: Duration = None,
        every: Duration = None,
        otherwise: Otherwise = 'fail',
    ) -> None:
        super().__init__({'workflow': workflow, 'job': job}, timeout, every, otherwise)

    def _checked(self, key: str, value: object) -> object:
        problem = name_problem(value)
        if problem is not None:
            raise WrongValue(f"made of conditions, and a {key}'s name {problem}")
        return value


class Url(Condition):
    """A GET is answered with ``status`` and, if it is given, with the text ``contains`` in the body."""

    kind = 'http'

    def __init__(
        self,
        url: str,
        status: int = 200,
        contains: Optional[str] = None,
        *,
        timeout: Duration = None,
        every: Duration = None,
        otherwise: Otherwise = 'fail',
    ) -> None:
        super().__init__({'url': url, 'status': status, 'contains': contains}, timeout, every, otherwise)

    def _checked(self, key: str, value: object) -> object:
        if key == 'status':
            if isinstance(value, bool) or not isinstance(value, int) or not 100 <= value <= 599:
                raise WrongValue(f'made of conditions, and "status" is {describe(value)}, not a number such as 200')
            return value
        return super()._checked(key, value)


class SqlTrue(Condition):
    """The first value of the first row of a SELECT is true."""

    kind = 'sql'

    def __init__(
        self, sql: str, *, timeout: Duration = None, every: Duration = None, otherwise: Otherwise = 'fail'
    ) -> None:
        super().__init__({'sql': sql}, timeout, every, otherwise)


def conditions(value: object) -> list[dict[str, Any]]:
    """``wait_for=`` as the document has it: a condition or a list of them. Raises ``WrongValue``."""
    items = as_list(value)
    if items is None:
        items = [value]
    found: list[dict[str, Any]] = []
    for item in items:
        if not isinstance(item, Condition):
            hint = "write wait_for=File('in/{{ ds }}.csv'); there are File, Rows, Watermark, RunOf, Url and SqlTrue"
            raise WrongValue(f'a condition or a list of them, not {describe(item)}', hint)
        found.append(item.to_json())
    return found
