"""The smallest job is a function."""

from pinrail import Context


def greet(ctx: Context) -> None:
    """Greets somebody, and leaves the greeting for people."""
    greeting = f'hello {ctx.params.name}, this is about {ctx.ds}'
    ctx.log(greeting)
    ctx.counter('letters', len(greeting))
    ctx.save('greeting.txt', greeting + '\n')
