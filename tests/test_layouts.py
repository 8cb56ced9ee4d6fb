"""Embedded scenes written in every benchmark's layout and read back by its reader."""

import os

import numpy as np
import pytest
import soundfile

from avkd.config import TINY
from common.benchmarks import gt_map, listed_samples, load_samples, readers
from common.evaluation import FileTestSet
from common.io import read_audio, read_image
from common.scenes import Scenes
from tests.layouts import LAYOUTS, write

SIZE, COUNT = 112, 6  # pixels of 112 are pixels of 224 too
SCENES = Scenes(5, size=SIZE, seconds=0.25)
VIDEOS = ("ave", "audioset-instrument", "avsbench-s4", "avsbench-ms3")


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """Every layout once."""
    roots = {name: tmp_path_factory.mktemp(name) for name in LAYOUTS}
    for name, root in roots.items():
        write(SCENES, root, name, 2 if name in VIDEOS else COUNT)
    return roots


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_read_back(name, disk):
    samples = load_samples(name, disk[name])
    for sample in samples:
        image = sample.image if sample.image.is_file() else sample.image / "0000.jpg"
        assert read_image(image).shape == (SIZE, SIZE, 3)
        assert read_audio(sample.audio)[1] == 16000
    assert not [path for path in disk[name].rglob("*") if path.suffix in (".tmp", ".part")]


def test_a_test_set_reads_its_annotations_once(disk, monkeypatch):
    reader, default = readers.READERS["vggss"]
    calls = []
    counted = (lambda *args: calls.append(args) or reader(*args)), default
    monkeypatch.setitem(readers.READERS, "vggss", counted)
    test_set = FileTestSet(TINY, "vggss", disk["vggss"])
    assert len(calls) == 1 and test_set.num_listed == len(test_set.ids) == COUNT


def test_audio_of_the_extended_sets_may_be_flac(tmp_path):
    write(SCENES, tmp_path, "vggss-extended", COUNT)
    wav = sorted((tmp_path / "extend_audio").iterdir())[0]
    soundfile.write(wav.with_suffix(".flac"), *soundfile.read(wav))
    wav.unlink()
    found = [s.audio for s in load_samples("vggss-extended", tmp_path)]
    assert len(found) == COUNT and wav.with_suffix(".flac") in found


@pytest.mark.parametrize(
    "name,kind",
    [
        ("vggss", "pair"),
        ("vggss-extended", "extended"),
        ("vpo-ss", "pair"),
        ("vpo-ms", "interactive"),
        ("is3", "interactive"),
    ],
)
def test_layouts_keep_boxes_and_masks(name, kind, disk):
    samples = load_samples(name, disk[name])
    scenes = [getattr(SCENES, kind)(n) for n in range(COUNT)]
    if kind == "extended":
        scenes.sort(key=lambda scene: not scene.sounding)
    for sample, scene in zip(samples, scenes, strict=True):
        x0, y0, x1, y1 = np.rint(scene.box * 224).astype(int)
        expected = np.zeros((224, 224))
        expected[y0:y1, x0:x1] = 1
        np.testing.assert_array_equal(gt_map(sample, 224), expected)
        assert sample.sounding == scene.sounding and sample.label in (scene.name or None, None)
        image = read_image(sample.image).astype(int)
        assert np.abs(image - scene.image).mean() < 10  # JPEG
        waveform = read_audio(sample.audio)[0].numpy()
        np.testing.assert_allclose(waveform, scene.waveform, atol=2**-15)
        if sample.masks:
            assert (gt_map(sample, SIZE, masks=True) != scene.mask).mean() < 0.01
    if kind == "interactive":
        groups = [s.group for s in samples]
        assert groups[::2] == groups[1::2] and len(set(groups)) == COUNT // 2
        assert all(s.masks for s in samples)


