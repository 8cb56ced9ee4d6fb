"""turn/backbones/small.py: the narrow DETR that learns to detect before TURN is trained."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from turn import train
from turn.backbones import small
from turn.config import TINY
from turn.model import Turn

from .test_turn_data import SMALL
from .test_turn_model import CONFIGS, NARROW, TOKENIZER, build

CHANGES = [
    {"image_size": 32},
    {"backbone_width": 4},
    {"dim": 16},
    {"heads": 2},
    {"detr_layers": 2},
    {"ffn": 2},
    {"detr_steps": 5},
]


def config(folder, **settings):
    tiny = {"image_size": 48, "dim": 32, "backbone_width": 8, "detr_steps": 3}
    return replace(TINY, out=str(folder), **(tiny | settings))


def same(a, b) -> bool:
    return all(torch.equal(x, b[key]) for key, x in a.items())


@pytest.mark.parametrize("index", range(8))
def test_a_cell_belongs_to_the_object_that_covers_it(index):
    """Each cell again by a loop over its pixels; its middle and reaches give back the box."""
    scenes = small.make_scenes(5, TINY)
    scene = scenes.scene(scenes.rng(9, index), scenes.classes(scenes.rng(10, index)))
    targets = small.cell_targets(scene, 6)
    assert targets.shape == (36, 5)
    for cell, (cls, *reach) in enumerate(targets.tolist()):
        row, column = divmod(cell, 6)
        pixels = scene.masks[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        cover = pixels.mean((1, 2))
        k = int(cover.argmax())
        assert cls == (scene.classes[k] if cover[k] > 0.3 else -1)
        x, y = (column + 0.5) / 6, (row + 0.5) / 6
        box = [x - reach[0], y - reach[1], x + reach[2], y + reach[3]]
        assert box == pytest.approx(scene.boxes[k].tolist(), abs=1e-6)
    assert (targets[:, 0] >= 0).any() and (targets[:, 0] < 0).any()


def test_the_loss_is_of_classes_everywhere_and_of_boxes_where_there_is_an_object():
    targets = torch.tensor([[[2, 0.1, 0.2, 0.3, 0.4], [-1, 9, 9, 9, 9]]])
    right = torch.tensor([[[0, 0, 30, 0, 0.1, 0.2, 0.3, 0.4], [0, 0, 0, 30, 0, 0, 0, 0.0]]])
    assert small.detection_loss(right, targets) < 1e-6
    wrong = right.clone()
    wrong[0, 1, :4] = torch.tensor([30.0, 0, 0, 0])  # an object where there is none
    assert small.detection_loss(wrong, targets) == pytest.approx(15, abs=1e-4)
    wrong = right.clone()
    wrong[0, 0, 4] += 0.5  # smooth l1 of 0.5 is 0.45, a mean of four coordinates, four times
    assert small.detection_loss(wrong, targets) == pytest.approx(0.45, abs=1e-4)
    nothing = targets.clone()
    nothing[..., 0] = -1
    assert small.detection_loss(right, nothing).isfinite()


def test_what_another_detr_would_be_is_filed_elsewhere(tmp_path):
    paths = [small.weights_path(config(tmp_path, **change)) for change in ({}, *CHANGES)]
    assert len(set(paths)) == len(paths)
    assert small.weights_path(config(tmp_path, seed=3, lr=1.0, text_layers=1)) == paths[0]


@pytest.mark.slow
def test_the_detr_is_made_once_and_is_what_turn_starts_from(tmp_path, monkeypatch):
    tiny = config(tmp_path)
    before = torch.random.get_rng_state()
    first = small.make_detr(tiny).state_dict()
    anew = small.make_detr(config(tmp_path / "anew")).state_dict()
    monkeypatch.setattr(small, "fit", None)  # read from its file, not trained
    again = small.make_detr(replace(tiny, seed=4, lr=1.0)).state_dict()
    assert same(first, again) and same(first, anew)
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(TypeError):  # another one is wanted
        small.make_detr(config(tmp_path, detr_steps=4))
    model = Turn(tiny, TOKENIZER)
    scratch = {key: x.clone() for key, x in model.localization.detr.state_dict().items()}
    small.load_detr(model, config(tmp_path, detr_steps=0), "cpu")
    assert same(scratch, model.localization.detr.state_dict())
    small.load_detr(model, tiny, "cpu")
    assert same(first, model.localization.detr.state_dict())


@pytest.mark.parametrize("scale", [0.1, 0.0])
def test_the_detr_has_its_own_rate(scale):
    """At 0 it is not trained. Norms and biases have no weight decay."""
    config = replace(CONFIGS["tiny"], visual_lr_scale=scale, weight_decay=0.5)
    model = build(config)
    groups, detr = train.parameter_groups(model, config), model.localization.detr
    is_detr = {id(p) for p in detr.parameters()}
    found = Counter(id(p) for group in groups for p in group["params"])
    everything = {id(p) for p in model.parameters()}
    assert found == Counter(everything if scale else everything - is_detr)  # each once
    for group in groups:
        for p in group["params"]:
            assert group["scale"] == (scale if id(p) in is_detr else 1)
            assert group["weight_decay"] == (0.5 if p.dim() > 1 else 0)
    assert all(p.requires_grad == bool(scale) for p in detr.parameters())


@pytest.mark.slow
def test_a_frozen_detr_stays_as_it_is(tmp_path, monkeypatch):
    """With its running statistics, in a step that changes the rest."""
    states = []

    def record(model, *args):
        states.append({key: x.clone() for key, x in model.state_dict().items()})
        return {"validation/score": 0.0}

    monkeypatch.setattr(small, "load_detr", record)  # before the step
    monkeypatch.setattr(train, "validate", record)  # after it
    monkeypatch.setattr(train, "evaluate_best", lambda run, benchmarks: None)
    monkeypatch.setattr("common.training.run.signal.signal", lambda *args: None)
    run = {"steps": 1, "adaptive": False, "out": str(tmp_path), "name": "a", "device": "cpu"}
    train.train(replace(SMALL, **NARROW, visual_lr_scale=0.0, **run))
    before, after = states
    changed = {key for key, x in before.items() if not torch.equal(x, after[key])}
    detr = {key for key in before if key.startswith("localization.detr.")}
    assert any("running_mean" in key for key in detr) and changed and not changed & detr


@pytest.mark.slow
def test_it_learns_to_detect(tmp_path):
    """On other scenes it tells objects from the wall in 70 % of the cells, of which 52 % are wall,
    and reaches are off by less than 0.11 (their mean would be by 0.154)."""
    tiny = config(tmp_path, image_size=64, detr_steps=150)
    images, targets = small.draw_scenes(tiny, 2400)
    torch.manual_seed(0)
    detr = small.narrow_detr(16, 32, 4, 1, 128)
    net = small.Detector(detr, 12).to(memory_format=torch.channels_last)
    small.fit(
        net,
        small.detection_loss,
        images[:2000],
        targets[:2000],
        steps=150,
        batch_size=32,
        lr=small.LR,
        seed=0,
        name="detecting",
    )
    with torch.no_grad():
        output = net.eval()(images[2000:])
    is_object = targets[2000:, :, 0] >= 0
    found = output[..., :13].argmax(-1) != 12
    assert (found == is_object).float().mean() > 0.7
    reach = (output[..., 13:] - targets[2000:, :, 1:]).abs()[is_object].mean()
    assert reach < 0.11
