"""avkd/backbones/small.py: the small networks of embedded scenes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avkd import guidance
from avkd.backbones import small
from avkd.config import TINY
from common.io import InputError

TINIER = replace(
    TINY,
    image_size=48,
    sample_rate=4000,
    seconds=0.5,
    crop=0.5,
    window=64,
    hop=64,
    channels=16,
    teacher_steps=2,
    scenes=5,
)


@settings(max_examples=40, deadline=None)
@given(side=st.integers(2, 9), count=st.integers(0, 3), seed=st.integers(0, 999))
def test_box_targets(side, count, seed):
    """1 at the position nearest to a centre; distances that lead back to a box of the scene."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.6, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.4, (count, 2))], 1)
    score, *reach = small.box_targets(SimpleNamespace(boxes=boxes), side)
    assert score.shape == (side, side) and (score >= 0).all() and (score <= 1).all()
    centres = (np.arange(side) + 0.5) / side
    for x0, y0, x1, y1 in boxes:
        column, row = (np.abs(centres - c).argmin() for c in ((x0 + x1) / 2, (y0 + y1) / 2))
        assert score[row, column] > 0.999
    for row, column in np.argwhere(score > 0):
        left, top, right, bottom = (r[row, column] for r in reach)
        x, y = centres[column], centres[row]
        found = np.array([x - left, y - top, x + right, y + bottom])
        assert np.abs(boxes - found).max(1).min() < 1e-5
    assert count or not score.any()


def detector_that_says(score, reach, config=TINIER):
    """A detector whose output is given: (h, w) probabilities and (4, h, w) distances."""
    net = small.Detector(config, 12)
    logit = torch.logit(torch.as_tensor(score, dtype=torch.float32), eps=1e-6)
    output = torch.cat([logit[None], torch.as_tensor(reach, dtype=torch.float32)])
    net.forward = lambda images: output.expand(len(images), -1, -1, -1)
    return net


def test_detections_are_the_boxes_of_the_peaks():
    """Two objects: two confident queries, each with even attention over its box."""
    side, boxes = 6, np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    targets = small.box_targets(SimpleNamespace(boxes=boxes), side)
    net = detector_that_says(targets[0], targets[1:])
    confidence, attention = net.detect(torch.zeros(1, 3, 48, 48))
    assert confidence.shape == (1, 36) and attention.shape == (1, 36, side, side)
    torch.testing.assert_close(attention.sum((2, 3)), torch.ones(1, 36))
    rows = (confidence[0] >= guidance.CONFIDENCE).nonzero()[:, 0]
    assert len(rows) == 2
    expected = torch.zeros(2, side, side)
    expected[0, :3, :3], expected[1, 3:, 3:] = 1 / 9, 1 / 9
    torch.testing.assert_close(attention[0, rows], expected)
    none = detector_that_says(np.full((side, side), 0.2), targets[1:])
    assert not guidance.confident_mean(*none.detect(torch.zeros(1, 3, 48, 48)))[1].any()


def auroc(maps, masks):
    """The mean over images of the chance that a pixel of the mask has more than one outside."""
    values = []
    for x, mask in zip(small.F.interpolate(maps[:, None], masks[0].shape, mode="bilinear"), masks):
        ranks = np.empty(mask.size)
        ranks[np.argsort(x.numpy().ravel(), kind="stable")] = np.arange(1, mask.size + 1)
        inside, n = mask.ravel(), mask.sum()
        values.append((ranks[inside].sum() - n * (n + 1) / 2) / (n * (mask.size - n)))
    return np.mean(values)


