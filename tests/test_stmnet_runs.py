"""stmnet's scores against loops over frames and pixels, its evaluation, its own videos, its stream, and its runs on files."""

import io
import json
import shutil
import struct
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.io import InputError, read_image, read_json, write_audio, write_image
from tests.layouts import write
from common.training import select_device
from common.scenes import Scenes
from stmnet import evaluate, film, localize, score, sheets, stream, train
from common.evaluation.boxes import boxes_from_maps
from stmnet.clips import segments_at
from stmnet.config import TINY
from stmnet.encoders import Stmnet
from stmnet.backbones.resnet import resnet152
from stmnet.videos import SceneVideos, Video

from .test_lifecycle import bad, log

pytestmark = pytest.mark.slow

SMALL = replace(
    TINY,
    image_size=32,
    width=8,
    audio_width=8,
    C=16,
    segment_seconds=0.25,
    video_seconds=5,
    held_out=4,
    test_videos=4,
)
NAMES = Scenes(0).names


def predictor(seed=0, **changes):
    """Random weights, and logits large enough that classes differ."""
    torch.manual_seed(seed)
    config = replace(SMALL, **changes)
    classes = NAMES + ["background"] * config.background
    model = Stmnet(config, len(classes))
    with torch.no_grad():
        model.space_time.mlp[2].weight.mul_(8)
    return evaluate.Predictor(model, config, select_device("cpu"), classes)


@pytest.fixture
def checkpoint(tmp_path):
    p = predictor(background=False, confidence=0.0)
    torch.save(
        {
            "method": "stmnet",
            "config": vars(p.config),
            "classes": p.classes,
            "model": p.model.state_dict(),
        },
        tmp_path / "best.pt",
    )
    return tmp_path / "best.pt"


# Scores against loops ---------------------------------------------------------------------------------------------------------


def loop_over_frames(maps, boxes, shown, times):
    """ciou, pointing, iou and stability of maps (T, n, n), one pixel of one frame after the other."""
    n, rows = maps.shape[-1], []
    for t, m in enumerate(maps.numpy()):
        truth = np.zeros((n, n), bool)
        for x0, y0, x1, y1 in boxes[t] * n:
            truth[int(y0):int(y1), int(x0):int(x1)] = True
        predicted = np.zeros((n, n), bool)
        for x0, y0, x1, y1, _ in boxes_from_maps(maps[t:t + 1])[0].tolist() if shown[t] else []:
            predicted[round(y0 * n):round(y1 * n), round(x0 * n):round(x1 * n)] = True
        over = (m - m.min()) / (m.max() - m.min()) > 0.5
        hit, false = (over & truth).sum(), (over & ~truth).sum()
        y, x = np.unravel_index(m.argmax(), m.shape)
        union = (predicted | truth).sum()
        rows.append(
            [
                hit / (truth.sum() + false),
                truth[y, x],
                (predicted & truth).sum() / union if union else np.nan,
                over,
                truth.any(),
            ]
        )
    both = [
        rows[t][4] and rows[t + 1][4] and times[t + 1] - times[t] <= 1.5
        for t in range(len(rows) - 1)
    ]
    steady = [
        (a[3] & b[3]).sum() / (a[3] | b[3]).sum() if ok else np.nan
        for a, b, ok in zip(rows, rows[1:], both)
    ] + [np.nan]
    return {
        "ciou": [r[0] for r in rows],
        "pointing": [float(r[1]) for r in rows],
        "iou": [r[2] for r in rows],
        "stability": steady,
    }


