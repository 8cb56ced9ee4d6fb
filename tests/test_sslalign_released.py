"""Checkpoints that the authors released: their layout, and what their evaluation computes of them
(tests/goldens/sslalign_released.npz)."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from common import metrics as m
from common.evaluation import Batch, scoring
from common.io import InputError, read_json, write_audio, write_image
from sslalign import evaluate, localize
from sslalign.backbones.frontend import log_spectrogram
from sslalign.backbones.resnet import resnet18
from sslalign.backbones.views import normalise
from tests.goldens import fill

GOLDENS = Path(__file__).parent / "goldens"
G = np.load(GOLDENS / "sslalign_released.npz")
KEYS = json.loads((GOLDENS / "sslalign_released.keys.json").read_text())


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file in the published layout, and the Predictor of it."""
    path = tmp_path_factory.mktemp("released") / "ours_sup.pth.tar"
    weights = {k: torch.from_numpy(fill.fill_array(k, s)) for k, s in KEYS.items()}
    torch.save({"epoch": 9, "model_state_dict": weights}, path)
    return path, evaluate.load_predictor(path, torch.device("cpu"), is_released=True)


@pytest.fixture(scope="module")
def inputs():
    """Images (2, 3, 224, 224) in [0, 1] and the three seconds that are heard, (2, 48000)."""
    image = fill.make_input("sslalign_released-image", (2, 3, 224, 224))
    image = np.clip(np.float32(0.5) + np.float32(0.2) * image, 0, 1)
    waves = [fill.make_pcm(f"sslalign_released-wave-{i}", 48000, 16000) / 32768 for i in range(2)]
    return torch.from_numpy(image), torch.from_numpy(np.stack(waves)).float()


def agrees(found, expected, tolerance=2e-5):
    found = np.asarray(found, np.float64)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@torch.no_grad()
