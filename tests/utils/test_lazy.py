import importlib
import pickle
import sys

import pytest

from faceexpr.utils.lazy import classes_of


def test_a_class_is_found_by_its_name_and_the_module_called_like_it_is_loaded_first(tmp_path, monkeypatch):
    package = tmp_path / "lazy_folder"
    package.mkdir()
    (package / "__init__.py").write_text("__all__ = ['Other', 'SmallNet']\n")
    (package / "a_heavy_one.py").write_text("class Other: ...\n")
    (package / "small_net.py").write_text("class SmallNet: ...\nclass Private: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    find, _ = classes_of("lazy_folder", [str(package)])
    assert find("SmallNet").__module__ == "lazy_folder.small_net"
    assert "lazy_folder.a_heavy_one" not in sys.modules
    assert find("Other").__module__ == "lazy_folder.a_heavy_one"
    for name in ("Private", "small_net", "__wrapped__"):  # none that is public, a module, what Python asks for
        with pytest.raises(AttributeError, match=f"'lazy_folder' has no attribute '{name}'"):
            find(name)


@pytest.mark.parametrize("folder", ["", ".callbacks", ".data", ".models", ".pipeline", ".tasks"])
def test_public_names_are_found_listed_and_pickled_as_where_they_are_defined(folder):
    package = importlib.import_module(f"faceexpr{folder}")
    assert {*package.__all__, "__doc__", "__path__"} <= set(dir(package))
    for name in set(package.__all__) - {"__version__"}:
        value = getattr(package, name)
        assert getattr(importlib.import_module(value.__module__), name) is value
        assert pickle.loads(pickle.dumps(value)) is value
