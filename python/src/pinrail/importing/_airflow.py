"""What the names of Airflow do in a DAG file: DAGs, tasks, groups, TaskFlow, and the edges between tasks.

Builds ``Dag``s of ``Task``s for ``_operators`` to translate. Knows Airflow 2 and 3 by the last part of their dotted
names, so that it does not matter from which of its modules something is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, Optional, Union

from .._narrow import as_dict, as_list
from ._evaluate import (
    Class,
    Def,
    Elsewhere,
    Evaluator,
    Function,
    Native,
    Ref,
    Thing,
    Unknown,
    Value,
    World,
    common_call,
    STANDARD,
    dotted_names,
    shown,
)


class Dag(Thing):
    """A DAG: its arguments, and its tasks by id."""

    def __init__(self, name: str, kwargs: dict[str, Value], world: AirflowWorld, ev: Evaluator, node: ast.AST) -> None:
        self.id = name
        self.file = ev.file
        self.kwargs = kwargs
        self.node = node
        self.world = world
        self.tasks: dict[str, Task] = {}
        self.groups: dict[str, Group] = {}
        # Parameters of an @dag function, by name, with their defaults.
        self.arguments: dict[str, Value] = {}
        self.default_args: dict[str, Value] = as_dict(kwargs.get('default_args')) or {}

    def enter(self, ev: Evaluator) -> Value:
        self.world.open(self)
        return self

    def leave(self, ev: Evaluator) -> None:
        self.world.close()

    def attribute(self, name: str, ev: Evaluator, node: ast.AST) -> Value:
        if name == 'dag_id':
            return self.id
        if name in ('test', 'cli', 'run', 'clear'):
            return Native(lambda args, kwargs, call: None)
        return self.kwargs.get(name, Unknown(f'"{name}" of a DAG', node))

    def assign(self, name: str, value: Value, ev: Evaluator, node: ast.AST) -> None:
        self.kwargs[name] = value


class Group(Thing):
    """A task group: the tasks made while it was open."""

    def __init__(self, name: str, prefix: str, dag: Dag, default_args: dict[str, Value]) -> None:
        self.name = name
        self.prefix = prefix
        self.dag = dag
        self.default_args = default_args
        self.tasks: list[Task] = []

    def enter(self, ev: Evaluator) -> Value:
        self.dag.world.groups.append(self)
        return self

    def leave(self, ev: Evaluator) -> None:
        self.dag.world.groups.pop()

    def attribute(self, name: str, ev: Evaluator, node: ast.AST) -> Value:
        if name == 'group_id':
            return self.name
        return task_method(self, name, node, self.dag.world, ev)

    def roots(self) -> list[Task]:
        return [task for task in self.tasks if not any(one in self.tasks for one in task.after)]

    def leaves(self) -> list[Task]:
        waited = {one for task in self.tasks for one in task.after}
        return [task for task in self.tasks if task not in waited]


class Task(Thing):
    """A task: its operator by dotted name, its arguments, and what it waits for, in order."""

    def __init__(
        self, name: str, operator: str, kwargs: dict[str, Value], dag: Dag, ev: Evaluator, node: ast.AST
    ) -> None:
        self.id = name
        self.file = ev.file
        self.operator = operator
        self.kwargs = kwargs
        self.inherited: dict[str, Value] = {}
        self.dag = dag
        self.node = node
        self.line: int = getattr(node, 'lineno', 0)
        self.after: dict[Task, None] = {}
        # Of a TaskFlow task: the function and the arguments of its call, and of an expand().
        self.function: Optional[Function] = None
        self.args: list[Value] = []
        self.call_kwargs: dict[str, Value] = {}
        self.expanded: Optional[dict[str, Value]] = None
        # Of an operator whose class is in the file, or in one beside it.
        self.cls: Optional[Class] = None
        self.teardown = False

    @property
    def kind(self) -> str:
        """The last part of the operator's name; of TaskFlow what is behind the at sign."""
        return self.operator.rsplit('.', 1)[-1] if not self.operator.startswith('@') else self.operator

    def given(self, name: str, absent: Value = None) -> Value:
        """An argument, from the task itself or from ``default_args``."""
        return self.kwargs.get(name, self.inherited.get(name, absent))

    def attribute(self, name: str, ev: Evaluator, node: ast.AST) -> Value:
        if name == 'output':
            return XCom(self)
        if name == 'task_id':
            return self.id
        if name in self.kwargs:
            return self.kwargs[name]
        if name in ('partial', 'expand', 'expand_kwargs'):
            return Unknown('tasks that are made at run time', node, matters=True)
        return task_method(self, name, node, self.dag.world, ev)

    def assign(self, name: str, value: Value, ev: Evaluator, node: ast.AST) -> None:
        self.kwargs[name] = value

    def enter(self, ev: Evaluator) -> Value:
        # A teardown as a context: what is made inside stands between its setups and itself.
        self.dag.world.scopes.append((self, list(self.after)))
        return self

    def leave(self, ev: Evaluator) -> None:
        self.dag.world.scopes.pop()

    def text(self) -> Optional[str]:
        return f'<Task: {self.id}>'


