"""``python -m pinrail.importing TOOL --into DIR [--new] PATH...``: imports, and prints one JSON document.

``{"tool", "project", "files": [path, ...], "sources": [{"file", "workflows": [name, ...], "jobs", "unwritten"}, ...],
"notes": [{"level", "file", "line", "what", "todo"}, ...]}``, or ``{"error": message, "hint": hint}`` with exit code 4.
``unwritten`` counts the jobs that fail until somebody writes them. ``--new`` makes the project as well.
"""

from __future__ import annotations

import argparse
import json
import sys

from .._errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m pinrail.importing')
    parser.add_argument('tool', choices=('airflow', 'pinball'))
    parser.add_argument('paths', nargs='+')
    parser.add_argument('--into', required=True)
    parser.add_argument('--new', action='store_true')
    given = parser.parse_args()
    from ._run import run

    # Syntax trees of long expressions are deep.
    sys.setrecursionlimit(10_000)
    try:
        document = run(given.tool, given.paths, given.into, new=given.new)
    except UserError as error:
        print(json.dumps({'error': error.message, 'hint': error.hint}))
        return 4
    print(json.dumps(document))
    return 0


if __name__ == '__main__':
    sys.exit(main())
