"""``python -m pinrail._install``: into a folder, again over itself, and what it refuses."""

from __future__ import annotations

import csv
import re
import sys
import sysconfig
from pathlib import Path

import pytest

from pinrail import UserError, __version__
from pinrail._install import install, place

INFO = f'pinrail-{__version__}.dist-info'


def test_it_writes_the_package_with_its_records(tmp_path: Path) -> None:
    assert install(str(tmp_path), force=False) is None
    source = Path(__file__).parent.parent / 'src/pinrail'
    names = {one.name for one in (tmp_path / 'pinrail').iterdir()}
    assert names == {one.name for one in source.iterdir() if one.suffix == '.py' or one.name == 'py.typed'}
    assert sorted(one.name for one in tmp_path.iterdir()) == ['pinrail', INFO]
    with open(tmp_path / INFO / 'RECORD', newline='') as file:
        rows = list(csv.reader(file))
    recorded = {row[0] for row in rows}
    assert recorded == {one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob('*') if one.is_file()}
    assert all((row[1].startswith('sha256=') and row[2]) or row[0] == f'{INFO}/RECORD' for row in rows)


def test_the_records_say_what_the_project_file_says(tmp_path: Path) -> None:
    install(str(tmp_path), force=False)
    metadata = (tmp_path / INFO / 'METADATA').read_text()
    text = (Path(__file__).parent.parent / 'pyproject.toml').read_text()
    for ours, theirs in [('Version', 'version'), ('Summary', 'description'), ('Requires-Python', 'requires-python')]:
        value = re.search(f'^{theirs} = "(.*)"$', text, re.MULTILINE)
        assert value is not None and f'\n{ours}: {value[1]}\n' in metadata


def test_an_earlier_one_is_replaced_and_strangers_stay(tmp_path: Path) -> None:
    install(str(tmp_path), force=False)
    (tmp_path / INFO).rename(tmp_path / 'pinrail-0.0.1.dist-info')
    record = tmp_path / 'pinrail-0.0.1.dist-info/RECORD'
    gone = tmp_path / 'pinrail/_gone.py'
    gone.write_text('')
    record.write_text(record.read_text().replace(INFO, 'pinrail-0.0.1.dist-info') + 'pinrail/_gone.py,,\n../x,,\n')
    (tmp_path / 'pinrail/__pycache__').mkdir()
    (tmp_path / 'pinrail/__pycache__/run.pyc').write_text('')
    assert install(str(tmp_path), force=False) == '0.0.1'
    assert not gone.exists() and sorted(one.name for one in tmp_path.iterdir()) == ['pinrail', INFO]
    mine = tmp_path / 'pinrail/mine.py'
    mine.write_text('')
    with pytest.raises(UserError, match='mine.py" lies where the SDK would'):
        install(str(tmp_path), force=False)
    assert mine.exists() and (tmp_path / 'pinrail/run.py').exists()
    assert install(str(tmp_path), force=True) == __version__ and not mine.exists()


def test_an_interpreter_of_the_operating_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / 'lib'
    (library / 'site-packages').mkdir(parents=True)
    (library / 'EXTERNALLY-MANAGED').write_text('')
    paths = {'stdlib': str(library), 'purelib': str(library / 'site-packages')}
    monkeypatch.setattr(sysconfig, 'get_path', paths.__getitem__)
    monkeypatch.setattr(sys, 'base_prefix', sys.prefix)
    with pytest.raises(UserError, match='belongs to the operating system') as caught:
        place(force=False)
    assert 'venv' in (caught.value.hint or '') and '--force' in (caught.value.hint or '')
    assert place(force=True) == paths['purelib']
    monkeypatch.setattr(sys, 'base_prefix', '/elsewhere')
    assert place(force=False) == paths['purelib']