@pytest.mark.slow
def test_what_the_small_networks_know(tmp_path):
    """On scenes of another seed. The map of objects is one: AUROC of their masks above 0.7. The
    detector finds as many objects as there are, or fewer. The audio classifier tells sources."""
    config = replace(TINY, out=str(tmp_path), teacher_steps=200, teacher_clips=1500)
    scenes = small.make_scenes(5, config)
    rngs = [scenes.rng(9, i) for i in range(80)]
    drawn = [scenes.scene(rng, scenes.classes(rng)) for rng in rngs]
    images, masks = [scene.image for scene in drawn], [scene.masks.any(0) for scene in drawn]
    nets = [small.make_network(name, config) for name in ("objects", "e_v")]
    with torch.no_grad():
        objects, (detections, has_detection) = guidance.SmallGuide(*nets)(images)
        views = guidance.image_batch(images, config.image_size, torch.device("cpu"))
        confidence, _ = nets[1].detect(views)
    assert auroc(objects, masks) > 0.7
    assert (
        auroc(
            detections[has_detection], [m for m, is_there in zip(masks, has_detection) if is_there]
        )
        > 0.7
    )
    counts = (confidence >= guidance.CONFIDENCE).sum(1)
    assert has_detection.float().mean() > 0.9 and (counts <= 2).float().mean() > 0.85
    clips = [small.make_scenes(5, config).rng(10, i) for i in range(120)]
    classes = [int(rng.integers(12)) for rng in clips]
    waveforms = [
        torch.from_numpy(scenes.waveform(c, rng, config.crop)[0]) for c, rng in zip(classes, clips)
    ]
    listener = small.make_network("e_a", config)
    with torch.no_grad():
        found = listener(torch.stack(waveforms)).argmax(1)
    assert (found == torch.tensor(classes)).float().mean() > 0.5


@pytest.mark.slow
def test_a_small_network_is_made_once(tmp_path, monkeypatch):
    config = replace(TINIER, out=str(tmp_path))
    for name in small.NETWORKS:
        kind, draw, loss, times = small.NETWORKS[name]
        torch.manual_seed(3)
        before = torch.random.get_rng_state()
        first = small.make_network(name, config)
        assert torch.equal(torch.random.get_rng_state(), before) and not first.training
        # read from its file: nothing is drawn
        monkeypatch.setitem(small.NETWORKS, name, (kind, None, loss, times))
        again = small.make_network(name, config)
        assert torch.equal(torch.random.get_rng_state(), before) and not again.training
        monkeypatch.setitem(small.NETWORKS, name, (kind, draw, loss, times))
        anew = small.make_network(name, replace(config, out=str(tmp_path / "anew")))
        for key, value in first.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), key
            assert torch.equal(value, anew.state_dict()[key]), key
        assert small.weights_path(name, config).parent == small.folder(config)
        torch.save({}, small.weights_path(name, config))
        with pytest.raises(InputError, match=rf"{name}\.pt"):
            small.make_network(name, config)
        small.weights_path(name, config).unlink()
        small.make_network(name, config)


def test_another_configuration_has_another_folder(tmp_path):
    config, found = replace(TINIER, out=str(tmp_path)), set()
    changes = {
        "image_size": 64,
        "sample_rate": 8000,
        "seconds": 0.6,
        "crop": 0.4,
        "window": 32,
        "hop": 32,
        "blocks": (1, 1),
        "bottleneck": True,
        "width": 8,
        "last_stride": 2,
        "channels": 8,
        "teacher_steps": 3,
        "teacher_clips": 7,
        "clutter": 0.5,
    }
    assert set(changes) == set(small.SETTINGS)
    for name, value in changes.items():
        found.add(small.folder(replace(config, **{name: value})))
    assert len(found | {small.folder(config)}) == 1 + len(changes)
    assert small.folder(config).is_relative_to(tmp_path)
    same = replace(
        config, seed=4, lr=1.0, tau=1.0, scenes=9, teach_image=False, epochs=1, augment=True
    )  # students share teachers
    assert small.folder(same) == small.folder(config)
    assert small.fingerprint(same) == small.fingerprint(config)
    assert json.loads(json.dumps(small.fingerprint(config))) == small.fingerprint(config)
