"""stmnet's clips and test videos: what is in a second, its label, the audio around a frame."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.benchmarks import load_samples
from common.io import InputError, numbered_images, read_audio, read_image, write_audio, write_image
from tests.layouts import write
from tests.test_benchmarks import EXCERPTS
from common.scenes import Scenes
from stmnet import data, test_sets
from stmnet.backbones.vggish import RATE, log_mel, segments_at
from stmnet.config import PAPER, TINY

SMALL = replace(
    TINY,
    scenes=12,
    held_out=4,
    batch_size=4,
    image_size=32,
    test_videos=4,
    clip_seconds=4,
    video_seconds=6,
    segment_seconds=0.25,
)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 900),
    st.lists(st.floats(-0.01, 0.08), min_size=1, max_size=5),
    st.integers(1, 300),
)
def test_segments(n, times, samples):
    """Against a loop over samples: centred, zeros outside."""
    waveform = torch.arange(1, n + 1).float()
    found = segments_at(waveform, times, samples)
    assert found.shape == (len(times), samples)
    for segment, time in zip(found, times):
        first = round(time * RATE) - samples // 2
        assert segment.tolist() == [
            waveform[i].item() if 0 <= i < n else 0 for i in range(first, first + samples)
        ]


@pytest.mark.parametrize("seconds, frames", [(0.96, 96), (0.25, 25), (0.16, 16)])
def test_a_segment_makes_exactly_its_patch(seconds, frames):
    config = replace(TINY, segment_seconds=seconds)
    assert log_mel(torch.zeros(2, config.samples)).shape[1:] == (frames, 64)
    assert replace(PAPER, segment_seconds=0.96).samples == 15600  # VGGish's example


@pytest.mark.parametrize("background", [True, False])
def test_labels_of_scene_clips(background):
    """A second may begin with any frame. A background class is the label of silent steps."""
    config = replace(SMALL, background=background)
    source = data.SceneClips(0, 8, config)
    assert source.classes == Scenes(0).names + ["background"] * background
    seen, starts = set(), set()
    for i in range(8):
        gt = data.make_scenes(0, config).video(i, 4, 4, False)
        for draw in range(12):
            frames, segments, labels = source.draw(i, np.random.default_rng([i, draw]))
            first = int(np.random.default_rng([i, draw]).integers(13))
            assert np.array_equal(frames, gt.frames[first : first + 4])
            sounding = gt.sounding[first : first + 4]
            assert labels.tolist() == [12 if background and not on else gt.cls for on in sounding]
            seen.add("all" if sounding.all() else "none" if not sounding.any() else "mixed")
            starts.add(first)
            expected = segments_at(
                torch.from_numpy(gt.waveform), (first + np.arange(4) + 0.5) / 4, config.samples
            )
            assert segments.shape == (4, config.samples)
            torch.testing.assert_close(segments, expected, atol=1e-4, rtol=0)
    assert seen == {"all", "none", "mixed"} and starts == set(range(13))


def test_steps_are_a_function_of_seed_and_step(monkeypatch):
    source = data.SceneClips(0, 12, SMALL)
    steps = data.TrainingBatches(source, replace(SMALL, augment=True, steps=7))
    again = data.TrainingBatches(
        data.SceneClips(0, 12, SMALL), replace(SMALL, augment=True, steps=7)
    )
    assert len(steps) == 7 and steps.steps_per_epoch == 3
    shapes = {"frames": (4, 4, 3, 32, 32), "segments": (4, 4, SMALL.samples), "labels": (4, 4)}
    for s in (6, 0, 3):
        assert {k: v.shape for k, v in steps[s].items()} == shapes
        assert all(torch.equal(steps[s][k], again[s][k]) for k in shapes)
    assert not torch.equal(
        steps[0]["segments"], steps[3]["segments"]
    )  # another epoch, another order
    order = np.random.default_rng([0, 20, 1]).permutation(12)  # step 4 is the second of epoch 1
    for row in range(4):  # each clip has draws of its own
        one = data.load_clip(
            source, int(order[4 + row]), steps.config, np.random.default_rng([0, 21, 1, 4 + row])
        )
        assert all(torch.equal(steps[4][k][row], one[k]) for k in shapes)
    monkeypatch.setattr(data.dist, "world_size", lambda: 2)
    halves = []
    for rank in range(2):
        monkeypatch.setattr(data.dist, "rank", lambda rank=rank: rank)
        halves.append(data.TrainingBatches(source, replace(SMALL, augment=True, steps=7))[3])
    for name, whole in steps[3].items():
        assert torch.equal(whole[0::2], halves[0][name]) and torch.equal(
            whole[1::2], halves[1][name]
        )
    with pytest.raises(InputError, match="batch-size"):
        data.TrainingBatches(source, replace(SMALL, batch_size=13))


def test_all_frames_of_a_clip_are_cut_at_one_place():
    """T equal images stay equal; another draw crops elsewhere, and half of the draws mirror."""
    ramp = np.arange(64, dtype=np.uint8) * 3
    image = np.stack(
        [
            np.broadcast_to(ramp, (64, 64)),
            np.broadcast_to(ramp[:, None], (64, 64)),
            np.zeros((64, 64), np.uint8),
        ],
        2,
    )
    source = SimpleNamespace(draw=lambda i, rng: ([image] * 4, torch.zeros(4, 5), [3] * 4))
    config, places, mirrored = replace(SMALL, augment=True), set(), set()
    for draw in range(12):
        frames = data.load_clip(source, 0, config, np.random.default_rng(draw))["frames"]
        assert (frames == frames[:1]).all() and frames.shape == (4, 3, 32, 32)
        across = frames[0, 0, 0].long().diff()
        assert (across > 0).all() or (across < 0).all()
        mirrored.add(bool(across[0] < 0))
        assert (frames[0, 1, :, 0].long().diff() > 0).all()
        places.add((int(frames[0, 0, 0, 0]), int(frames[0, 1, 0, 0])))
    assert len(places) > 4 and mirrored == {False, True}
    assert (
        data.load_clip(source, 0, SMALL, np.random.default_rng(0))["frames"].dtype == torch.float32
    )


def test_the_crop_keeps_the_aspect():
    """The shorter side becomes 1.1 × the size; shares 0 and 1 are the two ends of the longer."""
    wide = np.zeros((50, 200, 3), np.uint8)
    wide[:, 150:] = 200
    left, right = (data.crop_frame(wide, 32, u, 0.5, False) for u in (0.0, 0.999))
    assert left.shape == (3, 32, 32) and left.max() == 0 and right.float().mean() > 150
    assert torch.equal(data.crop_frame(wide, 32, 0.999, 0.5, True), right.flip(2))


# Files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ave(tmp_path_factory):
    root = tmp_path_factory.mktemp("ave")
    write(Scenes(4, 40, 16000), root, "ave", 4)
    return root


def settings_of(root, **changes):
    return replace(
        PAPER,
        segment_seconds=0.96,
        root=str(root),
        held_out_list="testSet.txt",
        image_size=32,
        vision_weights="",
        audio_weights="",
        **changes,
    )


def test_ave_clips(ave):
    for background in (False, True):
        config = settings_of(ave, background=background)
        train, held_out = data.training_clips(config)
        assert len(train.ids) == len(held_out.ids) == 2 and not set(train.ids) & set(held_out.ids)
        names = sorted({s.label for s in load_samples("ave", ave)})
        assert train.classes == held_out.classes == names + ["background"] * background
        for i, sample in enumerate(train.samples):
            sound = read_audio(sample.audio, RATE)[0]
            found = set()
            for draw in range(30):
                frames, segments, labels = train.draw(i, np.random.default_rng(draw))
                second = int(np.random.default_rng(draw).integers(10))
                assert all(
                    np.array_equal(f, read_image(sample.image / f"{4 * second + k:04d}.jpg"))
                    for k, f in enumerate(frames)
                )
                assert torch.equal(
                    segments,
                    segments_at(sound, second + np.array([0.125, 0.375, 0.625, 0.875]), 15600),
                )
                inside = sample.seconds[0] <= second < sample.seconds[1]
                assert [train.classes[k] for k in labels] == [
                    "background" if background and not inside else sample.label
                ] * 4
                found.add(second)
            assert len(found) > 5  # the whole length of every video (4.1)


def test_held_out_without_a_list(ave):
    train, held_out = data.training_clips(
        replace(settings_of(ave, train_list="", held_out=1), held_out_list="")
    )
    assert len(train.ids) == 3 and len(held_out.ids) == 1
    with pytest.raises(InputError, match="leave none"):
        data.training_clips(replace(settings_of(ave, train_list="", held_out=4), held_out_list=""))


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"T": 3}, "--T"),
        ({"root": ""}, "--root"),
        ({"data": "scenes", "seed": 10**6}, "--seed"),
        ({"train_list": "gone.txt"}, "gone.txt"),
    ],
)
def test_what_cannot_be_learned_from(ave, changes, named):
    with pytest.raises(InputError, match=named):
        data.training_clips(replace(settings_of(ave), **changes))


def test_frames_may_start_at_one(ave, tmp_path):
    """As ffmpeg numbers them."""
    shutil.copytree(ave, tmp_path / "ave")
    clips, _ = data.training_clips(settings_of(tmp_path / "ave"))
    before = clips.draw(0, np.random.default_rng(0))[0]
    for path in reversed(numbered_images(clips.samples[0].image)):
        path.rename(path.with_name(f"{int(path.stem) + 1:04d}.jpg"))
    after = clips.draw(0, np.random.default_rng(0))[0]
    assert all(np.array_equal(a, b) for a, b in zip(before, after))


def test_missing_frames_are_named(ave, tmp_path):
    folder = tmp_path / "v"
    folder.mkdir()
    with pytest.raises(InputError, match="no frame in it"):
        numbered_images(folder)
    for k in range(9):
        (folder / f"{k:04d}.jpg").touch()
    assert numbered_images(folder) == [folder / f"{k:04d}.jpg" for k in range(9)]
    far = folder / "20240101120000123456789.jpg"  # a time in nanoseconds is no reason for a list
    far.touch()
    with pytest.raises(InputError, match="frame 9 is missing"):
        numbered_images(folder)
    far.unlink()
    (folder / "0003.jpg").unlink()
    with pytest.raises(InputError, match="frame 3 is missing"):
        numbered_images(folder)
    sample = SimpleNamespace(id="v", image=folder)
    for k in range(3, 9):
        (folder / f"{k:04d}.jpg").unlink(missing_ok=True)
    with pytest.raises(InputError, match="less than 4 frames"):
        data.FileClips([sample], ["a"], SMALL)


# Test videos --------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("seconds", [0.25, 0.96])
def test_scene_videos(turns, seconds):
    config = replace(SMALL, segment_seconds=seconds)
    test = test_sets.SceneVideos(config, turns)
    silent = edges = 0
    for i in range(len(test.ids)):
        video = test.video(i)
        assert np.allclose(video.times, np.arange(6) + 0.625)  # one a second is annotated
        assert video.fps == 4 and video.rows.tolist() == [2, 6, 10, 14, 18, 22]
        times = (np.arange(24) + 0.5) / 4
        drawn = test.scenes.video(i, 4, 6, turns)
        assert all(
            np.array_equal(frame, drawn.frames[int(time * 4)])
            for frame, time in zip(video.frames, times, strict=True)
        )
        assert torch.equal(video.segments, segments_at(quantised(drawn), times, config.samples))
        fine = Scenes(data.TEST, 32, 16000).video(
            i, 32, 6, turns
        )  # 32 frames a second: what sounds when
        moments = (np.arange(6 * 32) + 0.5) / 32
        for t, time in enumerate(video.times):
            at = int(time * 32)
            assert video.labels[t] == (
                test.scenes.names[fine.labels[at]] if fine.labels[at] >= 0 else "background"
            )
            if len(video.boxes[t]):
                assert video.labels[t] != "background"
                assert np.array_equal(
                    video.boxes[t][0], fine.boxes[at - 4]
                )  # a frame shows where things are at its beginning
            heard = fine.sounding[np.abs(moments - time) < seconds / 2]
            assert video.is_silent[t] == (not heard.any())
            silent, edges = (
                silent + bool(video.is_silent[t]),
                edges + (video.labels[t] == "background" and not video.is_silent[t]),
            )
    assert silent > 0 and (edges > 0) == (
        seconds == 0.96
    )  # short segments lie within one stretch of sound or silence
    again = test_sets.SceneVideos(replace(config, seed=9), turns).video(0)
    assert torch.equal(again.segments, test.video(0).segments)  # the same for every training


def quantised(video):
    return torch.from_numpy(np.rint(video.waveform * 32767) / 32767).float()


def test_file_videos(ave):
    test = test_sets.FileVideos(settings_of(ave), "ave-boxes", str(ave))
    samples, events = (
        load_samples("ave-boxes", ave),
        {s.id: s.label for s in load_samples("ave", ave, "Annotations.txt")},
    )
    assert test.num_listed == len(samples) and test.ids == sorted({s.group for s in samples})
    for i, name in enumerate(test.ids):
        video, own = (
            test.video(i),
            sorted((s for s in samples if s.group == name), key=lambda s: s.seconds[0]),
        )
        assert len(video.rows) == len(own) and not video.is_silent.any() and video.fps == 4
        assert len(video.segments) == len(video.frames) == video.rows[-1] + 1 >= len(own)
        for t, sample in enumerate(own):
            row = video.rows[t]
            assert np.array_equal(video.frames[row], read_image(sample.image))
            assert np.array_equal(video.boxes[t], sample.boxes)
            assert (
                video.times[t] == sample.seconds[0] + 0.125
                and video.labels[t] == events[name] != sample.label
            )
    for name in ("ave", "vggss", "music-solo"):
        with pytest.raises(InputError, match="none of"):
            test_sets.FileVideos(settings_of(ave), name, str(ave))


STM = EXCERPTS / "stm"


def test_every_annotated_frame_is_a_step(tmp_path):
    """The authors' boxes, at 20 and 30 frames a second: rows, times, and what memory reaches."""
    for name in ("3S7H4_G4y6U", "ALP8_z817Uw"):
        folder = tmp_path / "metadata" / "annotations" / name
        folder.mkdir(parents=True)
        shutil.copy(STM / "AVE" / name / "annotations.xml", folder)
        frames = 200 if name.startswith("3") else 301
        for k in range(frames):
            write_image(
                tmp_path / "video_frames" / name / f"{k:04d}.jpg", np.zeros((6, 8, 3), "u1")
            )
        write_audio(tmp_path / "audio" / f"{name}.wav", np.zeros(160000, np.float32), 16000)
    shutil.copy(STM / "testSet.txt", tmp_path / "metadata")
    test = test_sets.FileVideos(settings_of(tmp_path), "ave-stm", str(tmp_path))
    assert test.ids == ["3S7H4_G4y6U", "ALP8_z817Uw"] and test.num_listed == 219
    slow, fast = test.video(0), test.video(1)
    assert slow.fps == pytest.approx(20) and fast.fps == pytest.approx(30.1)
    assert len(fast.rows) == 19 and fast.rows[0] == 30  # a second before the first is in memory
    assert fast.times[0] == pytest.approx(104.5 / 30.1)
    assert settings_of(tmp_path).memory_at(slow.fps) == (5, 3)  # 0.25 s apart, as in training
    assert settings_of(tmp_path).memory_at(fast.fps) == (7, 3)


