"""Find the configurations that come with the package, and the lists of images that some of them name."""

from __future__ import annotations

from pathlib import Path

from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.text import nearest

FOLDER = "configs"
"""The folder's name, in a clone of the project and in an installed package; their comments and lists name it."""

_PACKAGE = Path(__file__).resolve().parents[1]

SHIPPED = next((place for place in (_PACKAGE / FOLDER, _PACKAGE.parent / FOLDER) if place.is_dir()), _PACKAGE / FOLDER)
"""Where they are: an installed package brings its own, and in a clone they lie beside it."""


def shipped_configs() -> dict[str, Path]:
    """Return the configurations that come with the package by their names."""
    return {path.stem: path for path in sorted(SHIPPED.rglob("*.yaml"))}


def find_config(name: str) -> Path:
    """Return a configuration: a file, or one by its name, which is that of its file with or without folders.

    A name is looked for in ``configs`` of the current folder, where ``faceexpr init`` puts copies to edit, and then
    among those that come with the package.

    Raises:
        FaceExprError: there is neither a file nor a configuration of that name.
    """
    if Path(name).exists():
        return Path(name)
    wanted = name.removeprefix(f"{FOLDER}/").removesuffix(".yaml")
    for folder in (Path(FOLDER), SHIPPED):
        for path in sorted(folder.rglob("*.yaml")):
            if wanted in (path.stem, path.relative_to(folder).with_suffix("").as_posix()):
                return path
    raise FaceExprError(
        f"{name} is neither a file nor a configuration that comes with faceexpr{nearest(wanted, shipped_configs())}; "
        "the help of `faceexpr init` lists them"
    )


def shipped_file(path: Path) -> Path:
    """Return the file that comes with the package under a path such as ``configs/paper/dataset1/test_0.txt``.

    A file that is there takes precedence, and any other path is returned as it is.
    """
    own = SHIPPED.parent / path
    return own if path.parts[:1] == (FOLDER,) and own.is_file() and not path.exists() else path