def test_both_networks_have_stride_1(released, inputs):
    model, (image, waves) = released[1].model, inputs
    x = log_spectrogram(waves)
    agrees(x[:, ::8, ::8], G["spectrogram"])
    for net, part, y in (
        (model.visual, "image", normalise(image)),
        (model.audio, "audio", x[:, None]),
    ):
        stem, *layers = net.maps(y)
        agrees(stem[:, ::16, ::8, ::8], G[f"{part}_stem"])
        for k, (layer, s) in enumerate(zip(layers, (8, 4, 2)), 1):
            agrees(layer[:, :: layer.shape[1] // 8, ::s, ::s], G[f"{part}_layer{k}"])
    assert layers[-1].shape == tuple(G["audio_map_shape"]) == (2, 512, 17, 19)
    agrees(layers[-1][:, ::64], G["audio_map"])
    v = model.encode_image(image)
    assert v.shape == tuple(G["v_shape"])
    agrees(v[:, ::32], G["v"])
    agrees(model.encode_audio(waves), G["a"])


@torch.no_grad()
def test_maps_and_predictions(released, inputs):
    predictor, (image, waves) = released[1], inputs
    a = predictor.encode_audio(waves)
    v = predictor.model.encode_image(image)
    heat = evaluate.cosine_map(v, a)
    np.testing.assert_allclose(heat, G["heat"], rtol=0, atol=1e-5)
    both = torch.stack([evaluate.cosine_map(v, a[[j, j]]) for j in range(2)], 1)
    np.testing.assert_allclose(both, G["heat_all"], rtol=0, atol=1e-5)
    net = resnet18().eval()
    keys = json.loads((GOLDENS / "resnet18.keys.json").read_text())
    weights = {k: torch.from_numpy(fill.fill_array(k, s)) for k, s in keys.items()}
    net.load_state_dict({**net.state_dict(), **weights})
    objects = net.features(normalise(image)).abs().mean(1)
    agrees(objects, G["object_map"])
    for name, align_corners in (("half_pixel", False), ("aligned", True)):
        maps = [m.resize(x, 224, "sslalign", align_corners) for x in (heat, objects)]
        pred, ogl = m.normalise(maps[0]), m.object_guided(*maps)
        agrees(pred[:, ::9, ::9], G[f"pred_{name}"], 2e-3)
        agrees(ogl[:, ::9, ::9], G[f"ogl_{name}"], 2e-3)
        gt = torch.zeros_like(pred, dtype=torch.float32)
        gt.view(2, -1)[:, :5000] = 1  # B = 5000, wherever
        for k, x in enumerate((pred, ogl)):
            agrees(m.threshold(x, "median"), G[f"thresholds_{name}"][:, 2 * k], 2e-3)
            agrees(m.threshold(x, "adaptive", gt), G[f"thresholds_{name}"][:, 2 * k + 1], 2e-3)
    bicubic = m.resize(heat, 224, "slavc")  # the protocol of the extended sets, Table IV
    agrees(bicubic[:, ::9, ::9], G["heat_bicubic_aligned"])
    # The released evaluator maps the range of the model, -1 / 0.03 to 1 / 0.03, to 0 to 1.
    agrees((m.confidence(bicubic) * 0.03 + 1) / 2, G["confidence_bicubic"])


def test_the_inputs_are_theirs(inputs):
    image, waves = inputs
    wave = fill.make_pcm("sslalign_released-wave-0", 48000, 16000) / 32768
    np.testing.assert_array_equal(waves[0], wave.astype(np.float32))
    for x, name in ((image.numpy(), "check_image"), (wave, "check_wave_0")):
        sums = x.astype(np.float64)
        found = [zlib.crc32(x.tobytes()), sums.sum(), (sums**2).sum(), x.size]
        np.testing.assert_allclose(found, G[name], rtol=1e-12)


def test_masks_as_their_former_evaluation_scores_them():
    """Of an empty mask theirs predicts next to nothing in the adaptive form, ours nothing."""
    draws = [
        fill.rng(f"sslalign_released-seg-{x}").integers(0, 256, (23, 8, 8)).astype(np.uint8)
        for x in ("grid", "mask")
    ]
    grid = ((draws[0].astype(int) + 2 * draws[1]) // 3).astype(np.uint8)
    maps = np.stack([fill.make_heatmap(x) for x in grid])
    masks = np.stack([fill.make_heatmap(x) > 0.45 + 0.04 * (i % 6) for i, x in enumerate(draws[1])])
    masks[[2, 7]] = False
    np.testing.assert_array_equal(masks.sum((1, 2)), G["seg_mask_pixels"])
    found = scoring.score_maps(maps, masks.astype(np.float32), masks.astype(np.float32))
    has_gt = masks.any((1, 2))
    np.testing.assert_allclose(found["mask_iou"], G["seg_iou"], atol=1e-6)
    adaptive = found["mask_iou_adaptive"]
    np.testing.assert_allclose(adaptive[has_gt], G["seg_iou_adaptive"][has_gt], atol=1e-6)
    assert (adaptive[~has_gt] == 1).all() and G["seg_iou_adaptive"][~has_gt].min() > 0.999
    batches = np.arange(23) // 8  # theirs: the mean over batches of means, the last is of 7
    for name, values in (("seg_miou", found["mask_iou"]), ("seg_miou_adaptive", adaptive)):
        means = [np.asarray(values)[batches == k].mean() for k in range(3)]
        # an empty mask scores 1 by ours, adaptively, and 0.9994 by theirs
        tolerance = 1e-6 if name == "seg_miou" else 1e-3
        assert np.mean(means) == pytest.approx(float(G[name]), abs=tolerance)
    assert m.best_f(found["mask_f"]) == pytest.approx(float(G["seg_f"]), abs=1e-6)
    assert m.best_f(found["mask_f_adaptive"]) == pytest.approx(float(G["seg_f_adaptive"]), abs=1e-6)


def test_what_is_not_used_is_listed_and_what_is_missing_is_named(released, tmp_path):
    path, predictor = released
    unused = predictor.note.split("not used: ")[1]
    assert "imgnet.conv1_a.weight, imgnet.conv1_flow.weight, imgnet.fc.bias" in unused
    assert "audnet.conv1.weight" in unused and len(unused.split(", ")) == 8
    assert not {"visual_projected"} & set(
        predictor.predict(
            Batch([np.zeros((40, 60, 3), np.uint8)], {"matched": torch.ones(1, 512)})
        ).features
    )
    saved = torch.load(path, weights_only=True)
    del saved["model_state_dict"]["audnet.conv1_a.weight"]
    torch.save(saved, tmp_path / "a.pth.tar")
    with pytest.raises(InputError, match=r"1 missing or .* \(audnet.conv1_a.weight\)"):
        evaluate.load_predictor(tmp_path / "a.pth.tar", torch.device("cpu"), is_released=True)
    torch.save({"model": saved["model_state_dict"]}, tmp_path / "b.pth.tar")
    with pytest.raises(InputError, match="no state_dict under 'model_state_dict'"):
        evaluate.load_predictor(tmp_path / "b.pth.tar", torch.device("cpu"), is_released=True)


def test_a_released_file_localizes_from_the_command_line(released, tmp_path, capsys):
    rng = np.random.default_rng(0)
    write_image(tmp_path / "a.png", rng.integers(0, 256, (60, 90, 3)).astype(np.uint8))
    write_audio(tmp_path / "a.wav", rng.uniform(-0.3, 0.3, 16000).astype(np.float32), 16000)
    out = tmp_path / "found.png"
    localize.main(
        f"--released {released[0]} --image {tmp_path / 'a.png'} --audio {tmp_path / 'a.wav'} "
        f"--out {out} --device cpu".split()
    )
    found = read_json(out.with_suffix(".json"))
    assert out.is_file() and found["boxes"] and "a.wav" in capsys.readouterr().out
    write_image(tmp_path / "b.png", np.zeros((30, 30, 3), np.uint8))
    localize.main(  # by backbone features, as there are no projections
        f"--released {released[0]} --image {tmp_path / 'a.png'} --audio {tmp_path / 'a.wav'} "
        f"--search {tmp_path} --out {tmp_path / 'new' / 'c.png'} --device cpu".split()
    )
    assert "b.png (" in capsys.readouterr().out and (tmp_path / "new" / "c.png").is_file()