@pytest.mark.parametrize(
    "fps, stride, K",
    [(4, 1, 3), (1, 1, 0), (2, 1, 1), (8, 2, 3), (12, 3, 3), (24, 6, 3), (25, 6, 3), (30, 7, 3)],
)
def test_memory_reaches_back_in_time(fps, stride, K):
    """Its steps are at most 0.25 s apart, if frames are not further, and reach 0.75 s at most."""
    assert TINY.memory_at(fps) == (stride, K) and TINY.K == 3
    assert K * stride / fps <= 0.75 + 1e-9
    assert replace(TINY, memory_seconds=0.0).memory_at(fps)[1] == 0


def instruments(root):
    """A training list with a clip of two instruments."""
    rows = ["keyword,start,end,evt,target,multi"]
    for name, target in (
        ("a", "flute, harp"),
        ("b", "violin, guitar"),
        ("c", "trumpet"),
        ("d", "violin, marimba"),
    ):
        rows.append(f'{name},0,2,m,"{target}",{int("," in target)}')
        for k in range(8):
            write_image(root / "frames" / name / f"{k:04d}.jpg", np.zeros((40, 40, 3), "u1"))
        write_audio(root / "audio" / f"{name}.wav", np.zeros(32000, np.float32), 16000)
    (root / "metadata").mkdir()
    (root / "metadata" / "train.csv").write_text("\n".join(rows))
    (root / "metadata" / "two.csv").write_text("\n".join(rows[:3]))


