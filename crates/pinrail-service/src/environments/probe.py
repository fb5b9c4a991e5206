# Says as JSON what the interpreter that runs this is, and what it could build an environment with.
import importlib.util
import json
import os
import platform
import sys
import sysconfig


def version_of(name):
    try:
        from importlib import metadata

        return metadata.version(name) if importlib.util.find_spec(name) else None
    except Exception:
        return None


if sys.path and sys.path[0] in ('', os.getcwd()):
    # What lies in the current folder is not what the interpreter has.
    del sys.path[0]
print(
    json.dumps(
        {
            'path': sys.executable,
            'executable': os.path.realpath(getattr(sys, '_base_executable', None) or sys.executable),
            'version': platform.python_version(),
            'implementation': sys.implementation.name,
            'platform': ' '.join([sysconfig.get_platform(), *platform.libc_ver()]).strip(),
            'pip': version_of('pip'),
            'venv': importlib.util.find_spec('venv') is not None,
            'ensurepip': importlib.util.find_spec('ensurepip') is not None,
        }
    )
)
