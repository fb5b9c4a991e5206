"""The workflow document: the checks that need a whole workflow, and its JSON form with all settings resolved.

Invariants: the document depends on the source alone, never on the order of a set or on a hash; jobs stand in file
order, and so do the names that each waits for; a workflow with an error has no document.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Optional

from . import _notify
from ._diagnostics import Diagnostic
from ._errors import did_you_mean
from ._narrow import as_dict, as_list
from ._notify import UNKNOWN, ProjectNotify
from ._settings import EXECUTORS, NOT_OF_A_RUN, SETTINGS
from ._specs import describe
from ._workflow import Template, Workflow

FORMAT = 1

# A cycle through more jobs than this is shown by its two ends.
SHOWN_OF_CYCLE = 40

_Edges = dict[str, list[str]]


def structure(workflow: Workflow, name: Optional[str]) -> list[Diagnostic]:
    """What is wrong with the jobs of a workflow as a whole: doubled names, unknown dependencies, cycles."""
    return _structure(workflow, name)[0]


def _structure(workflow: Workflow, name: Optional[str]) -> tuple[list[Diagnostic], list[Template], _Edges]:
    which = f'workflow "{name}"' if name is not None else 'workflow'
    found: list[Diagnostic] = []
    templates: list[Template] = []
    first: dict[str, Template] = {}
    for key in workflow.jobs:
        if not isinstance(key, Template):
            hint = f"write template(name='{key}', ...)" if isinstance(key, str) else None
            found.append(
                workflow.site.diagnostic(
                    'wrong-type', f'{which} has a key that is not a template: {describe(key)}', hint=hint
                )
            )
            continue
        templates.append(key)
        if not key.name:
            continue
        other = first.setdefault(key.name.lower(), key)
        if other is key:
            continue
        if other.name == key.name:
            message = f'{which} has two jobs named "{key.name}"'
        else:
            message = f'{which} has two jobs whose names differ only in case: "{other.name}" and "{key.name}"'
        found.append(
            key.site.diagnostic(
                'duplicate-job',
                message,
                hint='rename one of them',
                setting='name',
                related=[
                    other.site.related(f'"{other.name}" is first declared here', other.site.span('name', value=True))
                ],
            )
        )
    edges: _Edges = {}
    members = {id(template) for template in templates}
    by_name = {template.name: template for template in templates if template.name}
    for template in templates:
        names = edges.setdefault(template.name, [])
        for item in _items(workflow.jobs[template], template, which, found):
            dependency = item.name if isinstance(item, Template) else item
            if isinstance(item, Template) and id(item) not in members:
                message = f'{which} waits for a template that is not one of its jobs: "{dependency}"'
                span = template.site.dependency(None)
                found.append(
                    template.site.diagnostic('unknown-dependency', message, hint='add it to the dict', span=span)
                )
            elif dependency not in by_name:
                message = f'{which} names a job that does not exist: "{dependency}"'
                span = template.site.dependency(dependency)
                hint = did_you_mean(dependency, by_name)
                found.append(template.site.diagnostic('unknown-dependency', message, hint=hint, span=span))
            elif dependency not in names:
                names.append(dependency)
    for template in templates:
        over = as_dict(template.settings.get('map'))
        if over is not None and over['job'] not in edges[template.name]:
            found.append(_not_waited_for(template, str(over['job']), f'{over["job"]}.{over["output"]}', by_name))
    order = {template.name: index for index, template in enumerate(templates)}
    for names in edges.values():
        names.sort(key=order.__getitem__)
    for path in _cycles(edges):
        last = by_name[path[0]]
        shown = path
        if len(path) > SHOWN_OF_CYCLE:
            shown = [*path[: SHOWN_OF_CYCLE - 2], f'({len(path) - SHOWN_OF_CYCLE} more)', *path[-2:]]
        related = [
            by_name[one].site.related(f'"{one}" waits for "{other}"', by_name[one].site.dependency(other))
            for one, other in zip(path[1:], path[2:])
        ][:SHOWN_OF_CYCLE]
        found.append(
            last.site.diagnostic(
                'cycle',
                f'the jobs of {which} wait for each other: {" -> ".join(shown)}',
                span=last.site.dependency(path[1]),
                related=related,
            )
        )
    for one in found:
        one.workflow = name
    return found, templates, edges


def _not_waited_for(template: Template, job: str, over: str, by_name: dict[str, Template]) -> Diagnostic:
    if job in by_name:
        hint: Optional[str] = f"add it to what the job waits for: template(...): ['{job}']"
    else:
        hint = did_you_mean(job, by_name)
    message = f'job "{template.name}" is mapped over "{over}" and does not wait for "{job}"'
    return template.site.diagnostic('bad-map', message, hint=hint, setting='map')


def _items(value: object, template: Template, which: str, found: list[Diagnostic]) -> list[Any]:
    """The dependencies of a template as names and templates."""
    if isinstance(value, (str, Template)):
        return [value]
    hint = None
    items = as_list(value, sets=True)
    if items is not None:
        usable = [item for item in items if isinstance(item, (str, Template))]
        if len(usable) == len(items):
            # The order of a set differs from process to process.
            return sorted(usable, key=lambda item: item.name if isinstance(item, Template) else item)
        shown = describe(next(item for item in items if not isinstance(item, (str, Template))))
    else:
        shown = describe(value)
        hint = 'write [] for none' if value is None else None
    found.append(
        template.site.diagnostic(
            'wrong-type',
            f'what job "{template.name}" of {which} waits for must be names or templates, not {shown}',
            hint=hint,
            span=template.site.dependency(None),
        )
    )
    return []


def _cycles(edges: _Edges) -> list[list[str]]:
    """One shortest cycle through each group of jobs that wait for each other, each beginning with its first job."""
    left = _without_ends(_without_ends(edges), forwards=False)
    paths: list[list[str]] = []
    done: set[str] = set()
    for name in left:
        if name in done:
            continue
        path = _way_back(name, left)
        if path is not None:
            paths.append(path)
            forward = _reachable(name, left)
            done |= {other for other in forward if name in _reachable(other, left)}
    return paths


def _without_ends(edges: _Edges, *, forwards: bool = True) -> _Edges:
    """The jobs that remain when those are taken away, again and again, that wait for nothing that is left.

    With ``forwards`` off it is those for which nothing waits. A job on a cycle is never among them.
    """
    counts = dict.fromkeys(edges, 0)
    after: _Edges = {name: [] for name in edges}
    for name, others in edges.items():
        for other in others:
            waiting, waited = (name, other) if forwards else (other, name)
            counts[waiting] += 1
            after[waited].append(waiting)
    queue = [name for name, count in counts.items() if not count]
    gone = set(queue)
    while queue:
        for name in after[queue.pop()]:
            counts[name] -= 1
            if not counts[name]:
                gone.add(name)
                queue.append(name)
    return {
        name: [other for other in others if other not in gone] for name, others in edges.items() if name not in gone
    }


def _reachable(name: str, edges: _Edges) -> set[str]:
    seen: set[str] = set()
    queue = [name]
    while queue:
        for other in edges[queue.pop()]:
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return seen


def _way_back(name: str, edges: _Edges) -> Optional[list[str]]:
    came: dict[str, str] = {}
    queue = deque([name])
    while queue:
        one = queue.popleft()
        for other in edges[one]:
            if other == name:
                path = [name]
                while one != name:
                    path.append(one)
                    one = came[one]
                return [name, *reversed(path[1:]), name]
            if other not in came:
                came[other] = one
                queue.append(other)
    return None


def document(
    workflow: Workflow, name: str, project_defaults: dict[str, Any], project_notify: ProjectNotify = UNKNOWN
) -> tuple[Optional[dict[str, Any]], list[Diagnostic]]:
    """The JSON document of a workflow, None when it has an error, and what its structure is wrong with.

    ``project_defaults`` are checked settings, as ``default_problem`` lets through.
    """
    found, templates, edges = _structure(workflow, name)
    found += _notify.problems(workflow.site, workflow.notify, project_notify)
    parts = [*templates, *workflow.params.values()]
    own = [*workflow.diagnostics, *(workflow.schedule.diagnostics if workflow.schedule else ())]
    for part in parts:
        own += part.diagnostics
    for one in own:
        one.workflow = name
    if any(one.level == 'error' for one in [*found, *own]):
        return None, found
    made = _written(workflow, name, templates, edges, project_defaults)
    told = _notify.resolved(workflow.notify, project_notify)
    return {**made, **({'notify': told} if told else {})}, found


def sketch(workflow: Workflow, name: str, project_defaults: dict[str, Any]) -> Optional[dict[str, Any]]:
    """What of a workflow with errors is sound, as a document whose SQL can be looked at; None when that is nothing.

    A job goes with those that it waits for: what is left out would have made its tables.
    """
    own = [*workflow.diagnostics, *(workflow.schedule.diagnostics if workflow.schedule else ())]
    for param in workflow.params.values():
        own += param.diagnostics
    if any(one.level == 'error' for one in own):
        return None
    _, templates, edges = _structure(workflow, name)
    names = [template.name for template in templates]
    stuck = _without_ends(edges)
    sound = {
        template.name
        for template in templates
        if template.name
        and template.name not in stuck
        and names.count(template.name) == 1
        and not any(one.level == 'error' for one in template.diagnostics)
        and _waits_for_known(workflow.jobs[template], names)
    }
    while True:
        kept = {one for one in sound if all(other in sound for other in edges[one])}
        if kept == sound:
            break
        sound = kept
    templates = [template for template in templates if template.name in sound]
    return _written(workflow, name, templates, edges, project_defaults) if templates else None


def _waits_for_known(value: object, names: list[str]) -> bool:
    items = [value] if isinstance(value, (str, Template)) else as_list(value, sets=True)
    return items is not None and all((item.name if isinstance(item, Template) else item) in names for item in items)


def _written(
    workflow: Workflow, name: str, templates: list[Template], edges: _Edges, project_defaults: dict[str, Any]
) -> dict[str, Any]:
    defaults = [project_defaults, workflow.defaults]
    return {
        'format': FORMAT,
        'workflow': name,
        'description': workflow.description,
        'owner': workflow.owner,
        'params': {key: param.to_json() for key, param in workflow.params.items()},
        'schedule': workflow.schedule.to_json() if workflow.schedule else None,
        **workflow.limits,
        **({'sla_seconds': workflow.sla} if workflow.sla is not None else {}),
        'source': workflow.site.to_json(),
        'jobs': [_job(template, edges[template.name], defaults) for template in templates],
    }


def _job(template: Template, after: list[str], defaults: list[dict[str, Any]]) -> dict[str, Any]:
    kind = template.kind or 'shell'
    body: dict[str, Any] = {
        'name': template.name,
        'kind': kind,
        'class': template.class_name,
        'sql': template.sql,
        'shell': template.shell,
        **({'workflow': template.workflow} if template.workflow else {}),
        'after': after,
    }
    for key, setting in SETTINGS.items():
        value: Any = setting.absent()
        for level in [*defaults, template.settings]:
            given = level.get(key)
            if given is None:
                continue
            if kind == 'workflow' and key in NOT_OF_A_RUN:
                # A default for what has processes and tables.
                continue
            if key == 'executor' and given not in EXECUTORS[kind]:
                # A default for jobs of another kind; template(...) has refused its own already.
                continue
            entries = as_dict(value)
            value = given if entries is None else {**entries, **given}
        if value or not setting.left_out:
            body[setting.field] = value
    most = body.pop('max_instances', None)
    if most is not None:
        body['map'] = {**body['map'], 'max_instances': most}
    expression = body.pop('when', None)
    if expression is not None:
        # Looked at first: whether the job is to begin at all.
        body['wait_for'] = [{'that': {'kind': 'when', 'expression': expression}}, *body.get('wait_for', [])]
    if template.auto:
        # The server, which can read SQL, adds the jobs to ``after`` before it makes the document.
        body['auto'] = True
    # A secret that the environment is to hold is declared by that.
    for secret in body['secret_env'].values():
        if secret not in body['secrets']:
            body['secrets'] = [*body['secrets'], secret]
    if not body['extras']:
        # Documents without it are those of before there were any, and so are their versions.
        del body['extras']
    body['source'] = template.site.to_json()
    return body
