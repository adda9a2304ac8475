"""Images in tar files: the same results as from a folder, whatever else is in the file and wherever it ends."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from analysis_runs import BOX, records, write
from image_files import encoded
from PIL import Image
from red_finder import red_picture
from stub_steps import WHOLE, pipeline

from faceexpr.pipeline.inputs import collect_inputs
from faceexpr.utils.errors import FaceExprError
from faceexpr.utils.images import ImageError


def face(box=BOX):
    return encoded(Image.fromarray(red_picture(box)), "PNG")


def pack(path, members, tar_format=tarfile.PAX_FORMAT):
    """Write a tar file of names and bytes, or names and links."""
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
            else:
                member.type, member.linkname = data
                tar.addfile(member)
    return Path(path)


def content(name):
    """Return what the images of a tar file hold by their names, how many members are none, and what is wrong."""
    found = collect_inputs([Path(name)])
    damage = None
    _, damaged = found.images.pop(name, ("", None))
    if damaged:
        with pytest.raises(ImageError) as caught:
            damaged()
        damage = caught.value.reason
    return {source.removeprefix(f"{name}/"): read() for source, (_, read) in found.images.items()}, found.others, damage


def test_a_tar_file_gives_what_the_folder_gives(analyze):
    for index in range(5):
        write(f"shard/{index % 2}/{index}.png", (10 + index, 20, 60, 70) if index % 3 else None)
    with tarfile.open("shard.tar", "w") as tar:
        for path in sorted(Path("shard").rglob("*.png")):
            tar.add(path, path.relative_to("shard"))
            tar.add(path, path.relative_to("shard").with_suffix(".cls"))
    for given, out in (("shard", "folder"), ("shard.tar", "tar"), ("shard.tar", "tar")):
        assert analyze(given, "--pictures=true", "--crops=true", out=out) == 0
    for record, other in zip(records("folder"), records("tar"), strict=True):
        name, place = record["image"].replace("shard/", "shard.tar/"), f"shard.tar/{record['name']}"
        assert other == {**record, "image": name, "name": place}
        assert Path("tar/pictures", place).read_bytes() == Path("folder/pictures", record["name"]).read_bytes()


def test_links_within_are_followed_other_kinds_counted_and_of_one_name_the_later_taken_as_in_unpacking(workdir):
    pack(
        "a.tar",
        [
            ("b.JPG", b"0"), ("x/a.jpg", b"1"), ("x/a.json", b"{}"), ("x/.hidden.jpg", b"2"), ("._a.jpg", b"3"),
            ("./b.JPG", b"4"),
            ("hard.jpg", (tarfile.LNKTYPE, "x/a.jpg")), ("lost.jpg", (tarfile.LNKTYPE, "nowhere.jpg")),
            ("soft.jpg", (tarfile.SYMTYPE, "/etc/passwd")), ("folder.jpg", (tarfile.DIRTYPE, "")),
            ("pipe.jpg", (tarfile.FIFOTYPE, "")),
        ],
    )  # fmt: skip
    assert content("a.tar") == ({"x/a.jpg": b"1", "b.JPG": b"4", "hard.jpg": b"1"}, 6, None)


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names(workdir, tar_format):
    names = ["/".join(["folder" * 20] * 5) + "/" + "顔" * 80 + ".jpg", "été.png", os.fsdecode(b"\xff.png")]
    pack("a.tar", [(name, os.fsencode(name)) for name in names], tar_format)
    assert content("a.tar")[0] == {name: os.fsencode(name) for name in names}


def test_names_that_lead_elsewhere_write_nothing_there(analyze, workdir):
    pack("a.tar", [("../../up.png", face()), ("/root.png", face()), ("x/../../../y.png", face()), ("a\\b.png", face())])
    assert analyze("a.tar", "--pictures=true", "--crops=true") == 0
    assert [record["name"] for record in records()] == [
        "a.tar/up.png", "a.tar/root.png", "a.tar/x/y.png", "a.tar/a\\b.png",
    ]  # fmt: skip
    assert len([*workdir.rglob("*.png")]) == len([*workdir.glob("out/**/*.png")]) == 8
    assert not any((workdir.parent / name).exists() for name in ("up.png", "root.png", "y.png"))


@pytest.mark.parametrize(
    ("change", "damage"),
    [
        (lambda data: data[: 6 * 512], "cut off or damaged after 3 images"),  # without an end
        (lambda data: data[: 5 * 512 + 3], "cut off or damaged after 2 images"),  # in the bytes of an image
        (lambda data: data[: 5 * 512 - 3], "cut off or damaged after 2 images"),  # in a header
        (lambda data: data[: 2 * 512], "cut off or damaged after 1 image"),  # between two
        (lambda data: data[:2058] + b"\xff" + data[2059:], "cut off or damaged after 2 images"),
        (lambda data: data * 2, "more follows the end of the archive, after 3 images; `tar -A` joins several into one"),
        (lambda data: data + bytes(2 << 20), None),
        (lambda data: b"", "not a tar file, or damaged"),
        (lambda data: b"\x1f\x8b" + b"0" * 600, "not a tar file, or damaged"),
    ],
)
def test_what_is_wrong_with_a_tar_file_is_told(workdir, change, damage):
    data = pack("a.tar", [(f"{number}.jpg", b"12345") for number in range(3)]).read_bytes()
    Path("a.tar").write_bytes(change(data))
    found, _, why = content("a.tar")
    assert why == damage
    assert set(found.values()) <= {b"12345"}


def test_a_tar_file_without_an_image_is_one_record_and_a_compressed_one_is_refused(analyze):
    pack("a.tar", [("a.txt", b"x")])
    os.mkfifo("pipe.tar")
    assert analyze("a.tar", "pipe.tar", "absent.tar") == 3
    assert [(record["image"], record["reason"]) for record in records()] == [
        ("a.tar", "no image in the tar file"), ("pipe.tar", "not a regular file"), ("absent.tar", "no such file"),
    ]  # fmt: skip
    for name in ("a.tar.gz", "a.TGZ", "x/a.tar.zst"):
        with pytest.raises(FaceExprError, match=f"^{name} is compressed, .* expected a tar file as it is"):
            collect_inputs([Path(name)])


def test_a_tar_file_in_a_folder_is_not_read_unless_it_is_named(workdir):
    write("photos/a.png")
    pack("photos/a.tar", [("b.png", face())])
    assert [*collect_inputs([Path("photos")]).images] == ["photos/a.png"]
    both = collect_inputs([Path("photos"), Path("photos/a.tar")])
    assert [*both.images] == ["photos/a.png", "photos/a.tar/b.png"]


def test_a_pipeline_takes_names_with_bytes_or_what_reads_them():
    def unreadable():
        raise PermissionError(13, "Permission denied")

    def refused():
        raise ImageError("x", "too odd")

    given = [("a", face()), ("b", face), ("c", unreadable), ("d", refused), ("e", b"no image")]
    assert [(result.source, result.reason) for result in pipeline(WHOLE).run(given)] == [
        ("a", None), ("b", None), ("c", "cannot be opened: Permission denied"), ("d", "too odd"), ("e", "not an image"),
    ]  # fmt: skip
