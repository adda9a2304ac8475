"""What pyproject.toml cannot say: ``configs/`` of the project is the folder ``configs`` of the installed package."""

from setuptools import find_namespace_packages, find_packages, setup

setup(
    packages=[
        *find_packages(include=["faceexpr*"]),
        "faceexpr.configs",
        *(f"faceexpr.configs.{folder}" for folder in find_namespace_packages("configs")),
    ],
    package_dir={"faceexpr.configs": "configs"},
)
