"""``faceexpr fetch``: the images of an annotation file, by their links."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path

from faceexpr.cli.parser import Parser, naming_options
from faceexpr.data.download import Limits, Link, fetch, list_links, write_report
from faceexpr.utils.errors import SOME_FAILED, FaceExprError
from faceexpr.utils.files import progress, say

SHOWN = 10
"""Failed links that are named on the console."""

DESCRIPTION = (
    "Fetch the images that an annotation file names by links, such as the export of Dataturks. The same command goes "
    "on where it was broken off, and tries failed links again; links.csv in the folder says what became of each."
)


def run(args: list[str]) -> None:
    """Run ``faceexpr fetch``, given the arguments with the verb; the exit code is 3 where some links failed."""
    parser = Parser(prog="faceexpr fetch", description=DESCRIPTION)
    parser.add_argument("annotations", type=Path, help="File of annotations with links, such as Dataturks' or COCO's.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the images.")
    parser.add_argument("--format", type=str, default="auto", help="Format of the annotations; auto tells it.")
    parser.add_argument("--workers", type=int, default=8, help="Links that are fetched at a time.")
    parser.add_class_arguments(Limits)
    config = parser.parse_args(args[1:])
    with naming_options(config):
        limits = Limits(**{option.name: config[option.name] for option in fields(Limits)})
        if config.workers < 1:
            raise FaceExprError(f"workers is {config.workers}; expected 1 or more")
        links = list_links(config.annotations, config.format)
    done: dict[str, Link] = {}
    try:
        for link in progress(fetch(links, config.out, config.workers, limits), total=len(links), unit="link"):
            done[link.url] = link
    finally:
        if done:
            report = write_report([done[url] for url in links if url in done], config.out)
    counts = Counter(link.status for link in done.values())
    say(
        f"{len(links):,} links: {counts['fetched']:,} fetched, {counts['present']:,} there before, "
        f"{counts['failed']:,} failed; see {report}"
    )
    failed = [link for link in done.values() if link.status == "failed"]
    for link in failed[:SHOWN]:
        say(f"{link.url}: {link.reason}")
    if failed:
        raise SystemExit(SOME_FAILED)
