import sys

import pytest

from faceexpr.utils.lazy import classes_of


def test_a_class_is_found_by_its_name_and_the_module_called_like_it_is_loaded_first(tmp_path, monkeypatch):
    package = tmp_path / "lazy_folder"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a_heavy_one.py").write_text("class Other: ...\n")
    (package / "small_net.py").write_text("from pathlib import Path\nclass SmallNet: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    find = classes_of("lazy_folder", [str(package)])
    assert find("SmallNet").__module__ == "lazy_folder.small_net"
    assert "lazy_folder.a_heavy_one" not in sys.modules
    assert find("Other").__module__ == "lazy_folder.a_heavy_one"
    for name in ("Path", "small_net", "__wrapped__"):  # another package's, a module, what Python asks for
        with pytest.raises(AttributeError, match=f"'lazy_folder' has no attribute '{name}'"):
            find(name)
