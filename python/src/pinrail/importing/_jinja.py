"""Jinja templates of Airflow, as shell variables, as SQL templates of Pinrail, and as Python expressions.

Only what has the same value in Pinrail is translated. Everything else is a ``NotTranslated`` with the reason.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Any, Callable, NamedTuple, Optional

_TAG = re.compile(r'\{\{(.*?)\}\}|\{%(.*?)%\}|\{#.*?#\}', re.DOTALL)


class Part(NamedTuple):
    """A piece of a template: literal ``text``, an ``expr`` or a ``statement``."""

    kind: str
    text: str


class NotTranslated(Exception):
    """An expression without a counterpart; the message ends the sentence "... is not translated:"."""

    def __init__(self, why: str, todo: str) -> None:
        super().__init__(why)
        self.todo = todo


@dataclass
class Code:
    """A Python expression over ``ctx``, what it imports, and the outputs that it reads, as (task id, key)."""

    text: str
    imports: set[str] = field(default_factory=set[str])
    pulls: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


# Makes the expression that reads an output of a task: task id, key.
Pull = Callable[[str, str], str]


def parts_of(template: str) -> list[Part]:
    """The pieces of a template in order. Comments are left out."""
    parts: list[Part] = []
    place = 0
    for match in _TAG.finditer(template):
        if match.start() > place:
            parts.append(Part('text', template[place : match.start()]))
        place = match.end()
        if match[1] is not None:
            parts.append(Part('expr', match[1].strip().strip('-').strip()))
        elif match[2] is not None:
            parts.append(Part('statement', match[2].strip().strip('-').strip()))
    if place < len(template):
        parts.append(Part('text', template[place:]))
    return parts


def is_text(code: str) -> bool:
    """Whether a Python expression is known to give a text."""
    return code.startswith(('str(', "'", "f'"))


def is_template(text: str) -> bool:
    return '{{' in text or '{%' in text or '{#' in text


_TIMEDELTA = 'from datetime import timedelta'
# Values of the run that are the same in Pinrail, as Python.
_NAMES = {
    'ds': 'str(ctx.ds)',
    'ds_nodash': "ctx.ds.strftime('%Y%m%d')",
    'ts': 'ctx.interval.start.isoformat()',
    'ts_nodash': "ctx.interval.start.strftime('%Y%m%dT%H%M%S')",
    'yesterday_ds': 'str(ctx.ds - timedelta(days=1))',
    'tomorrow_ds': 'str(ctx.ds + timedelta(days=1))',
    'yesterday_ds_nodash': "(ctx.ds - timedelta(days=1)).strftime('%Y%m%d')",
    'tomorrow_ds_nodash': "(ctx.ds + timedelta(days=1)).strftime('%Y%m%d')",
    'data_interval_start': 'ctx.interval.start',
    'data_interval_end': 'ctx.interval.end',
    'logical_date': 'ctx.interval.start',
    'execution_date': 'ctx.interval.start',
    'next_execution_date': 'ctx.interval.end',
    'next_ds': 'str(ctx.interval.end.date())',
    'run_id': 'ctx.run.id',
    'task_instance_key_str': "f'{ctx.workflow}__{ctx.job}__{ctx.ds:%Y%m%d}'",
    'dag_run.run_id': 'ctx.run.id',
    'dag_run.logical_date': 'ctx.interval.start',
    'dag_run.execution_date': 'ctx.interval.start',
    'dag_run.data_interval_start': 'ctx.interval.start',
    'dag_run.data_interval_end': 'ctx.interval.end',
    'dag.dag_id': 'ctx.workflow',
    'task.task_id': 'ctx.job',
    'ti.task_id': 'ctx.job',
    'ti.dag_id': 'ctx.workflow',
    'ti.run_id': 'ctx.run.id',
    'ti.try_number': 'ctx.attempt.number',
}
# Attributes and methods that the values have without pendulum too.
_ALLOWED = frozenset(
    'strftime isoformat date time year month day hour minute second weekday isoweekday timestamp lower upper title '
    'strip split replace format startswith endswith join get total_seconds'.split()
)
_FILTERS = {
    'ds': "{}.strftime('%Y-%m-%d')",
    'ds_nodash': "{}.strftime('%Y%m%d')",
    'ts': '{}.isoformat()',
    'ts_nodash': "{}.strftime('%Y%m%dT%H%M%S')",
    'upper': 'str({}).upper()',
    'lower': 'str({}).lower()',
    'trim': 'str({}).strip()',
    'int': 'int({})',
    'string': 'str({})',
    'length': 'len({})',
}
_ADVICE = {
    'var': ('Airflow variables are not there', 'make it a parameter of the workflow, or a secret'),
    'conn': ('Airflow connections are not there', 'make it a secret: template(..., secrets=[...])'),
    'dag_run': ('the conf of a run is not there', 'declare what it holds as parameters of the workflow'),
    'params': ('the workflow declares no such parameter', 'add it to params of the workflow'),
    'prev_ds': ('the run before is not known', 'use the interval of this run'),
    'inlets': ('assets are not there', 'wait for a job instead'),
    'outlets': ('assets are not there', 'wait for a job instead'),
}


def expression(text: str, params: set[str], pull: Pull) -> Code:
    """A Jinja expression as Python. Raises ``NotTranslated``."""
    code = Code('')
    try:
        tree = ast.parse(text, mode='eval').body
    except SyntaxError:
        raise NotTranslated('it is more than an expression of Python', 'write the job in Python') from None
    code.text = _python(tree, code, params, pull)
    if 'timedelta(' in code.text:
        code.imports.add(_TIMEDELTA)
    return code


def _python(node: ast.expr, code: Code, params: set[str], pull: Pull) -> str:
    def inner(one: ast.expr) -> str:
        return _python(one, code, params, pull)

    name = dotted(node).replace('task_instance.', 'ti.')
    if name in _NAMES:
        return _NAMES[name]
    param = param_of(node)
    if param is not None and param in params:
        return f'ctx.params[{param!r}]'
    if isinstance(node, ast.Constant):
        return repr(node.value)
    if isinstance(node, ast.Call):
        return _call(node, code, params, pull)
    if isinstance(node, ast.Attribute) and node.attr in _ALLOWED:
        return f'{inner(node.value)}.{node.attr}'
    if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice):
        return f'{inner(node.value)}[{inner(node.slice)}]'
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        filtered = dotted(node.right)
        if filtered in _FILTERS:
            return _FILTERS[filtered].format(inner(node.left))
        raise NotTranslated(f'the filter "{ast.unparse(node.right)}" is not known', 'write the job in Python')
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub, ast.Mult)):
        sign = {ast.Add: '+', ast.Sub: '-', ast.Mult: '*'}[type(node.op)]
        return f'({inner(node.left)} {sign} {inner(node.right)})'
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return f'-{inner(node.operand)}'
    if isinstance(node, (ast.List, ast.Tuple)):
        return '[' + ', '.join(inner(one) for one in node.elts) + ']'
    why, todo = _ADVICE.get((name or ast.unparse(node)).split('.')[0].split('[')[0], ('it has no counterpart', ''))
    raise NotTranslated(why, todo or 'write the job in Python, with what it needs from ctx')


def _call(node: ast.Call, code: Code, params: set[str], pull: Pull) -> str:
    def inner(one: ast.expr) -> str:
        return _python(one, code, params, pull)

    name = dotted(node.func).replace('task_instance.', 'ti.')
    if name == 'ti.xcom_pull':
        given: dict[str, ast.expr] = dict(zip(('task_ids', 'dag_id', 'key'), node.args))
        given.update({one.arg: one.value for one in node.keywords if one.arg is not None})
        source, key = given.get('task_ids'), given.get('key')
        ids = (
            [source]
            if isinstance(source, ast.Constant)
            else list(source.elts)
            if isinstance(source, (ast.List, ast.Tuple))
            else []
        )
        texts = [one.value for one in ids if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if not texts or len(texts) != len(ids) or not (key is None or isinstance(key, ast.Constant)):
            raise NotTranslated('it does not name the task that it pulls from', 'name it: task_ids="..."')
        wanted = 'return_value' if key is None else str(key.value)
        code.pulls += [(one, wanted) for one in texts]
        read = [pull(one, wanted) for one in texts]
        return read[0] if isinstance(source, ast.Constant) else '[' + ', '.join(read) + ']'
    if name == 'macros.ds_add' and len(node.args) == 2 and dotted(node.args[0]) == 'ds':
        return f'str(ctx.ds + timedelta(days={inner(node.args[1])}))'
    if name == 'macros.timedelta':
        arguments = [inner(one) for one in node.args] + [f'{one.arg}={inner(one.value)}' for one in node.keywords]
        return f'timedelta({", ".join(arguments)})'
    if isinstance(node.func, ast.Attribute) and node.func.attr in ('add', 'subtract') and not node.args:
        sign = '+' if node.func.attr == 'add' else '-'
        arguments = [
            f'{one.arg}={inner(one.value)}' for one in node.keywords if one.arg in ('days', 'hours', 'weeks', 'minutes')
        ]
        if len(arguments) == len(node.keywords):
            return f'({inner(node.func.value)} {sign} timedelta({", ".join(arguments)}))'
    if isinstance(node.func, ast.Attribute) and node.func.attr == 'to_date_string' and not node.args:
        return f'str({inner(node.func.value)}.date())'
    if isinstance(node.func, ast.Attribute) and node.func.attr in _ALLOWED:
        arguments = [inner(one) for one in node.args] + [f'{one.arg}={inner(one.value)}' for one in node.keywords]
        return f'{inner(node.func.value)}.{node.func.attr}({", ".join(arguments)})'
    why, todo = _ADVICE.get(name.split('.')[0], (f'"{name or ast.unparse(node.func)}" has no counterpart', ''))
    raise NotTranslated(why, todo or 'write the job in Python')


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a syntax node, or an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f'{owner}.{node.attr}' if owner else ''
    return ''


def param_of(node: ast.AST) -> Optional[str]:
    """``x`` of ``params.x`` and ``params['x']``."""
    if isinstance(node, ast.Attribute) and dotted(node.value) in ('params', 'dag.params', 'task.params'):
        return node.attr
    if isinstance(node, ast.Subscript) and dotted(node.value) == 'params' and isinstance(node.slice, ast.Constant):
        return str(node.slice.value)
    return None


def text_code(template: str, params: set[str], pull: Pull) -> Code:
    """A template as a Python expression that gives its text. Raises ``NotTranslated``."""
    whole = Code('')
    pieces: list[str] = []
    for part in parts_of(template):
        if part.kind == 'statement':
            raise NotTranslated(f'"{{% {part.text} %}}" is a statement of Jinja', 'write the job in Python')
        if part.kind == 'text':
            pieces.append(repr(part.text))
            continue
        one = expression(part.text, params, pull)
        whole.imports |= one.imports
        whole.pulls += one.pulls
        pieces.append(one.text if is_text(one.text) else f'str({one.text})')
    whole.text = ' + '.join(pieces) or "''"
    return whole


@dataclass
class Command:
    """A shell command: its text, and what its variables are beside those of Pinrail, as Python."""

    text: str
    values: dict[str, Code] = field(default_factory=dict[str, Code])
    # Variables that nothing sets yet, with the expression and the reason.
    missing: dict[str, tuple[str, NotTranslated]] = field(default_factory=dict[str, Any])


_SHELL = {'ds': 'PINRAIL_DS', 'ds_nodash': 'PINRAIL_DS//-/', 'run_id': 'PINRAIL_RUN', 'dag_run.run_id': 'PINRAIL_RUN'}
_QUOTED_HEREDOC = re.compile(r'<<-?\s*[\'"\\]')


def command(template: str, params: set[str], pull: Pull) -> Command:
    """A bash command with Jinja as one that reads variables. Raises ``NotTranslated`` for statements of Jinja."""
    made = Command('')
    parts = parts_of(template)
    if any(part.kind == 'expr' for part in parts) and _QUOTED_HEREDOC.search(template):
        raise NotTranslated('a here-document in quotes reads no variables', 'write the job in Python')
    for part in parts:
        if part.kind == 'statement':
            raise NotTranslated(f'"{{% {part.text} %}}" is a statement of Jinja', 'write the loop in bash or in Python')
    made.text = with_variables(parts, lambda text: _variable(text, made, params, pull))
    return made


def with_variables(parts: list[Part], variable: Callable[[str], str]) -> str:
    """The text of a shell command whose expressions are variables, which are filled in inside of every quote."""
    quote, pieces = '', list[str]()
    for part in parts:
        if part.kind == 'text':
            pieces.append(part.text)
            quote = _quote_after(part.text, quote)
            continue
        name = variable(part.text)
        # Inside single quotes a shell fills nothing in: they end before the variable and go on behind it.
        pieces.append(f'\'"${{{name}}}"\'' if quote == "'" else f'${{{name}}}')
    return ''.join(pieces)


def _variable(text: str, made: Command, params: set[str], pull: Pull) -> str:
    try:
        tree = ast.parse(text, mode='eval').body
        param = param_of(tree)
        if dotted(tree) in _SHELL:
            return _SHELL[dotted(tree)]
        if param is not None and param in params:
            return f'PINRAIL_PARAM_{param.upper().replace("-", "_")}'
    except SyntaxError:
        pass
    try:
        code = expression(text, params, pull)
    except NotTranslated as wrong:
        name = 'AIRFLOW_' + re.sub(r'\W+', '_', text).strip('_').upper()[:40]
        made.missing[name] = (text, wrong)
        return f'{name}:?is not translated from Airflow, see env= of this job'
    name = next((key for key, one in made.values.items() if one.text == code.text), f'VALUE_{len(made.values) + 1}')
    made.values[name] = code
    return name


def _quote_after(text: str, quote: str) -> str:
    """The quote that is open behind a piece of bash, which began inside ``quote``."""
    place, word = 0, True
    while place < len(text):
        letter = text[place]
        if quote == "'":
            quote = '' if letter == "'" else quote
        elif letter == '\\':
            place += 1
        elif quote == '"':
            quote = '' if letter == '"' else quote
        elif letter in '\'"':
            quote = letter
        elif letter == '#' and word:
            end = text.find('\n', place)
            place = len(text) if end < 0 else end
        word = letter in ' \t\n;&|('
        place += 1
    return quote


_SQL = {
    'ds': 'ds',
    'data_interval_start': 'interval.start',
    'data_interval_end': 'interval.end',
    'logical_date': 'interval.start',
    'execution_date': 'interval.start',
    'next_execution_date': 'interval.end',
    'ts': 'interval.start',
}


def sql(template: str, params: set[str], job_of: Callable[[str], str]) -> tuple[str, list[tuple[str, str]], list[str]]:
    """A statement with Jinja as one of Pinrail: its text, the outputs that it reads, and its values outside of quotes.

    Raises ``NotTranslated``.
    """
    pieces: list[str] = []
    pulls: list[tuple[str, str]] = []
    bare: list[str] = []
    inside = False
    for part in parts_of(template):
        if part.kind == 'statement':
            raise NotTranslated(f'"{{% {part.text} %}}" is a statement of Jinja', 'write the statement out')
        if part.kind == 'text':
            pieces.append(part.text)
            inside ^= part.text.count("'") % 2 == 1
            continue
        code = expression(part.text, params, lambda task, key: f'{task}\0{key}')
        tree = ast.parse(part.text, mode='eval').body
        param = param_of(tree)
        if dotted(tree) in _SQL:
            pieces.append(f'{{{{ {_SQL[dotted(tree)]} }}}}')
        elif param is not None:
            pieces.append(f'{{{{ params.{param} }}}}')
            if not inside:
                bare.append(f'params.{param}')
        elif code.pulls and code.text == '\0'.join(code.pulls[0]):
            task, key = code.pulls[0]
            pulls.append((task, key))
            pieces.append(f'{{{{ upstream.{job_of(task)}.{key} }}}}')
            if not inside:
                bare.append(f'upstream.{job_of(task)}.{key}')
        else:
            raise NotTranslated('templates of SQL take values, not expressions', 'let a Python job make the value')
    return ''.join(pieces), pulls, bare


# What conditions have for a value: the server fills in, and moments are texts such as 2024-05-01T00:00:00.000000Z.
_MOMENTS = {
    'data_interval_start': 'interval.start',
    'data_interval_end': 'interval.end',
    'logical_date': 'interval.start',
    'execution_date': 'interval.start',
    'next_execution_date': 'interval.end',
    'dag_run.logical_date': 'interval.start',
    'dag_run.execution_date': 'interval.start',
    'dag_run.data_interval_start': 'interval.start',
    'dag_run.data_interval_end': 'interval.end',
}
_PIECES = {'Y': '[:4]', 'm': '[5:7]', 'd': '[8:10]', 'H': '[11:13]', 'M': '[14:16]', 'S': '[17:19]'}
_WITHOUT_DASHES = "|replace('-', '')"
_SERVER = {
    'ds': '{{ ds }}',
    'ds_nodash': f'{{{{ ds{_WITHOUT_DASHES} }}}}',
    'ts': '{{ interval.start[:19] }}+00:00',
    'ts_nodash': f"{{{{ interval.start[:19]{_WITHOUT_DASHES}|replace(':', '') }}}}",
}


def server_text(
    template: str, params: set[str], output: Callable[[str, str], str]
) -> tuple[str, list[tuple[str, str]]]:
    """A template as one of a condition, and the outputs that it reads. Raises ``NotTranslated``."""
    pieces: list[str] = []
    pulls: list[tuple[str, str]] = []
    for part in parts_of(template):
        if part.kind == 'statement':
            raise NotTranslated(f'"{{% {part.text} %}}" is a statement of Jinja', 'write the text out')
        pieces.append(part.text if part.kind == 'text' else _filled_in(part.text, params, output, pulls))
    return ''.join(pieces), pulls


def _filled_in(text: str, params: set[str], output: Callable[[str, str], str], pulls: list[tuple[str, str]]) -> str:
    def marked(task: str, key: str) -> str:
        return f'\0{task}\0{key}\0'

    code = expression(text, params, marked)
    tree = ast.parse(text, mode='eval').body
    name = dotted(tree)
    param = param_of(tree)
    if name in _SERVER or name in _MOMENTS:
        return _SERVER.get(name, f'{{{{ {_MOMENTS.get(name)}[:19] }}}}+00:00')
    if param is not None:
        return f'{{{{ params.{param} }}}}'
    if len(code.pulls) == 1 and code.text.startswith(marked(*code.pulls[0])):
        path = code.text[len(marked(*code.pulls[0])) :]
        if re.fullmatch(r"(\[(\d+|'[^'\\]*')\])*", path):
            pulls.extend(code.pulls)
            return f'{{{{ {output(*code.pulls[0])}{path} }}}}'
    moment = _moment_text(tree)
    if moment is None:
        raise NotTranslated(f'"{text}" has no counterpart in a condition', 'let a job above leave it as an output')
    return moment


def _moment_text(tree: ast.expr) -> Optional[str]:
    """A date of the run in a form of its own: ``logical_date.strftime('%Y')``, ``logical_date | ds_nodash``."""
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr) and dotted(tree.left) in _MOMENTS:
        moment = _MOMENTS[dotted(tree.left)]
        return {
            'ds': f'{{{{ {moment}[:10] }}}}',
            'ds_nodash': f'{{{{ {moment}[:10]{_WITHOUT_DASHES} }}}}',
            'ts': f'{{{{ {moment}[:19] }}}}+00:00',
        }.get(dotted(tree.right))
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Attribute):
        return None
    moment = _MOMENTS.get(dotted(tree.func.value))
    if moment is None or tree.keywords:
        return None
    if tree.func.attr == 'isoformat' and not tree.args:
        return f'{{{{ {moment}[:19] }}}}+00:00'
    given = tree.args[0] if len(tree.args) == 1 else None
    if tree.func.attr != 'strftime' or not isinstance(given, ast.Constant) or not isinstance(given.value, str):
        return None
    pieces = re.split(r'%(.)', given.value)
    if not all(letter in _PIECES for letter in pieces[1::2]):
        return None
    return ''.join(f'{{{{ {moment}{_PIECES[piece]} }}}}' if index % 2 else piece for index, piece in enumerate(pieces))
