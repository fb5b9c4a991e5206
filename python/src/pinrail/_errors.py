"""The exceptions that authors see, and the search for near names that their hints use.

Invariants: ``str()`` of each is one message in lower case without a full stop; the hint is a field of its own, never
part of the message. Nothing here imports more than the interpreter has loaded anyway.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._diagnostics import Diagnostic


class UserError(Exception):
    """An error that its reader can mend, shown without a traceback.

    ``message`` says what is wrong (lower case, no full stop), ``hint`` what to do about it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class RequestError(UserError):
    """The server refused a request of a running job; ``code`` is its stable name, such as ``table-not-found``."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.code = code


class SqlError(RequestError):
    """A statement given to ``ctx.sql`` failed."""


class MissingName(UserError, KeyError, AttributeError):
    """A parameter, output or upstream job that does not exist.

    It is a ``KeyError`` and an ``AttributeError`` too, so that ``getattr`` with a default, ``hasattr`` and the usual
    ``except`` clauses work as they do with any mapping or object.
    """


class DefinitionError(UserError):
    """A workflow, template, schedule or spec was declared wrongly.

    ``diagnostics`` holds everything that was found; the message is their text as ``pinrail check`` prints it. While
    Pinrail compiles a workflow file nothing is raised: the diagnostics are collected and reported together.
    """

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        from ._diagnostics import render_diagnostics

        super().__init__(render_diagnostics(diagnostics))
        self.diagnostics = list(diagnostics)


def near(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that was probably meant by ``name``, if any is near enough."""
    known = sorted(set(names))
    folded = [one for one in known if one.lower() == name.lower()]
    if folded:
        return folded[0]
    import difflib

    found = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    """``near`` as a hint, or None."""
    found = near(name, names)
    return None if found is None else f'did you mean "{found}"?'
