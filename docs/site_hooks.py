"""What MkDocs does not do by itself: pages and files from outside of docs/, and the links that lead to them."""

from __future__ import annotations

import posixpath
import re
from functools import partial
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]

PAGES = {
    "README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}  # fmt: skip
"""Files of the repository that are pages, and where they are in the site."""

COPIED = ("configs", "examples")
"""Folders whose files are copied, since pages link to them."""

LINK = re.compile(r"\[(?P<text>[^][]*)\]\((?P<link>[^)\s:#]+)(?P<anchor>#[^)\s]*)?\)|src=\"(?P<image>[^\":]+)\"")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside of docs/."""
    for source, page in PAGES.items():
        text = (REPOSITORY / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for path in sorted(path for folder in COPIED for path in (REPOSITORY / folder).rglob("*.*")):
        files.append(File.generated(config, path.relative_to(REPOSITORY).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between files of the repository lead to their places in the site; others become plain text."""
    return LINK.sub(partial(_moved, page.file.src_uri, files), markdown)


def _moved(here: str, files: Files, found: re.Match[str]) -> str:
    sources = {page: source for source, page in PAGES.items()}
    link = found["link"] or found["image"]
    folder = posixpath.dirname(sources.get(here, f"docs/{here}"))
    target = posixpath.normpath(posixpath.join(folder, link))
    if not (REPOSITORY / target).exists():
        return found[0]  # no link, or one that MkDocs will complain of
    place = PAGES.get(target, target.removeprefix("docs/"))
    if files.get_file_from_path(place) is None:
        return found["text"] or found[0]
    if found["image"]:
        return f'src="{posixpath.relpath(place, posixpath.dirname(here) or ".")}"'
    return f"[{found['text']}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{found['anchor'] or ''})"
