"""`python -m common.benchmarks`: check and prepare, with a fake ffmpeg and a real one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.benchmarks import listed_samples, load_samples
from common.benchmarks import prepare
from common.benchmarks.prepare import main
from common.io import InputError, numbered_images, read_audio, read_image
from common.scenes import Scenes
from tests.layouts import write

FAKE = """#!{python}
import os, sys, time
from pathlib import Path
args = sys.argv[1:]
video = Path(args[args.index("-i") + 1])
with open({log!r}, "a") as log:
    log.write(" ".join(args) + "\\n")
if "late" in video.stem and "-ss" in args:
    sys.exit(0)  # what ffmpeg does when it is asked for a frame after the end
if "%" in args[-1]:
    for k in range(3):
        Path(args[-1] % k).write_bytes(video.read_bytes())
else:
    Path(args[-1]).write_bytes(video.read_bytes())
if "bad" in video.stem:
    sys.exit("some chatter\\nInvalid data found")
"""


@pytest.fixture
def run(capsys):
    """The command → exit status, stdout, stderr."""

    def call(*args):
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A fake ffmpeg on PATH that copies its input → the log of its arguments, one line a call."""
    folder, log = tmp_path / "bin", tmp_path / "log"
    folder.mkdir()
    (folder / "ffmpeg").write_text(FAKE.format(python=sys.executable, log=str(log)))
    (folder / "ffmpeg").chmod(0o755)
    log.touch()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return log


def vggss(root, *ids):
    (root / "metadata").mkdir(parents=True)
    entries = [{"file": key, "class": "c", "bbox": [[0, 0, 1, 1]]} for key in ids]
    (root / "metadata" / "vggss.json").write_text(json.dumps(entries))
    return root


def clips(folder, *ids):
    folder.mkdir(parents=True)
    for key in ids:
        (folder / f"{key}.mp4").write_text(key)
    return folder


def files(root):
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and path.parent.name != "metadata"
    )


# check


def test_check(tmp_path, run):
    write(Scenes(3, size=64, seconds=0.5), tmp_path, "is3", 6)
    code, out, err = run("check", "is3", tmp_path, "--missing", tmp_path / "missing.txt")
    assert code == 0 and err == "" and (tmp_path / "missing.txt").read_text() == ""
    for line in (
        "listed      6",
        "found       6",
        "missing     0",
        "unreadable  0",
        "with masks  6",
        "audio       0.50 s",
        "image       64x64",
    ):
        assert line in out
    samples = listed_samples("is3", tmp_path)
    samples[1].audio.unlink()
    samples[4].image.unlink()
    code, out, err = run("check", "is3", tmp_path, "--missing", tmp_path / "missing.txt")
    assert code == 0 and "found       4" in out and "missing     2" in out
    assert (tmp_path / "missing.txt").read_text().splitlines() == [samples[1].id, samples[4].id]


@pytest.mark.parametrize(
    "what,damage",
    [("image", b"no image"), ("audio", b""), ("image", None), ("audio", None), ("mask", b"x")],
)
def test_check_finds_what_cannot_be_read(what, damage, tmp_path, run):
    """None: the second half of the file is missing."""
    write(Scenes(3, size=64, seconds=0.5), tmp_path, "is3", 4)
    sample = listed_samples("is3", tmp_path)[2]
    path = sample.masks[0] if what == "mask" else getattr(sample, what)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage is None else damage)
    code, out, err = run("check", "is3", tmp_path)
    assert code == 1 and "unreadable  1" in out and "found       4" in out
    assert err.count("\n") == 1 and err.startswith(f"{path}: ")


def test_check_of_nothing(tmp_path, run):
    code, out, _ = run("check", "vggss", vggss(tmp_path, "a", "b"))
    assert code == 1 and "found       0" in out and "missing     2" in out


def test_check_of_videos(tmp_path, run):
    write(Scenes(3, size=64), tmp_path, "ave", 2)
    assert run("check", "ave", tmp_path, "--list", "testSet.txt")[0] == 0
    code, out, _ = run("check", "ave-boxes", tmp_path)
    assert code == 0 and "audio       10.00 s" in out
    folder = listed_samples("ave", tmp_path)[0].image
    shutil.rmtree(folder)
    folder.mkdir()
    code, _, err = run("check", "ave", tmp_path)
    assert code == 1 and "no frame in it" in err
    frames = numbered_images(listed_samples("ave", tmp_path)[1].image)
    frames[-1].write_bytes(frames[-1].read_bytes()[:200])  # all are read, not only the first
    code, _, err = run("check", "ave", tmp_path)
    assert code == 1 and str(frames[-1]) in err


