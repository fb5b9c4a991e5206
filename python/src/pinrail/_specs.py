"""Specs: what ``execute`` may return for an engine to do, and the tables that work declares as its own.

A later engine adds one subclass of ``Spec`` with its ``kind`` and ``to_json``; the runner and the server need nothing
else of it. This module is on the start-up path of every job process and imports nothing heavy. Mistakes go through
``_diagnostics.settle``: collected while a workflow file is compiled, raised as ``DefinitionError`` elsewhere.
"""

from __future__ import annotations

from ._narrow import as_dict, as_list

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Literal, Union

    Writes = Union[str, 'Table', 'Sequence[str | Table]']


class Spec:
    """Work for an engine, as a value. ``kind`` is its name on the wire."""

    kind = ''

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is sent to the server, ``kind`` included."""
        raise NotImplementedError(f'{type(self).__name__} must define to_json')

    def __repr__(self) -> str:
        shown = ', '.join(f'{key}={value!r}' for key, value in self.to_json().items() if key != 'kind' and value)
        return f'{type(self).__name__}({shown})'


class Result:
    """What a returned spec came to, for ``complete``.

    ``state`` is ``'succeeded'``; ``rows`` counts rows written or, for a query, returned (None where an engine does not
    count); ``schema`` lists ``{'name', 'type'}`` of the last result; ``counters`` are the engine's, by name; ``url``
    leads to the engine's own page, if it has one; ``run`` is the id of the run that a ``RunWorkflow`` came to.
    """

    __slots__ = ('counters', 'rows', 'run', 'schema', 'state', 'url')

    def __init__(
        self,
        state: str,
        *,
        rows: int | None = None,
        schema: Sequence[Mapping[str, str]] = (),
        counters: Mapping[str, float] | None = None,
        url: str | None = None,
        run: str | None = None,
    ) -> None:
        self.state = state
        self.run = run
        self.rows = rows
        self.schema = list(schema)
        self.counters = dict(counters or {})
        self.url = url

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        """From the server's JSON object; fields of a newer server are left out."""
        known = {name: value[name] for name in ('rows', 'schema', 'counters', 'url', 'run') if value.get(name) is not None}
        return cls(value['state'], **known)

    def __repr__(self) -> str:
        return f'Result(state={self.state!r}, rows={self.rows!r})'


class Sql(Spec):
    """One or more SQL statements: the text itself, or a file of the project.

    ``params`` are values for ``{{ params.name }}`` beside the run's own; ``writes`` names the tables that the
    statements own, see ``Table``.
    """

    kind = 'sql'

    def __init__(
        self,
        text: str | None = None,
        *,
        file: str | None = None,
        params: Mapping[str, Any] | None = None,
        writes: Writes | None = None,
    ) -> None:
        wrong: list[tuple[str, str, str | None, str | None]] = []
        given: list[tuple[str, object]] = [('text', text), ('file', file)]
        for name, value in given:
            if value is not None and (not isinstance(value, str) or not value.strip()):
                wrong.append(('wrong-type', f'"{name}" of Sql must be text, not {describe(value)}', None, name))
        if text is None and file is None:
            wrong.append(
                ('no-kind', 'Sql has neither text nor file', "write Sql('select 1') or Sql(file='sql/x.sql')", None)
            )
        if text is not None and file is not None:
            wrong.append(('two-kinds', 'Sql has both text and file', 'give one of them', 'file'))
        if params is not None and as_dict(params) is None:
            wrong.append(('wrong-type', f'"params" of Sql must be a dict, not {describe(params)}', None, 'params'))
            params = None
        self.text = text
        self.file = file
        self.params: dict[str, Any] = dict(params or {})
        self.writes: list[Table] | None = None
        try:
            self.writes = tables_of(writes)
        except WrongValue as error:
            wrong.append(('wrong-type', f'"writes" of Sql must be {error.expected}', error.hint, 'writes'))
        _settle('Sql', wrong)

    def to_json(self) -> dict[str, Any]:
        from ._values import plain

        body: dict[str, Any] = {'kind': self.kind}
        if self.file is not None:
            body['file'] = self.file
        else:
            body['text'] = self.text
        body['params'] = plain(self.params)
        body['writes'] = None if self.writes is None else [table.to_json() for table in self.writes]
        return body


