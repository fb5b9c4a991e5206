"""Values of unknown type as dicts and lists: the one place where ``isinstance`` leaves the type checker in doubt."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def as_dict(value: object) -> dict[Any, Any] | None:
    """``value`` itself when it is a dict."""
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]


def as_list(value: object, *, sets: bool = False) -> list[Any] | None:
    """A list of the items when ``value`` is a list or tuple, or with ``sets`` a set too."""
    kinds = (list, tuple, set, frozenset) if sets else (list, tuple)
    if not isinstance(value, kinds):
        return None
    items: Any = value  # pyright: ignore[reportUnknownVariableType]
    return list(items)