@pytest.mark.slow
def test_the_command_itself(tmp_path):
    """A process: one line and exit status 2 for bad input, no progress bars without a terminal."""

    def call(*args):
        return subprocess.run(
            [sys.executable, "-m", "common.benchmarks", *map(str, args)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[1],
        )

    ended = call("check", "vggss", tmp_path)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "vggss.json: no such file" in ended.stderr
    write(Scenes(3, size=64, seconds=0.5), tmp_path, "vggss", 2)
    ended = call("check", "vggss", tmp_path)
    assert ended.returncode == 0 and ended.stderr == "" and "found       2" in ended.stdout


# prepare, with the fake ffmpeg


def test_prepare(tmp_path, run, fake):
    root = vggss(
        tmp_path / "root", "-aaaaaaaaaa_000001", "bad_000002", "late_000003", "gone_000004"
    )
    videos = clips(
        tmp_path / "videos" / "deeper", "-aaaaaaaaaa_000001", "bad_000002", "late_000003", "other"
    )
    code, out, err = run("prepare", "vggss", videos.parent, root, "--jobs", 2)
    assert code == 1 and "3 files made, 0 existed, 3 failed, 1 videos missing" in out
    assert files(root) == [
        "audio/-aaaaaaaaaa_000001.wav",
        "audio/late_000003.wav",
        "frames/-aaaaaaaaaa_000001.jpg",
    ]
    assert err.count("bad_000002.mp4: Invalid data found") == 2
    assert "late_000003.mp4: ffmpeg made no late_000003.jpg" in err
    calls = fake.read_text().splitlines()
    assert len(calls) == 6
    (frame,) = [call for call in calls if "-aaa" in call and "-ss" in call]
    assert frame.index("-ss 5.000") < frame.index("-i ") and "-frames:v 1" in frame
    (audio,) = [call for call in calls if "-aaa" in call and "-ss" not in call]
    assert "-ac 1 -ar 32000" in audio

    fake.write_text("")
    code, out, _ = run("prepare", "vggss", videos, root)
    assert code == 1 and "0 files made, 3 existed, 3 failed" in out
    assert len(fake.read_text().splitlines()) == 3  # what was done is skipped
    (root / "own.txt").write_text("-aaaaaaaaaa_000001\n")
    fake.write_text("")
    assert run("prepare", "vggss", videos, root, "--list", root / "own.txt")[0] == 0
    assert fake.read_text() == ""
    assert [s.id for s in load_samples("vggss", root)] == ["-aaaaaaaaaa_000001"]

    (root / "audio/-aaaaaaaaaa_000001.wav").unlink()
    assert "1 files made, 2 existed" in run("prepare", "vggss", videos, root, "--rate", 22050)[1]
    assert "-ar 22050" in fake.read_text()
    audio = root / "audio/-aaaaaaaaaa_000001.wav"
    audio.rename(audio.with_suffix(".flac"))  # as some distributions of VGGSound have it
    assert "0 files made, 3 existed" in run("prepare", "vggss", videos, root)[1]
    assert run("prepare", "vggss", videos, root, "--rate", 0)[0] == 2


def test_prepare_goes_on_after_a_killed_run(tmp_path, run, fake):
    write(Scenes(0), tmp_path / "scenes", "ave", 1)
    root = tmp_path / "root"
    shutil.copytree(tmp_path / "scenes" / "metadata", root / "metadata")
    stale = root / "frames" / ".scene000000.part"
    stale.mkdir(parents=True)
    (stale / "0007.jpg").write_text("old")
    assert run("prepare", "ave", clips(tmp_path / "videos", "scene000000"), root)[0] == 0
    assert files(root) == [
        "audio/scene000000.wav",
        *(f"frames/scene000000/{k:04d}.jpg" for k in range(3)),
    ]
    assert "fps=4 -start_number 0" in fake.read_text()
    fake.write_text("")
    assert run("prepare", "ave-boxes", tmp_path / "videos", root)[0] == 0
    assert fake.read_text() == ""  # the same frames


def test_videos_named_in_milliseconds(tmp_path, run, fake):
    """VGGSound's clips are called YOUTUBE_START_END or YOUTUBE_SECONDS."""
    (tmp_path / "own.txt").write_text("-aaaaaaaaaa_90000_100000\n")
    videos = clips(tmp_path / "videos", "-aaaaaaaaaa_90000_100000")
    assert run("prepare", "vggsound", videos, tmp_path, "--list", tmp_path / "own.txt")[0] == 0
    assert (tmp_path / "audio/-aaaaaaaaaa_000090.wav").is_file()


def test_prepare_music_takes_the_numbered_frame(tmp_path, run, fake):
    shutil.copytree(Path(__file__).parent / "annotations", tmp_path / "metadata")
    videos = clips(tmp_path / "videos", "HnUOaSfTA6c_0_1000")
    assert run("prepare", "music-duet", videos, tmp_path)[0] == 0
    assert (tmp_path / "frames/HnUOaSfTA6c_0_1000/frame_175/05257.jpg").is_file()
    assert "-ss 175.233 " in fake.read_text()


def test_prepare_silent_pairs(tmp_path, run, fake):
    """The image is from one video, the audio from another."""
    root = vggss(tmp_path / "root")
    (root / "metadata" / "vggss_test_plus_silent.csv").write_text(
        "video,audio,label\na,b,non-sounding\n"
    )
    assert run("prepare", "vggss-extended", clips(tmp_path / "videos", "a", "b"), root)[0] == 0
    assert (root / "frames/a.jpg").read_text() == "a" and (root / "audio/b.wav").read_text() == "b"


def test_prepare_without_ffmpeg(tmp_path, run, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = run("prepare", "vggss", tmp_path, vggss(tmp_path / "root", "a"))
    assert code == 2 and err.count("\n") == 1 and "ffmpeg: not on PATH" in err


def test_prepare_refuses(tmp_path, run, fake):
    root = vggss(tmp_path / "root", "a")
    for name, videos, message in (
        ("is3", tmp_path, "nothing to extract"),
        ("vggss", tmp_path / "nowhere", "no such folder"),
    ):
        code, _, err = run("prepare", name, videos, root)
        assert code == 2 and message in err and err.count("\n") == 1
    assert run("prepare", "vggss", tmp_path, root)[0] == 1  # no video at all
    assert run("prepare", "vggss", tmp_path, root, "--jobs", "0")[0] == 2


# prepare, with a real one


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_with_the_real_ffmpeg(tmp_path, run):
    """Frame n of a 25 fps video has the grey value 37 n mod 256.

    The image at 5.0 s is frame 125; frame k of a video is at (k + 0.5) / 4 s.
    """
    key = "-aaaaaaaaaa_000001"
    root = vggss(tmp_path / "root", key, "short_000001", "broken_000001")
    videos = tmp_path / "videos"
    videos.mkdir()

    def make_video(path, seconds):
        images = "color=black:s=32x32:r=25,format=gray,geq=lum='mod(37*N,256)'"
        inputs = ["-f", "lavfi", "-i", images, "-f", "lavfi", "-i", "sine=440:sample_rate=44100"]
        output = f"-t {seconds} -c:v ffv1 -c:a pcm_s16le -ac 2 {path}".split()
        subprocess.run(["ffmpeg", "-v", "error", *inputs, *output], check=True)

    make_video(videos / f"{key}.mkv", 10)
    make_video(videos / "short_000001.mkv", 3)
    (videos / "broken_000001.mp4").write_text("no video")
    code, out, err = run("prepare", "vggss", videos, root, "--jobs", 2)
    assert code == 1 and "3 files made, 0 existed, 3 failed" in out
    assert "short_000001.jpg: the video ends before" in err
    assert np.abs(read_image(root / f"frames/{key}.jpg").astype(int) - 37 * 125 % 256).max() <= 2
    waveform, rate = read_audio(root / f"audio/{key}.wav")
    assert rate == 32000 and abs(len(waveform) - 320_000) <= 32 and waveform.std() > 0.05

    (root / "metadata/ave_box.json").write_text(json.dumps({f"{key}/3": {"bbox": []}}))
    code, out, err = run("prepare", "ave-boxes", videos, root)
    assert code == 0 and "1 files made, 1 existed" in out
    frames = sorted((root / "frames" / key).iterdir())
    assert len(frames) == 40
    grey = np.array([read_image(frame, "L").mean() for frame in frames])
    np.testing.assert_allclose(
        grey, [37 * int((k + 0.5) / 4 * 25) % 256 for k in range(40)], atol=2
    )


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_playlists_and_endless_videos(tmp_path, monkeypatch):
    """A playlist that is named .mp4 reads no other file; frames and audio are bounded."""
    inputs = "-f lavfi -i color=black:s=32x32:r=25 -f lavfi -i sine=440 -t 20"
    subprocess.run(["ffmpeg", "-v", "error", *inputs.split(), tmp_path / "a.mp4"], check=True)
    playlist = f"#EXTM3U\n#EXTINF:10,\nfile://{tmp_path}/a.mp4\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.mp4").write_text(playlist)
    monkeypatch.setattr(prepare, "MAX_AUDIO", 2**18)
    monkeypatch.setattr(prepare, "MAX_FRAMES", 50)
    for name, reason in (("list.mp4", "nvalid data"), ("a.mp4", "more than")):
        for target, flags in (("a.wav", prepare.to_audio()), ("frames", prepare.to_frames(4))):
            with pytest.raises(InputError, match=reason):
                prepare.extract(tmp_path / name, tmp_path / target, *flags)
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "list.mp4"}


def test_what_ffmpeg_may_read_and_write(tmp_path, fake):
    """The flags of the above, where there is no ffmpeg."""
    (tmp_path / "a.mp4").write_bytes(b"video")
    for target, flags in (("a.wav", prepare.to_audio()), ("frames", prepare.to_frames(100))):
        prepare.extract(tmp_path / "a.mp4", tmp_path / target, *flags)
    audio, frames = fake.read_text().splitlines()
    assert f"-format_whitelist {prepare.DEMUXERS} -i" in audio and "hls" not in prepare.DEMUXERS
    assert f"-fs {2**27}" in audio and "-frames:v 20001" in frames
