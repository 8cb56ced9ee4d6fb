"""avkd/small.py: the small teachers of embedded scenes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avkd import small
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
@given(side=st.integers(1, 9), count=st.integers(0, 4), seed=st.integers(0, 999))
def test_cells_are_the_loop_over_cells(side, count, seed):
    """Also boxes whose edges are at centres."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, 2 * side + 1, (count, 2, 2)), axis=1) / (
        2 * side
    )  # (count, low and high, x and y)
    boxes, classes = corners.reshape(count, 4).astype(np.float32), rng.integers(0, 7, count)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    found = small.cell_classes(SimpleNamespace(boxes=boxes, classes=classes), side, 7)
    assert found.shape == (side, side)
    for row in range(side):
        for column in range(side):
            x, y = (column + 0.5) / side, (row + 0.5) / side
            inside = [
                k
                for k, (x0, y0, x1, y1) in enumerate(boxes.tolist())
                if x0 <= x < x1 and y0 <= y < y1
            ]
            least = [classes[k] for k in inside if areas[k] == min(areas[j] for j in inside)]
            assert found[row, column] in (least or [7])


def test_cells_show_what_is_in_the_scene():
    scenes = small.make_scenes(3, TINIER)
    images, targets = small.draw_images(scenes, TINIER, 4)
    assert (
        images.shape == (4, 3, 48, 48)
        and images.dtype == torch.uint8
        and targets.shape == (4, TINIER.side, TINIER.side)
    )
    rng = scenes.rng(9, 2)
    scene = scenes.scene(rng, scenes.classes(rng))
    assert np.array_equal(images[2].permute(1, 2, 0), scene.image)
    assert (
        set(targets[2].unique().tolist()) <= {*scene.classes.tolist(), len(scenes.names)}
        and (targets[2] < len(scenes.names)).any()
    )


@pytest.mark.slow
def test_the_small_teachers_learn(tmp_path):
    """On scenes of another seed they are better than chance among 12 classes."""
    config, other = (
        replace(TINIER, teacher_steps=110, out=str(tmp_path)),
        small.make_scenes(5, TINIER),
    )
    detector, listener = small.make_teacher("e_v", config), small.make_teacher("e_a", config)
    with torch.no_grad():
        images, targets = small.draw_images(other, config, 120)
        there, logits = targets < len(other.names), detector(images)
        assert logits.shape == (120, len(other.names) + 1, config.side, config.side)
        right = (logits[:, :-1].argmax(1) == targets)[there].float().mean()
        often = targets[there].bincount().max() / there.sum()
        assert right > 1.25 * often and right > 0.17, (right, often)
        objects = logits.softmax(1)[:, -1]
        assert objects[there].mean() < objects[~there].mean() - 0.05
        waveforms, targets = small.draw_audio(other, config, 120)
        right = (listener(waveforms).argmax(1) == targets).float().mean()
        assert right > 0.35 > 2 * targets.bincount().max() / 120, right


@pytest.mark.slow
def test_a_small_teacher_is_made_once(tmp_path, monkeypatch):
    config = replace(TINIER, out=str(tmp_path))
    for name, made in (("e_v", small.draw_images), ("e_a", small.draw_audio)):
        torch.manual_seed(3)
        before = torch.random.get_rng_state()
        first = small.make_teacher(name, config)
        assert torch.equal(torch.random.get_rng_state(), before) and not first.training
        monkeypatch.setitem(
            small.TASKS, name, (small.TASKS[name][0], None, small.TASKS[name][2])
        )  # read from its file: nothing is drawn
        again = small.make_teacher(name, config)
        assert torch.equal(torch.random.get_rng_state(), before) and not again.training
        monkeypatch.setitem(small.TASKS, name, (small.TASKS[name][0], made, small.TASKS[name][2]))
        anew = small.make_teacher(name, replace(config, out=str(tmp_path / "anew")))
        for key, value in first.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]) and torch.equal(
                value, anew.state_dict()[key]
            ), key
        assert small.weights_path(name, config).parent == small.folder(config)
        torch.save({}, small.weights_path(name, config))
        with pytest.raises(InputError, match=rf"{name}\.pt"):
            small.make_teacher(name, config)


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
        "width": 8,
        "last_stride": 2,
        "channels": 8,
        "teacher_steps": 3,
    }
    for name, value in changes.items():
        found.add(small.folder(replace(config, **{name: value})))
    assert len(found | {small.folder(config)}) == 1 + len(changes) and small.folder(
        config
    ).is_relative_to(tmp_path)
    same = replace(
        config, seed=4, lr=1.0, tau=1.0, scenes=9, teach_image=False, epochs=1, augment=True
    )  # students share teachers
    assert small.folder(same) == small.folder(config) and small.fingerprint(
        same
    ) == small.fingerprint(config)
    assert json.loads(json.dumps(small.fingerprint(config))) == small.fingerprint(config)
