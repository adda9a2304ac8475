"""Whose results a folder holds: the options that they depend on, told once and compared by all that go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faceexpr.pipeline.coco import FILE
from faceexpr.pipeline.inputs import CROPS, EXPLAINED, OPTIONS, PICTURES
from faceexpr.pipeline.records import RECORDS, ROWS
from faceexpr.pipeline.shard import PARTS
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import digest, write_once


def claim(folder: Path, options: Mapping[str, Any]) -> None:
    """Take a folder for the results of these options, or make sure that it holds such.

    Any number of processes may do so at once.

    Args:
        folder: of the results.
        options: what the results depend on.

    Raises:
        FaceExprError: the folder holds results of other options, or other files where the results would be, or cannot
            be written.
    """
    place = folder / OPTIONS
    if not place.is_file():
        foreign = [
            folder / name for name in (RECORDS, ROWS, FILE, PICTURES, CROPS, EXPLAINED, PARTS) if _holds(folder / name)
        ]
        if foreign and not place.is_file():  # or else another process has begun meanwhile
            raise FaceExprError(
                f"--out: {foreign[0]} is there already, and no analysis has written it; expected a folder without it"
            )
        if write_once(place, json.dumps(options, ensure_ascii=False, indent=2) + "\n"):
            return
    before = _options_in(place)
    for name, value in options.items():
        if name not in before and value is False:
            continue  # there was no such option when the folder was begun
        if _meaning(before.get(name)) != _meaning(value):
            raise FaceExprError(
                f"--out: {folder} holds results with {name} {_shown(before.get(name))}, and this run has "
                f"{_shown(value)}; expected the same options, with which it goes on, or another folder"
            )


def _holds(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _options_in(path: Path) -> dict[str, Any]:
    try:
        options = json.loads(path.read_bytes())
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise FaceExprError(f"--out: {path} does not hold the options of an analysis; expected a folder without it")
    return options


def _meaning(value: Any) -> Any:
    # The same weights may lie elsewhere by now, and others in their place.
    return value["sha256"] if isinstance(value, dict) else value


def _shown(value: Any) -> str:
    return f"{value['path']} ({value['sha256'][:8]})" if isinstance(value, dict) else str(value)


def fingerprint(path: Path) -> dict[str, str]:
    """Return the path of a file and what tells whether it still holds the same."""
    return {"path": str(path), "sha256": digest(path)}
