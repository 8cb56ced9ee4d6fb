"""avkd/backbones/detr.py against the published DETR, and its laws."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.io import load_published
from tests.goldens import fill
from avkd.backbones.detr import (
    Attention,
    DecoderLayer,
    Detr,
    EncoderLayer,
    detr_r50,
    sine_positions,
)
from avkd.backbones.resnet import BasicBlock, ResNet

pytestmark = pytest.mark.slow

GOLDENS = Path(__file__).parent / "goldens"


def pad(images):
    """A list of (3, h, w) → (B, 3, H, W), images at the top left, and where it is padding."""
    height, width = (max(x.shape[side] for x in images) for side in (1, 2))
    batch = torch.zeros(len(images), 3, height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for i, x in enumerate(images):
        batch[i, :, : x.shape[1], : x.shape[2]] = x
        mask[i, : x.shape[1], : x.shape[2]] = False
    return batch, mask


def narrow(norm=lambda c: nn.GroupNorm(4, c)):
    torch.manual_seed(0)
    backbone = ResNet(BasicBlock, (1, 1, 1, 1), width=8, num_classes=None, norm=norm)
    return Detr(
        backbone,
        d=32,
        heads=4,
        encoder_layers=2,
        decoder_layers=1,
        ffn=64,
        queries=5,
        num_classes=3,
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    keys = json.loads((GOLDENS / "detr_r50.keys.json").read_text())
    state = {k: torch.from_numpy(fill.fill_array(k, s)) for k, s in keys.items()}
    path = tmp_path_factory.mktemp("weights") / "detr.pth"
    torch.save({"model": state}, path)
    return load_published(detr_r50(), path, key="model").eval()


@pytest.mark.parametrize("prefix", ["", "padded_"])
def test_golden(published, prefix):
    golden = np.load(GOLDENS / "detr_r50.npz")
    if prefix:
        images = [
            torch.from_numpy(fill.make_input(f"detr_r50-padded-{i}", s))
            for i, s in enumerate([(3, 128, 160), (3, 90, 100)])
        ]
        images, mask = pad(images)
    else:
        images, mask = torch.from_numpy(fill.make_input("detr_r50-image", (1, 3, 96, 128))), None
    with torch.no_grad():
        out = published(images, mask)
        projected = published.input_proj(out["features"])
    step = 4 if prefix else 1  # how the padded maps are stored
    ours = {
        "backbone": out["features"][:, ::16],
        "feature_mask": out["mask"],
        "pos": sine_positions(out["mask"], 256)[:, ::step],
        "input_proj": projected[:, ::step],
        "memory": out["memory"][:, ::step],
        "attention": out["attention"],
        "hs_last": out["hs"][-1][:, :, ::4],
        "hs_first_layer": out["hs"][0][:, ::10, ::4],
        "pred_logits": out["pred_logits"],
        "pred_boxes": out["pred_boxes"],
    }
    for name, value in ours.items():
        value, expected = value.numpy(), golden[prefix + name]
        assert value.shape == expected.shape, name
        if expected.dtype == bool:
            assert (value == expected).all(), name
        else:
            assert np.abs(value - expected).max() <= 2e-5 * np.abs(expected).max(), name
    stored = {
        n for n in golden.files if n.startswith("padded_") == bool(prefix) and "check_" not in n
    }
    assert {prefix + n for n in ours} == stored - {"padded_sizes"}  # all are compared


def test_published_keys_are_all_and_only_ours():
    keys = json.loads((GOLDENS / "detr_r50.keys.json").read_text())
    with torch.device("meta"):
        model = detr_r50()
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == keys


def test_padding_changes_nothing_for_the_transformer():
    """The backbone is replaced: its borders do differ, since biases fill the padding."""
    model, cells = narrow().eval(), torch.randn(1, 64, 4, 4)
    model.backbone[0]["body"].features = lambda x: cells[
        :, :, : x.shape[2] // 32, : x.shape[3] // 32
    ]
    alone = model(torch.zeros(1, 3, 64, 96))
    _, mask = pad([torch.zeros(3, 64, 96), torch.zeros(3, 128, 128)])
    padded = model(torch.zeros(1, 3, 128, 128), mask[:1])
    assert (
        padded["mask"].shape == (1, 4, 4)
        and padded["mask"].sum() == 16 - 2 * 3
        and not padded["mask"][0, :2, :3].any()
    )
    for name in ("pred_logits", "pred_boxes"):
        assert torch.allclose(alone[name], padded[name], atol=1e-5), name
    assert torch.allclose(alone["memory"], padded["memory"][:, :, :2, :3], atol=1e-5)
    assert torch.allclose(alone["attention"], padded["attention"][:, :, :2, :3], atol=1e-5)
    assert (
        padded["attention"][:, :, 2:].abs().max() == 0
        and padded["attention"][..., 3:].abs().max() == 0
    )


def test_batch_is_each_image_alone():
    model = narrow().eval()
    images = torch.randn(3, 3, 64, 64)
    together = model(images)
    for i in range(3):
        for name, value in model(images[i : i + 1]).items():
            batch = together[name][:, i] if name == "hs" else together[name][i]
            one = value[:, 0] if name == "hs" else value[0]
            assert torch.allclose(batch.float(), one.float(), atol=1e-5), name


def test_attention_is_torchs_and_sums_to_one():
    torch.manual_seed(0)
    ours, theirs = Attention(24, 3, 0.0), nn.MultiheadAttention(24, 3, batch_first=True)
    nn.init.normal_(ours.in_proj_weight)
    nn.init.normal_(ours.in_proj_bias)
    theirs.load_state_dict(ours.state_dict())
    q, k, v = torch.randn(2, 5, 24), torch.randn(2, 7, 24), torch.randn(2, 7, 24)
    mask = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    x, weights = ours(q, k, v, mask, weights=True)
    x_ref, weights_ref = theirs(q, k, v, key_padding_mask=mask)
    assert torch.allclose(x, x_ref, atol=1e-5) and torch.allclose(weights, weights_ref, atol=1e-6)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 5)) and torch.equal(ours(q, k, v, mask), x)


def test_dropout_reaches_every_branch():
    """With everything dropped, only the normalisations are left."""
    x, pos = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    encoder, decoder = (
        kind(16, 2, 32, dropout=1.0).train() for kind in (EncoderLayer, DecoderLayer)
    )
    assert torch.equal(
        encoder.self_attn(x, x, x), torch.zeros_like(x)
    )  # the attention's own, before a bias of zero
    for attention in (encoder.self_attn, decoder.self_attn, decoder.multihead_attn):
        attention.dropout = 0.0
    assert torch.allclose(encoder(x, pos, None), encoder.norm2(encoder.norm1(x)))
    y, _ = decoder(x, pos, x, pos, None, weights=False)
    assert torch.allclose(y, decoder.norm3(decoder.norm2(decoder.norm1(x))))


def test_initialisation_and_eps():
    with torch.random.fork_rng():
        model = narrow()
    layer = model.transformer["decoder"].layers[0]
    for weight in (
        layer.linear1.weight,
        layer.multihead_attn.in_proj_weight,
        layer.self_attn.out_proj.weight,
    ):  # Xavier
        assert abs(weight.std() / (2 / sum(weight.shape)) ** 0.5 - 1) < 0.1
    assert {m.eps for m in model.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}


def test_positions_against_a_loop():
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[0, 2], mask[0, :, 3] = True, True
    pos = sine_positions(mask, 16)[0]
    for y in range(2):
        for x in range(3):
            for channel in range(16):
                place = (y + 1) / (2 + 1e-6) if channel < 8 else (x + 1) / (3 + 1e-6)
                angle = 2 * math.pi * place / 10000 ** (channel % 8 // 2 * 2 / 8)
                expected = math.cos(angle) if channel % 2 else math.sin(angle)
                assert abs(float(pos[channel, y, x]) - expected) < 1e-5


def test_narrow_detr_trains():
    model = narrow().train()
    images, boxes, labels = torch.randn(4, 3, 96, 96), torch.rand(4, 4), torch.arange(4)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(40):
        out = model(images)
        loss = (out["pred_boxes"][:, 0] - boxes).abs().mean() + nn.functional.cross_entropy(
            out["pred_logits"][:, 0], labels
        )
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0], losses


def test_bf16_autocast_is_close():
    model, images = narrow().eval(), torch.randn(2, 3, 96, 96)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(images, torch.zeros(2, 96, 96, dtype=torch.bool))
    assert torch.allclose(low["pred_boxes"].float(), model(images)["pred_boxes"], atol=0.03)


def test_frozen_batch_norm_trains_nothing_and_leaves_the_rest_trainable():
    with torch.device("meta"):
        model = detr_r50()
    names = {n for n, _ in model.named_parameters()}
    assert "backbone.0.body.conv1.weight" in names and not any(
        ".bn" in n or "downsample.1" in n for n in names
    )
