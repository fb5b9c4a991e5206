"""What an import has to tell: one note for each thing that is different now, or is not translated."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

# The job is there and does what it did, with a difference; nothing does what it did; it never did more than to look.
CHANGED = 'changed'
LEFT_OUT = 'left-out'
COSMETIC = 'cosmetic'


class Note(NamedTuple):
    """One thing: where it stands, what it is, and what to do about it."""

    level: str
    file: str
    line: int
    what: str
    todo: Optional[str]

    def to_json(self) -> dict[str, Any]:
        return {'level': self.level, 'file': self.file, 'line': self.line, 'what': self.what, 'todo': self.todo}


class Report:
    """The notes of an import, each once."""

    def __init__(self) -> None:
        self._notes: dict[Note, None] = {}

    def changed(self, file: str, line: int, what: str, todo: Optional[str] = None) -> None:
        self._notes[Note(CHANGED, file, line, what, todo)] = None

    def left_out(self, file: str, line: int, what: str, todo: Optional[str] = None) -> None:
        self._notes[Note(LEFT_OUT, file, line, what, todo)] = None

    def cosmetic(self, file: str, line: int, what: str) -> None:
        self._notes[Note(COSMETIC, file, line, what, None)] = None

    def notes(self) -> list[Note]:
        """All notes in the order of files and lines."""
        return sorted(self._notes, key=lambda note: (note.file, note.line))