class Shell(Spec):
    """A command: a string for ``sh -c``, or a list of words that no shell reads. ``env`` adds environment variables."""

    kind = 'shell'

    def __init__(self, command: str | Sequence[str], env: Mapping[str, str] | None = None) -> None:
        wrong: list[tuple[str, str, str | None, str | None]] = []
        self.command: list[str] = []
        self.env: dict[str, str] = {}
        try:
            self.command = command_of(command)
        except WrongValue as error:
            wrong.append(('wrong-type', f'"command" of Shell must be {error.expected}', error.hint, 'command'))
        try:
            self.env = texts_of(env)
        except WrongValue as error:
            wrong.append(('wrong-type', f'"env" of Shell must be {error.expected}', error.hint, 'env'))
        _settle('Shell', wrong)

    def to_json(self) -> dict[str, Any]:
        return {'kind': self.kind, 'command': self.command, 'env': self.env}


class RunWorkflow(Spec):
    """A run of another workflow of the project, from the same code and for the same interval, with these parameters.

    The job has succeeded when that run has. What its jobs left is in ``outputs``, by job.
    """

    kind = 'workflow'

    def __init__(self, workflow: str, params: Mapping[str, Any] | None = None) -> None:
        wrong: list[tuple[str, str, str | None, str | None]] = []
        self.workflow = ''
        try:
            self.workflow = workflow_of(workflow)
        except WrongValue as error:
            wrong.append(('wrong-type', f'"workflow" of RunWorkflow must be {error.expected}', error.hint, 'workflow'))
        if params is not None and as_dict(params) is None:
            message = f'"params" of RunWorkflow must be a dict, not {describe(params)}'
            wrong.append(('wrong-type', message, None, 'params'))
            params = None
        self.params: dict[str, Any] = dict(params or {})
        _settle('RunWorkflow', wrong)

    def to_json(self) -> dict[str, Any]:
        from ._values import plain

        return {'kind': self.kind, 'workflow': self.workflow, 'params': plain(self.params)}


class Table:
    """A table that a job declares as its own.

    ``partition`` maps columns to values, as text in which ``{{ ds }}`` and its like are filled in. The job's
    publication replaces exactly that partition, or without one the whole table; ``mode='append'`` adds instead.
    """

    __slots__ = ('name', 'partition', 'mode')

    def __init__(
        self,
        name: str,
        partition: Mapping[str, object] | None = None,
        mode: Literal['replace', 'append'] = 'replace',
    ) -> None:
        wrong: list[tuple[str, str, str | None, str | None]] = []
        problem = table_name_problem(name)
        if problem is not None:
            wrong.append(('bad-name', problem[0], problem[1], 'name'))
        columns: dict[str, str] = {}
        entries = {} if partition is None else as_dict(partition)
        if entries is None or not all(isinstance(key, str) and key and one is not None for key, one in entries.items()):
            message = f'"partition" of table "{name}" must be a dict of columns to values, not {describe(partition)}'
            wrong.append(('wrong-type', message, "write partition={'day': '{{ ds }}'}", 'partition'))
        else:
            columns = {column: one if isinstance(one, str) else str(one) for column, one in entries.items()}
        if mode not in ('replace', 'append'):
            wrong.append(
                (
                    'wrong-type',
                    f'"mode" of table "{name}" must be "replace" or "append", not {describe(mode)}',
                    None,
                    'mode',
                )
            )
        self.name = name
        self.partition = columns
        self.mode = mode
        _settle('Table', wrong)

    def to_json(self) -> dict[str, Any]:
        return {'table': self.name, 'partition': self.partition, 'mode': self.mode}

    def __repr__(self) -> str:
        return f'Table({self.name!r}, partition={self.partition!r}, mode={self.mode!r})'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.partition.items()), self.mode))


