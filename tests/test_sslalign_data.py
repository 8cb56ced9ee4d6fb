"""sslalign/data.py: which positives a step holds; they depend on nothing but the configuration, the
neighbours and the step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.io import InputError, write_audio
from common.training import checked, step_loader
from tests.layouts import write
from common.scenes import Scenes
from sslalign import augment
from sslalign.config import TINY
from sslalign.data import TrainingBatches
from common.benchmarks.pairs import (
    easy_pairs,
    VALIDATION,
    FilePairs,
    ScenePairs,
    cropped_waveform,
    training_pairs,
    read_waveform_around,
)
from sslalign.augment import train_view

CONFIG = replace(
    TINY,
    scenes=24,
    held_out=4,
    batch_size=6,
    easy=0,
    epochs=2,
    image_size=32,
    sample_rate=2000,
    window=64,
    hop=32,
    seconds=1.5,
    crop=1.0,
    shift=0.25,
    k=3,
    semantic_from=0,
    sampling="random",
)


@pytest.fixture(scope="module")
def source():
    return ScenePairs(0, 24, CONFIG)


def neighbours():
    """The k nearest of i are i+1, i+2, i+3 by images, i-1, i-2, i-3 by audio."""
    around = np.arange(24)[:, None]
    return (around + [1, 2, 3]) % 24, (around - [1, 2, 3]) % 24


def parts(batch):
    return batch["images"], batch["waveforms"]


def anchors(config, step):
    """The indices of the anchors of a step."""
    order = np.random.default_rng([config.seed, 20, step // 4]).permutation(24)
    return order[step % 4 * 6 :][:6]


def test_a_step_is_a_function_of_its_number(source):
    steps, again = TrainingBatches(source, CONFIG), TrainingBatches(source, CONFIG)
    assert steps.steps_per_epoch == 4 and len(steps) == 8
    for s in (0, 5, 3):
        assert all(torch.equal(steps[s][key], again[s][key]) for key in ("images", "waveforms"))
    assert not torch.equal(steps[0]["images"], steps[4]["images"])  # another epoch
    epoch = np.concatenate([anchors(CONFIG, s) for s in range(4)])
    assert sorted(epoch) == list(range(24))
    in_workers = list(step_loader(TrainingBatches(source, CONFIG), 2, 6, workers=2))
    assert (
        all(torch.equal(a["images"], steps[s]["images"]) for s, a in zip(range(2, 6), in_workers))
        and len(in_workers) == 4
    )


def test_two_processes_take_the_samples_of_one(source, monkeypatch):
    steps = TrainingBatches(source, CONFIG)
    steps.neighbours = {source: neighbours()}
    whole = parts(steps[1])
    for rank in range(2):
        half = TrainingBatches(source, CONFIG)
        half.neighbours, half.rank, half.world_size = {source: neighbours()}, rank, 2
        for ours, theirs in zip(parts(half[1]), whole):
            assert torch.equal(ours, theirs[:, rank::2])


def test_the_positives_are_those_of_section_3_3(source):
    """v and v_conc are views of a sample and of a neighbour, v_aug is distorted; likewise audio."""
    steps = TrainingBatches(source, CONFIG)
    steps.neighbours = {source: neighbours()}
    v, a = parts(steps[2])
    assert v.shape == (3, 6, 3, 32, 32) and v.dtype == torch.uint8 and a.shape == (3, 6, 2000)
    found = []
    for n, i in enumerate(anchors(CONFIG, 2)):
        assert torch.equal(a[0, n], cropped_waveform(source.waveform(i), CONFIG))
        assert not torch.equal(a[1, n], a[0, n])
        full = source.waveform(i).clamp(-1, 1).numpy()  # a_aug is another second of the same clip
        assert any(np.array_equal(full[s : s + 2000], a[1, n].numpy()) for s in range(1001))
        near = [
            j
            for j in range(24)
            if torch.equal(a[2, n], cropped_waveform(source.waveform(j), CONFIG))
        ]
        assert len(near) == 1 and near[0] in neighbours()[1][i]
        found.append((i - near[0]) % 24)
        assert any(torch.equal(v[0, n], view) for view in every_view(source.image(i)))
        assert not any(torch.equal(v[1, n], view) for view in every_view(source.image(i)))
        assert any(
            torch.equal(v[2, n], view)
            for j in neighbours()[0][i]
            for view in every_view(source.image(j))
        )
    assert len(set(found)) > 1  # random among the k


def test_every_draw_of_a_sample(source):
    """Again, in their order, from the stream of seed, epoch and slot: shifts to both sides, the
    first k of three neighbours, and none before --semantic-from."""
    config = replace(CONFIG, k=2, crop_scale=0.3, jitter=0.5, epochs=4, semantic_from=1, seed=3)
    steps = TrainingBatches(source, config)
    steps.neighbours = {source: neighbours()}
    anchor = TrainingBatches(source, replace(config, sampling="anchor"))
    assert [len(x) for x in (*parts(steps[3]), *parts(anchor[3]))] == [2] * 4
    is_later, chosen = set(), set()
    for step in range(4, 12):
        v, a = parts(steps[step])
        for n, i in enumerate(anchors(config, step)):
            rng = np.random.default_rng([3, 21, step // 4, step % 4 * 6 + n])
            image, waveform = source.image(i), source.waveform(i)
            assert torch.equal(v[0, n], train_view(image, 32, rng))
            crop = augment.crop_view(image, 32, rng, (0.3, 1.0))[None]
            distorted = augment.distort(crop, augment.draw_distortion(rng, 0.5)[None])[0]
            assert (distorted.int() - v[1, n].int()).abs().max() <= 1  # rounding in a batch
            shift = rng.uniform(-0.25, 0.25)
            assert torch.equal(a[1, n], cropped_waveform(waveform, config, shift=shift))
            by_image, by_audio = (rows[i] for rows in neighbours())
            j = rng.integers(2)
            assert torch.equal(v[2, n], train_view(source.image(by_image[j]), 32, rng))
            similar = source.waveform(by_audio[rng.integers(2)])
            assert torch.equal(a[2, n], cropped_waveform(similar, config))
            is_later.add(shift > 0), chosen.add(int(j))
    assert is_later == {True, False} and chosen == {0, 1}


class Chosen:
    """A generator whose draws are given: left, top, and whether a view is mirrored."""

    def __init__(self, x, y, is_mirrored):
        self.draws, self.is_mirrored = [x, y], is_mirrored

    def integers(self, low, high):
        assert low == 0 and self.draws[0] < high
        return self.draws.pop(0)

    def random(self):
        return 0.0 if self.is_mirrored else 1.0


def every_view(image, size=32, offsets=4):
    """All that train_view can give of a square image: every place of the crop, mirrored or not."""
    places = [(x, y) for x in range(offsets) for y in range(offsets)]
    return [train_view(image, size, Chosen(*place, m)) for place in places for m in (False, True)]


def test_easy_epochs(source):
    """They come first; the ordinary epochs are as without them."""
    config, easy = replace(CONFIG, easy=2, epochs=1), easy_pairs(CONFIG)
    steps, ordinary = TrainingBatches(source, config), TrainingBatches(source, CONFIG)
    assert len(steps) == 12 and len(TrainingBatches(source, replace(config, steps=5))) == 5
    steps.neighbours = ordinary.neighbours = {source: neighbours()}
    for s in (0, 7):
        v, a = parts(steps[s])
        assert v.shape == (2, 6, 3, 16, 16) and a.shape == (2, 6, 2000)
        for n, i in enumerate(anchors(config, s)):
            assert torch.equal(a[0, n], cropped_waveform(easy.waveform(i), config))
            assert any(torch.equal(v[0, n], x) for x in every_view(easy.image(i), 16, 2))
    for s in range(8, 12):
        assert all(
            torch.equal(x, y) for x, y in zip(parts(steps[s]), parts(ordinary[s]), strict=True)
        )
    across = list(step_loader(TrainingBatches(source, config), 6, 8, workers=2))
    assert all(
        torch.equal(x, y)
        for s, batch in zip((6, 7), across, strict=True)
        for x, y in zip(parts(batch), parts(steps[s]))
    )
    half = TrainingBatches(source, config)
    half.rank, half.world_size = 1, 2
    assert all(torch.equal(x, y[:, 1::2]) for x, y in zip(parts(half[3]), parts(steps[3])))


def test_easy_pairs(source):
    """One object of twice the share, other ones than in the ordinary scenes of the same seed."""
    easy, lone = easy_pairs(CONFIG), ScenePairs(0, 24, CONFIG, 1.0)
    shares = [np.mean([s.mask.mean() for s in pairs.samples]) for pairs in (easy, lone)]
    assert 1.5 * shares[1] < shares[0] < 2.2 * shares[1]
    assert (
        easy.image(0).shape == (16, 16, 3)
        and len(easy.ids) == 24 == len({*easy.ids, *source.ids}) - 24
    )
    assert [s.cls for s in easy.samples] != [
        s.cls for s in lone.samples
    ]  # as they would be with the same indices
    assert easy.ids == easy_pairs(CONFIG).ids and not set(easy.ids) & set(
        easy_pairs(replace(CONFIG, seed=1)).ids
    )


def test_sampling(source):
    """Table XI: the nearest always."""
    steps = TrainingBatches(source, replace(CONFIG, sampling="nearest"))
    steps.neighbours = {source: neighbours()}
    a = parts(steps[0])[1]
    assert len(a) == 3
    for n, i in enumerate(anchors(CONFIG, 0)):
        assert torch.equal(a[2, n], cropped_waveform(source.waveform((i - 1) % 24), CONFIG))
    assert [len(x) for x in parts(TrainingBatches(source, CONFIG)[0])] == [
        2,
        2,
    ]  # no neighbours yet, no semantic positives


@pytest.mark.parametrize(
    "off, P, Q",
    [
        ((), 3, 3),
        (("semantic_image", "semantic_audio"), 2, 2),
        (("view_image",), 2, 3),
        (("view_image", "view_audio", "semantic_image", "semantic_audio"), 1, 1),
    ],
)
def test_what_is_switched_off_is_not_there(source, off, P, Q):
    """Tables VIII and IX; what stays is the same as before."""
    steps, fewer = (
        TrainingBatches(source, CONFIG),
        TrainingBatches(source, replace(CONFIG, **dict.fromkeys(off, False))),
    )
    steps.neighbours = fewer.neighbours = {source: neighbours()}
    v, a = parts(fewer[1])
    assert len(v) == P and len(a) == Q
    assert torch.equal(v[0], parts(steps[1])[0][0]) and torch.equal(a[0], parts(steps[1])[1][0])


def test_pairs_of_files(tmp_path):
    """No pair is in both parts, whatever the seed; what cannot be read is named, or left out."""
    write(Scenes(4, 40, 8000, 0.5), tmp_path, "vggsound", 12)
    config = replace(CONFIG, data="vggsound", root=str(tmp_path), sample_rate=8000, seconds=1.5)
    learn, held_out = training_pairs(config)
    assert (
        TrainingBatches(learn, replace(config, batch_size=5, easy=3)).total_steps == 2
    )  # only scenes can be made easy
    assert len(learn.ids) == 5 and len(held_out.ids) == 4 and not set(learn.ids) & set(held_out.ids)
    assert held_out.ids == training_pairs(replace(config, seed=3))[1].ids
    assert (
        isinstance(learn, FilePairs)
        and learn.image(0).shape == (40, 40, 3)
        and len(learn.waveform(0)) == 4000
    )
    assert cropped_waveform(learn.waveform(0), config).shape == (
        8000,
    )  # repeated to 1.5 s, the second in the middle
    assert TrainingBatches(learn, replace(config, batch_size=5))[0]["images"].shape == (
        2,
        5,
        3,
        32,
        32,
    )
    (tmp_path / "frames" / f"{learn.ids[0]}.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError, match=learn.ids[0]):
        training_pairs(config)[0].image(0)
    assert learn.ids[0] not in training_pairs(replace(config, skip_bad=True, held_out=3))[0].ids


@pytest.mark.parametrize(
    "change, message",
    [
        ({"data": "nonsense"}, "nonsense"),
        ({"data": "vggsound"}, "--root"),
        ({"data": "vggsound", "root": "gone"}, "gone"),
        ({"seed": VALIDATION}, "held-out"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(InputError, match=message):
        training_pairs(replace(CONFIG, **change))


def test_too_few_pairs(source, tmp_path):
    with pytest.raises(InputError, match="--batch-size"):
        TrainingBatches(source, replace(CONFIG, batch_size=25))
    write(Scenes(4, 40, 8000, 0.5), tmp_path, "vggsound", 4)
    with pytest.raises(InputError, match="--held-out"):
        training_pairs(replace(CONFIG, data="vggsound", root=str(tmp_path)))


def test_a_frame_hears_its_own_second(tmp_path):
    """Also the first and the last of a video; a file that is shorter than the crop is repeated."""
    config = replace(CONFIG, sample_rate=1000, crop=3.0, seconds=10.0)
    loudness = np.repeat(np.arange(10) / 10, 1000).astype(
        np.float32
    )  # second s has the amplitude s / 10
    write_audio(tmp_path / "ten.wav", loudness, 1000)
    write_audio(tmp_path / "one.wav", loudness[5000:6000], 1000)
    for second, first in ((0, 0), (1, 0), (5, 4), (8, 7), (9, 7)):
        found = read_waveform_around(tmp_path / "ten.wav", config, (second, second + 1.0))
        assert found.shape == (3000,)
        np.testing.assert_allclose(found, loudness[1000 * first :][:3000], atol=1e-4)
    np.testing.assert_allclose(
        read_waveform_around(tmp_path / "one.wav", config, (0, 1.0)), 0.5, atol=1e-4
    )


def test_other_objects_are_other_pairs(source):
    assert source.ids == ScenePairs(0, 24, CONFIG).ids and len(set(source.ids)) == 24
    assert not set(source.ids) & set(ScenePairs(1, 24, CONFIG).ids)


def test_linked_scenes_are_of_built_in_objects():
    with pytest.raises(ValueError, match="--link is of the built-in objects"):
        checked(replace(CONFIG, link=True, objects="folder"))
    checked(replace(CONFIG, link=True))


def test_the_anchor_itself(source):
    """Table XI: the similar sample is the identical view, with neighbours or without."""
    steps = TrainingBatches(source, replace(CONFIG, sampling="anchor"))
    v, a = parts(steps[2])
    assert torch.equal(v[2], v[0]) and torch.equal(a[2], a[0]) and not torch.equal(v[1], v[0])
    steps.neighbours = {source: neighbours()}
    assert all(torch.equal(x, y) for x, y in zip(parts(steps[2]), (v, a)))
