"""backbones/resnet.py against torchvision's outputs, and common/io/checkpoint.py, which loads
published files into modules."""

import argparse
import json
import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.io import InputError
from common.io import load_published, read_state
from tests.goldens import fill
from turn.backbones import resnet
from turn.backbones.resnet import BasicBlock, Bottleneck, FrozenBatchNorm, ResNet

GOLDENS = Path(__file__).parent / "goldens"


def published(name):
    keys = json.loads((GOLDENS / f"{name}.keys.json").read_text())
    return {k: torch.from_numpy(fill.fill_array(k, s)) for k, s in keys.items()}


def narrow(**options):
    torch.manual_seed(0)
    return ResNet(BasicBlock, (1, 1, 1, 1), **{"width": 8, "num_classes": 3, **options})


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", pytest.param("resnet152", marks=pytest.mark.slow)]
)
def test_golden(name, tmp_path):
    torch.save(published(name), tmp_path / "weights.pth")
    model = load_published(getattr(resnet, name)(), tmp_path / "weights.pth").eval()
    golden = np.load(GOLDENS / f"{name}.npz")
    image = torch.from_numpy(fill.make_input(f"{name}-image", (1, 3, 64, 64)))
    with torch.no_grad():
        stem, *layers = model.maps(image)
        features = model.features(image)
        logits = model(image)
    widths = [x.shape[1] for x in layers]
    ours = {
        "stem": stem[:, ::8],
        "layer1": layers[0][:, :: widths[0] // 16, ::2, ::2],
        "layer2": layers[1][:, :: widths[1] // 32, ::2, ::2],
        "layer3": layers[2][:, :: widths[2] // 64],
        "layer4": features[:, :: max(1, widths[3] // 512)],
        "pooled": features.mean((2, 3)),
        "logits": logits,
    }
    assert set(ours) == set(golden.files) - {"check_image"}  # every stored array is compared
    for key, value in ours.items():
        expected = golden[key]
        assert (
            value.shape == expected.shape
            and np.abs(value.numpy() - expected).max() <= 2e-5 * np.abs(expected).max()
        ), key


def test_shapes_and_last_stride():
    x = torch.randn(2, 1, 96, 64)
    model = narrow(in_channels=1)
    assert [tuple(m.shape[1:]) for m in model.maps(x)] == [
        (8, 24, 16),
        (8, 24, 16),
        (16, 12, 8),
        (32, 6, 4),
        (64, 3, 2),
    ]
    assert model(x).shape == (2, 3) and model.channels == 64
    stride1 = narrow(in_channels=1, last_stride=1)
    assert stride1.features(x).shape == (2, 64, 6, 4)
    assert {k: v.shape for k, v in stride1.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    wide = ResNet(Bottleneck, (1, 2, 1, 1), width=4, num_classes=None)
    assert wide.channels == 128 and wide.features(torch.randn(1, 3, 64, 64)).shape == (1, 128, 2, 2)
    assert not any(k.startswith("fc") for k in wide.state_dict())


def test_every_block_is_used_and_he_initialised():
    model = resnet.resnet18(num_classes=5)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    weight = model.layer3[1].conv2.weight  # fan out 256 · 9
    assert abs(weight.std() / (2 / (256 * 9)) ** 0.5 - 1) < 0.02
    maps = model.eval().features(torch.randn(2, 3, 224, 224))
    assert 0.1 < maps.std() < 10 and maps.min() == 0


@pytest.mark.parametrize("eps", [1e-5, 0.0])
def test_frozen_batch_norm_is_batch_norm_in_eval(eps):
    frozen = narrow(norm=partial(FrozenBatchNorm, eps=eps))
    ordinary = narrow(norm=partial(nn.BatchNorm2d, eps=eps)).eval()
    state = fill.fill_state_dict(ordinary.state_dict())
    ordinary.load_state_dict(state)
    frozen.load_state_dict(
        {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    )
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(frozen.train()(x), ordinary(x), rtol=1e-4, atol=1e-5)
    assert not any("bn" in n or "downsample.1" in n for n, _ in frozen.named_parameters())


def test_group_norm_takes_each_image_alone():
    model = narrow(norm=partial(nn.GroupNorm, 4)).train()
    x = torch.randn(3, 3, 64, 64)
    assert torch.allclose(model(x)[1:2], model(x[1:2]), atol=1e-5)


# Loading.


def save(path, state):
    torch.save(state, path)
    return path


def test_load_accepts_counters_parameters_and_a_prefix(tmp_path):
    source = narrow().state_dict()
    bare = {k: v for k, v in source.items() if not k.endswith("num_batches_tracked")}
    expected = source["layer4.0.conv2.weight"].clone()
    variants = [
        (source, {}),
        (bare, {}),
        ({k: nn.Parameter(v) for k, v in bare.items()}, {}),
        ({"model": bare, "args": argparse.Namespace(lr=1e-4, names=["a"])}, {"key": "model"}),
        (
            {"state": {f"audnet.{k}": v for k, v in bare.items()} | {"other.w": torch.zeros(1)}},
            {"key": "state", "prefix": "audnet."},
        ),
    ]
    for state, options in variants:
        model = load_published(narrow().apply(zero), save(tmp_path / "x.pth", state), **options)
        assert (
            torch.equal(model.layer4[0].conv2.weight, expected)
            and model.layer4[0].conv2.weight.requires_grad
        )
    frozen = load_published(
        narrow(norm=FrozenBatchNorm), save(tmp_path / "x.pth", source)
    )  # counters that it does not have
    assert torch.equal(frozen.bn1.weight, source["bn1.weight"])


def zero(module):
    for p in module.parameters(recurse=False):
        nn.init.zeros_(p)


def test_load_is_strict_and_lists_the_keys(tmp_path):
    state = narrow().state_dict()
    del state["fc.bias"], state["bn1.running_var"]
    state["surplus.weight"] = torch.zeros(2)
    state["conv1.weight"] = torch.zeros(8, 1, 7, 7)
    model = narrow()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InputError) as error:
        load_published(model, save(tmp_path / "x.pth", state))
    text = str(error.value)
    assert "2 missing (bn1.running_var, fc.bias)" in text and "1 extra (surplus.weight)" in text
    assert (
        "1 misshapen (conv1.weight (8, 1, 7, 7) for (8, 3, 7, 7))" in text
        and "\n" not in text
        and "x.pth" in text
    )
    assert all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items()
    )  # nothing was half loaded


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(tmp_path):
    trace = tmp_path / "executed"
    with pytest.raises(InputError, match="refused: it needs "):
        read_state(save(tmp_path / "x.pth", {"w": torch.zeros(1), "evil": Evil(trace)}))
    (tmp_path / "y.pth").write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(InputError, match=r"y\.pth"):
        read_state(tmp_path / "y.pth")
    assert not trace.exists()
    # The one class that is admitted is admitted during the call only.
    read_state(
        save(tmp_path / "z.pth", {"model": {}, "args": argparse.Namespace(a=1)}), key="model"
    )
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "z.pth", weights_only=True)


@pytest.mark.parametrize(
    "content, key, reason",
    [
        ({"model": {}}, "state", "no state_dict under 'state'"),
        ([1, 2], None, "no state_dict"),
        ({"epoch": 3}, None, "entries epoch"),
        ({"w": torch.zeros(1)}, "w", "no state_dict under 'w'"),
        (torch.zeros(3), "model", "no state_dict under"),
    ],
)
def test_other_content_is_refused(tmp_path, content, key, reason):
    with pytest.raises(InputError, match=reason):
        read_state(save(tmp_path / "x.pth", content), key)


def test_absent_file(tmp_path):
    for path, reason in ((tmp_path / "none.pth", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=reason):
            read_state(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 3000), st.booleans())
def test_damaged_files_are_input_errors(tmp_path_factory, noise, at, zipped):
    path = tmp_path_factory.mktemp("damaged") / "x.pth"
    torch.save({"w": torch.arange(300.0)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes((whole[:at] + noise + whole[at + len(noise) :])[: max(at, len(noise))])
    try:
        state = read_state(path)
    except InputError as error:
        assert "\n" not in str(error) and "x.pth" in str(error)
    else:  # the damage hit values, or nothing
        assert all(isinstance(v, torch.Tensor) for v in state.values())