class WrongValue(Exception):
    """A value that a setting cannot take: ``expected`` ends the sentence "the setting must be ..."."""

    def __init__(self, expected: str, hint: str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.hint = hint


def describe(value: object) -> str:
    """A value as a message quotes it: text in double quotes, anything else as Python shows it, cut short."""
    if isinstance(value, str):
        return f'"{value if len(value) <= 60 else value[:57] + "..."}"'
    if callable(value) and hasattr(value, '__qualname__'):
        return f'{type(value).__name__} {getattr(value, "__qualname__")}'
    shown = repr(value)
    if ' at 0x' in shown:
        # An address differs from process to process, and the document must not.
        shown = f'an object of type {type(value).__name__}'
    return shown if len(shown) <= 60 else shown[:57] + '...'


def tables_of(writes: object) -> list[Table] | None:
    """``writes=`` as a list of tables: a name, a ``Table``, or a sequence of these. Raises ``WrongValue``."""
    if writes is None:
        return None
    items = as_list(writes)
    if items is None:
        items = [writes]
    tables: list[Table] = []
    for item in items:
        if isinstance(item, Table):
            tables.append(item)
        elif isinstance(item, str):
            problem = table_name_problem(item)
            if problem is not None:
                raise WrongValue(f'a table, and {problem[0]}', problem[1])
            table = Table.__new__(Table)
            table.name, table.partition, table.mode = item, {}, 'replace'
            tables.append(table)
        else:
            raise WrongValue(f'a table name, a Table or a list of these, not {describe(item)}')
    names = [(table.name, tuple(table.partition.items())) for table in tables]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise WrongValue(f'a list without repetition, and "{name[0]}" is in it twice')
    return tables


def command_of(command: object) -> list[str]:
    """``shell=`` as a list of words. Raises ``WrongValue``."""
    if isinstance(command, str):
        if not command.strip():
            raise WrongValue('a command, and it is empty')
        return ['sh', '-c', command]
    words = as_list(command)
    if words and words[0] and all(isinstance(word, str) for word in words):
        return words
    raise WrongValue(f'a command as text or as a list of words, not {describe(command)}')


def workflow_of(name: object) -> str:
    """``workflow=`` as the name of one. Raises ``WrongValue``."""
    from ._names import name_problem

    problem = name_problem(name)
    if problem is not None:
        raise WrongValue(f'the name of a workflow; it {problem}')
    return str(name)


def texts_of(values: object) -> dict[str, str]:
    """A dict of names to texts, such as ``env=``. Raises ``WrongValue``."""
    if values is None:
        return {}
    entries = as_dict(values)
    if entries is None:
        raise WrongValue(f'a dict of names to texts, not {describe(values)}')
    texts: dict[str, str] = {}
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, str):
            shown = value if isinstance(key, str) else key
            hint = f'write "{value}"' if isinstance(value, (int, float)) else None
            raise WrongValue(f'a dict of names to texts, and {describe(shown)} is not text', hint)
        if not key or '=' in key or '\0' in key + value:
            raise WrongValue(f'a dict of names to texts, and {describe(key)} is not a usable name')
        texts[key] = value
    return texts


def table_name_problem(name: object) -> tuple[str, str | None] | None:
    """What is wrong with a table's name, and what to do: a table, or a namespace and a table."""
    if not isinstance(name, str):
        return f'a table name must be text, not {describe(name)}', None
    parts = name.split('.')
    if len(parts) > 2:
        return f'table name "{name}" has more than two parts', 'write "namespace.table"'
    for part in parts:
        if '__' in part:
            return f'table name "{name}" holds two underscores in a row', 'they are reserved for the prefix of a target'
        letters = part.replace('_', 'a')
        if (
            not letters.isascii()
            or not letters.isalnum()
            or letters[0].isdigit()
            or part != part.lower()
            or len(part) > 128
        ):
            hint = f'write "{name.lower()}"' if _spellable(name.lower()) else None
            return f'table name "{name}" must be made of lower-case letters, digits and underscores', hint
    return None


def _spellable(name: str) -> bool:
    return name.replace('_', 'a').replace('.', 'a').isalnum() and name.isascii() and '..' not in name


def _settle(func: str, wrong: list[tuple[str, str, str | None, str | None]]) -> None:
    """Reports what is wrong with a spec, pointing at the user's call."""
    if not wrong:
        return
    from ._diagnostics import Site, settle

    site = Site.of_caller(func)
    settle([site.diagnostic(code, message, hint=hint, setting=setting) for code, message, hint, setting in wrong])
