"""``python -m pinrail.compile --root DIR [--project NAME] [--defaults JSON] [--notify JSON] [--extras JSON]
[--watched SECONDS]``: workflow files to one JSON document.

Imports every Python file below ``DIR/workflows`` whose path has no part that begins with an underscore, and prints
``{"format": 1, "workflows": [...], "sketches": [...], "diagnostics": [...], "broken": {file: [workflow, ...]}}`` on
standard output. What the files print goes to standard error. The exit code is 0 also when there are diagnostics of
level ``error``; 2 is wrong usage. ``--watched`` is for a server: importing a file may take that long, and before each
one a line ``{"loading": "workflows/x.py"}`` is printed, which tells where a process ended that printed no document.

Invariants: a file that fails disables its own workflows only; the output depends on the files alone, not on hash seeds
or on the order in which a folder lists its files; nothing is written to the project's folder.
"""

from __future__ import annotations

import ast
import builtins
import errno
import json
import os
import signal
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any, Optional

import pinrail

from . import _source
from ._classes import Absent, Finder, Undecidable
from ._diagnostics import Collector, Diagnostic, Site, at_line, begin, end, render_diagnostics
from ._document import document, sketch
from ._errors import did_you_mean, near
from ._names import name_problem, usable
from ._narrow import as_dict, as_list
from ._notify import UNKNOWN, ProjectNotify
from ._settings import DEFAULT_NAMES, SETTINGS, WORKFLOW_NAMES
from ._specs import describe
from ._workflow import Template, Workflow, default_problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import CodeType, ModuleType

__all__ = ['compile_project', 'render_diagnostics']

FORMAT = 1

# Lines of the way to an error that are shown: a recursion has a thousand of the same.
MOST_RELATED = 10


class _TookTooLong(BaseException):
    """The time limit of a file. It is no ``Exception``, so that a file which catches everything still ends."""


