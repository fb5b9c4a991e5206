"""Finding classes by reading source: what is found, what is provably absent, what cannot be decided."""

from __future__ import annotations

from typing import Optional

import pytest
from conftest import Files

from pinrail._classes import Absent, Finder, Found

TREE = {
    'jobs/__init__.py': 'from .load import LoadFlights as Load\n',
    'jobs/load.py': """
import pinrail
from pinrail import Job
from pinrail import Job as J
from . import base
from .base import Base, Empty
from jobs.base import Renamed as Other
import jobs.base as aliased
import json

class LoadFlights(Job):
    def execute(self, ctx): ...
    class Inner:
        def execute(self, ctx): ...
    class Bare: ...

class NoExecute(Job):
    def setup(self, ctx): ...

class ByModule(pinrail.Job):
    pass

class Inherits(Base): ...
class InheritsNothing(Empty): ...
class InheritsFar(base.Base): ...
class Unknown(make()): ...
class FromJson(json.JSONDecoder): ...
class FromObject(object): ...
class ByAssignment:
    execute = lambda self, ctx: None

@decorated
class Decorated: ...

if True:
    class Conditional:
        def execute(self, ctx): ...
else:
    Conditional = None

try:
    from nowhere import Fallback
except ImportError:
    class Fallback:
        def execute(self, ctx): ...

Alias = LoadFlights
Dotted = base.Base
Made = type('Made', (), {})
NUMBER = 5
A, B = make()

def hello(ctx): ...
def with_default(ctx, more=1, *rest, key=2, **others): ...
def none(): ...
def two(a, b): ...
def key_only(ctx, *, key): ...
@decorated
def wrapped(): ...
""",
    'jobs/base.py': """
class Base:
    def execute(self, ctx): ...
class Empty: ...
class Renamed(Base): ...
""",
    'jobs/star.py': 'from .load import *\n',
    'jobs/lazy.py': 'def __getattr__(name): ...\n',
    'jobs/dynamic.py': "globals()['X'] = 1\n",
    'jobs/circle_a.py': 'from jobs.circle_b import X\n',
    'jobs/circle_b.py': 'from jobs.circle_a import X\n',
    'jobs/looped.py': 'for Loop in (1,): pass\nwith open("x") as Opened: pass\n(Walrus := 1)\n',
    'jobs/broken.py': 'class A(\n',
    'single.py': 'class Job:\n    def execute(self, ctx): ...\n',
}

CASES = {
    'jobs.load.LoadFlights': 'found',
    'jobs.Load': 'found',
    'jobs.load.LoadFlights.Inner': 'found',
    'jobs.load.LoadFlights.Bare': 'no execute',
    'jobs.load.LoadFlights.Outer': 'maybe',
    'jobs.load.NoExecute': 'no execute',
    'jobs.load.ByModule': 'no execute',
    'jobs.load.FromObject': 'no execute',
    'jobs.load.Inherits': 'found',
    'jobs.load.InheritsNothing': 'no execute',
    'jobs.load.InheritsFar': 'found',
    'jobs.load.Unknown': 'found',
    'jobs.load.FromJson': 'no execute',
    'jobs.load.ByAssignment': 'found',
    'jobs.load.Decorated': 'found',
    'jobs.load.Conditional': 'found',
    'jobs.load.Fallback': 'found',
    'jobs.load.Other': 'found',
    'jobs.load.Base': 'found',
    'jobs.load.base.Base': 'found',
    'jobs.load.aliased.Base': 'found',
    'jobs.load.Alias': 'found',
    'jobs.load.Dotted': 'found',
    'jobs.load.Made': 'maybe',
    'jobs.load.A': 'maybe',
    'jobs.load.NUMBER': 'absent',
    'jobs.load.hello': 'found',
    'jobs.load.with_default': 'found',
    'jobs.load.none': 'no required',
    'jobs.load.two': '2 required',
    'jobs.load.key_only': '2 required',
    'jobs.load.wrapped': 'found',
    'jobs.star.LoadFlights': 'maybe',
    'jobs.lazy.X': 'maybe',
    'jobs.dynamic.Y': 'maybe',
    'jobs.circle_a.X': 'maybe',
    'jobs.looped.Loop': 'maybe',
    'jobs.looped.Opened': 'maybe',
    'jobs.looped.Walrus': 'maybe',
    'jobs.looped.Other': 'absent',
    'jobs.broken.A': 'absent',
    'jobs.load': 'absent',
    'jobs.load.Lod': 'absent',
    'single.Job': 'found',
    'single.Jo': 'absent',
    'nowhere_at_all.X': 'absent',
    'json.JSONDecoder': 'no execute',
    'json.Nothing': 'absent',
    'sys.exit': 'maybe',
    'math.sin': 'maybe',
}


def answer(finder: Finder, name: str) -> str:
    found = finder.find(name)
    if isinstance(found, Absent):
        return 'absent'
    if not isinstance(found, Found):
        return 'maybe'
    problem = finder.problem(found)
    return 'found' if problem is None else problem[0]


@pytest.mark.parametrize('name', CASES)
def test_answers(files: Files, name: str) -> None:
    files.write(TREE)
    assert CASES[name] in answer(Finder(str(files.root)), name)


@pytest.mark.parametrize(
    ('name', 'meant'),
    [
        ('jobs.load.LoadFlight', 'jobs.load.LoadFlights'),
        ('jobs.lod.LoadFlights', 'jobs.load.LoadFlights'),
        ('job.load.LoadFlights', 'jobs.load.LoadFlights'),
        ('load.LoadFlights', 'jobs.load.LoadFlights'),
        ('jobs.load.LoadFlights.inner', 'jobs.load.LoadFlights.Inner'),
        ('single.job', 'single.Job'),
        ('nowhere_at_all.X', None),
    ],
)
def test_near_names_lead_somewhere(files: Files, name: str, meant: Optional[str]) -> None:
    files.write({**TREE, 'jobs/load.py': TREE['jobs/load.py'].replace('class LoadFlights(Job)', 'class LoadFlights')})
    found = Finder(str(files.root)).find(name)
    assert isinstance(found, Absent) and found.meant == meant
