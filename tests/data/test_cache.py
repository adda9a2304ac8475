"""The cache of parsed arrays."""

import json
import logging
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from faceexpr.data.cache import ABANDONED_AFTER, FOLDER, KEY_FILE, cached_arrays
from faceexpr.utils.errors import FaceExprError


class Builder:
    """Counts how often it is asked, and returns arrays that tell the builds apart."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {
            "images": np.full((3, 2, 2), self.calls, dtype=np.uint8),
            "none": np.empty(0, dtype=np.int64),
            "text": np.array(["ein", "zwei"], dtype=np.str_),
            "no_text": np.array([], dtype=np.str_),
        }


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
    return sorted(path.name for path in folder.iterdir())


def test_second_call_reads_what_the_first_one_built(source):
    build = Builder()
    first = cached_arrays(source, "kind-1", build)
    second = cached_arrays(source, "kind-1", build)
    assert build.calls == 1
    for name, array in Builder()().items():
        for found in (first[name], second[name]):
            np.testing.assert_array_equal(found, array)
            assert found.dtype == array.dtype
    assert len(entries(source.parent / FOLDER)) == 1


def test_writing_to_the_arrays_leaves_the_cache_as_it_was(source):
    build = Builder()
    cached_arrays(source, "kind-1", build)["images"][:] = 99
    assert cached_arrays(source, "kind-1", build)["images"].max() == 1
    assert build.calls == 1


@pytest.mark.parametrize("change", ["size", "mtime", "moved"])
def test_changed_source_is_built_anew_and_the_old_entry_removed(source, change):
    build = Builder()
    cached_arrays(source, "kind-1", build)
    if change == "size":
        source.write_text("longer than the original")
    elif change == "mtime":
        os.utime(source, ns=(0, source.stat().st_mtime_ns + 1))
    else:
        source = shutil.copytree(source.parent, source.parent.with_name("copy")) / source.name
    assert cached_arrays(source, "kind-1", build)["images"].max() == 2
    assert build.calls == 2
    assert len(entries(source.parent / FOLDER)) == (2 if change == "moved" else 1)


def test_any_of_several_sources_counts(source):
    build = Builder()
    other = source.with_name("other.csv")
    other.write_text("other")
    cached_arrays([source, other], "kind-1", build)
    os.utime(other, ns=(0, 1))
    assert cached_arrays([source, other], "kind-1", build)["images"].max() == 2


def test_options_and_kinds_live_side_by_side(source):
    build = Builder()
    for _ in range(2):
        assert cached_arrays(source, "a-1", build)["images"].max() == 1
        assert cached_arrays(source, "b-1", build)["images"].max() == 2
        assert cached_arrays(source, "a-1", build, options="size 64")["images"].max() == 3
    assert build.calls == 3


def flip_last_byte(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(content)


DAMAGES = {
    "truncated": lambda entry: os.truncate(entry / "images.npy", (entry / "images.npy").stat().st_size - 1),
    "emptied": lambda entry: os.truncate(entry / "images.npy", 0),
    "one byte": lambda entry: flip_last_byte(entry / "images.npy"),
    "overwritten": lambda entry: (entry / "images.npy").write_bytes(b"x" * 4096),
    "missing array": lambda entry: (entry / "images.npy").unlink(),
    "missing key": lambda entry: (entry / KEY_FILE).unlink(),
    "garbage key": lambda entry: (entry / KEY_FILE).write_text("{"),
    "list as key": lambda entry: (entry / KEY_FILE).write_text("[]"),
    "other state": lambda entry: (entry / KEY_FILE).write_text(json.dumps({"state": "x", "checksums": {}})),
    "file in its place": lambda entry: (shutil.rmtree(entry), entry.write_text("x")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entry_is_built_anew(source, damage):
    build = Builder()
    cached_arrays(source, "kind-1", build)
    folder = source.parent / FOLDER
    DAMAGES[damage](folder / entries(folder)[0])
    assert cached_arrays(source, "kind-1", build)["images"].max() == 2
    assert cached_arrays(source, "kind-1", build)["images"].max() == 2
    assert build.calls == 2
    assert len(entries(folder)) == 1


def test_python_objects_are_never_unpickled(source):
    build = Builder()
    cached_arrays(source, "kind-1", build)
    folder = source.parent / FOLDER
    np.save(folder / entries(folder)[0] / "images.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert cached_arrays(source, "kind-1", build)["images"].max() == 2


def test_read_only_source_folder_falls_back_to_the_user_cache(source, user_cache):
    source.parent.chmod(0o555)
    build = Builder()
    try:
        for _ in range(2):
            assert cached_arrays(source, "kind-1", build)["images"].max() == 1
    finally:
        source.parent.chmod(0o755)
    assert build.calls == 1
    assert not (source.parent / FOLDER).exists()
    assert len(entries(user_cache)) == 1


def test_no_folder_to_write_to_means_no_cache_and_one_line(source, caplog):
    blocked = source / "cache"  # below a file
    build = Builder()
    with caplog.at_level(logging.INFO):
        arrays = cached_arrays(source, "kind-1", build, cache_dir=blocked)
    assert arrays["images"].max() == 1
    notices = [record.getMessage() for record in caplog.records if "no cache" in record.getMessage()]
    assert len(notices) == 1
    assert str(source) in notices[0]
    assert cached_arrays(source, "kind-1", build, cache_dir=blocked)["images"].max() == 2


def test_full_disk_leaves_nothing_behind(source, monkeypatch, user_cache):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert cached_arrays(source, "kind-1", Builder())["images"].max() == 1
    assert entries(source.parent / FOLDER) == entries(user_cache) == []


def test_given_folder_is_used_alone(source, tmp_path, user_cache):
    chosen = tmp_path / "chosen"
    cached_arrays(source, "kind-1", Builder(), cache_dir=chosen)
    assert len(entries(chosen)) == 1
    assert not user_cache.exists()
    assert not (source.parent / FOLDER).exists()


def test_builds_at_the_same_time_agree(source):
    barrier = threading.Barrier(4)

    def build():
        barrier.wait(timeout=20)  # all have looked for the entry and found none
        return {"images": np.arange(1000)}

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: cached_arrays(source, "kind-1", build), range(4)))
    for arrays in results:
        np.testing.assert_array_equal(arrays["images"], np.arange(1000))
    assert len(entries(source.parent / FOLDER)) == 1


def test_leftovers_of_killed_processes_go_and_those_being_written_stay(source):
    cached_arrays(source, "kind-1", Builder())
    folder = source.parent / FOLDER
    name = entries(folder)[0]
    old, young = folder / f"{name}.old.tmp", folder / f"{name}.young.tmp"
    old.mkdir()
    young.mkdir()
    os.utime(old, (0, time.time() - ABANDONED_AFTER - 60))
    source.write_text("changed")
    cached_arrays(source, "kind-1", Builder())
    assert not old.exists()
    assert young.exists()
    assert not (folder / name).exists()


def test_missing_source_is_named():
    with pytest.raises(FaceExprError, match=r"nowhere\.csv"):
        cached_arrays(Path("nowhere.csv"), "kind-1", Builder())
