"""The four phases of three small jobs."""

from pinrail import Context, Job


class _Example(Job):
    def setup(self, ctx: Context) -> None:
        ctx.log('setup')

    def execute(self, ctx: Context) -> object:
        ctx.log('execute')
        return ctx.job

    def complete(self, ctx: Context, result: object) -> None:
        ctx.log(f'complete {result}')

    def cleanup(self, ctx: Context) -> None:
        ctx.log('cleanup')


class examplejobA(_Example):
    """Waits for nothing."""


class examplejobB(_Example):
    """Waits for jobA."""


class examplejobC(_Example):
    """Waits for jobA and jobB."""
