"""``faceexpr init``: copy configurations that come with the package into a folder, to edit them there."""

from __future__ import annotations

from pathlib import Path

from faceexpr.cli.parser import Parser
from faceexpr.utils.configurations import FOLDER, SHIPPED, shipped_configs
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.files import say, write_file
from faceexpr.utils.text import nearest, some

DESCRIPTION = (
    "Copy configurations that come with faceexpr into a folder, to edit them there. As they are, each is found by its "
    "name: `faceexpr fit --config fer2013_compact`. A copy in ./configs is found by that name too and takes precedence."
)


def run(args: list[str]) -> None:
    """Run ``faceexpr init``, given the arguments with the verb.

    Raises:
        FaceExprError: there is no configuration of a name, or a file is there already that is not what comes with the
            package.
    """
    known = shipped_configs()
    folders = {path.parent.name for path in known.values()}
    names = f"Names, or folders ({', '.join(sorted(folders))}); all by default. There are {', '.join(known)}."
    parser = Parser(prog="faceexpr init", description=DESCRIPTION)
    parser.add_argument("names", nargs="*", default=[], type=str, metavar="NAME", help=names)
    parser.add_argument("--out", type=Path, default=Path(FOLDER), help="Folder to copy them to.")
    options = parser.parse_args(args[1:])
    wanted = {Path(name).stem for name in options.names}
    for name in sorted(wanted - known.keys() - folders):
        raise FaceExprError(
            f"{name} is no configuration that comes with faceexpr{nearest(name, [*known, *folders])}; "
            "`faceexpr init --help` lists them"
        )
    copies: dict[Path, str] = {}
    titles: dict[Path, str] = {}
    for stem, path in known.items():
        if not wanted or {stem, path.parent.name} & wanted:
            text = path.read_text(encoding="utf-8")
            named = [
                file for file in SHIPPED.rglob("*.txt") if file.relative_to(SHIPPED.parent).parent.as_posix() in text
            ]
            for file in (path, *named):  # in which commands and lists are then those of the new folder
                copy = options.out / file.relative_to(SHIPPED)
                copies[copy] = file.read_text(encoding="utf-8").replace(f"{FOLDER}/", f"{options.out.as_posix()}/")
            titles[options.out / path.relative_to(SHIPPED)] = text.partition("\n")[0].lstrip("# ")
    edited = [str(copy) for copy, text in copies.items() if copy.exists() and copy.read_bytes() != text.encode()]
    if edited:
        raise FaceExprError(f"{some(edited)}: there already, and edited; expected another --out, or names of others")
    for copy, text in copies.items():
        write_file(copy, text)
    width = max(len(str(copy)) for copy in titles)
    for copy, title in titles.items():
        say(f"{copy!s:<{width}}  {title}")