class XCom(Thing):
    """A value that a task leaves: the output ``key``, and a path into it."""

    def __init__(self, task: Task, key: str = 'return_value', path: tuple[Value, ...] = ()) -> None:
        self.task = task
        self.key = key
        self.path = path

    def item(self, key: Value, ev: Evaluator, node: ast.AST) -> Value:
        return (
            Unknown('an output of unknown name', node)
            if isinstance(key, Unknown)
            else XCom(self.task, self.key, (*self.path, key))
        )

    def attribute(self, name: str, ev: Evaluator, node: ast.AST) -> Value:
        if name == 'operator':
            return self.task
        if name in ('map', 'zip', 'concat'):
            return Unknown('a list that is made at run time', node, matters=True)
        return self.task.attribute(name, ev, node)

    def assign(self, name: str, value: Value, ev: Evaluator, node: ast.AST) -> None:
        self.task.assign(name, value, ev, node)

    def enter(self, ev: Evaluator) -> Value:
        self.task.enter(ev)
        return self

    def leave(self, ev: Evaluator) -> None:
        self.task.leave(ev)

    def text(self) -> Optional[str]:
        path = ''.join(f'[{one!r}]' for one in self.path)
        return f'{{{{ ti.xcom_pull(task_ids={self.task.id!r}, key={self.key!r}){path} }}}}'