@pytest.mark.parametrize("seed", range(3))
def test_values_against_loops(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    maps = score.enlarged(torch.randn(6, 5, 5))
    low = rng.random((6, 2, 2)) * 0.6
    boxes = [np.concatenate([b, b + 0.3], 1)[:k] for b, k in zip(low, (1, 2, 0, 1, 1, 2))]
    shown = torch.tensor([True, True, True, False, True, True])
    times = np.array([0.1, 1.1, 2.1, 3.1, 4.1, [5.1, 7.1][seed % 2]])
    found = score.values(maps, score.truth_of(boxes), shown, times)
    expected = loop_over_frames(maps, boxes, shown, times)
    for name, own in expected.items():
        np.testing.assert_allclose(np.asarray(found[name]), own, atol=1e-12, err_msg=name)
    assert [len(b) > 0 for b in found["boxes"]] == shown.tolist()
    assert np.isnan(np.asarray(found["stability"])).tolist() == [
        False,
        True,
        True,
        False,
        seed % 2 == 1,
        True,
    ]
    one = score.values(maps[:1], score.truth_of(boxes[:1]), shown[:1], times[:1])
    assert torch.isnan(one["stability"]).all() and one["ciou"][0] == found["ciou"][0]


def test_floors_and_a_perfect_map():
    boxes = [np.array([[0.25, 0.25, 0.75, 0.75]]), np.array([[0.5, 0.5, 1.0, 1.0]])]
    truth = score.truth_of(boxes)
    found = score.floors(truth)
    assert (
        found["centre"]["ciou"].tolist() == pytest.approx([1, 1 / 7], abs=0.02)
        and found["centre"]["pointing"][0] == 1
    )
    assert found["whole"]["iou"].tolist() == [0.25, 0.25] and found["whole"]["ciou"].tolist() == [
        0.25,
        0.25,
    ]
    perfect = score.values(truth, truth, torch.ones(2, dtype=torch.bool), np.arange(2))
    assert (
        perfect["ciou"].tolist()
        == perfect["iou"].tolist()
        == perfect["pointing"].tolist()
        == [1, 1]
    )
    assert score.enlarged(torch.zeros(1, 3, 3)).max() == 0  # and a constant map has no box
    assert not len(
        score.values(score.enlarged(torch.ones(1, 3, 3)), truth[:1], torch.ones(1), np.zeros(1))[
            "boxes"
        ][0]
    )


@pytest.mark.parametrize("area_normalised", [False, True])
def test_proposals_against_loops(area_normalised):
    rng = np.random.default_rng(3)
    config = replace(SMALL, area_normalised=area_normalised, grounded=4, nms=0.4)
    alpha = torch.from_numpy(rng.random((256, 256))).softmax(0) / 256
    low = rng.random((30, 2)) * 0.7
    proposals = torch.from_numpy(
        np.concatenate([low, low + 0.05 + rng.random((30, 2)) * 0.25], 1)
    ).float()
    scores = []
    for x0, y0, x1, y1 in (proposals * 256).round().long().tolist():
        inside = alpha[y0:y1, x0:x1]
        scores.append(float(inside.mean() if area_normalised else inside.sum()))
    kept = []
    for i in sorted(range(30), key=lambda i: -scores[i]):
        def overlap(j, i=i):
            inter = (
                (
                    torch.minimum(proposals[i, 2:], proposals[j, 2:])
                    - torch.maximum(proposals[i, :2], proposals[j, :2])
                )
                .clamp(0)
                .prod()
            )
            areas = (proposals[[i, j], 2:] - proposals[[i, j], :2]).prod(1).sum()
            return inter / (areas - inter)
        if all(overlap(j) <= 0.4 for j in kept):
            kept.append(i)
    found = score.grounded(proposals, alpha, config)
    torch.testing.assert_close(found[:, :4], proposals[kept[:4]])
    assert found[:, 4].tolist() == pytest.approx([scores[i] for i in kept[:4]], rel=1e-5)
    whole = torch.tensor([[0.0, 0, 1, 1], [0.1, 0.1, 0.2, 0.2]])
    spot = torch.zeros(256, 256)
    spot[30:40, 30:40] = 0.01
    best = score.grounded(whole, spot, replace(config, grounded=1))[0, 2]
    assert best == pytest.approx(
        0.2 if area_normalised else 1.0
    )  # the plain sum favours the largest box


# Evaluation -------------------------------------------------------------------------------------------------------------------


class Told(evaluate.Predictor):
    """Its map is what its first sample of sound says: place the truth (1), or the opposite corner; silence is background."""

    def look(self, frames):
        return frames

    def answer(self, frames, segments, past=None):
        maps = torch.zeros(len(frames), 8, 8)
        place = segments[:, 0].long()
        for t, p in enumerate(place.tolist()):
            maps[t, :4, :4] = float(p == 1)
            maps[t, 4:, 4:] = float(p != 1)
        said = torch.where(place == 1, 0, torch.where(place == 2, 1, 2))
        return {"attention": maps, "scores": -maps}, said, torch.ones(len(frames)), said != 2, past


class Set:
    """Two videos of which the first one's sounds are at the top left, and the third frame is silent; the second's have class b."""

    name, group, listed, ids = "made up", "", None, ["x", "y"]

    def video(self, i):
        at = [np.array([[0, 0, 0.5, 0.5]])] * 2 + [np.zeros((0, 4))]
        sound = torch.zeros(3, 4)
        sound[:2, 0] = 1.0 + i
        labels = ["a", "a", "background"] if i == 0 else ["a", "zebra", "background"]
        frames = [np.zeros((16, 16, 3), np.uint8)] * 3
        return Video(frames, sound, np.arange(3) + 0.5, at, labels, np.array([False, False, True]))


def test_what_is_measured(capsys):
    told = Told.__new__(Told)
    told.model = SimpleNamespace(space_time=SimpleNamespace(memory=SimpleNamespace(K=3)))
    told.config, told.classes, told.report, told.detector = (
        replace(SMALL),
        ["a", "b", "background"],
        {},
        None,
    )
    found, pages = evaluate.evaluate(told, [Set()])
    assert found["frames/n"] == 4 and found["samples"] == 2
    assert (
        found["frames/pointing"] == found["attention/pointing"] == 0.5
    )  # the first video's two frames of four
    assert (
        found["frames/ciou@0.5"] == found["frames/iou@0.5"] == 0.5
        and 0.4 < found["frames/ciou_mean"] < 0.5
    )
    assert found["scores/pointing"] == 0.5  # there the others are right
    assert (
        found["control/shuffled_pointing"] == 0.5 and found["control/silent_iou@0.5"] == 0
    )  # silence is background: no box
    assert found["frames/stability"] == found["truth/stability"] == 1
    assert (
        found["events/accuracy"] == pytest.approx(2 / 3) and found["events/n"] == 3
    )  # nobody knows the zebra
    assert found["silence/accuracy"] == 1 and found["silence/n"] == 2
    assert (
        found["class/a/iou@0.5"] == pytest.approx(2 / 3)
        and found["class/zebra/iou@0.5"] == 0
        and found["class/a/n"] == 3
    )
    assert "N = 4" in capsys.readouterr().out and len(pages["samples"]["rows"]) == 8
    assert evaluate.evaluate(told, [Set()])[0]["floor/whole_iou@0.5"] == 0
    assert len(pages["samples"]["columns"]) == 3 and pages["samples"]["captions"][4] == ""
    for test in (single := Set(), later := Set()):
        test.ids = ["x"]
    assert not [
        key for key in evaluate.evaluate(told, [single])[0] if key.startswith("control/shuffled")
    ]  # its own sound is no control
    later.video = lambda i: Set().video(i)._replace(times=np.arange(3) + 5.5)
    page = sheets.sheet(
        [
            sheets.rows_of(s.video(0), torch.zeros(3, 2, 2), [torch.zeros(0, 5)] * 3, "abc")
            for s in (single, later)
        ]
    )
    assert page["columns"] == () and page["captions"][4] == "5.5 s, 6.5 s, 7.5 s"
    told.config = replace(SMALL, box_map="scores")
    assert evaluate.evaluate(told, [Set()])[0]["frames/iou@0.5"] == found["scores/iou@0.5"]


@pytest.mark.parametrize("background", [True, False])
def test_evaluation_against_frame_by_frame(background):
    """All steps of a video at once, in blocks, or one by one with a memory: the same numbers; silence where confidence is low."""
    p = predictor(background=background, confidence=0.3)
    test = SceneVideos(p.config)
    merged, _ = evaluate.measure(p, test)
    naive = {"ciou": [], "pointing": [], "right": []}
    for i in range(len(test.ids)):
        video, past = test.video(i), evaluate.EMPTY
        for t, frame in enumerate(video.frames):
            maps, said, confidence, shown, past = p.answer(
                p.look([frame]), video.segments[t : t + 1], past
            )
            assert bool(shown[0]) == (p.names(said, shown)[0] != "background") and (
                background or shown[0] == (confidence[0] >= 0.3)
            )
            found = score.values(
                score.enlarged(maps["attention"]),
                score.truth_of([video.boxes[t]]),
                shown,
                video.times[t : t + 1],
            )
            naive["ciou"].append(found["ciou"][0])
            naive["pointing"].append(found["pointing"][0])
            naive["right"].append(p.names(said, shown)[0] == video.labels[t])
    np.testing.assert_allclose(merged["attention", "ciou"], naive["ciou"], atol=2e-3)
    assert (
        merged["attention", "pointing"].tolist() == naive["pointing"]
        and merged["class", "right"].tolist() == naive["right"]
    )
    flat, _ = evaluate.results(merged, p.config)
    there = merged["truth", "there"]
    assert flat["frames/ciou_mean"] == pytest.approx(
        np.mean(np.array(naive["ciou"])[there]), abs=2e-3
    )
    other = test.video(2).segments  # what the control hears instead
    assert torch.equal(evaluate.exchanged(test, 0, 5), other) and torch.equal(
        evaluate.exchanged(test, 0, 7)[5:], other[:2]
    )


def test_memory_at_evaluation_is_a_setting(checkpoint):
    p = predictor()
    video, maps = SceneVideos(p.config).video(0), {}
    for K in (0, 1, 3):
        q = evaluate.load(checkpoint, select_device("cpu"), K=K)
        maps[K] = q.answer(q.look(video.frames), video.segments)[0]["scores"]
    assert torch.allclose(maps[0][0], maps[3][0], atol=1e-5) and torch.allclose(
        maps[1][1], maps[3][1], atol=1e-5
    )
    assert not torch.allclose(maps[0][1], maps[3][1]) and not torch.allclose(maps[1][2], maps[3][2])


def test_evaluate(checkpoint, tmp_path):
    """It remembers what --K says or else as much as the training said of an evaluation; --sheets has a sheet of every video."""
    stable = {}
    for flags in ([], ["--K", "1"], ["--K", "0"], ["--K", "3", "--sheets"]):
        evaluate.main(
            [
                "--checkpoint",
                str(checkpoint),
                "--device",
                "cpu",
                "--out",
                str(tmp_path / "out"),
                *flags,
            ]
        )
        found = read_json(tmp_path / "out" / "metrics-scenes.json")
        assert found["K_evaluated"] == int((flags or ["", "1"])[1])
        stable[tuple(flags[1:])] = found["scores/ciou_mean"], found["turns/scores/ciou_mean"]
    assert stable[()] == stable["1",] != stable["0",] != stable["3", "--sheets"] != stable[()]
    pages = {path.stem: read_image(path) for path in (tmp_path / "out" / "sheets-scenes").iterdir()}
    assert sorted(pages) == sorted(
        f"{kind}-00000{i}" for kind in ("video", "turns") for i in range(4)
    )
    assert (
        len({page.tobytes() for page in pages.values()}) == 8
        and read_image(tmp_path / "out" / "turns-scenes.png").shape
    )


# One's own videos -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Odd sizes, numbers that begin at 7."""
    video = Scenes(77, 64, 8000).video(0, 4, 2)
    (tmp_path / "film").mkdir()
    for k, frame in enumerate(video.frames):
        write_image(tmp_path / "film" / f"shot2_{k + 7:03d}.png", frame[:41, :57])
    write_audio(tmp_path / "film" / "a.wav", video.waveform, 8000)
    return tmp_path / "film"


def test_localize_a_folder(folder, checkpoint, capsys):
    out = folder.parent / "out" / "a.gif"
    localize.main(
        [
            "--video",
            str(folder),
            "--out",
            str(out),
            "--checkpoint",
            str(checkpoint),
            "--device",
            "cpu",
        ]
    )
    found = read_json(out.with_suffix(".json"))
    assert [f["frame"] for f in found["frames"]] == list(range(8)) and found["frames"][3][
        "time"
    ] == 0.875
    assert all(
        0 <= x0 < x1 <= 57 and 0 <= y0 < y1 <= 41
        for f in found["frames"]
        for x0, y0, x1, y1 in f["boxes"]
    )
    assert (
        any(f["boxes"] for f in found["frames"]) and f"{out}: 8 frames" in capsys.readouterr().out
    )
    with Image.open(out) as gif:
        assert gif.n_frames == 8 and gif.size == (57, 41)
    assert sorted(p.name for p in out.parent.iterdir()) == ["a.gif", "a.json"]
    for path in sorted(folder.glob("*.png"))[1:]:
        path.unlink()
    localize.main(
        [
            "--video",
            str(folder),
            "--out",
            str(out),
            "--checkpoint",
            str(checkpoint),
            "--device",
            "cpu",
        ]
    )  # one frame
    assert len(read_json(out.with_suffix(".json"))["frames"]) == 1


def test_blocks_and_frames_of_several_sizes(folder, checkpoint, monkeypatch):
    """The memory goes on from block to block."""
    write_image(folder / "shot2_010.png", np.zeros((30, 20, 3), np.uint8))
    found = {}
    for block in (3, 16):
        monkeypatch.setattr(localize, "BLOCK", block)
        out = folder.parent / f"{block}.gif"
        localize.main(
            [
                "--video",
                str(folder),
                "--out",
                str(out),
                "--checkpoint",
                str(checkpoint),
                "--device",
                "cpu",
            ]
        )
        found[block] = read_json(out.with_suffix(".json"))["frames"]
    for a, b in zip(found[3], found[16]):
        assert a["label"] == b["label"] and a["confidence"] == pytest.approx(
            b["confidence"], abs=1e-3
        )
        np.testing.assert_allclose(a["boxes"], b["boxes"], atol=1.0)


def test_bad_videos(folder, checkpoint, capsys, monkeypatch):
    def fails(named, *more, video=folder, out="c.gif"):
        err = bad(
            "stmnet.localize",
            [
                "--video",
                str(video),
                "--out",
                str(folder.parent / out),
                "--checkpoint",
                str(checkpoint),
                "--device",
                "cpu",
                *more,
            ],
            capsys,
            monkeypatch,
        )
        assert named in err, err
        assert not [p for p in folder.parent.iterdir() if p.name.startswith(("c.", ".c"))]
    third = folder / "shot2_009.png"
    kept = third.read_bytes()
    third.unlink()
    fails("frame 9 is missing")
    third.write_bytes(kept[:100])
    fails("shot2_009.png")
    third.write_bytes(kept)
    (folder / "other_9.png").write_bytes(kept)
    fails("has the number of")
    (folder / "other_9.png").rename(folder / "title.png")
    fails("number")
    (folder / "title.png").rename(folder / "b.wav")
    fails("2 sounds")
    (folder / "b.wav").unlink()
    (folder / "a.wav").rename(folder.parent / "a.wav")
    fails("no sound in it")
    (folder / "a.wav").touch()
    fails("a.wav: empty")
    fails("gone", video=folder / "gone")
    fails("c.png", out="c.png")
    fails("--fps", "--fps", "0")
    fails("--fps", "--fps", "0.001")
    fails("--nms", "--nms", "-1")
    fails("--K", "--K", "-1")
    monkeypatch.setenv("PATH", str(folder))
    (folder.parent / "v.mp4").write_bytes(b"not a video")
    fails("ffmpeg: not on PATH", video=folder.parent / "v.mp4")
    empty = folder.parent / "empty"
    empty.mkdir()
    fails("no frame in it", video=empty)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_video_files(folder, checkpoint, capsys, monkeypatch):
    """In and out through ffmpeg; a video without a sound track, and what is no video."""
    flags = ["--checkpoint", str(checkpoint), "--device", "cpu"]
    out = folder.parent / "a.mp4"
    localize.main(["--video", str(folder), "--out", str(out), *flags])
    assert out.read_bytes()[4:8] == b"ftyp"
    localize.main(
        ["--video", str(out), "--out", str(folder.parent / "b.gif"), "--fps", "2", *flags]
    )
    assert len(read_json(folder.parent / "b.json")["frames"]) == pytest.approx(4, abs=1)
    subprocess.run(
        [
            "ffmpeg",
            "-v",
            "error",
            "-i",
            str(out),
            "-an",
            "-c",
            "copy",
            str(folder.parent / "mute.mp4"),
        ],
        check=True,
    )
    shutil.copy(folder / "a.wav", folder.parent / "sound.wav")
    for name, reason in (
        ("mute.mp4", "has no sound track"),
        ("text.mp4", "text.mp4: "),
        ("sound.wav", "has no pictures"),
    ):
        (folder.parent / "text.mp4").write_bytes(b"not a video" * 50)
        paths = ["--video", str(folder.parent / name), "--out", str(folder.parent / "c.gif")]
        err = bad("stmnet.localize", [*paths, *flags], capsys, monkeypatch)
        assert name in err and reason in err
    assert not list(folder.parent.glob("c.*"))
    kept = out.read_bytes()
    err = bad(
        "stmnet.localize", ["--video", str(out), "--out", str(out), *flags], capsys, monkeypatch
    )
    assert "the video itself" in err and out.read_bytes() == kept


# The stream -------------------------------------------------------------------------------------------------------------------


class Slow(io.BytesIO):
    """A pipe that gives a few bytes at a time, odd numbers of them too, and counts what it gave."""
    given = 0

    def read1(self, size):
        data = self.read(min(size, 1 + (self.given * 7919) % 701))
        self.given += len(data)
        return data


@pytest.mark.parametrize(
    "length, samples, fps",
    [(16000, 4240, 4), (3000, 4240, 4), (16000, 1000, 4), (16000, 1001, 30), (0, 400, 4)],
)
def test_sound_of_a_stream(length, samples, fps):
    """As segments_at of the whole waveform; no more is read or kept than needed."""
    pcm = np.random.default_rng(0).integers(-(2**15), 2**15, length).astype("<i2")
    sound = stream.Sound(Slow(pcm.tobytes()), samples)
    times = (np.arange(round(1.2 * fps)) + 0.5) / fps
    whole = segments_at(torch.from_numpy(pcm.astype(np.float32) / 2**15), times, samples)
    for time, expected in zip(times, whole):
        assert torch.equal(sound.segment(time), expected)
        assert len(sound.data) <= 2 * samples + stream.BLOCK and sound.file.given <= max(
            0, 2 * (time * 16000 + samples) + stream.BLOCK
        )


def raw(folder):
    """The film of a folder as a stream has it: rgb24, s16le at 16 kHz of whole numbers, so that both forms hear the same."""
    video = film.Film(film.numbered(folder), folder / "a.wav", 4.0)
    pcm = (video.waveform * 2**15).round().clip(-(2**15), 2**15 - 1).short().numpy()
    write_audio(folder / "a.wav", pcm / 2**15, 16000)
    return np.stack([video.image(k) for k in range(len(video.frames))]), pcm


def test_the_stream_is_the_offline_result(folder, checkpoint, capsys):
    frames, pcm = raw(folder)
    for name, content in (("f.rgb", frames), ("s.pcm", pcm.astype("<i2"))):
        (folder.parent / name).write_bytes(content.tobytes())
    flags = ["--checkpoint", str(checkpoint), "--device", "cpu"]
    live = [
        "--stream",
        "--frames",
        str(folder.parent / "f.rgb"),
        "--sound",
        str(folder.parent / "s.pcm"),
        "--size",
        "57x41",
        *flags,
    ]
    localize.main(live)
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert err.startswith("8 frames, ") and err.strip().endswith("a second")
    localize.main(["--video", str(folder), "--out", str(folder.parent / "a.gif"), *flags])
    whole = read_json(folder.parent / "a.json")["frames"]
    assert len(lines) == len(whole) == 8
    for a, b in zip(lines, whole):
        assert a.keys() == b.keys() and (a["frame"], a["time"], a["label"]) == (
            b["frame"],
            b["time"],
            b["label"],
        )
        assert a["confidence"] == pytest.approx(b["confidence"], abs=1e-3)
        np.testing.assert_allclose(a["boxes"], b["boxes"], atol=1.0)
    localize.main([*live, "--out", str(folder.parent / "lines.jsonl"), "--K", "0"])
    alone = [json.loads(line) for line in (folder.parent / "lines.jsonl").read_text().splitlines()]
    assert alone[0] == lines[0] and any(
        a["confidence"] != b["confidence"] for a, b in zip(alone, lines)
    )  # it did remember


def test_the_stream_answers_at_once_and_forgets():
    """A line is out before the next frame is asked for; the memory holds K steps however long it runs."""
    p, out, kept = predictor(), io.StringIO(), []
    answer = p.answer

    def watched(features, segments, past):
        result = answer(features, segments, past)
        kept.append([x.shape[1] for x in result[-1]])
        assert all(
            x.untyped_storage().nbytes() == x.nbytes for x in result[-1]
        )  # copies, not views of something longer
        return result
    p.answer = watched

    def camera():
        for k in range(9):
            assert out.getvalue().count("\n") == k
            yield np.full((20, 30, 3), 20 * k, np.uint8)

    assert (
        stream.stream(p, camera(), stream.Sound(io.BytesIO(b""), p.config.samples), 4.0, out) == 9
    )
    assert kept == [[min(k + 1, 3)] * 3 for k in range(9)]


def test_bad_streams(folder, checkpoint, capsys, monkeypatch):
    flags = f"--checkpoint {checkpoint} --device cpu"
    (folder / "f.rgb").write_bytes(bytes(57 * 41 * 3 + 5))
    (folder / "s.pcm").write_bytes(struct.pack("<100h", *range(100)))
    (folder / "none").touch()
    for frames, sound, size, named in (
        ("f.rgb", "s.pcm", "57x41", "within a frame"),
        ("gone", "s.pcm", "57x41", "gone"),
        ("f.rgb", "gone", "57x41", "gone"),
        ("none", "s.pcm", "57x41", "no frame"),
        ("f.rgb", "s.pcm", "57", "--size"),
        ("f.rgb", "s.pcm", "0x41", "--size"),
    ):
        paths = f"--frames {folder / frames} --sound {folder / sound}"
        err = bad("stmnet.localize", f"--stream {paths} --size {size} {flags}", capsys, monkeypatch)
        assert named in err
    for more in (
        "",
        "--stream",
        f"--stream --video {folder}",
        "--stream --frames - --sound - --size 5x5",
    ):
        bad("stmnet.localize", f"{more} {flags}", capsys, monkeypatch)


# Runs on files ----------------------------------------------------------------------------------------------------------------

PAPER = (
    "--preset paper --encoders train --vision-weights= --audio-weights= --no-bottleneck --blocks 1 1 1 --width 8 --audio-width 4 "
    "--C 8 --image-size 32 --batch-size 2 --workers 0 --device cpu --held-out-list testSet.txt"
)


@pytest.fixture(scope="module")
def ave(tmp_path_factory):
    root = tmp_path_factory.mktemp("ave")
    write(Scenes(4, 40, 16000), root, "ave", 4)
    return root


@pytest.mark.slow
def test_the_paper_preset_on_published_layouts(ave, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.training.run.signal.signal", lambda *args: None)
    flags = [*PAPER.split(), "--root", str(ave)]
    train.main(
        [
            *flags,
            "--name",
            "a",
            "--steps",
            "2",
            "--benchmark",
            "ave-boxes",
            "--benchmark-root",
            str(ave),
        ]
    )
    metrics = read_json(tmp_path / "runs" / "stmnet" / "a" / "metrics.json")
    assert (
        metrics["preset"] == "paper"
        and metrics["samples"] == 4
        and "frames/iou@0.5" in metrics
        and "silence/accuracy" not in metrics
    )
    assert metrics["events/n"] == metrics["frames/n"] and any(
        key.startswith("class/") and key.split("/")[1] in NAMES for key in metrics
    )
    assert [row["step"] for row in log(tmp_path / "runs" / "stmnet" / "a") if "loss" in row] == [
        1,
        2,
    ]
    moved = str(shutil.move(ave, tmp_path / "moved"))
    train.main(
        [
            "--resume",
            "--name",
            "a",
            "--box-map",
            "scores",
            "--K-evaluated",
            "0",
            "--root",
            moved,
            "--benchmark-root",
            moved,
        ]
    )
    shutil.move(moved, ave)
    again = read_json(tmp_path / "runs" / "stmnet" / "a" / "metrics.json")
    assert (
        again["frames/ciou_mean"]
        == again["scores/ciou_mean"]
        != metrics["frames/ciou_mean"]
        == metrics["attention/ciou_mean"]
    )
    assert (metrics["K_evaluated"], again["K_evaluated"]) == (1, 0)
    train.main(
        [*flags, "--name", "b", "--steps", "1", "--background"]
    )  # no benchmark: trained, not evaluated
    assert "samples" not in read_json(tmp_path / "runs" / "stmnet" / "b" / "metrics.json")
    frame = next((ave / "frames").glob("*/0007.jpg"))
    shutil.copytree(ave, tmp_path / "ave")
    (tmp_path / "ave" / frame.relative_to(ave)).unlink()
    both = [
        *PAPER.split(),
        "--root",
        str(tmp_path / "ave"),
        "--train-list",
        "Annotations.txt",
        "--steps",
        "1",
    ]
    assert "0007.jpg is missing" in bad("stmnet.train", both, capsys, monkeypatch)
    train.main([*both, "--name", "c", "--skip-bad"])
    assert "left out" in capsys.readouterr().out


@pytest.mark.slow
def test_frozen_encoders_stay_as_published(tmp_path, monkeypatch):
    """Weights and statistics of the encoders are the files' after training; the rest has moved."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.training.run.signal.signal", lambda *args: None)
    torch.manual_seed(5)
    published = resnet152().state_dict()
    torch.save(published, "resnet152.pth")
    sound = Stmnet(replace(SMALL, audio="vggish", audio_width=64), 3).auditory.body.state_dict()
    torch.save({f"features.{k}": x for k, x in sound.items()}, "vggish.pth")
    flags = (
        "--encoders frozen --blocks 3 8 36 3 --width 64 --bottleneck --audio vggish --audio-width 64 --last-stride 2 --image-size 64 "
        "--vision-weights resnet152.pth --audio-weights vggish.pth --scenes 4 --held-out 2 --test-videos 2 "
        "--video-seconds 2 --batch-size 2 --steps 2 --C 8 --name a --device cpu"
    )
    train.main(flags.split())
    saved = torch.load("runs/stmnet/a/last.pt", weights_only=True)
    for k, x in published.items():
        if not k.startswith("fc."):
            assert torch.equal(saved["model"][f"visual.body.{k}"], x), k
    assert all(torch.equal(saved["model"][f"auditory.body.{k}"], x) for k, x in sound.items())
    assert (
        len(saved["optimizer"]["state"])
        == len(saved["optimizer"]["param_groups"][0]["params"])
        == 18
    )  # projections, memory, classifier


def test_proposals_of_a_detector():
    """Its boxes, in pixels of each frame, become parts of it, are scored by the map, and are none where it is background."""
    p = predictor(grounded=1, area_normalised=True)
    asked = []

    def proposals(images, top):
        asked.append((images[0].shape, float(images[0].max()), top))
        return [
            {"boxes": torch.tensor([[0.0, 0, 20, 10], [20.0, 10, 40, 20]]), "scores": torch.ones(2)}
        ]

    p.detector = SimpleNamespace(proposals=proposals)
    alpha = torch.zeros(3, 4, 4)
    alpha[0, 0, 0] = alpha[1, 3, 3] = alpha[2, 0, 0] = 1
    frames = [np.full((20, 40, 3), 255, np.uint8)] * 3
    found = p.boxes(frames, {"attention": alpha}, torch.tensor([True, True, False]))
    assert asked == [((3, 20, 40), 1.0, 100)] * 2
    assert [f[:, :4].tolist() for f in found] == [[[0, 0, 0.5, 0.5]], [[0.5, 0.5, 1, 1]], []]


@pytest.mark.parametrize("K", [0, 2])
def test_cuts_of_a_video_do_not_matter(K):
    """The whole network with its encoders, in evaluation mode: at once, or one frame after the other."""
    p = predictor(K=K)
    video = SceneVideos(p.config).video(1)
    whole, past = p.answer(p.look(video.frames), video.segments)[0], evaluate.EMPTY
    for t, frame in enumerate(video.frames):
        maps, *_, past = p.answer(p.look([frame]), video.segments[t:t + 1], past)
        torch.testing.assert_close(maps["scores"][0], whole["scores"][t], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(maps["attention"].sum(), torch.tensor(1.0))


def test_a_stream_that_ends_within_a_frame():
    with pytest.raises(InputError, match="within a frame"):
        list(stream.frames_of(io.BytesIO(bytes(10)), "x", 2, 2))
    assert list(stream.frames_of(io.BytesIO(bytes(24)), "x", 2, 2))[1].shape == (2, 2, 3)
