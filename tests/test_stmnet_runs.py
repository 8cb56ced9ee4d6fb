"""stmnet's scores against loops, its evaluation, videos and streams of users, runs on files."""

import io
import json
import math
import shutil
import struct
import subprocess
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common import io as common_io
from common.evaluation.boxes import boxes_from_maps
from common.io import (
    InputError,
    numbered_images,
    read_audio,
    read_image,
    read_json,
    write_audio,
    write_image,
)
from common.scenes import Scenes
from common.training import select_device
from common.evaluation import frames as scores_of, videos
from stmnet import evaluate, localize, scoring, tables, train
from stmnet.backbones import faster_rcnn
from stmnet.backbones.resnet import resnet152
from stmnet.backbones.vggish import AudioStream, segments_at, sound_track
from stmnet.config import TINY
from stmnet.model import Stmnet
from stmnet.test_sets import SceneVideos, Video
from tests.layouts import write

from .test_lifecycle import bad, log

pytestmark = pytest.mark.slow

SMALL = replace(
    TINY,
    image_size=32,
    width=8,
    audio_width=8,
    C=16,
    segment_seconds=0.25,
    video_seconds=3,
    held_out=4,
    test_videos=2,
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


# Scores against loops -----------------------------------------------------------------------------


def loop_over_frames(maps, boxes, is_foreground, times):
    """ciou, pointing, iou and stability of maps (T, n, n), pixel by pixel, frame by frame."""
    n, rows = maps.shape[-1], []
    for t, m in enumerate(maps.numpy()):
        gt = np.zeros((n, n), bool)
        for x0, y0, x1, y1 in boxes[t] * n:
            gt[int(y0) : int(y1), int(x0) : int(x1)] = True
        predicted = np.zeros((n, n), bool)
        for x0, y0, x1, y1, _ in (
            boxes_from_maps(maps[t : t + 1])[0].tolist() if is_foreground[t] else []
        ):
            predicted[round(y0 * n) : round(y1 * n), round(x0 * n) : round(x1 * n)] = True
        over = (m - m.min()) / (m.max() - m.min()) > 0.5
        hit, false = (over & gt).sum(), (over & ~gt).sum()
        y, x = np.unravel_index(m.argmax(), m.shape)
        union = (predicted | gt).sum()
        rows.append(
            [
                hit / (gt.sum() + false),
                gt[y, x],
                (predicted & gt).sum() / union if union else np.nan,
                over,
                gt.any(),
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


def released_iou(maps, boxes):
    """Hull of {map ≥ half of its maximum} against the hull of the boxes, widths + 1, in pixels."""
    values, n = [], maps.shape[-1]
    for m, found in zip(maps.numpy(), boxes):
        y, x = np.nonzero((m - m.min()) / (m.max() - m.min()) >= 0.5)
        ours = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        gt = np.zeros(4)
        if len(found):
            gt = n * np.concatenate([found[:, :2].min(0), found[:, 2:].max(0)])
        sides = np.minimum(ours[2:], gt[2:]) - np.maximum(ours[:2], gt[:2]) + 1
        inner = np.prod(sides.clip(0))
        areas = [np.prod(b[2:] - b[:2] + 1) for b in (ours, gt)]
        values.append(inner / (sum(areas) - inner))
    return values


@pytest.mark.parametrize("seed", range(3))
def test_scores_against_loops(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    maps = scores_of.enlarge(torch.randn(6, 5, 5))
    low = rng.random((6, 2, 2)) * 0.6
    boxes = [np.concatenate([b, b + 0.3], 1)[:k] for b, k in zip(low, (1, 2, 0, 1, 1, 2))]
    is_foreground = [True, True, True, False, True, True]
    times = np.array([0.1, 1.1, 2.1, 3.1, 4.1, [5.1, 7.1][seed % 2]])
    found = scores_of.score_maps(maps, boxes, times, [not is_on for is_on in is_foreground])
    expected = loop_over_frames(maps, boxes, [True] * 6, times)
    expected["iou_gated"] = loop_over_frames(maps, boxes, is_foreground, times)["iou"]
    expected["iou_released"] = released_iou(maps, boxes)
    for name, values in expected.items():
        ours = np.asarray(getattr(found, name))
        np.testing.assert_allclose(ours, values, atol=1e-12, err_msg=name)
    is_undefined = [False, True, True, False, seed % 2 == 1, True]
    assert np.isnan(np.asarray(found.stability)).tolist() == is_undefined
    one = scores_of.score_maps(maps[:1], boxes[:1], times[:1], [False])
    assert torch.isnan(one.stability).all() and one.ciou[0] == found.ciou[0]


def test_baselines_and_a_perfect_map():
    boxes = [np.array([[0.25, 0.25, 0.75, 0.75]])] * 2 + [np.array([[0.5, 0.5, 1.0, 1.0]])]
    found = scores_of.baseline_scores(boxes)
    centre, whole, fixed = (found[f"baseline/{name}_"] for name in ("centre", "whole", "fixed"))
    assert centre.ciou.tolist() == pytest.approx([0.5, 0.5, 0.2], abs=0.02)  # half of the image
    assert centre.pointing[0] == 1
    assert whole.iou.tolist() == whole.ciou.tolist() == [0.25] * 3
    assert fixed.iou[0] >= 0.5 and fixed.iou_released[0] >= 0.5  # the place of most
    gt = scores_of.boxes_to_maps(boxes)
    perfect = scores_of.score_maps(gt, boxes, np.arange(3), [False] * 3)
    assert all(x.tolist() == [1] * 3 for x in (perfect.ciou, perfect.iou, perfect.pointing))
    assert perfect.iou_released.tolist() == [1] * 3
    assert scores_of.enlarge(torch.zeros(1, 3, 3)).max() == 0  # and a constant map has no box
    assert not len(boxes_from_maps(scores_of.enlarge(torch.ones(1, 3, 3)))[0])


def test_statistics_of_beta():
    """Weight of the past, 1 − β^(t,t), and entropy by that of equal weights on what there is."""
    beta = torch.tensor([[1.0, 0, 0, 0], [0.9, 0.1, 0, 0], [0.25, 0.5, 0.25, 0]])
    of_two = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    of_three = 1.5 * math.log(2) / math.log(3)
    expected = torch.tensor([[0, math.nan], [0.1, of_two], [0.75, of_three]])
    torch.testing.assert_close(scoring.beta_statistics(beta), expected, equal_nan=True)


def test_proposals_against_loops():
    rng = np.random.default_rng(3)
    config = replace(SMALL, grounded=4, nms=0.4)
    alpha = torch.from_numpy(rng.random((256, 256))).softmax(0) / 256
    low = rng.random((30, 2)) * 0.7
    proposals = torch.from_numpy(
        np.concatenate([low, low + 0.05 + rng.random((30, 2)) * 0.25], 1)
    ).float()
    scores = []
    for x0, y0, x1, y1 in (proposals * 256).round().long().tolist():
        inside = alpha[y0:y1, x0:x1]
        scores.append(float(inside.sum()))
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
    found = scoring.ground_proposals(proposals, alpha, config)
    torch.testing.assert_close(found[:, :4], proposals[kept[:4]])
    assert found[:, 4].tolist() == pytest.approx([scores[i] for i in kept[:4]], rel=1e-5)
    whole = torch.tensor([[0.0, 0, 1, 1], [0.1, 0.1, 0.2, 0.2]])
    spot = torch.zeros(256, 256)
    spot[30:40, 30:40] = 0.01
    best = scoring.ground_proposals(whole, spot, replace(config, grounded=1))[0, 2]
    assert best == 1.0  # the plain sum favours the largest box


# Evaluation ---------------------------------------------------------------------------------------


class Told(evaluate.Predictor):
    """Its map is what the first audio sample says: the place of the gt (1), or the opposite corner.

    Silence is background."""

    def encode_frames(self, frames):
        return frames

    def predict(self, features_v, segments, memories, first=0):
        maps = torch.zeros(len(features_v), 8, 8)
        place = segments[:, 0].long().tolist()
        for t, p in enumerate(place):
            maps[t, :4, :4] = float(p == 1)
            maps[t, 4:, 4:] = float(p != 1)
        labels = [{1: "a", 2: "b"}.get(p, "background") for p in place]
        heatmaps = {"attention": maps, "scores": -maps}
        return evaluate.Prediction(heatmaps, labels, torch.ones(len(labels)), {})


class MadeUp:
    """Two videos: in the first what sounds is at the top left, in the second it has class b.

    The third frame is silent."""

    name, group, num_listed, ids = "made up", "", None, ["x", "y"]

    def video(self, i):
        at = [np.array([[0, 0, 0.5, 0.5]])] * 2 + [np.zeros((0, 4))]
        segments = torch.zeros(3, 4)
        segments[:2, 0] = 1.0 + i
        labels = ["a", "a", "background"] if i == 0 else ["a", "zebra", "background"]
        frames = [np.zeros((16, 16, 3), np.uint8)] * 3
        is_silent = np.array([False, False, True])
        times, sounds = np.arange(3) + 0.5, {"a", "b"} if i else {"c"}
        return Video(frames, segments, 1.0, np.arange(3), times, at, labels, is_silent, sounds)


def test_what_is_measured():
    told = Told.__new__(Told)
    told.model = SimpleNamespace(space_time=SimpleNamespace(memory=SimpleNamespace(K=3)))
    told.config, told.classes = replace(SMALL), ["a", "b", "background"]
    told.report, told.propose = {}, None
    result = evaluate.evaluate(told, [MadeUp()])
    found, sheet = result.metrics, result.sheets["samples"]
    assert found["frames/n"] == 4 and found["samples"] == 2
    # the first video's two frames of four
    assert found["frames/pointing"] == found["attention/pointing"] == 0.5
    assert found["frames/ciou@0.5"] == found["frames/iou@0.5"] == 0.5
    assert 0.4 < found["frames/ciou_mean"] < 0.5
    assert found["scores/pointing"] == 0.5  # there the others are right
    assert found["control/shuffled_pointing"] == 0.5
    assert found["control/zero_iou_gated@0.5"] == 0  # silence is background: no box
    assert {f"control/{name}_pointing" for name in ("silent", "zero")} <= set(found)
    assert found["baseline/fixed_iou_released@0.5"] == 1  # all boxes are at one place
    assert found["frames/stability"] == found["truth/stability"] == 1
    assert found["events/accuracy"] == pytest.approx(2 / 3)
    assert found["events/n"] == 3  # nobody knows the zebra
    assert found["silence/accuracy"] == 1 and found["silence/n"] == 2
    assert found["class/a/iou@0.5"] == pytest.approx(2 / 3) and found["class/a/n"] == 3
    assert found["class/zebra/iou@0.5"] == 0
    assert found["baseline/whole_iou@0.5"] == 0
    out, table = "\n".join(result.texts), result.tables[0]
    assert "N = 4" in out and table.n == 4 and str(table) in out
    values = {row["name"]: row["values"] for row in table.rows}
    assert values["pointing"]["attention map"] == [50.0] and "silent audio" in table.columns
    assert len(sheet["rows"]) == 8 and sheet["captions"][4].endswith("0.5 s 1.5 s 2.5 s")
    sample = result.galleries[0].samples[0]
    names = ["its own", "silence", "another video's"]
    assert [clip.name for clip in sample.clips] == names
    assert len(sample.clips[0].waveform) % len(sample.frames) == 0
    for test_set in (single := MadeUp(), later := MadeUp()):
        test_set.ids = ["x"]
    keys = evaluate.evaluate(told, [single]).metrics
    assert not [k for k in keys if k.startswith("control/shuffled")]  # its own audio is no control
    later.video = lambda i: MadeUp().video(i)._replace(times=np.arange(3) + 5.5)
    sheet = tables.contact_sheet([evaluate.video_sample(told, s, 0) for s in (single, later)])
    assert sheet["captions"][4] == " 5.5 s 6.5 s 7.5 s"
    assert common_io.contact_sheet(**sheet).ndim == 3
    told.config = replace(SMALL, box_map="scores")
    again = evaluate.evaluate(told, [MadeUp()]).metrics
    assert again["frames/iou@0.5"] == found["scores/iou@0.5"]


@pytest.mark.parametrize("background", [True, False])
def test_evaluation_against_frame_by_frame(background):
    """All steps of a video at once, or one by one with a memory: the same numbers."""
    p = predictor(background=background, confidence=0.3)
    test_set = SceneVideos(p.config)
    scores = videos.concatenate(evaluate.score_videos(p, test_set))
    naive = {"ciou": [], "pointing": [], "labels": []}
    for i in range(len(test_set.ids)):
        video, memories = test_set.video(i), p.start(4)
        for t, frame in enumerate(video.frames):
            step = slice(t, t + 1)
            prediction = p.predict(p.encode_frames([frame]), video.segments[step], memories, t)
            labels = prediction.labels
            is_foreground = labels[0] != "background"  # not if confidence is low
            assert background or is_foreground == bool(prediction.confidence[0] >= 0.3)
            maps = scores_of.enlarge(prediction.heatmaps["attention"])
            for k in np.flatnonzero(video.rows == t):  # one if the frame is annotated
                found = scores_of.score_maps(
                    maps, [video.boxes[k]], video.times[k : k + 1], [False]
                )
                naive["ciou"].append(found.ciou[0])
                naive["pointing"].append(found.pointing[0])
                naive["labels"] += labels
    attention = scores.columns["attention/"]
    np.testing.assert_allclose(attention.ciou, naive["ciou"], atol=2e-3)
    assert attention.pointing.tolist() == naive["pointing"]
    assert scores.pred_labels.tolist() == naive["labels"]
    flat = videos.aggregate(scores, p.classes, "attention", "background")
    mean = np.mean(np.array(naive["ciou"])[[len(b) > 0 for b in scores.boxes]])
    assert flat["frames/ciou_mean"] == pytest.approx(mean, abs=2e-3)
    assert 0 < flat["beta/av/past"] < 1 and 0 < flat["beta/av/entropy"] <= 1


def test_a_clip_of_several_instruments():
    """Right if one of them is named; "Violin, fiddle" is one class. Others are not counted."""
    labels = np.array(["flute, brass", "flute, brass", "Violin, fiddle", "drum, gong", "silence"])
    scores = videos.VideoScores(
        {"attention/": scores_of.FrameScores(torch.full((5,), torch.nan))},
        torch.zeros(5, 1),
        {},
        [np.zeros((0, 4))] * 5,
        np.full(5, np.nan),
        np.array([False] * 4 + [True]),
        labels,
        np.array(["brass", "harp", "Violin, fiddle", "drum", "silence"]),
    )
    classes = ["flute", "brass", "harp", "Violin, fiddle"]
    flat = videos.aggregate(scores, classes, "attention", "silence")
    assert flat["events/n"] == 3 and flat["events/accuracy"] == pytest.approx(2 / 3)
    assert flat["silence/accuracy"] == 1


def test_the_page_of_a_video():
    """All steps in time with their sound, ground truth where there is one; the sheet has these."""
    p = predictor(memory_seconds=0.5, video_seconds=5)
    test_set = SceneVideos(p.config)
    video, sample = test_set.video(1), evaluate.video_sample(p, test_set, 1)
    rows, own = video.rows.tolist(), sample.clips[0]
    assert len(sample.frames) == len(video.segments) == 20 and rows == [2, 6, 10, 14, 18]
    np.testing.assert_allclose(sample.times, np.arange(20) / 4 + 0.125)
    assert len(own.waveform) == 5 * own.rate
    torch.testing.assert_close(own.waveform[8000:12000], video.segments[2, 120:4120])
    assert [k for k, gt in enumerate(own.gt) if gt is not None] == rows
    assert [label for label in sample.labels if label] == video.labels
    assert [sample.labels[k] for k in rows] == video.labels
    for k, boxes in zip(rows, video.boxes):
        assert torch.equal(own.gt[k], scores_of.boxes_to_maps([boxes])[0])
    features_v = p.encode_frames(video.frames)
    found = p.predict(features_v, video.segments, p.start(4))
    torch.testing.assert_close(own.heatmaps, found.heatmaps["attention"])
    x_v, x_a = p.model.space_time.project(features_v, p.model.audio_encoder(video.segments)[None])
    cosine = torch.einsum("chw,c->hw", x_v[0, 0], x_a[0, 0].amax((1, 2))).max()  # no past yet
    assert own.facts["similarity"][0].item() == pytest.approx(cosine.item(), abs=1e-4)
    assert torch.equal(own.facts["confidence"], found.confidence)
    title, *_, last = rows_of = tables.draw_video_rows(sample)
    assert title == " 0.6 s 1.6 s 2.6 s 3.6 s 4.6 s" and {len(x) for x in rows_of.values()} == {5}
    assert last == f"ground truth; class: {' | '.join(video.labels)}"


def test_the_sound_track_of_steps():
    """The middles of segments are the waveform again, or a part of it if they are too short."""
    waveform = torch.rand(20000)
    times = (np.arange(5) + 0.5) / 4
    for samples in (4000, 4240, 15360):
        assert torch.equal(sound_track(segments_at(waveform, times, samples), 4), waveform)
    assert torch.equal(
        sound_track(segments_at(waveform, times, 1000), 4)[:1000], waveform[1500:2500]
    )


@pytest.mark.parametrize("turns", [False, True])
def test_controls(turns):
    """Another video's audio shares no timbre; silence is the scenes' own noise, or digital zero."""
    test_set = SceneVideos(replace(SMALL, test_videos=12), turns)
    for i in range(12):
        video = test_set.video(i)
        controls = evaluate.control_audio(test_set, i, video)
        other = controls["control/shuffled_"]
        if other is not None:
            assert other.shape == video.segments.shape
            sources = [
                test_set.video(j)
                for j in range(12)
                if torch.equal(test_set.video(j).segments, other)
            ]
            assert sources and not sources[0].sounds & video.sounds
        assert controls["control/silent_"].std() == pytest.approx(0.002, rel=0.02)
        assert not controls["control/zero_"].any()
    video = test_set.video(0)
    assert (
        evaluate.shuffled_audio(SimpleNamespace(ids=["a", "b"], video=lambda j: video), 0, video)
        is None
    )


def test_memory_is_as_far_apart_at_any_frame_rate(checkpoint):
    """At 8 frames a second every second frame is what it is alone at 4; 0 s is no memory."""
    p = evaluate.load_predictor(checkpoint, select_device("cpu"))
    video = SceneVideos(p.config).video(0)
    features_v = p.encode_frames(video.frames)
    whole = p.predict(features_v, video.segments, p.start(8)).heatmaps["scores"]
    even = p.predict(features_v[:, ::2], video.segments[::2], p.start(4)).heatmaps["scores"]
    torch.testing.assert_close(whole[::2], even, atol=1e-5, rtol=1e-5)
    q = evaluate.load_predictor(checkpoint, select_device("cpu"), memory_seconds=0.0)
    alone = q.predict(features_v, video.segments, q.start(4)).heatmaps["scores"]
    at_1 = p.predict(features_v, video.segments, p.start(1)).heatmaps["scores"]
    torch.testing.assert_close(alone, at_1)  # a second is further than memory reaches
    assert not torch.allclose(alone[::2], even, atol=1e-4)  # memory changes the map


def test_evaluate(checkpoint, tmp_path):
    """--memory-seconds is the reach of memory, or else the training's; sheets, results."""
    stable, out = {}, tmp_path / "out"
    common = ["--checkpoint", str(checkpoint), "--device", "cpu", "--out", str(out)]
    for flags in ([], ["0.75"], ["0"], ["0.25", "--sheets", "--compare", str(checkpoint)]):
        given = [*["--memory-seconds"][: len(flags)], *flags]
        results = ["--out-results", str(tmp_path / "table.json")]
        evaluate.main([*common, *given, *results])
        found = read_json(out / "metrics-scenes.json")
        assert found["memory_seconds"] == float((flags or ["0.75"])[0])
        stable[tuple(flags[:1])] = found["scores/ciou_mean"], found["turns/scores/ciou_mean"]
        table = read_json(tmp_path / "table.json")
        rows = {row["name"]: row["values"] for row in table["rows"]}
        assert rows["cIoU, mean"]["scores map"] == [100 * found["scores/ciou_mean"]]
        assert table["n"] == found["frames/n"] and "--out-results" in table["command"]
    assert stable[()] == stable["0.75",] != stable["0",] != stable["0.25",] != stable[()]
    pages = {path.stem: read_image(path) for path in (out / "sheets-scenes").iterdir()}
    assert sorted(pages) == sorted(f"{k}-00000{i}" for k in ("video", "turns") for i in range(2))
    assert len({page.tobytes() for page in pages.values()}) == 4
    assert read_image(out / "turns-scenes.png").shape


def test_sheets_stay_in_their_folder(checkpoint, tmp_path, capsys, monkeypatch):
    """Whatever the ids of a benchmark are."""
    test_set = SceneVideos(replace(SMALL, test_videos=1))
    test_set.ids = ["../../outside"]
    monkeypatch.setattr(evaluate, "load_test_sets", lambda *args: [test_set])
    scores = SimpleNamespace(write=lambda *args: None)
    monkeypatch.setattr(evaluate, "evaluate", lambda *args: scores)
    flags = f"--checkpoint {checkpoint} --device cpu --sheets --out {tmp_path / 'runs' / 'out'}"
    assert "leaves" in bad("stmnet.evaluate", flags, capsys, monkeypatch)
    assert not (tmp_path / "runs" / "outside.png").exists()


# Videos of a user ---------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Odd sizes, numbers that begin at 7."""
    video = Scenes(77, 64, 8000).video(0, 4, 2)
    (tmp_path / "video").mkdir()
    for k, frame in enumerate(video.frames):
        write_image(tmp_path / "video" / f"shot2_{k + 7:03d}.png", frame[:41, :57])
    write_audio(tmp_path / "video" / "a.wav", video.waveform, 8000)
    return tmp_path / "video"


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
    printed = capsys.readouterr().out
    assert any(f["boxes"] for f in found["frames"]) and f"{out}: stmnet, trained on" in printed
    with Image.open(out) as gif:
        assert gif.n_frames == 8 and gif.size == (57, 41)
    assert sorted(p.name for p in out.parent.iterdir()) == ["a.gif", "a.json"]
    assert [clip["audio"] for clip in found["clips"]] == ["sound track", "silence", "noise"]
    own, silence, noise = found["clips"]
    for name in ("similarity", "confidence"):
        mean = np.mean([frame[name] for frame in found["frames"]])
        assert own[name] == found[name] == pytest.approx(mean, abs=1e-3)
        assert own[f"{name} of silence"] == silence[name] != own[name]
        assert own[f"{name} of noise"] == noise[name] != silence[name]
    for clip in found["clips"]:
        line = next(line for line in printed.splitlines() if line.startswith(f"{clip['audio']}: "))
        assert f"boxes in 8 frames, similarity {clip['similarity']:.2f}, confidence" in line
        assert f"similarity of silence {silence['similarity']:.2f}" in line or clip != own
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
    fails("2 audio files")
    (folder / "b.wav").unlink()
    (folder / "a.wav").rename(folder.parent / "a.wav")
    fails("no audio files in it")
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
        ("mute.mp4", "has no audio"),
        ("text.mp4", "text.mp4: "),
        ("sound.wav", "has no images"),
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


# The stream ---------------------------------------------------------------------------------------


class Counting(io.BytesIO):
    """A pipe that counts what it gave."""

    given = 0

    def read(self, size):
        data = super().read(size)
        self.given += len(data)
        return data


@pytest.mark.parametrize(
    "length, samples, fps",
    [(16000, 4240, 4), (3000, 4240, 4), (16000, 1000, 4), (16000, 1001, 30), (0, 400, 4)],
)
def test_audio_of_a_stream(length, samples, fps):
    """As segments_at of the whole waveform; no more is read or kept than needed."""
    pcm = np.random.default_rng(0).integers(-(2**15), 2**15, length).astype("<i2")
    stream = AudioStream(Counting(pcm.tobytes() + b"x" * (fps == 30)), samples)
    times = (np.arange(round(1.2 * fps)) + 0.5) / fps
    whole = segments_at(torch.from_numpy(pcm.astype(np.float32) / 2**15), times, samples)
    for time, expected in zip(times, whole):
        assert torch.equal(stream.segment(time), expected)
        assert len(stream.window) == samples
        assert stream.file.given <= 2 * (time * 16000 + samples / 2 + 1)


def raw(folder):
    """The video of a folder as a stream: rgb24, s16le at 16 kHz, so that both are equal."""
    waveform = read_audio(folder / "a.wav", 16000)[0]
    pcm = (waveform * 2**15).round().clip(-(2**15), 2**15 - 1).short().numpy()
    write_audio(folder / "a.wav", pcm / 2**15, 16000)
    return np.stack([read_image(path) for path in numbered_images(folder)]), pcm


def test_the_stream_is_the_offline_result(folder, checkpoint, capsys):
    frames, pcm = raw(folder)
    for name, content in (("f.rgb", frames), ("s.pcm", pcm.astype("<i2"))):
        (folder.parent / name).write_bytes(content.tobytes())
    flags = ["--checkpoint", str(checkpoint), "--device", "cpu"]
    paths = ["--frames", str(folder.parent / "f.rgb"), "--sound", str(folder.parent / "s.pcm")]
    live = ["--stream", *paths, "--size", "57x41", *flags]
    localize.main(live)
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert err.startswith("8 frames, ") and err.strip().endswith("a second")
    localize.main(["--video", str(folder), "--out", str(folder.parent / "a.gif"), *flags])
    whole = read_json(folder.parent / "a.json")["frames"]
    assert len(lines) == len(whole) == 8
    for a, b in zip(lines, whole):
        assert a.keys() == b.keys()
        assert all(a[name] == b[name] for name in ("frame", "time", "label"))
        assert a["confidence"] == pytest.approx(b["confidence"], abs=1e-3)
        np.testing.assert_allclose(a["boxes"], b["boxes"], atol=1.0)
    localize.main([*live, "--out", str(folder.parent / "lines.jsonl"), "--memory-seconds", "0"])
    alone = [json.loads(line) for line in (folder.parent / "lines.jsonl").read_text().splitlines()]
    assert alone[0] == lines[0]
    assert any(a["confidence"] != b["confidence"] for a, b in zip(alone, lines))  # memory was used


def test_the_stream_answers_at_once_and_forgets():
    """A record is out before the next frame is read; the memory holds K steps at any length."""
    p, records, lengths = predictor(), [], []
    predict = p.predict

    def watched(features, segments, memories, first):
        result = predict(features, segments, memories, first)
        lengths.append([x.shape[1] for x in memories[0]])
        # copies, not views of something longer
        assert all(x.untyped_storage().nbytes() == x.nbytes for x in memories[0])
        return result

    p.predict = watched

    class Camera(io.RawIOBase):
        def read(self, size):
            k = len(records)
            return np.full((20, 30, 3), 20 * k, np.uint8).tobytes() if k < 9 else b""

    stream = AudioStream(io.BytesIO(b""), p.config.samples)
    for *_, record in localize.localize(
        p, localize.blocks_of_stream(Camera(), stream, 30, 20, 4.0), 4.0
    ):
        records.append(record)
        assert record["frame"] == len(records) - 1
    assert len(records) == 9 and lengths == [[min(k + 1, 3)] * 3 for k in range(9)]


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


# Runs on files ------------------------------------------------------------------------------------

PAPER = (
    "--preset paper --vision-weights= --audio-weights= --no-bottleneck "
    "--blocks 1 1 1 --width 8 --audio-width 4 "
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
    flags = [*PAPER.split(), "--trained-encoders", "audio and vision", "--root", str(ave)]
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
    saved = torch.load(tmp_path / "runs" / "stmnet" / "a" / "last.pt", weights_only=True)
    rates = [group["lr"] for group in saved["optimizer"]["param_groups"]]
    config = saved["config"]  # a constant schedule
    assert rates == [config["lr"], config["lr_encoders"]] and rates[0] != rates[1]
    moved = str(shutil.move(ave, tmp_path / "moved"))
    train.main(
        [
            "--resume",
            "--name",
            "a",
            "--box-map",
            "scores",
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
    assert metrics["memory_seconds"] == again["memory_seconds"] == 0.75
    train.main(
        [*flags, "--name", "b", "--steps", "1", "--background"]
    )  # no benchmark: trained, not evaluated
    assert "samples" not in read_json(tmp_path / "runs" / "stmnet" / "b" / "metrics.json")
    frame = next((ave / "frames").glob("*/0007.jpg"))
    shutil.copytree(ave, tmp_path / "ave")
    (tmp_path / "ave" / frame.relative_to(ave)).unlink()
    both = [
        *PAPER.split(),
        "--trained-encoders",
        "audio and vision",
        "--root",
        str(tmp_path / "ave"),
        "--train-list",
        "Annotations.txt",
        "--steps",
        "1",
    ]
    assert "frame 7 is missing" in bad("stmnet.train", both, capsys, monkeypatch)
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
    sound = Stmnet(
        replace(SMALL, audio="vggish", audio_width=64), 3
    ).audio_encoder.body.state_dict()
    torch.save({f"features.{k}": x for k, x in sound.items()}, "vggish.pth")
    flags = (
        "--blocks 3 8 36 3 --width 64 --bottleneck --audio vggish "
        "--audio-width 64 --last-stride 2 --image-size 64 --vision-weights resnet152.pth "
        "--audio-weights vggish.pth --scenes 4 --held-out 2 --test-videos 2 "
        "--video-seconds 2 --batch-size 2 --steps 2 --C 8 --name a --device cpu"
    )
    train.main(flags.split())
    saved = torch.load("runs/stmnet/a/last.pt", weights_only=True)
    for k, x in published.items():
        if not k.startswith("fc."):
            assert torch.equal(saved["model"][f"visual_encoder.body.{k}"], x), k
    assert all(torch.equal(saved["model"][f"audio_encoder.body.{k}"], x) for k, x in sound.items())
    assert (
        len(saved["optimizer"]["state"])
        == len(saved["optimizer"]["param_groups"][0]["params"])
        == 30
    )  # projections, memory, classifier


def test_proposals_of_a_detector():
    """Its boxes, in pixels of a frame, become parts of it, scored by the map; or background."""
    p = predictor(grounded=1)
    asked = []

    def proposals(images, top):
        asked.append((images[0].shape, float(images[0].max()), top))
        boxes = torch.tensor([[0.0, 0, 20, 10], [20.0, 10, 40, 20]])
        return [{"boxes": boxes, "scores": torch.ones(2)}]

    detector = SimpleNamespace(proposals=proposals, parameters=lambda: p.model.parameters())
    p.propose = partial(faster_rcnn.find_boxes, detector, most=100)
    alpha = torch.zeros(3, 4, 4)
    alpha[0, 0, 0] = alpha[1, 3, 3] = alpha[2, 0, 0] = 1
    frames = [np.full((20, 40, 3), 255, np.uint8)] * 3
    prediction = evaluate.Prediction({"attention": alpha}, ["a", "b", "background"], None, None)
    found = p.boxes(p.propose(frames), prediction)
    assert asked == [((3, 20, 40), 1.0, 100)] * 3
    assert [f[:, :4].tolist() for f in found] == [[[0, 0, 0.5, 0.5]], [[0.5, 0.5, 1, 1]], []]


@pytest.mark.parametrize("seconds, fps", [(0.0, 4), (0.5, 4), (0.75, 13)])
def test_cuts_of_a_video_do_not_matter(seconds, fps):
    """The whole network with its encoders, in evaluation mode: at once, or frame by frame."""
    p = predictor(memory_seconds=seconds)
    video, memories = SceneVideos(p.config).video(1), p.start(fps)
    features_v = p.encode_frames(video.frames)
    whole = p.predict(features_v, video.segments, p.start(fps)).heatmaps["scores"]
    for t, frame in enumerate(video.frames):
        prediction = p.predict(p.encode_frames([frame]), video.segments[t : t + 1], memories, t)
        maps = prediction.heatmaps
        torch.testing.assert_close(maps["scores"][0], whole[t], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(maps["attention"].sum(), torch.tensor(1.0))


def test_a_stream_that_ends_within_a_frame():
    def frames(size):
        stream = AudioStream(io.BytesIO(b""), 400)
        blocks = localize.blocks_of_stream(io.BytesIO(bytes(size)), stream, 2, 2, 4.0)
        return [frame for (frame,), _, _ in blocks]

    with pytest.raises(InputError, match="within a frame"):
        frames(10)
    assert frames(24)[1].shape == (2, 2, 3)