class ParamRef(Thing):
    """A parameter of the run: an argument of an @dag function, or an entry of ``dag.params``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def text(self) -> Optional[str]:
        return f'{{{{ params.{self.name} }}}}'

    def truth(self) -> Optional[bool]:
        return None


class ParamDef(Thing):
    """``Param(...)`` of a DAG."""

    def __init__(self, args: list[Value], kwargs: dict[str, Value]) -> None:
        self.kwargs = kwargs
        self.required = not args and 'default' not in kwargs
        self.default = args[0] if args else kwargs.get('default')


class Timetable(Thing):
    """A timetable or another object given as schedule, by its name and arguments."""

    def __init__(self, name: str, args: list[Value], kwargs: dict[str, Value]) -> None:
        self.name = name
        self.args = args
        self.kwargs = kwargs


class Label(Thing):
    """A label on an edge, which stands between tasks and does nothing."""

    def __init__(self) -> None:
        self.before: list[Task] = []
        self.behind: list[Task] = []


class TaskDecorator(Thing):
    """``@task`` and its like, with their arguments; called with a function it makes a ``TaskMaker``."""

    def __init__(self, kind: str, kwargs: dict[str, Value]) -> None:
        self.kind = kind
        self.kwargs = kwargs


class TaskMaker(Thing):
    """A function behind ``@task``: each call makes a task."""

    def __init__(self, function: Function, kind: str, kwargs: dict[str, Value], world: AirflowWorld) -> None:
        self.function = function
        self.kind = kind
        self.kwargs = kwargs
        self.world = world
        self.teardown = False
        self.partial: dict[str, Value] = {}

    def _with(self, **changes: Any) -> TaskMaker:
        made = TaskMaker(self.function, self.kind, self.kwargs, self.world)
        made.teardown, made.partial = self.teardown, self.partial
        for name, value in changes.items():
            setattr(made, name, value)
        return made

    def attribute(self, name: str, ev: Evaluator, node: ast.AST) -> Value:
        if name == 'override':
            return Native(lambda args, kwargs, call: self._with(kwargs={**self.kwargs, **kwargs}))
        if name == 'partial':
            return Native(lambda args, kwargs, call: self._with(partial={**self.partial, **kwargs}))
        if name == 'expand':
            return Native(lambda args, kwargs, call: self._make([], self.partial, ev, call, expanded=kwargs))
        if name == 'function':
            return self.function
        return Unknown(f'"{name}" of a task', node, matters=True)

    def call(self, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        return self._make(args, {**self.partial, **kwargs}, ev, node)

    def _make(
        self,
        args: list[Value],
        kwargs: dict[str, Value],
        ev: Evaluator,
        node: ast.Call,
        expanded: Optional[dict[str, Value]] = None,
    ) -> Value:
        own = dict(self.kwargs)
        name = own.pop('task_id', None) or self.function.name
        task = self.world.task(str(name), f'@{self.kind}', own, ev, node, numbered=True)
        if task is None:
            return Unknown('a task outside of a DAG', node)
        task.function, task.args, task.call_kwargs, task.expanded = self.function, args, kwargs, expanded
        task.teardown = self.teardown
        self.world.data_edges(task, [args, kwargs, expanded])
        return XCom(task)


class DagMaker(Thing):
    """A function behind ``@dag``: its call makes the DAG."""

    def __init__(self, function: Function, kwargs: dict[str, Value], world: AirflowWorld) -> None:
        self.function = function
        self.kwargs = kwargs
        self.world = world
        self.called = False

    def call(self, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        self.called = True
        own = dict(self.kwargs)
        name = own.pop('dag_id', None) or self.function.name
        if isinstance(name, Unknown):
            return self.world.lose(Unknown(f'the name of a DAG: {name.why}', node), ev, node)
        own.setdefault(
            'doc_md',
            ast.get_docstring(self.function.node)
            if isinstance(self.function.node, (ast.FunctionDef, ast.AsyncFunctionDef))
            else None,
        )
        dag = self.world.dag(str(name), own, ev, self.function.node)
        bound = ev.arguments(self.function, args, kwargs, node)
        dag.arguments = {key: one for key, one in bound.items() if key != 'self'}
        self.world.open(dag)
        try:
            ev.invoke(self.function, [], {key: ParamRef(key) for key in bound}, node)
        finally:
            self.world.close()
        return dag


class GroupMaker(Thing):
    """A function behind ``@task_group``."""

    def __init__(self, function: Function, kwargs: dict[str, Value], world: AirflowWorld) -> None:
        self.function = function
        self.kwargs = kwargs
        self.world = world

    def attribute(self, name: str, ev: Evaluator, node: ast.AST) -> Value:
        if name == 'override':
            return Native(lambda args, kwargs, call: GroupMaker(self.function, {**self.kwargs, **kwargs}, self.world))
        if name in ('expand', 'partial', 'expand_kwargs'):
            return Unknown('a group of tasks that is made at run time, once per item', node, matters=True)
        return Unknown(f'"{name}" of a task group', node, matters=True)

    def call(self, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        own = dict(self.kwargs)
        name = own.pop('group_id', None) or self.function.name
        group = self.world.group(str(name), own, ev, node, numbered=True)
        if group is None:
            return Unknown('a task group outside of a DAG', node)
        group.enter(ev)
        try:
            returned = ev.invoke(self.function, args, kwargs, node)
        finally:
            group.leave(ev)
        return group if returned is None else returned


class OperatorPartial(Thing):
    """``Operator.partial(...)``, which waits for its ``expand(...)``."""

    def __init__(self, name: str, kwargs: dict[str, Value], world: AirflowWorld) -> None:
        self.name = name
        self.kwargs = kwargs
        self.world = world

    def attribute(self, name: str, ev: Evaluator, node: ast.AST) -> Value:
        def expand(args: list[Value], kwargs: dict[str, Value], call: ast.Call) -> Value:
            task = self.world.operator(self.name, dict(self.kwargs), ev, call)
            if isinstance(task, Task):
                task.expanded = kwargs or {'': args[0] if args else None}
                self.world.data_edges(task, [args, kwargs])
            return task

        if name in ('expand', 'expand_kwargs'):
            return Native(expand)
        return Unknown(f'"{name}" of a partial operator', node, matters=True)


_TIMETABLES = (
    'Timetable',
    'Asset',
    'Dataset',
    'AssetAlias',
    'DatasetAlias',
    'DatasetOrTimeSchedule',
    'AssetOrTimeSchedule',
)
# Operators whose names do not end like one.
_OPERATORS = frozenset(('ExternalTaskMarker',))
# Arguments by which a call makes tasks or groups of them.
_OF_TASKS = frozenset(('task_id', 'group_id', 'dag_id', 'dag', 'task_group'))
_QUIET = ('logging.', 'warnings.', 'log.', 'sys.path')


class AirflowWorld(World):
    """The names of Airflow while one file is followed."""

    def __init__(self, load: Optional[Callable[[str], Optional[Evaluator]]] = None) -> None:
        # Gives a module that lies beside the file, by its dotted name.
        self._load = load
        self.dags: list[Dag] = []
        self.open_dags: list[Dag] = []
        self.groups: list[Group] = []
        # Teardowns that are open as contexts, with their setups.
        self.scopes: list[tuple[Task, list[Task]]] = []
        self.dag_makers: list[DagMaker] = []
        self.is_airflow_3 = False

    # Names.

    def value(self, name: str) -> Value:
        if not name.startswith('airflow'):
            return self._beside(name)
        if name.startswith('airflow.sdk'):
            self.is_airflow_3 = True
        owner, _, last = name.rpartition('.')
        if owner.endswith('TriggerRule') or owner.endswith('WeightRule'):
            return last.lower()
        return None

    def _beside(self, name: str) -> Value:
        """What a module that lies beside the file has under a name. Its own DAGs are no concern of this file."""
        module, _, last = name.rpartition('.')
        if self._load is None or not module.strip('.'):
            return None
        before = len(self.dags)
        there = self._load(module)
        del self.dags[before:]
        if there is None or last not in there.module.names:
            return None
        found = there.module.names[last]
        if isinstance(found, (Ref, Unknown)):
            return found
        # By the name that is good everywhere, also where the import is relative.
        dotted: str = there.module.names.get('__dotted__', module)
        return Elsewhere(f'{dotted}.{last}', found, there) if isinstance(found, Thing) else found

    def call(self, name: str, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        last = name.rsplit('.', 1)[-1]
        if name.startswith(_QUIET):
            return Ref('logging.logger') if last == 'getLogger' else None
        if is_operator(name) or ('task_id' in kwargs and last[:1].isupper()):
            return self.operator(name, {**kwargs}, ev, node)
        owner, _, method = name.rpartition('.')
        if is_operator(owner) and method == 'partial':
            return OperatorPartial(owner, kwargs, self)
        if not name.startswith('airflow'):
            made = common_call(name, args, kwargs, node)
            if isinstance(made, Unknown) and any(_is_of_dag(one) for one in [*args, *kwargs.values()]):
                made.matters = True
            return made
        decorator = decorator_name(name)
        if decorator is not None:
            if args and isinstance(args[0], Function):
                return self._decorated(args[0], decorator, kwargs)
            return TaskDecorator(decorator, kwargs)
        return self._airflow(name, last, args, kwargs, ev, node)

    def _airflow(
        self, name: str, last: str, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call
    ) -> Value:
        if last == 'DAG':
            return self._new_dag(args, kwargs, ev, node)
        if last == 'TaskGroup':
            given = dict(zip(('group_id', 'prefix_group_id', 'parent_group', 'dag'), args))
            group = self.group('', {**given, **kwargs}, ev, node, numbered=False)
            return Unknown('a task group outside of a DAG', node) if group is None else group
        if last in ('chain', 'chain_linear'):
            self._chain(args, ev, node, crosswise=last == 'chain_linear')
            return None
        if last == 'cross_downstream':
            given = {**dict(zip(('from_tasks', 'to_tasks'), args)), **kwargs}
            self.shift(given.get('from_tasks'), given.get('to_tasks'), True, ev, node)
            return None
        if last == 'Label':
            return Label()
        if last == 'XComArg':
            task = args[0] if args else kwargs.get('operator')
            key = args[1] if len(args) > 1 else kwargs.get('key', 'return_value')
            return XCom(task, str(key)) if isinstance(task, Task) else Unknown('an output', node)
        if last == 'Param':
            return ParamDef(args, kwargs)
        if last.endswith(_TIMETABLES):
            return Timetable(last, args, kwargs)
        if last == 'get_current_context':
            return Unknown('the context of a task', node)
        if name.endswith('Variable.get'):
            return Unknown(f'the Airflow variable {args[0]!r}' if args else 'an Airflow variable', node)
        if last == 'days_ago':
            return Unknown('the clock at the moment of the import', node)
        if name.endswith('edgemodifier.EdgeModifier'):
            return Label()
        return common_call(name, args, kwargs, node)

    def instance(self, cls: Class, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        names = cls.ancestors()
        if 'task_id' in kwargs and any(is_operator(name) for name in names[:-1]):
            made = self.operator(cls.node.name, kwargs, ev, node)
            if isinstance(made, Task):
                made.cls = cls
            return made
        if any(name.rsplit('.', 1)[-1] == 'DAG' for name in names[:-1]):
            return self._new_dag(args, kwargs, ev, node)
        return super().instance(cls, args, kwargs, ev, node)

    def function(self, made: Function, decorators: list[Value], ev: Evaluator, node: Def) -> Value:
        value: Value = made
        for decorator, written in zip(reversed(decorators), reversed(node.decorator_list)):
            kind, kwargs = None, dict[str, Value]()
            if isinstance(decorator, TaskDecorator):
                kind, kwargs = decorator.kind, decorator.kwargs
            elif isinstance(decorator, Ref) and decorator.name.startswith('airflow'):
                kind = decorator_name(decorator.name)
            if kind is None:
                if isinstance(value, Function):
                    continue
                ev.report.left_out(
                    ev.file,
                    written.lineno,
                    f'the decorator "@{shown(written)}" of {made.name}',
                    'write it into the job',
                )
            elif kind == 'dag' and isinstance(value, Function):
                value = DagMaker(value, kwargs, self)
                self.dag_makers.append(value)
            elif kind == 'task_group' and isinstance(value, Function):
                value = GroupMaker(value, kwargs, self)
            elif kind in ('setup', 'teardown'):
                maker = value if isinstance(value, TaskMaker) else TaskMaker(made, 'task', {}, self)
                maker.teardown = kind == 'teardown'
                maker.kwargs = {**maker.kwargs, **{k: v for k, v in kwargs.items() if k != 'on_failure_fail_dagrun'}}
                value = maker
            elif kind.startswith('asset') and isinstance(value, Function):
                value = self._asset(value, kwargs, ev, node)
            elif isinstance(value, Function):
                value = TaskMaker(value, kind, kwargs, self)
            else:
                ev.report.left_out(
                    ev.file, written.lineno, f'"@{shown(written)}" of {made.name}', 'write the condition into the job'
                )
        return value

    def _asset(self, function: Function, kwargs: dict[str, Value], ev: Evaluator, node: Def) -> Value:
        """``@asset`` of Airflow 3: a DAG of one task, which makes the asset."""
        given = {key: one for key, one in kwargs.items() if key in ('schedule', 'tags', 'description')}
        dag = self.dag(function.name, given, ev, node)
        task = Task(function.name, '@task', {'outlets': [function.name]}, dag, ev, node)
        task.function = function
        dag.tasks[function.name] = task
        return Unknown(f'the asset "{function.name}"', node)

    def _decorated(self, function: Function, kind: str, kwargs: dict[str, Value]) -> Value:
        if kind == 'dag':
            made = DagMaker(function, kwargs, self)
            self.dag_makers.append(made)
            return made
        if kind == 'task_group':
            return GroupMaker(function, kwargs, self)
        return TaskMaker(function, kind, kwargs, self)

    # Making.

    def _new_dag(self, args: list[Value], kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        given = {**dict(zip(('dag_id', 'description'), args)), **kwargs}
        name = given.pop('dag_id', None)
        if not isinstance(name, str):
            why = name.why if isinstance(name, Unknown) else 'it is not a text'
            return self.lose(Unknown(f'a DAG whose dag_id is only known at run time ({why})', node), ev, node)
        return self.dag(name, given, ev, node)

    def dag(self, name: str, kwargs: dict[str, Value], ev: Evaluator, node: ast.AST) -> Dag:
        made = Dag(name, kwargs, self, ev, node)
        self.dags.append(made)
        return made

    def open(self, dag: Dag) -> None:
        self.open_dags.append(dag)

    def close(self) -> None:
        self.open_dags.pop()

    def group(
        self, name: str, kwargs: dict[str, Value], ev: Evaluator, node: ast.AST, *, numbered: bool
    ) -> Optional[Group]:
        dag = kwargs.get('dag') or (self.open_dags[-1] if self.open_dags else None)
        given = kwargs.get('group_id')
        if isinstance(given, str):
            name = given
        if not isinstance(dag, Dag) or not name:
            self.lost(Unknown('a task group whose name or DAG is only known at run time', node), ev, node)
            return None
        outer = self.groups[-1] if self.groups and self.groups[-1].dag is dag else None
        full = f'{outer.prefix}{name}' if outer is not None else name
        base, number = full, 0
        while numbered and full in dag.groups:
            number += 1
            full = f'{base}__{number}'
        prefix = f'{full}.' if kwargs.get('prefix_group_id', True) is not False else (outer.prefix if outer else '')
        inherited = {**(outer.default_args if outer else {}), **(as_dict(kwargs.get('default_args')) or {})}
        made = dag.groups[full] = Group(full, prefix, dag, inherited)
        return made

    def operator(self, name: str, kwargs: dict[str, Value], ev: Evaluator, node: ast.Call) -> Value:
        task_id = kwargs.pop('task_id', None)
        if not isinstance(task_id, str):
            why = task_id.why if isinstance(task_id, Unknown) else 'it has none'
            last = name.rsplit('.', 1)[-1]
            return self.lose(Unknown(f'a {last} whose task_id is only known at run time ({why})', node), ev, node)
        task = self.task(task_id, name, kwargs, ev, node, numbered=False)
        if task is None:
            return self.lose(Unknown(f'task "{task_id}" belongs to no DAG that is known', node), ev, node)
        self.data_edges(task, [kwargs])
        return task

    def task(
        self, name: str, operator: str, kwargs: dict[str, Value], ev: Evaluator, node: ast.AST, *, numbered: bool
    ) -> Optional[Task]:
        """A new task in the DAG and group that are open, or in those that its arguments name."""
        group = kwargs.pop('task_group', None) or (self.groups[-1] if self.groups else None)
        dag = kwargs.pop('dag', None) or (self.open_dags[-1] if self.open_dags else None)
        if isinstance(group, Group) and dag is None:
            dag = group.dag
        if not isinstance(dag, Dag):
            return None
        inside = group if isinstance(group, Group) and group.dag is dag else None
        full = (inside.prefix if inside is not None else '') + name
        base, number = full, 0
        while full in dag.tasks:
            if not numbered:
                ev.report.left_out(
                    ev.file, getattr(node, 'lineno', 0), f'a second task "{full}" in DAG "{dag.id}"', 'rename it'
                )
            number += 1
            full = f'{base}__{number}'
        task = Task(full, operator, kwargs, dag, ev, node)
        task.inherited = {
            **dag.default_args,
            **(inside.default_args if inside else {}),
            **(as_dict(kwargs.get('default_args')) or {}),
        }
        dag.tasks[full] = task
        if inside is not None:
            for one in self.groups:
                if one.dag is dag:
                    one.tasks.append(task)
        for teardown, setups in self.scopes:
            task.after.update(dict.fromkeys(setups))
            teardown.after[task] = None
        return task

    def data_edges(self, task: Task, values: object) -> None:
        """A task waits for the tasks whose outputs it is given."""
        if isinstance(values, XCom):
            if values.task is not task:
                task.after[values.task] = None
            return
        entries = as_dict(values)
        items = as_list(values, sets=True) if entries is None else list(entries.values())
        for one in items or ():
            self.data_edges(task, one)

    # Edges.

    def shift(self, left: Value, right: Value, forward: bool, ev: Evaluator, node: ast.AST) -> Value:
        """``left >> right`` or ``left << right``; gives what stands on the right."""
        before, after = (left, right) if forward else (right, left)
        sources, targets = ends(before, True), ends(after, False)
        if sources is None or targets is None:
            if isinstance(left, int) and isinstance(right, int):
                return left >> right if forward else left << right
            unknown = next((one for one in (left, right) if isinstance(one, Unknown)), None)
            why = unknown.why if unknown is not None else 'one side is no task'
            self.lost(Unknown(f'an edge ({why})', node), ev, node)
            return right
        for target in targets:
            for source in sources:
                if source is not target:
                    target.after[source] = None
        for label, others in ((before, targets), (after, sources)):
            if isinstance(label, Label):
                (label.behind if label is before else label.before).extend(others)
        return right

    def _chain(self, items: list[Value], ev: Evaluator, node: ast.Call, *, crosswise: bool) -> None:
        previous: Value = None
        for one in items:
            if isinstance(one, Label):
                continue
            left, right = as_list(previous), as_list(one)
            if previous is not None:
                if not crosswise and left is not None and right is not None:
                    if len(left) != len(right):
                        self.lost(Unknown('a chain of lists of different lengths', node), ev, node)
                    for a, b in zip(left, right):
                        self.shift(a, b, True, ev, node)
                else:
                    self.shift(previous, one, True, ev, node)
            previous = one

    # What is not understood.

    def lost(self, value: Unknown, ev: Evaluator, node: ast.AST) -> None:
        if value.is_told:
            return
        called = node.value if isinstance(node, (ast.Expr, ast.Assign)) else node
        if isinstance(called, ast.Call) and not value.matters and not self._touches(node, ev):
            # A value that is only kept is told of where a task or an edge uses it.
            named = {keyword.arg for keyword in called.keywords}
            if self._is_harmless(called, ev) or (isinstance(node, ast.Assign) and not named & _OF_TASKS):
                return
        if self.open_dags or value.matters or self._touches(node, ev):
            ev.report.left_out(ev.file, getattr(node, 'lineno', 0), f'{shown(node)}: {value.why}', 'write it by hand')

    def lose(self, value: Unknown, ev: Evaluator, node: ast.AST) -> Unknown:
        ev.report.left_out(ev.file, getattr(node, 'lineno', 0), value.why, 'write it by hand')
        value.is_told = True
        return value

    def _is_harmless(self, call: ast.Call, ev: Evaluator) -> bool:
        """Whether a call is one of Python's own library, which makes no tasks."""
        root: ast.expr = call.func
        while isinstance(root, (ast.Attribute, ast.Call)):
            root = root.value if isinstance(root, ast.Attribute) else root.func
        value = ev.module.names.get(root.id) if isinstance(root, ast.Name) else None
        return isinstance(value, Ref) and value.name.split('.')[0] in STANDARD

    def _touches(self, node: ast.AST, ev: Evaluator) -> bool:
        """Whether a statement outside of DAGs has to do with one."""
        kinds: tuple[type, ...] = (Dag, Task, XCom, Group, TaskMaker, GroupMaker, DagMaker)
        if isinstance(node, (ast.For, ast.While, ast.ListComp, ast.GeneratorExp, ast.DictComp)):
            # A loop over what is not known may make DAGs by functions of the file.
            kinds += (Function, Class)
        for name in dotted_names(node):
            value = ev.module.names.get(name)
            if isinstance(value, kinds) or (
                isinstance(value, Ref) and (is_operator(value.name) or value.last == 'DAG')
            ):
                return True
        return False


