"""The base class of Python jobs: it gives names and types to the four phases and does nothing itself."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._context import Context


class Job:
    """A Python job. Define ``execute`` and whichever other phases are needed; deriving from ``Job`` is optional.

    Each phase runs on a new instance, perhaps in another process: what one phase leaves for the next goes into
    ``ctx.state``, or is what ``execute`` returns.
    """

    def setup(self, ctx: Context) -> None:
        """Checks the inputs and prepares, before anything outside exists. Keep it cheap."""

    def execute(self, ctx: Context) -> object:
        """Does the work and returns a JSON value, or returns a spec (``Sql``, ``Shell``, ``RunWorkflow``) for an engine to do it."""

    def complete(self, ctx: Context, result: Any) -> None:
        """Checks, after success, what ``execute`` wrote. Nobody else sees it before this phase has returned."""

    def cleanup(self, ctx: Context) -> None:
        """Removes what lies outside of Pinrail. It always runs, also after a kill, and perhaps more than once."""


PHASES = ('setup', 'execute', 'complete', 'cleanup')
