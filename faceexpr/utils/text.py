"""Numbers and lists as people write them."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterable, Sequence

PREFIX = "probability_"


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
    """Return the first names of a list, each on one line, and how many more there are."""
    rest = len(names) - most
    return ", ".join(map(printable, names[:most])) + (f" and {rest:,} more" if rest > 0 else "")


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the end of a sentence that refuses a word: the name that it is most like, or nothing where none is."""
    found = difflib.get_close_matches(word, list(names), 1)
    return f"; the nearest is {found[0]}" if found else ""


def kind_of(value: object) -> str:
    """Return what was given in the place of something else: "a list", "the class Focal", "'SimpleCNN'"."""
    if isinstance(value, str):
        return repr(value)
    name = value.__name__ if isinstance(value, type) else type(value).__name__.replace("ndarray", "array")
    shape = f" {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return f"the class {name}" if isinstance(value, type) else f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}{shape}"


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    first, *others = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in (heads, *rows))
    return [first, "|---" * len(heads) + "|", *others]


def aligned_table(heads: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> list[str]:
    """Return the lines of a table for the console: the first columns, ``names``, at the left, the others right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    line = "  ".join(f"{{:{'<' if place < names else '>'}{width}}}" for place, width in enumerate(widths))
    return [f"  {line.format(*row)}".rstrip() for row in (heads, *rows)]


def csv_text(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def class_columns(class_names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return the columns of the probabilities of classes: their names, with `PREFIX` where one of ``others`` has it."""
    taken = {name.lower() for name in others}
    return [PREFIX * (name.lower() in taken or name.lower().startswith(PREFIX)) + name for name in class_names]


def column_classes(columns: Iterable[str], others: Sequence[str]) -> tuple[str, ...]:
    """Return the classes whose columns these are; in files of 0.1 each column has the name of its class."""
    bare = [(column, column.removeprefix(PREFIX)) for column in columns]
    return tuple(name if class_columns([name], others) == [column] else column for column, name in bare)


def printable(text: str) -> str:
    """Return text with backslash escapes for what nobody can see, such as codes that steer a terminal.

    Names of files may hold any: those of members of a tar file from anywhere are not to be trusted.
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def printable_lines(text: str) -> str:
    """Do the same and keep the ends of lines."""
    return "\n".join(map(printable, text.split("\n")))
