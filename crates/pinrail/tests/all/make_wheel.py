"""Makes a wheel: python make_wheel.py FOLDER NAME VERSION SOURCE [REQUIREMENT ...], where SOURCE is its one module."""

import os
import sys
import zipfile

folder, name, version, source, *requirements = sys.argv[1:]
info = f'{name}-{version}.dist-info'
files = {
    f'{name}.py': source,
    f'{info}/METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n'
    + ''.join(f'Requires-Dist: {one}\n' for one in requirements),
    f'{info}/WHEEL': 'Wheel-Version: 1.0\nGenerator: pinrail-tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    f'{info}/entry_points.txt': f'[console_scripts]\n{name} = {name}:main\n',
}
files[f'{info}/RECORD'] = ''.join(f'{path},,\n' for path in [*files, f'{info}/RECORD'])
os.makedirs(folder, exist_ok=True)
with zipfile.ZipFile(os.path.join(folder, f'{name}-{version}-py3-none-any.whl'), 'w') as wheel:
    for path, text in files.items():
        # The same source makes the same bytes, whenever it is made.
        wheel.writestr(zipfile.ZipInfo(path, (2024, 1, 1, 0, 0, 0)), text)
