# Says as JSON what the interpreter that runs this is and has. Must work with every Python 3.
import os
import sys

if sys.path and sys.path[0] in ('', os.getcwd()):
    # What lies in the current folder is not what the interpreter has; it must not stand in for what is imported here.
    del sys.path[0]

import importlib.util
import json


def version_of(name):
    try:
        from importlib import metadata, util

        if name != 'pinrail' and util.find_spec(name) is None:
            return None
        return metadata.version(name)
    except Exception:
        return None


venv = sys.prefix != getattr(sys, 'base_prefix', sys.prefix)
marker = os.path.join(os.path.dirname(os.__file__), 'EXTERNALLY-MANAGED')
print(
    json.dumps(
        {
            'executable': sys.executable,
            'version': list(sys.version_info[:3]),
            'managed': os.path.exists(marker) and not venv,
            'pytest': version_of('pytest'),
            'sdk': version_of('pinrail'),
            'pip': version_of('pip'),
            'venv': importlib.util.find_spec('venv') is not None,
        }
    )
)
