"""What functions that were written for Airflow ask of it, answered from Pinrail's ``ctx``.

``pinrail import airflow`` puts this file into projects whose jobs need it. It uses nothing of Airflow. A job that takes
what it needs from ``ctx`` itself needs this file no longer.
"""

from __future__ import annotations

import importlib
import json
import logging
import time
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, Callable, Iterable, Optional, Union

from pinrail import UserError


class AirflowException(UserError):
    """Fails the attempt, as in Airflow."""

    def __init__(self, message: object = 'the job has failed', *more: object) -> None:
        super().__init__(' '.join(str(one) for one in (message, *more)))


class AirflowFailException(AirflowException):
    """Fails the attempt. Unlike in Airflow it is tried again as often as ``retries`` says."""


class AirflowSkipException(AirflowException):
    """Fails the attempt; in Airflow the task is skipped, and what waits for it."""


class Context(dict[str, Any]):
    """The context of a task. What Pinrail does not have is an error that says so."""

    def __missing__(self, key: str) -> Any:
        raise UserError(f'the context of Airflow has "{key}", that of Pinrail has not', 'take what is needed from ctx')


_current: ContextVar[Optional[Context]] = ContextVar('airflow_context', default=None)


def get_current_context() -> Context:
    """The context of the job that runs."""
    context = _current.get()
    if context is None:
        raise UserError('no job runs here')
    return context


_ABSENT = object()


class Variable:
    """Airflow's variables: a parameter of the run, or a secret that the job declares."""

    @staticmethod
    def get(key: str, default_var: object = _ABSENT, deserialize_json: bool = False, **more: object) -> Any:
        ctx = get_current_context()['ctx']
        default = more.get('default', default_var)
        if key in ctx.params:
            value = ctx.params[key]
        else:
            try:
                value = ctx.secret(key)
            except UserError:
                if default is not _ABSENT:
                    return default
                raise UserError(
                    f'the Airflow variable "{key}" is neither a parameter of the workflow nor a secret of the job',
                    f'write params={{"{key}": Param(str)}} in the workflow, or secrets=["{key}"] in the template',
                ) from None
        return json.loads(value) if deserialize_json and isinstance(value, str) else value


class Missing:
    """Something of Airflow that is not there: it may be named, and a class may derive from it, but nothing more."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: object, **more: object) -> Any:
        raise UserError(f'"{self._name}" of Airflow is not there', 'write what it does into the job')

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return self()

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return ()


def of_airflow(name: str) -> Any:
    """What Airflow has under a dotted name, or what stands for it where Airflow is not installed."""
    module, _, last = name.rpartition('.')
    try:
        return getattr(importlib.import_module(module), last)
    except (ImportError, AttributeError):
        return Missing(name)


def output_name(key: str) -> str:
    """The name of an output for a key of Airflow: letters, digits, ``_`` and ``-``."""
    name = ''.join(one if one.isascii() and (one.isalnum() or one in '_-') else '_' for one in key)
    return (name if name[:1].isalpha() or name[:1] == '_' else f'_{name}')[:64]


def job_name(task_id: str) -> str:
    """The name of a job for a task's id, in which a dot stands between group and task."""
    return task_id.replace('.', '_')


class BaseOperator:
    """What operators of one's own derive from. A job makes one and calls its ``execute``."""

    template_fields: Any = ()

    def __init__(self, task_id: str, **more: object) -> None:
        self.task_id = task_id
        self.log = logging.getLogger(task_id)

    def xcom_push(self, context: Context, key: str, value: object, **other: object) -> None:
        context['ti'].xcom_push(key, value)

    def xcom_pull(self, context: Context, task_ids: Union[str, list[str]], key: str = 'return_value') -> Any:
        return context['ti'].xcom_pull(task_ids, key=key)


def chosen_ways(chosen: Union[str, Iterable[str], None], known: list[str]) -> list[str]:
    """What the function of a branch chose, as a list of task ids. Raises ``UserError`` for one not ``known``."""
    ways = [] if chosen is None else [chosen] if isinstance(chosen, str) else list(chosen)
    for way in ways:
        if way not in known:
            raise UserError(f'the branch chose "{way}"; the ways that it has are {", ".join(known)}')
    return ways


class PokeReturnValue:
    """What the function of a sensor may return: whether it is done, and what the task leaves then."""

    def __init__(self, is_done: bool, xcom_value: Any = None) -> None:
        self.is_done = is_done
        self.xcom_value = xcom_value

    def __bool__(self) -> bool:
        return self.is_done


def poked(look: Callable[[], Any], every: float) -> Any:
    """Calls ``look`` until it says yes, with ``every`` seconds in between; gives what the sensor leaves, or None."""
    found = look()
    while not found:
        time.sleep(every)
        found = look()
    return getattr(found, 'xcom_value', None)


class TaskInstance:
    """``ti``: the outputs of the jobs above, and those that the job leaves."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self.task_id: str = ctx.job
        self.dag_id: str = ctx.workflow
        self.run_id: str = ctx.run.id
        self.try_number: int = ctx.attempt.number

    def xcom_push(self, key: str, value: object, **other: object) -> None:
        self._ctx.output(output_name(key), value)

    def xcom_pull(
        self,
        task_ids: Union[str, list[str], None] = None,
        dag_id: Optional[str] = None,
        key: str = 'return_value',
        **other: object,
    ) -> Any:
        """An output of a job above, or None where it left none of that name; of several jobs a list."""
        if task_ids is None:
            raise UserError('xcom_pull names no task', 'name the job: xcom_pull(task_ids="...")')
        if isinstance(task_ids, str):
            return self._ctx.upstream[job_name(task_ids)].outputs.get(output_name(key))
        return [self.xcom_pull(one, key=key) for one in task_ids]


def _moment(value: datetime) -> datetime:
    """A moment with the methods that Airflow's have, where the library that it takes them from is installed."""
    try:
        pendulum = importlib.import_module('pendulum')
    except ImportError:
        return value
    return pendulum.instance(value)


class _Named:
    """An object with some attributes, such as ``dag_run``."""

    def __init__(self, **values: object) -> None:
        self.__dict__.update(values)


def airflow_context(ctx: Any, **more: object) -> Context:
    """The context of Airflow for a job, also for ``get_current_context``."""
    start, end, ds = _moment(ctx.interval.start), _moment(ctx.interval.end), ctx.ds
    ti = TaskInstance(ctx)
    params = {name: ctx.params[name] for name in ctx.params.keys()}
    dag_run = _Named(
        run_id=ctx.run.id,
        conf=params,
        logical_date=start,
        execution_date=start,
        data_interval_start=start,
        data_interval_end=end,
    )
    context = Context(
        ctx=ctx,
        ds=str(ds),
        ds_nodash=f'{ds:%Y%m%d}',
        yesterday_ds=str(ds - timedelta(days=1)),
        tomorrow_ds=str(ds + timedelta(days=1)),
        ts=start.isoformat(),
        ts_nodash=f'{start:%Y%m%dT%H%M%S}',
        data_interval_start=start,
        data_interval_end=end,
        logical_date=start,
        execution_date=start,
        next_execution_date=end,
        run_id=ctx.run.id,
        params=params,
        ti=ti,
        task_instance=ti,
        task_instance_key_str=f'{ctx.workflow}__{ctx.job}__{ds:%Y%m%d}',
        dag_run=dag_run,
        dag=_Named(dag_id=ctx.workflow),
        task=_Named(task_id=ctx.job),
        **more,
    )
    _current.set(context)
    return context
