"""The cache of parsed arrays."""

import logging
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from faceexpr.data.cache import FOLDER, load_cached


class Builder:
    """Counts how often it is asked, and returns arrays that tell the builds apart."""

    calls = 0

    def __call__(self):
        self.calls += 1
        images = np.full((3, 2, 2), self.calls, dtype=np.uint8)
        return {"images": images, "none": np.empty(0, dtype=np.int64), "text": np.array(["ein", "zwei"])}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "data" / "fer.csv"
    path.parent.mkdir()
    path.write_text("original")
    return path


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    folder = tmp_path / "user-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "faceexpr"


def entries(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def built(source, build, kind="kind-1", **options):
    """The number of the build whose arrays are returned."""
    return load_cached([source], kind, build, **options)["images"].max()


def test_the_second_call_reads_what_the_first_one_built(source):
    build = Builder()
    first, second = (load_cached([source], "kind-1", build) for _ in range(2))
    assert build.calls == 1
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)
        assert second[name].dtype == array.dtype
    second["images"][:] = 99  # changes no file
    assert built(source, build) == 1
    assert len(entries(source.parent / FOLDER)) == 1


@pytest.mark.parametrize("change", ["size", "mtime", "moved"])
def test_a_changed_source_is_built_anew_and_the_old_entry_removed(source, change):
    build = Builder()
    built(source, build)
    if change == "size":
        source.write_text("longer than the original")
    elif change == "mtime":
        os.utime(source, ns=(0, source.stat().st_mtime_ns + 1))
    else:
        source = shutil.copytree(source.parent, source.parent.with_name("copy")) / source.name
    assert built(source, build) == built(source, build) == 2
    assert len(entries(source.parent / FOLDER)) == (2 if change == "moved" else 1)


def test_any_of_several_sources_options_and_kinds_count(source):
    build = Builder()
    other = source.with_name("other.csv")
    other.write_text("other")
    for _ in range(2):
        assert load_cached([source, other], "a-1", build)["images"].max() == 1
        assert built(source, build, kind="b-1") == 2
        assert built(source, build, kind="b-1", options="size 64") == 3
    os.utime(other, ns=(0, 1))
    assert load_cached([source, other], "a-1", build)["images"].max() == 4


def flip_a_byte(entry):
    content = bytearray(entry.read_bytes())
    content[content.index(b"\1" * 12)] ^= 255  # a pixel
    entry.write_bytes(content)


DAMAGES = {
    "empty": lambda entry: os.truncate(entry, 0),
    "one byte": flip_a_byte,
    "Python objects": lambda entry: np.savez(entry, images=np.array([{}], dtype=object)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_built_anew(source, damage):
    build = Builder()
    built(source, build)
    folder = source.parent / FOLDER
    DAMAGES[damage](folder / entries(folder)[0])
    assert built(source, build) == built(source, build) == 2
    assert len(entries(folder)) == 1


def test_a_read_only_source_folder_falls_back_to_the_user_cache(source, user_cache):
    source.parent.chmod(0o555)
    build = Builder()
    try:
        assert built(source, build) == built(source, build) == 1
    finally:
        source.parent.chmod(0o755)
    assert not (source.parent / FOLDER).exists()
    assert len(entries(user_cache)) == 1


def test_no_folder_to_write_to_means_no_cache_and_one_line(source, caplog):
    blocked = str(source / "cache")  # below a file
    build = Builder()
    with caplog.at_level(logging.INFO):
        assert built(source, build, cache_dir=blocked) == 1
    assert caplog.text.count(f"no cache is kept of {source}") == 1
    assert built(source, build, cache_dir=blocked) == 2
    assert entries(source.parent / FOLDER) == []  # a folder that is given is used alone


def test_builds_at_the_same_time_agree(source):
    barrier = threading.Barrier(4)

    def build():
        barrier.wait(timeout=20)  # all have looked for the entry and found none
        return {"images": np.arange(1000)}

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: load_cached([source], "kind-1", build), range(4)))
    for arrays in results:
        np.testing.assert_array_equal(arrays["images"], np.arange(1000))
    assert len(entries(source.parent / FOLDER)) == 1
