"""File names of images that an annotation names by their links."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from faceexpr.utils.images import EXTENSIONS

_LONGEST = 50
"""Characters of a stem; four bytes each, they leave room for the rest in the 255 bytes of a file name."""


def is_link(content: str) -> bool:
    """Tell whether a text is an address, such as ``https://...``, and no file name; of whatever kind it is."""
    return re.match(r"[a-z][a-z0-9+.-]+://", content, re.IGNORECASE) is not None


def fetched_name(url: str) -> str:
    """Return the name of the file that a link is fetched to: it depends on the link alone, and no two have the same.

    It begins with the last part of the link; where that has no ending of an image, it gets ``.jpg``, whatever it holds,
    as its content alone tells its format.
    """
    last = PurePosixPath(unquote(_last_part(url)).replace("/", "_").replace("\\", "_"))
    suffix = last.suffix.lower() if last.suffix.lower() in EXTENSIONS else ""
    stem = re.sub(r"[^\w.-]+", "_", last.name[: len(last.name) - len(suffix)]).strip("._")[:_LONGEST]
    digest = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{stem or 'image'}-{digest}{suffix or '.jpg'}"


def file_names(content: str) -> tuple[str, ...]:
    """Return the names by which an image may be found, given its link or its file name; the most likely first."""
    if is_link(content):
        last = _last_part(content)
        names = [fetched_name(content), *([last, unquote(last)] if last else [])]
    else:
        names = [content, content.replace("\\", "/")]
    return tuple(dict.fromkeys(name for name in names if name))


def _last_part(url: str) -> str:
    try:
        path = urlsplit(url).path
    except ValueError:  # such as http://[
        path = url
    return path.rstrip("/").rpartition("/")[2]
