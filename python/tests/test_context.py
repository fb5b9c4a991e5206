"""``ctx`` through ``fake_context``, and where it finds project files."""

from __future__ import annotations

from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any, Optional

import pytest
from conftest import Files

from pinrail import Job, UserError
from pinrail._context import Context
from pinrail._files import find, matches
from pinrail.testing import Check, Log, fake_context


class Load(Job):
    def complete(self, ctx: Context, result: Any) -> None:
        rows = ctx.sql('select count(*) as n from raw.flights')[0].n
        ctx.check('enough flights', rows > 300_000, detail=f'{rows} rows')
        ctx.counter('flights', rows)
        ctx.counter('flights', 1)
        ctx.metric('m', 0.5)
        ctx.output('rows', rows + ctx.upstream['first'].outputs['n'])
        ctx.log(f'{ctx.ds} {ctx.params.least} {ctx.secret("ftp")}', level='warning')
        ctx.progress(0.5, 'half')
        ctx.save('report.html', b'<p>')
        ctx.scratch.joinpath('x').write_text('x')
        ctx.save('x.txt', ctx.scratch / 'x')
        ctx.state['n'] = (1, 2)


def test_fake_context_records_what_a_phase_leaves() -> None:
    ctx = fake_context(
        ds='2013-01-02',
        params={'least': 5},
        upstream={'first': {'n': 1}},
        secrets={'ftp': 'pass'},
        target='dev',
        vars={'bucket': 'scratch'},
        sql=lambda text: [{'n': 112}],
        tz='America/New_York',
    )
    Load().complete(ctx, None)
    assert ctx.outputs == {'rows': 113}
    assert ctx.checks == [Check('enough flights', False, '112 rows', 'error')] and ctx.failed
    assert ctx.counters == {'flights': 113} and ctx.metrics == {'m': [0.5]}
    assert ctx.logs == [Log('warning', '2013-01-02 5 pass')] and ctx.progresses == [(0.5, 'half')]
    assert ctx.saved == {'report.html': b'<p>', 'x.txt': b'x'}
    assert ctx.interval.start == datetime(2013, 1, 2, 5, tzinfo=timezone.utc)
    assert ctx.ds == date(2013, 1, 2)
    assert (ctx.target, ctx.vars.bucket, ctx.next_phase().vars['bucket']) == ('dev', 'scratch', 'scratch')
    assert ctx.next_phase().state == {'n': [1, 2]}


def test_what_a_context_does_not_have_is_named() -> None:
    ctx = fake_context(
        params={'min_flights': 5}, upstream={'load': {'rows': 1}}, secrets={'ftp': 'x'}, vars={'rows': 1}, job='report'
    )
    assert ctx.target is None
    for attempt, message, hint in [
        (lambda: ctx.params.min_flight, 'no parameter "min_flight"', 'did you mean "min_flights"?'),
        (lambda: ctx.vars.row, 'no variable of the target "row"', 'did you mean "rows"?'),
        (lambda: ctx.upstream['laod'], '"report" does not wait for a job "laod"', 'did you mean "load"?'),
        (lambda: ctx.upstream['load'].outputs['row'], 'job "load" left no output "row"', 'did you mean "rows"?'),
        (lambda: ctx.secret('ftq'), 'secret "ftq" is not declared by job "report"', 'did you mean "ftp"?'),
        (lambda: ctx.sql('select 1'), 'ctx.sql was called in a test without tables', None),
        (lambda: ctx.log('x', level='warn'), None, 'did you mean "warning"?'),  # pyright: ignore[reportArgumentType]
        (lambda: ctx.save('../x', ''), '"../x" is not a name for a saved file', None),
        (lambda: ctx.counter('x', 'many'), 'the value of "x" must be a number, not str', None),  # pyright: ignore[reportArgumentType]
    ]:
        with pytest.raises(UserError) as caught:
            attempt()
        assert message is None or caught.value.message == message
        assert hint is None or caught.value.hint == hint
    assert ctx.params.get('other', 1) == 1 and not hasattr(ctx.params, 'other') and 'min_flights' in ctx.params
    assert ctx.upstream.get('other') is None and list(ctx.upstream) == ['load']


@pytest.mark.parametrize('value', [float('nan'), float('-inf'), {'mean': [1.5, float('nan')]}])
def test_an_output_is_not_nan(value: object) -> None:
    ctx = fake_context()
    with pytest.raises(UserError) as caught:
        ctx.output('mean', value)
    assert caught.value.message == 'output "mean" holds NaN or an infinity, for which JSON has no number'
    assert ctx.outputs == {}