def test_layout_flickr(disk):
    samples = load_samples("flickr", disk["flickr"])
    for sample, scene in zip(samples, map(SCENES.pair, range(COUNT)), strict=True):
        assert len(sample.boxes) == 2  # annotators, who agree
        np.testing.assert_allclose(sample.boxes, [scene.box, scene.box], atol=0.5 / 256 + 1e-6)
        assert set(np.unique(gt_map(sample, 64))) == {0, 1}


def test_layout_heard_and_unheard(disk):
    root = disk["vggss"]
    heard, unheard = (
        {s.id for s in listed_samples(f"vggss-{kind}", root)} for kind in ("heard", "unheard")
    )
    assert heard | unheard == {s.id for s in listed_samples("vggss", root)} and not heard & unheard


@pytest.mark.parametrize("name", ["avsbench-s4", "avsbench-ms3"])
def test_layout_avsbench(name, disk):
    samples = load_samples(name, disk[name])
    videos = [SCENES.video(n, fps=1, seconds=5) for n in range(2)]
    boxes = np.concatenate([video.boxes for video in videos])
    assert len(samples) == 10 and len({s.group for s in samples}) == 2
    assert any(not box.any() for box in boxes) and any(box.any() for box in boxes)
    for sample, box in zip(samples, boxes, strict=True):
        x0, y0, x1, y1 = np.rint(box * SIZE).astype(int)
        expected = np.zeros((SIZE, SIZE))
        expected[y0:y1, x0:x1] = 1
        np.testing.assert_array_equal(gt_map(sample, SIZE), expected)
        np.testing.assert_array_equal(gt_map(sample, SIZE, masks=True), expected)


def test_layout_videos(disk):
    root = disk["ave"]
    videos = [SCENES.video(n, fps=4, seconds=10) for n in range(2)]
    samples = load_samples("ave", root)
    assert [s.label for s in samples] == [v.name for v in videos]
    assert all(len(os.listdir(s.image)) == 40 for s in samples)
    splits = [load_samples("ave", root, f"{name}.txt") for name in ("trainSet", "testSet")]
    assert [s.id for split in splits for s in split] == [s.id for s in samples]
    for frame in load_samples("ave-boxes", root):
        video, t = videos[int(frame.group.removeprefix("scene"))], 4 * int(frame.seconds[0])
        np.testing.assert_allclose(frame.boxes, [video.boxes[t]], atol=1e-6)
        assert np.abs(read_image(frame.image).astype(int) - video.frames[t]).mean() < 10
        assert frame.label == str(video.labels[t]) and video.sounding[t]
    for sample, video in zip(samples, videos):
        start, end = sample.seconds
        outside = np.r_[video.sounding[: int(start) * 4], video.sounding[int(end) * 4 :]]
        assert not outside.any()


def test_layout_music(disk):
    for name, together in (("music-solo", 1), ("music-duet", 2)):
        for n, sample in enumerate(load_samples(name, disk[name])):
            scenes = [SCENES.interactive(2 * n + k) for k in range(together)]
            np.testing.assert_allclose(sample.boxes, [scene.box for scene in scenes], atol=1e-6)
            assert sample.label == ", ".join(sorted({str(scene.cls) for scene in scenes}))


def test_layout_training(disk):
    # without a list the test rows are left out
    assert len(load_samples("vggsound", disk["vggsound"])) == COUNT - 2
    labels = [s.label for s in load_samples("vggsound", disk["vggsound"], "vggss_144k.txt")]
    assert labels == [SCENES.pair(n).name for n in range(COUNT)]
    assert len(load_samples("flickr-soundnet", disk["flickr-soundnet"], "flickr_10k.txt")) == COUNT
    with pytest.raises(ValueError, match="has no boxes"):
        gt_map(load_samples("flickr-soundnet", disk["flickr-soundnet"])[0], 8)


def test_no_such_layout(tmp_path):
    with pytest.raises(ValueError, match="no layout"):
        write(SCENES, tmp_path, "imagenet", 1)
