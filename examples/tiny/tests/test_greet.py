from pinrail.testing import fake_context, project

from jobs.greet import greet


def test_the_function_alone() -> None:
    ctx = fake_context(ds='2013-01-01', params={'name': 'Anna'})
    greet(ctx)
    assert ctx.saved['greeting.txt'] == b'hello Anna, this is about 2013-01-01\n'


def test_the_job_on_a_server_of_its_own() -> None:
    result = project().run_job('greet', ds='2013-01-01', params={'name': 'Anna'})
    assert result.state == 'succeeded'
    assert 'hello Anna' in result.logs
