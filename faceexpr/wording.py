"""Numbers and lists as people write them."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 box", "2,000 boxes".

    Args:
        number: how many.
        noun: for one.
        plural: for any other number; by default with an ending.
    """
    if plural is None:
        plural = f"{noun}{'es' if noun.endswith('x') else 's'}"
    return f"{number:,} {noun if number == 1 else plural}"


def some(names: list[str], most: int = 5) -> str:
    """Return the first names of a list, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