def _is_of_dag(value: Value) -> bool:
    """Whether a value is, or holds, a part of a DAG."""
    if isinstance(value, (Dag, Task, XCom, Group)):
        return True
    return any(_is_of_dag(one) for one in as_list(value) or ())


def ends(value: Value, leaving: bool) -> Optional[list[Task]]:
    """The tasks at which an edge leaves a value, or reaches it; None when it is no task."""
    if isinstance(value, Task):
        return [value]
    if isinstance(value, XCom):
        return [value.task]
    if isinstance(value, Group):
        return value.leaves() if leaving else value.roots()
    if isinstance(value, Label):
        return value.before if leaving else value.behind
    if isinstance(value, Dag):
        return None
    items = as_list(value, sets=True)
    if items is None:
        return None
    found: list[Task] = []
    for one in items:
        inner = ends(one, leaving)
        if inner is None:
            return None
        found += inner
    return found


def task_method(owner: Union[Task, Group], name: str, node: ast.AST, world: AirflowWorld, ev: Evaluator) -> Value:
    """The methods that make edges."""

    def edge(args: list[Value], kwargs: dict[str, Value], call: ast.Call) -> Value:
        others = args[0] if args else kwargs.get('task_or_task_list')
        world.shift(owner, others, name == 'set_downstream', ev, call)
        return None

    def as_teardown(args: list[Value], kwargs: dict[str, Value], call: ast.Call) -> Value:
        if isinstance(owner, Task):
            owner.teardown = True
        if kwargs.get('setups') is not None:
            world.shift(kwargs['setups'], owner, True, ev, call)
        return owner

    if name in ('set_downstream', 'set_upstream'):
        return Native(edge)
    if name == 'as_teardown':
        return Native(as_teardown)
    if name == 'as_setup':
        return Native(lambda args, kwargs, call: owner)
    return Unknown(f'"{name}" is only known at run time', node)


def is_operator(name: str) -> bool:
    last = name.rsplit('.', 1)[-1]
    return last.endswith(('Operator', 'Sensor', 'SensorAsync', 'OperatorAsync')) or last in _OPERATORS


def decorator_name(name: str) -> Optional[str]:
    """``task``, ``task.branch``, ``dag`` and the like of a dotted name of Airflow."""
    parts = name.split('.')
    for word in ('task', 'dag', 'task_group', 'setup', 'teardown', 'asset'):
        if word in parts[1:]:
            place = parts.index(word, 1)
            # A module of the same name, such as airflow.models.dag, has something behind it.
            if place == len(parts) - 1 or (word == 'task' and len(parts) == place + 2 and parts[-1].islower()):
                return '.'.join(parts[place:])
    return None