def tree(files: Files) -> tuple[str, str]:
    files.write(
        {
            'bundle/data/a.csv': '',
            'folder/data/a.csv': '',
            'folder/data/b.csv': '',
            'folder/deep/x/c.csv': '',
            'out/x.csv': '',
        }
    )
    for name in ('bundle', 'folder'):
        (files.root / name / 'data/link.csv').symlink_to('../../out/x.csv')
        (files.root / name / 'data/inner.csv').symlink_to('a.csv')
    return str(files.root / 'bundle'), str(files.root / 'folder')


@pytest.mark.parametrize(
    ('path', 'patterns', 'expected'),
    [
        ('data/a.csv', [], 'bundle/data/a.csv'),
        ('./data//a.csv', [], 'bundle/data/a.csv'),
        ('data/inner.csv', [], 'bundle/data/inner.csv'),
        ('data/b.csv', ['data/*.csv'], 'folder/data/b.csv'),
        ('data/b.csv', None, 'folder/data/b.csv'),
        ('data/none.csv', ['data/*.csv'], 'folder/data/none.csv'),
        ('deep/x/c.csv', ['deep'], 'folder/deep/x/c.csv'),
        ('data/none.csv', [], 'folder/data/none.csv'),
    ],
)
def test_where_project_files_are(files: Files, path: str, patterns: Optional[list[str]], expected: str) -> None:
    bundle, folder = tree(files)
    assert find(path, bundle, folder, patterns) == files.root / expected


@pytest.mark.parametrize(
    ('path', 'message', 'line'),
    [
        (
            'data/b.csv',
            '"data/b.csv" is in the project\'s folder but neither in the bundle nor under [files]',
            'b = "data/b.csv"',
        ),
        ('../out/x.csv', '"../out/x.csv" leads out of the project', 'x = "data/x.csv"'),
        ('data/../../out/x.csv', '"data/../../out/x.csv" leads out of the project', 'x = "data/x.csv"'),
        ('data/../data/a.csv', '"data/../data/a.csv" leads out of the project', 'a = "data/a.csv"'),
        ('/etc/passwd', '"/etc/passwd" is an absolute path', 'passwd = "data/passwd"'),
        ('data/link.csv', '"data/link.csv" is a link that leads out of the project', 'link = "data/link.csv"'),
        ('', '"" is not the path of a project file', None),
    ],
)
def test_paths_that_are_refused(files: Files, path: str, message: str, line: Optional[str]) -> None:
    bundle, folder = tree(files)
    with pytest.raises(UserError) as caught:
        find(path, bundle, folder, ['other/*.csv'])
    assert caught.value.message == message
    assert line is None or (caught.value.hint or '').endswith(line)


def test_a_link_out_of_the_folder_is_refused_also_when_declared(files: Files) -> None:
    _, folder = tree(files)
    with pytest.raises(UserError):
        find('data/link.csv', str(files.root / 'out'), folder, ['data/*.csv'])


@pytest.mark.parametrize(
    ('pattern', 'path', 'expected'),
    [
        ('data/*.csv', 'data/a.csv', True),
        ('data/*.csv', 'data/x/a.csv', False),
        ('data/**/*.csv', 'data/x/y/a.csv', True),
        ('data/**/*.csv', 'data/a.csv', True),
        ('**/*.csv', 'a.csv', True),
        ('data/**', 'data/x/y', True),
        ('data', 'data/x/y', True),
        ('data/', 'data/x', True),
        ('data', 'database', False),
        ('./data/?.csv', 'data/a.csv', True),
        ('data/[ab].csv', 'data/b.csv', True),
        ('data/[!ab].csv', 'data/b.csv', False),
        ('a+b/(c).csv', 'a+b/(c).csv', True),
    ],
)
def test_patterns(pattern: str, path: str, expected: bool) -> None:
    assert matches(pattern, path) is expected


def test_fake_context_reads_the_projects_files(files: Files) -> None:
    files.write({'data/x.csv': 'a\n'})
    ctx = fake_context(root=files.root)
    assert ctx.file('data/x.csv').read_text() == 'a\n'
    assert not ctx.file(Path('data/y.csv')).exists()


def test_an_instance_has_its_item() -> None:
    ctx = fake_context(item={'path': 'a.csv'}, index=3)
    assert (ctx.item, ctx.index) == ({'path': 'a.csv'}, 3)
    assert fake_context(item=None).item is None
    ctx = fake_context()
    assert ctx.index is None
    with pytest.raises(UserError, match='job "test" is not mapped, so there is no item'):
        assert ctx.item


def test_a_list_may_be_larger_than_another_output() -> None:
    ctx = fake_context()
    ctx.output('files', ['x' * 1000] * 1000)
    with pytest.raises(UserError, match=r'output "files" takes [0-9,]+ bytes as JSON: at most 1,044,480 bytes'):
        ctx.output('files', ['x' * 1000] * 1100)
    with pytest.raises(UserError, match='at most 65,536 bytes'):
        ctx.output('text', 'x' * 70_000)
