"""turn/backbones/detr.py: the published encoder's numbers, and a file that is loaded strictly."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.io import InputError
from tests.goldens import fill
from turn.backbones.detr import detr_r50, sine_positions

pytestmark = pytest.mark.slow

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="module")
def state():
    keys = json.loads((GOLDENS / "detr_r50.keys.json").read_text())
    return {k: torch.from_numpy(fill.fill_array(k, s)) for k, s in keys.items()}


@pytest.fixture(scope="module")
def published(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "detr.pth"
    torch.save({"model": state}, path)
    return detr_r50(path).eval()


@pytest.mark.parametrize("prefix", ["", "padded_"])
def test_golden(published, prefix):
    golden, step = np.load(GOLDENS / "detr_r50.npz"), 4 if prefix else 1  # how maps are stored
    padding = None
    if prefix:
        sizes = (128, 160), (90, 100)
        images = torch.zeros(2, 3, *sizes[0])
        padding = torch.ones(2, *sizes[0], dtype=torch.bool)
        for i, (h, w) in enumerate(sizes):
            images[i, :, :h, :w] = torch.from_numpy(
                fill.make_input(f"detr_r50-padded-{i}", (3, h, w))
            )
            padding[i, :h, :w] = False
    else:
        images = torch.from_numpy(fill.make_input("detr_r50-image", (1, 3, 96, 128)))
    with torch.no_grad():
        tokens, small = published.encode(images, padding)
    memory = tokens.transpose(1, 2).unflatten(2, small.shape[1:])
    ours = {
        "memory": memory,
        "pos": sine_positions(small, 256),
    }
    for name, value in ours.items():
        expected = golden[prefix + name]
        difference = np.abs(value[:, ::step].numpy() - expected).max()
        assert difference <= 2e-5 * np.abs(expected).max(), name
    assert (small.numpy() == golden[prefix + "feature_mask"]).all()


def test_the_map_of_the_released_turn(published):
    """The published model's DETR part is DETR's encoder, padding included."""
    golden = np.load(GOLDENS / "turn_released.npz")
    images = torch.from_numpy(fill.make_input("turn_released-image", (2, 3, 96, 128)))
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[0, -32:], padding[1, :, :32] = True, True
    with torch.no_grad():
        tokens, small = published.encode(images.masked_fill(padding[:, None], 0), padding)
    ours = tokens.transpose(1, 2).unflatten(2, small.shape[1:])[:, ::16].numpy()
    assert np.abs(ours - golden["whole_map"]).max() <= 2e-5 * np.abs(golden["whole_map"]).max()
    assert (small.flatten(1).numpy() == golden["whole_mask"]).all()


def test_what_is_not_used_is_gone(published):
    assert sum(p.numel() for p in published.parameters()) < 32e6
    assert not any(
        k.startswith(("query_embed", "class_embed", "bbox_embed", "transformer.decoder"))
        for k in published.state_dict()
    )


@pytest.mark.parametrize(
    "key",
    [
        "transformer.encoder.layers.5.norm2.bias",
        "transformer.decoder.layers.5.multihead_attn.in_proj_weight",
        "bbox_embed.layers.2.weight",
        "class_embed.bias",
        "query_embed.weight",
    ],
)
def test_a_file_that_differs_is_refused(state, tmp_path, key):
    """Also where what differs is not used here: it is another file than it should be."""
    path, rest = tmp_path / "detr.pth", {k: v for k, v in state.items() if k != key}
    for change, fault in (({}, "missing"), ({key: state[key][:1]}, "misshapen")):
        torch.save({"model": {**rest, **change}}, path)
        with pytest.raises(InputError, match=f"1 {fault} .*{key}"):
            detr_r50(path)
    torch.save({"model": {**state, f"{key}.more": torch.zeros(1)}}, path)
    with pytest.raises(InputError, match=f"1 extra .*{key}.more"):
        detr_r50(path)
