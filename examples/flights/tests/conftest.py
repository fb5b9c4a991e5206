"""What the tests share: the project with few rows in its raw files."""

from typing import Callable

import pytest
from pinrail.testing import Project, project

FILES = ('flights', 'weather', 'planes', 'airports', 'airlines')


@pytest.fixture(scope='session')
def few() -> Callable[..., Project]:
    """Makes the project with 112 flights of two days; ``few(weather='x.csv')`` puts another file in a file's place."""

    def make(**replaced: str) -> Project:
        return project(files={f'data/{name}.csv': replaced.get(name, f'tests/few/{name}.csv') for name in FILES})

    return make
