"""Pinrail: workflows and jobs in Python.

This module names what an author uses and nothing else. It imports almost nothing: job processes start through it,
so whatever only workflow files need (``template``, ``Workflow``, ``cron``, ...) is loaded when first asked for.

Invariant: every name in ``__all__`` is also in scope, without an import, in a workflow file that Pinrail compiles.
"""

from __future__ import annotations

from ._errors import DefinitionError, SqlError, UserError
from ._job import Job
from ._specs import Result, RunWorkflow, Shell, Spec, Sql, Table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._conditions import Condition, File, Rows, RunOf, SqlTrue, Url, Watermark
    from ._context import Context
    from ._folder import sql_folder
    from ._values import Row
    from ._workflow import Cron, Every, Once, Param, Template, Workflow, cron, every, once, template

__version__ = '0.1.0'

__all__ = [
    'Condition',
    'Context',
    'Cron',
    'DefinitionError',
    'Every',
    'File',
    'Job',
    'Once',
    'Param',
    'Result',
    'Row',
    'Rows',
    'RunOf',
    'RunWorkflow',
    'Shell',
    'Spec',
    'Sql',
    'SqlError',
    'SqlTrue',
    'Table',
    'Template',
    'Url',
    'UserError',
    'Watermark',
    'Workflow',
    'cron',
    'every',
    'once',
    'sql_folder',
    'template',
]

_LAZY = {
    'Condition': '_conditions',
    'File': '_conditions',
    'Rows': '_conditions',
    'RunOf': '_conditions',
    'SqlTrue': '_conditions',
    'Url': '_conditions',
    'Watermark': '_conditions',
    'Context': '_context',
    'Row': '_values',
    'Cron': '_workflow',
    'Every': '_workflow',
    'Once': '_workflow',
    'Param': '_workflow',
    'Template': '_workflow',
    'Workflow': '_workflow',
    'cron': '_workflow',
    'every': '_workflow',
    'once': '_workflow',
    'sql_folder': '_folder',
    'template': '_workflow',
}


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    loaded = __import__(f'{__name__}.{module}', fromlist=[name])
    value = getattr(loaded, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