def test_training_on_instruments(tmp_path, capsys):
    """13 classes; of several instruments marimba, else violin, else one at random each time."""
    instruments(tmp_path)
    lists = {"train_list": "train.csv", "held_out_list": "two.csv"}
    config = replace(settings_of(tmp_path), data="audioset-instrument", **lists)
    train, held_out = data.training_clips(config)
    assert (
        train.ids == ["a", "b", "c", "d"]
        and held_out.ids == ["a", "b"]
        and len(train.classes) == 13
    )
    seen = [
        {train.classes[train.draw(i, np.random.default_rng(k))[2][0]] for k in range(12)}
        for i in range(4)
    ]
    assert seen == [{"flute", "harp"}, {"violin"}, {"brass"}, {"marimba"}]
    rest, _ = data.training_clips(replace(config, exclude_list="two.csv"))
    out = capsys.readouterr().out
    assert rest.ids == ["c", "d"] and "2 of 4 training videos are in two.csv, left out" in out
    assert "test videos is unknown: there is no test.csv" in out  # of the first call
    shutil.copy(tmp_path / "metadata" / "two.csv", tmp_path / "metadata" / "test.csv")
    both, _ = data.training_clips(config)
    out = capsys.readouterr().out
    assert both.ids == train.ids
    assert "2 of 4 training videos are in test.csv, --exclude-list leaves them out" in out
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        data.training_clips(replace(config, exclude_list="none.csv"))
