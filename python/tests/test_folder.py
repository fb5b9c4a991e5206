"""Jobs that SQL files declare, and edges that are taken from SQL."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Files

from pinrail import DefinitionError, sql_folder, template

FOLDER = 'workflow = sql_folder("sql")\n'


def jobs(compiled: dict[str, Any]) -> dict[str, Any]:
    assert compiled['diagnostics'] == []
    (workflow,) = compiled['workflows']
    return {job['name']: job for job in workflow['jobs']}


def test_each_file_of_a_folder_declares_a_job(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': FOLDER,
            'sql/a.sql': '-- Loads: everything.\n-- owner: anna\n-- description: what a is: this\n\n'
            '-- retries: 2\n-- executor: sql\n-- writes: raw.a\nselect 1\n-- retries: 5\n',
            'sql/marts/b.sql': '-- after: a\nselect 1',
            'sql/marts/c.sql': '-- after: b, auto\r\nselect 1',
            'sql/d.sql': '-- after:\nselect 1',
            'sql/_part.sql': 'no job',
            'sql/_old/e.sql': 'no job',
            'sql/readme.md': 'no job',
        }
    )
    found = jobs(files.compile())
    assert list(found) == ['a', 'd', 'b', 'c']
    assert {name: (job['after'], job.get('auto', False)) for name, job in found.items()} == {
        'a': ([], True),
        'b': (['a'], False),
        'c': (['b'], True),
        'd': ([], False),
    }
    a = found['a']
    assert (a['kind'], a['sql'], a['source']) == ('sql', {'file': 'sql/a.sql'}, {'file': 'sql/a.sql', 'line': 1})
    assert (a['owner'], a['description'], a['retries'], a['executor']) == ('anna', 'what a is: this', 2, 'sql')
    assert found['b']['source']['file'] == 'sql/marts/b.sql'


def test_a_folder_stands_beside_templates_and_settings_of_the_workflow(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': "workflow = Workflow({**sql_folder('sql'), template(name='r', shell='true'): ['a']},"
            " defaults={'retries': 1, 'owner': 'ben'})\n",
            'sql/a.sql': '-- retries: 0\nselect 1',
        }
    )
    found = jobs(files.compile())
    assert (found['a']['retries'], found['a']['owner']) == (0, 'ben')
    assert found['r']['after'] == ['a']


def test_a_template_with_sql_may_take_its_edges_from_it(files: Files) -> None:
    files.write(
        {
            'workflows/w.py': "workflow = {template(name='a', sql='sql/a.sql', after='auto'): [],"
            " template(name='b', sql='sql/a.sql'): ['a']}\n",
            'sql/a.sql': 'select 1',
        }
    )
    found = jobs(files.compile())
    assert found['a']['auto'] is True
    assert 'auto' not in found['b']


@pytest.mark.parametrize(
    ('files_', 'file', 'line', 'message'),
    [
        ({'sql/2a.sql': 'select 1'}, 'sql/2a.sql', 1, 'job name "2a" must begin'),
        ({'sql/a.sql': '-- retries: two\n'}, 'sql/a.sql', 1, 'header key "retries" of job "a" must be a whole number'),
        ({'sql/a.sql': '--\n-- owner: x\n-- owner: y\n'}, 'sql/a.sql', 3, 'header key "owner" is given twice'),
        ({'sql/a.sql': '-- executor: python\n'}, 'sql/a.sql', 1, 'executor "python" cannot run job "a"'),
        ({'sql/a.sql': '--\n-- after: b\n'}, 'sql/a.sql', 2, 'workflow "w" names a job that does not exist: "b"'),
        ({'sql/a.sql': '', 'sql/x/a.sql': ''}, 'sql/x/a.sql', 1, 'workflow "w" has two jobs named "a"'),
        ({'sql/a.sql': '-- after: b\n', 'sql/b.sql': '-- after: a\n'}, 'sql/a.sql', 1, 'wait for each other'),
        ({'sql/a.txt': ''}, 'workflows/w.py', 1, 'folder "sql" holds no .sql file'),
        ({'sqll/a.sql': ''}, 'workflows/w.py', 1, 'folder "sql" does not exist'),
    ],
)
def test_what_is_wrong_with_a_folder_is_told_at_its_place(
    files: Files, files_: dict[str, str], file: str, line: int, message: str
) -> None:
    files.write({'workflows/w.py': FOLDER, **files_})
    compiled = files.compile()
    found = compiled['diagnostics']
    assert [(one['file'], one['line'], one['level']) for one in found][:1] == [(file, line, 'error')], found
    assert message in found[0]['message']
    assert 'workflows/w.py' in [file, *(one['file'] for one in found[0]['related'])], 'the file that does not compile'
    assert compiled['workflows'] == []


def test_a_file_that_is_no_text_is_told(files: Files) -> None:
    files.write({'workflows/w.py': FOLDER, 'sql/a.sql': 'select 1'})
    (files.root / 'sql/a.sql').write_bytes(b'select \xff')
    (found,) = files.compile()['diagnostics']
    assert (found['file'], found['message']) == ('sql/a.sql', 'sql/a.sql is not text in UTF-8')


def test_wrong_arguments_are_told() -> None:
    with pytest.raises(DefinitionError, match='"../x" is not a folder within the project'):
        sql_folder('../x')
    with pytest.raises(DefinitionError, match='sql_folder takes the path of a folder, not 1'):
        sql_folder(1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DefinitionError, match=r'setting "after" of job "a" must be "auto", not \[\'b\'\]'):
        template(name='a', sql='a.sql', after=['b'])  # pyright: ignore[reportArgumentType]
    with pytest.raises(DefinitionError, match='takes what it waits for from SQL, and the job has none'):
        template(name='a', shell='true', after='auto')
