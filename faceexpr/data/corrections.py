"""What a user has confirmed in the table of an audit: images that are left out, and labels that are corrected."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from faceexpr.data.loading import FaceSplit
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.labels import canonical
from faceexpr.utils.text import counted

COLUMNS = ("action", "issue", "split", "image", "label", "suggestion", "score", "group", "box", "note")
"""The columns of an audit's table; the user fills the first."""

EXCLUDE = "exclude"
BROKEN = "broken"
YES = ("yes", "y", "x", "1", "true")


class Corrections:
    """The rows of an audit's table that have an action: ``exclude``, the name of a class, or ``yes`` to the suggestion.

    Args:
        path: the table, a CSV file divided by commas or semicolons; None is one without rows.
        class_names: the classes that a label may be corrected to; none where images can only be left out.

    Raises:
        FaceExprError: it cannot be read, has no such columns, or a row has another action or one that contradicts an
            earlier row.
    """

    def __init__(self, path: str | None = None, class_names: Sequence[str] = ()) -> None:
        self.path = path
        self.class_names = class_names
        self.actions: dict[str, str] = {}
        self.splits: dict[str, str] = {}
        if path is None:
            return
        try:
            with Path(path).expanduser().open(encoding="utf-8-sig", newline="") as file:
                head = file.readline()
                file.seek(0)
                reader = csv.DictReader(file, delimiter=";" if head.count(";") > head.count(",") else ",")
                if not {"action", "image", "suggestion"} <= {*(reader.fieldnames or ())}:
                    raise FaceExprError(
                        f"exclude: {path} is no table of an audit; expected the columns {', '.join(COLUMNS)}"
                    )
                for row in reader:
                    self._add({name: value or "" for name, value in row.items() if name}, reader.line_num)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise FaceExprError(f"exclude: {path} cannot be read ({error}); expected audit.csv of an audit") from error

    def _add(self, row: dict[str, str], line: int) -> None:
        given = row["action"].strip()
        wanted = row["suggestion"].strip() if given.lower() in YES else given
        if not given or row.get("issue") == BROKEN:
            return
        action = EXCLUDE if wanted.lower() == EXCLUDE else canonical(wanted, self.class_names)
        if action is None:
            raise FaceExprError(
                f"exclude: {self.path}, line {line}: the action is {given!r}; expected "
                f"{', '.join((EXCLUDE, *self.class_names))}, yes where something is suggested, or nothing"
            )
        place = _place(row["image"])
        if self.actions.setdefault(place, action) != action:
            raise FaceExprError(
                f"exclude: {self.path}, line {line}: the action for {row['image']} is {action}, and in an earlier line "
                f"{self.actions[place]}; expected one"
            )
        self.splits[place] = row.get("split", "")

    def find(self, images: Iterable[str]) -> list[str | None]:
        """Return the action for each image; None where there is none."""
        return [self.actions.get(_place(image)) if self.actions else None for image in images]

    def require_found(self, stage: str, found: Sequence[str | None]) -> str:
        """Return what is done to a split, as a phrase.

        Raises:
            FaceExprError: the table has actions for images of this split, and none is there: it is of other data.
        """
        expected = [place for place, split in self.splits.items() if split == stage]
        if expected and not any(found):
            raise FaceExprError(
                f"exclude: {self.path} is of other data: none of its {counted(len(expected), 'image')} of the {stage} "
                f"split is there, such as {expected[0]}; expected the table of an audit of these data"
            )
        number = Counter("left out" if action == EXCLUDE else "given another label" for action in found if action)
        done = " and ".join(f"{counted(count, 'image')} {what}" for what, count in sorted(number.items(), reverse=True))
        return f"{done or 'nothing changed'} in the {stage} split by {self.path}"

    def correct(self, split: FaceSplit) -> FaceSplit:
        """Return a split without the images that are left out, and with the corrected labels."""
        actions = self.find(split.sources)
        changed = [place for place, action in enumerate(actions) if action not in (None, EXCLUDE)]
        if changed and split.targets is not None:
            targets, labels = split.targets.clone(), [self.class_names.index(str(actions[place])) for place in changed]
            whole = torch.tensor(labels)
            targets[changed] = whole if targets.ndim == 1 else torch.eye(targets.shape[1])[whole]
            split = replace(split, targets=targets)
        kept = torch.tensor([action != EXCLUDE for action in actions], dtype=torch.bool).numpy()
        if split.selection and not kept.all():
            left_out = {**split.selection.left_out, "excluded": int((~kept).sum())}
            split = replace(split, selection=replace(split.selection, left_out=left_out))
        return split if kept.all() else split.pick(kept)


def _place(image: str) -> str:
    return os.path.normpath(Path(image).absolute())
