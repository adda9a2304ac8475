"""What pyproject.toml cannot say: where ``configs/`` is once it is installed, and what of the README an index shows."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

README = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")

setup(
    packages=[
        *find_packages(include=["faceexpr*"]),
        "faceexpr.configs",
        *(f"faceexpr.configs.{folder}" for folder in find_namespace_packages("configs")),
    ],
    package_dir={"faceexpr.configs": "configs"},
    # On a package index no file lies beside it: what links to one is plain text there, and its pictures are left out.
    long_description=re.sub(r"<img[^>]*>\s*|\[([^][]*)\]\((?!https?:)[^)]*\)", r"\1", README),
    long_description_content_type="text/markdown",
)