class _Loader(SourceFileLoader):
    """Loads a file below ``workflows``: ``class=`` is accepted, and the SDK's names are in scope like built-in ones."""

    def get_code(self, fullname: str) -> Optional[CodeType]:
        # The text is always read and compiled: byte code beside it would be of the source without this spelling.
        path = self.get_filename(fullname)
        source = _source.decode(self.get_data(path))
        return compile(_source.respell(source), path, 'exec', dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        scope = dict(vars(builtins))
        for name in pinrail.__all__:
            scope[name] = getattr(pinrail, name)
        module.__dict__['__builtins__'] = scope
        super().exec_module(module)


class _Finder:
    """Gives helpers below ``workflows`` the same loader when a workflow file imports them."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]] = None, target: object = None
    ) -> Optional[ModuleSpec]:
        if fullname.partition('.')[0] != 'workflows':
            return None
        spec = PathFinder.find_spec(fullname, path)
        origin = spec.origin if spec is not None else None
        if origin is None or not origin.startswith(self._folder + os.sep) or not origin.endswith('.py'):
            return None
        return _spec(fullname, origin, package=os.path.basename(origin) == '__init__.py')


def _spec(name: str, path: str, *, package: bool = False) -> Optional[ModuleSpec]:
    folders = [os.path.dirname(path)] if package else None
    return spec_from_file_location(name, path, loader=_Loader(name, path), submodule_search_locations=folders)


class _Compile:
    def __init__(
        self,
        root: str,
        defaults: dict[str, Any],
        seconds: Optional[float] = None,
        loading: Optional[Callable[[str], None]] = None,
        extras: Optional[list[str]] = None,
    ) -> None:
        # Those of the project's lock; None when nobody knows.
        self.extras = extras
        self.seconds = seconds
        self.loading = loading
        self.root = os.path.realpath(root)
        self.collector = Collector(self.root)
        self.finder = Finder(self.root)
        self.given_defaults = defaults
        self.notify = UNKNOWN
        self.defaults: dict[str, Any] = {}
        # Name, workflow and the file that declares it, in the order of files.
        self.found: list[tuple[str, Workflow, str]] = []
        # The files with errors, each with the workflows that it declares as far as it got.
        self.broken: dict[str, list[str]] = {}
        self.sketches: list[dict[str, Any]] = []
        self._checked: set[int] = set()
        self._broken: set[str] = set()

    def run(self) -> dict[str, Any]:
        _source.forget()
        folder = os.path.join(self.root, 'workflows')
        meta = _Finder(folder)
        before = (sys.path[:], sys.dont_write_bytecode, set(sys.modules))
        sys.path.insert(0, self.root)
        sys.dont_write_bytecode = True
        sys.meta_path.insert(0, meta)
        begin(self.collector)
        try:
            self._project_defaults()
            for path in workflow_files(folder):
                errors = self._errors()
                self._file(path)
                if self._errors() > errors:
                    self.broken[_source.relative_to(path, self.root) or path] = []
            documents = self._documents()
            for name, _, file in self.found:
                if file in self.broken:
                    self.broken[file].append(name)
        finally:
            end()
            sys.meta_path.remove(meta)
            sys.path[:], sys.dont_write_bytecode = before[0], before[1]
            for name in set(sys.modules) - before[2]:
                origin = getattr(sys.modules[name], '__file__', None)
                if origin is not None and origin.startswith(self.root + os.sep):
                    # A second compile in this process, as in tests, must not find the first one's modules.
                    del sys.modules[name]
        diagnostics = sorted(self.collector.diagnostics, key=Diagnostic.sort_key)
        return {
            'format': FORMAT,
            'workflows': documents,
            'sketches': self.sketches,
            'diagnostics': [one.to_json() for one in diagnostics],
            'broken': self.broken,
        }

    def _errors(self) -> int:
        return sum(one.level == 'error' for one in self.collector.diagnostics)

    def add(self, *diagnostics: Diagnostic) -> None:
        self.collector.diagnostics.extend(diagnostics)

    def _project_defaults(self) -> None:
        for key, value in self.given_defaults.items():
            problem = default_problem(key, value)
            if problem is None and key == 'extras' and value is not None:
                problem = self._unknown_extra(SETTINGS[key].check(value), 'the defaults')
            if problem is None:
                if value is not None:
                    self.defaults[key] = SETTINGS[key].check(value)
                continue
            code, message, hint = problem
            path = os.path.join(self.root, 'pinrail.toml')
            line = _toml_line(path, key)
            self.broken['pinrail.toml'] = []
            self.add(at_line(path, 'pinrail.toml', line, code, message, hint=hint))

    def _file(self, path: str) -> None:
        """Imports one workflow file and takes the workflows that it declares."""
        file = _source.relative_to(path, self.root) or path
        stem = os.path.basename(path)[:-3]
        source = _source.source_of(path)
        if source is None or source.error is not None:
            self.add(self._syntax_error(path, file, source))
            return
        name = file[:-3].replace('/', '.')
        module = sys.modules.get(name)
        if module is None:
            spec = _spec(name, path)
            assert spec is not None and isinstance(spec.loader, _Loader)
            module = module_from_spec(spec)
            sys.modules[name] = module
            try:
                self._import(spec.loader, module, file)
            except BaseException as error:
                del sys.modules[name]
                self._import_error(path, file, stem, error)
                return
        self._take(path, file, stem, vars(module), source)

    def _import(self, loader: _Loader, module: ModuleType, file: str) -> None:
        """Runs the file, told of before, and ended when it takes too long."""
        if self.loading is not None:
            self.loading(file)
        if self.seconds is None:
            loader.exec_module(module)
            return

        def ring(number: int, frame: object) -> None:
            raise _TookTooLong

        before = signal.signal(signal.SIGALRM, ring)
        try:
            # Again and again: a file may swallow the first one.
            signal.setitimer(signal.ITIMER_REAL, self.seconds, 1.0)
            loader.exec_module(module)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _take(self, path: str, file: str, stem: str, variables: dict[str, Any], source: _source.Source) -> None:
        declared: list[tuple[str, object, Site]] = []
        for variable in ('workflow', 'workflows'):
            if variable not in variables:
                continue
            value = variables[variable]
            assigned = source.assignment(variable)
            line = assigned.lineno if assigned is not None else 1
            if variable == 'workflow':
                declared.append((stem, value, Site(path, line, 'workflow')))
            elif (several := as_dict(value)) is not None:
                for key, one in several.items():
                    site = Site(path, line, 'workflows')
                    for constant in source.constants(assigned, str(key)) if assigned is not None else ():
                        site = Site(path, constant.lineno, 'workflows')
                        break
                    declared.append((key if isinstance(key, str) else describe(key), one, site))
            else:
                message = f'"workflows" must be a dict of names to workflows, not {describe(value)}'
                hint = 'name it "workflow"' if isinstance(value, Workflow) else None
                self.add(at_line(path, file, line, 'wrong-type', message, hint=hint))
        if not declared and 'workflows' not in variables:
            found = near(
                'workflow',
                [one for one in variables if isinstance(variables[one], (dict, Workflow)) and one[:1] != '_'],
            )
            hint = (
                f'rename "{found}" to "workflow"'
                if found
                else 'a file of helpers has a name that begins with an underscore'
            )
            self.add(at_line(path, file, 1, 'no-workflow', f'{file} declares no workflow', hint=hint, level='warning'))
        self._warn_of_settings(path, file, source)
        for name, value, site in declared:
            problem = name_problem(name)
            if problem is not None:
                better = usable(name)
                hint = f'write "{better}"' if better else None
                self.add(at_line(path, file, site.line_number, 'bad-name', f'workflow name {problem}', hint=hint))
            elif isinstance(value, Workflow):
                self.found.append((name, value, file))
            elif as_dict(value) is not None:
                self.found.append((name, Workflow.of_dict(value, site), file))
            else:
                message = f'workflow "{name}" must be a Workflow or a dict of templates, not {describe(value)}'
                self.add(at_line(path, file, site.line_number, 'wrong-type', message, workflow=name))

    def _warn_of_settings(self, path: str, file: str, source: _source.Source) -> None:
        for name in dict.fromkeys((*WORKFLOW_NAMES, *DEFAULT_NAMES)):
            assigned = source.assignment(name)
            if assigned is None or source.reads(name):
                continue
            if name in WORKFLOW_NAMES:
                hint = f'write workflow = Workflow({{...}}, {name}=...)'
            else:
                hint = f"write workflow = Workflow({{...}}, defaults={{'{name}': ...}})"
            message = f'variable "{name}" is not a setting: nothing reads it'
            self.add(at_line(path, file, assigned.lineno, 'setting-as-variable', message, hint=hint, level='warning'))

    def _documents(self) -> list[dict[str, Any]]:
        first: dict[str, tuple[str, Workflow, str]] = {}
        doubled: set[str] = set()
        for name, workflow, file in self.found:
            other = first.setdefault(name.lower(), (name, workflow, file))
            if other[1] is workflow and other[0] == name:
                continue
            doubled.add(name.lower())
            self.broken.update({file: [], other[2]: []})
            here, there = workflow.site, other[1].site
            if other[0] == name:
                message = f'two workflows are named "{name}"'
            else:
                message = f'the names of two workflows differ only in case: "{other[0]}" and "{name}"'
            related = [there.related(f'"{other[0]}" is first declared here')]
            self.add(
                at_line(
                    here.path,
                    here.file,
                    here.line_number,
                    'duplicate-workflow',
                    message,
                    related=related,
                    workflow=name,
                    hint='rename one of them',
                )
            )
        documents: list[dict[str, Any]] = []
        for name, workflow, file in self.found:
            for template in workflow.jobs:
                if isinstance(template, Template):
                    self._target(template, name)
            made, found = document(workflow, name, self.defaults, self.notify)
            self.add(*found)
            if made is None:
                self.broken[file] = []
                drawn = sketch(workflow, name, self.defaults)
                if drawn is not None:
                    self.sketches.append(drawn)
            elif name.lower() not in doubled:
                documents.append(made)
        return documents

    def _target(self, template: Template, workflow: str) -> None:
        """Checks that the class or file of a template is there, once however many workflows hold it."""
        if id(template) in self._checked:
            return
        self._checked.add(id(template))
        found: Optional[Diagnostic] = None
        if template.class_name is not None:
            found = self._class(template, template.class_name)
        elif template.sql is not None and 'file' in template.sql:
            found = self._sql_file(template, template.sql['file'])
        for one in (found, self._extras(template)):
            if one is not None:
                one.workflow = workflow
                template.diagnostics.append(one)
                self.add(one)

    def _extras(self, template: Template) -> Optional[Diagnostic]:
        named: list[str] = template.settings.get('extras') or []
        if template.sql is not None and named:
            message = f'job "{template.name}" has extras, and SQL has no Python environment'
            return template.site.diagnostic('unknown-extra', message, setting='extras')
        problem = self._unknown_extra(named, f'job "{template.name}"')
        if problem is None:
            return None
        code, message, hint = problem
        return template.site.diagnostic(code, message, hint=hint, setting='extras')

    def _unknown_extra(self, named: list[str], whose: str) -> Optional[tuple[str, str, str]]:
        """Code, message and hint for the first extra that the project does not have."""
        known = self.extras or []
        unknown = [name for name in named if self.extras is not None and name not in known]
        if not unknown:
            return None
        hint = did_you_mean(unknown[0], known) or (
            f'there are {", ".join(known)}' if known else 'name its lock file below [python.extras] of pinrail.toml'
        )
        return 'unknown-extra', f'extra "{unknown[0]}" of {whose} is none of the project\'s', hint

    def _class(self, template: Template, name: str) -> Optional[Diagnostic]:
        site = template.site
        answer = self.finder.find(name)
        if isinstance(answer, Undecidable):
            message = (
                f'whether class "{name}" of job "{template.name}" exists is seen only when it runs: {answer.reason}'
            )
            return site.diagnostic('undecidable-class', message, setting='class_', level='warning')
        if isinstance(answer, Absent):
            if answer.place is not None:
                path, line = answer.place
                file = _source.relative_to(path, self.root) or path
                related = [site.related(f'job "{template.name}" names it', site.span('class_', value=True))]
                if path in self._broken:
                    # One broken file is one mistake, however many jobs it holds.
                    return Diagnostic(
                        'missing-class',
                        f'class "{name}" of job "{template.name}" cannot be found: {answer.message}',
                        file=file,
                        line=line,
                    )
                self._broken.add(path)
                broken = self._syntax_error(path, file, _source.source_of(path))
                broken.related = related
                return broken
            hint = f'did you mean "{answer.meant}"?' if answer.meant else None
            message = f'class "{name}" of job "{template.name}" does not exist: {answer.message}'
            return site.diagnostic('missing-class', message, hint=hint, setting='class_')
        problem = self.finder.problem(answer)
        if problem is None:
            return None
        what, hint = problem
        kind = 'class' if isinstance(answer.node, ast.ClassDef) else 'function'
        message = f'{kind} "{name}" of job "{template.name}" {what}'
        return site.diagnostic('missing-execute', message, hint=hint, setting='class_')

    def _sql_file(self, template: Template, path: str) -> Optional[Diagnostic]:
        site = template.site
        full = os.path.normpath(os.path.join(self.root, path))
        if os.path.isabs(path) or not full.startswith(self.root + os.sep):
            message = f'sql file "{path}" of job "{template.name}" is not a path within the project'
            return site.diagnostic('missing-file', message, setting='sql')
        if os.path.isfile(full):
            if not os.path.realpath(full).startswith(self.root + os.sep):
                message = f'sql file "{path}" of job "{template.name}" is a link that leads out of the project'
                return site.diagnostic('missing-file', message, setting='sql')
            template.sql = {'file': full[len(self.root) + 1 :].replace(os.sep, '/')}
            return None
        message = f'sql file "{path}" of job "{template.name}" does not exist'
        return site.diagnostic('missing-file', message, hint=did_you_mean(path, _sql_files(self.root)), setting='sql')

    def _syntax_error(self, path: str, file: str, source: Optional[_source.Source]) -> Diagnostic:
        stem = os.path.basename(path)[:-3] if file.startswith('workflows/') else None
        if source is None:
            return Diagnostic('syntax-error', f'{file} is not text in its encoding', file=file, workflow=stem)
        error = source.error
        if not isinstance(error, SyntaxError):
            return Diagnostic('syntax-error', f'{file} is not valid Python: {error}', file=file, workflow=stem)
        line = error.lineno or 1
        text = source.line(line)
        column = min(max(1, error.offset or 1), len(text) + 1)
        last = getattr(error, 'end_offset', None) if getattr(error, 'end_lineno', None) == line else None
        width = max(1, (last or 0) - column)
        message = f'{file} is not valid Python: {error.msg}'
        return Diagnostic(
            'syntax-error', message, file=file, line=line, column=column, width=width, source=text, workflow=stem
        )

    def _import_error(self, path: str, file: str, stem: str, error: BaseException) -> None:
        """An exception of the user's code: at the innermost of their lines, with the way there."""
        places: list[tuple[str, str, int]] = []
        trace = error.__traceback__
        while trace is not None:
            inside = _source.relative_to(trace.tb_frame.f_code.co_filename, self.root)
            if inside is not None and 'site-packages/' not in inside:
                places.append((trace.tb_frame.f_code.co_filename, inside, trace.tb_lineno))
            trace = trace.tb_next
        if isinstance(error, SyntaxError) and error.filename and error.lineno:
            inside = _source.relative_to(error.filename, self.root)
            if inside is not None:
                places.append((error.filename, inside, error.lineno))
        *way, (where, shown, line) = places or [(path, file, 1)]
        kind = type(error).__name__
        text = ' '.join(str(error).split())
        if isinstance(error, SystemExit):
            text = f'it calls sys.exit({error.code!r})'
        message = f'{file} cannot be loaded: {kind}' + (f': {text[:500]}' if text else '')
        code, hint = 'import-error', None
        if isinstance(error, _TookTooLong):
            code = 'import-timeout'
            message = f'{file} cannot be loaded: importing it takes longer than {self.seconds:g} s'
            hint = 'a workflow file only declares; do the work in a job'
        elif _needs_network(error):
            hint = 'workflow files are loaded without a network; do this in a job'
        if isinstance(error, NameError):
            missing = text.split("'")[1] if text.count("'") >= 2 else ''
            hint = did_you_mean(missing, pinrail.__all__) if missing else None
        steps = list(dict.fromkeys((one, number) for _, one, number in reversed(way)))[:MOST_RELATED]
        related = [{'file': one, 'line': number, 'message': 'from here'} for one, number in steps]
        self.add(at_line(where, shown, line, code, message, hint=hint, workflow=stem, related=related))


def _needs_network(error: BaseException) -> bool:
    """Whether an error, or one that it stands for, is what sockets give where there is no network."""
    seen: list[object] = []
    at: object = error
    while isinstance(at, BaseException) and at not in seen:
        seen.append(at)
        name = type(at)
        if (name.__module__, name.__name__) == ('socket', 'gaierror') or getattr(at, 'errno', None) in NO_NETWORK:
            return True
        reason = getattr(at, 'reason', None)
        at = reason if isinstance(reason, BaseException) else at.__cause__ or at.__context__
    return False


NO_NETWORK = (errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)


def workflow_files(folder: str) -> list[str]:
    """The workflow files below a folder, in the order of their names."""
    return sorted(_walk(folder))


def _walk(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(one for one in folders if one[0] not in '_.')
        for file in sorted(files):
            if file.endswith('.py') and file[0] not in '_.':
                yield os.path.join(place, file)


def _sql_files(root: str) -> list[str]:
    found: list[str] = []
    for place, folders, files in os.walk(root):
        folders[:] = [one for one in folders if one[0] != '.' and one not in ('node_modules', '__pycache__')]
        found += [
            os.path.join(place, file)[len(root) + 1 :].replace(os.sep, '/') for file in files if file.endswith('.sql')
        ]
    return found


def _toml_line(path: str, key: str) -> int:
    """The line of a key below ``[defaults]``, found by its text: Python 3.9 has no reader of TOML."""
    source = _source.source_of(path)
    inside = False
    header = 1
    for number, line in enumerate(source.lines if source is not None else (), 1):
        text = line.strip()
        if text.startswith('['):
            inside = text.startswith('[defaults')
            header = number if inside else header
        elif inside and text.split('=')[0].strip().strip('"\'') == key:
            return number
    return header


def compile_project(root: str, *, defaults: Optional[dict[str, Any]] = None) -> dict[str, Any]:
    """The JSON document that ``python -m pinrail.compile`` prints, as a value."""
    return _Compile(root, defaults or {}).run()


def _say(answer: int, message: dict[str, Any]) -> None:
    sys.stderr.flush()
    view = memoryview(json.dumps(message, ensure_ascii=False).encode('utf-8', 'replace') + b'\n')
    while view:
        view = view[os.write(answer, view) :]


def main(words: list[str]) -> int:
    usage = (
        'usage: python -m pinrail.compile --root DIR [--project NAME] [--defaults JSON] [--notify JSON]'
        ' [--extras JSON] [--watched SECONDS]'
    )
    values = dict(zip(words[::2], words[1::2]))
    known = {'--root', '--project', '--defaults', '--notify', '--extras', '--watched'}
    watched = values.get('--watched', '')
    if len(words) % 2 or '--root' not in values or set(values) - known or (watched and not watched.isdigit()):
        print(usage, file=sys.stderr)
        return 2
    try:
        defaults = as_dict(json.loads(values.get('--defaults') or '{}'))
        told = ProjectNotify(**json.loads(values['--notify'])) if '--notify' in values else UNKNOWN
        extras = json.loads(values.get('--extras') or 'null')
    except (TypeError, ValueError):
        defaults, told, extras = None, UNKNOWN, None
    if defaults is None:
        print(f'{usage}\n--defaults and --notify must be JSON objects', file=sys.stderr)
        return 2
    if not os.path.isdir(values['--root']):
        print(f'"{values["--root"]}" is not a folder', file=sys.stderr)
        return 2
    # The descriptor, not only sys.stdout: a process that a workflow file starts must not write into the document.
    answer = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    if sys.path and sys.path[0] in ('', os.getcwd()):
        del sys.path[0]
    compiling = _Compile(values['--root'], defaults, extras=as_list(extras))
    compiling.notify = told
    if watched:
        compiling.seconds = int(watched)

        def loading(file: str) -> None:
            _say(answer, {'loading': file})

        compiling.loading = loading
    _say(answer, compiling.run())
    return 0


if __name__ == '__main__':
    code = main(sys.argv[1:])
    # Threads and exit functions of the workflow files have nothing more to say.
    os._exit(code)
