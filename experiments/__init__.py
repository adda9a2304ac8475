"""Experiments that are run with the package and are not part of it."""
