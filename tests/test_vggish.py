"""stmnet/backbones/vggish.py against the published VGGish, and its laws."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.io import InputError
from common.io import load_published
from stmnet.backbones.vggish import VGGish, _constants, log_mel, mel_filterbank, patches, vggish
from tests.goldens import fill

GOLDENS = Path(__file__).parent / "goldens"
GOLDEN = np.load(GOLDENS / "vggish.npz")
KEYS = json.loads((GOLDENS / "vggish.keys.json").read_text())
SILENCE = math.log(0.01)


def wave():
    return torch.from_numpy(GOLDEN["wave_pcm"] / 32768).float()


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 4


def assert_golden(ours, name, tolerance=2e-5):
    assert ours.shape == GOLDEN[name].shape and ours.dtype == torch.float32
    assert np.abs(ours.numpy() - GOLDEN[name]).max() <= tolerance * np.abs(GOLDEN[name]).max(), name


def published(names):
    return {k: torch.from_numpy(fill.fill_array(k, KEYS[k])) for k in names}


# The front end ------------------------------------------------------------------------------------


def test_golden_examples():
    assert (GOLDEN["wave_pcm"] == fill.make_pcm("vggish-wave", 40000, 16000)).all()
    assert_golden(patches(wave()), "examples")


def test_golden_examples_of_stereo_at_22050():
    """Stated tolerance 5e-2, for another resampler; ours has the same filter."""
    stereo = np.stack([fill.make_pcm(f"vggish-stereo-{i}", 26460, 22050) for i in (0, 1)]) / 32768
    ours = patches(torch.from_numpy(stereo).float().mean(0), 22050).numpy()
    difference = np.abs(ours - GOLDEN["examples_from_stereo_22050"])
    assert ours.shape == (1, 1, 96, 64)
    assert difference.max() < 2e-3


def test_mel_filterbank_against_a_loop():
    def mel(hertz):
        return 2595 * math.log10(1 + hertz / 700)

    step = (mel(7500) - mel(125)) / 65
    filters = mel_filterbank()
    assert filters.shape == (257, 64)
    for i in range(257):
        for band in range(64):
            distance = abs(mel(i * 8000 / 256) - (mel(125) + (band + 1) * step)) / step
            expected = max(0, 1 - distance) if i else 0  # the published code empties the bin of DC
            assert (
                abs(filters[i, band] - expected) < 2e-5
            )  # 1127 for 2595 / ln 10, as published, is 1127.01


def test_log_mel_against_a_naive_spectrogram():
    sound = noise(1234).double().numpy()
    rows = []
    for start in range(0, len(sound) - 400 + 1, 160):
        frame = [
            sound[start + n] * (0.5 - 0.5 * math.cos(2 * math.pi * n / 400)) for n in range(400)
        ]
        rows.append(np.log(abs(np.fft.rfft(frame, 512)) @ mel_filterbank() + 0.01))
    np.testing.assert_allclose(log_mel(torch.from_numpy(sound)), rows, rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3 * 16000))
def test_number_of_examples(n):
    frames = len([start for start in range(0, n, 160) if start + 400 <= n])
    if frames < 96:
        with pytest.raises(
            ValueError, match="shorter than one frame" if frames == 0 else "less than one example"
        ):
            patches(torch.zeros(n))
    else:
        examples = patches(torch.zeros(n))
        assert examples.shape == (frames // 96, 1, 96, 64)
        assert torch.allclose(examples, torch.tensor(SILENCE))


@pytest.mark.parametrize(
    "n, examples", [(15599, None), (15600, 1), (30959, 1), (30960, 2), (48000, 3)]
)
def test_number_of_examples_at_the_edges(n, examples):
    if examples is None:
        with pytest.raises(ValueError, match=r"95 frames .* needs 15600 samples at 16000 Hz"):
            patches(torch.zeros(n))
    else:
        assert len(patches(torch.zeros(n))) == examples


def test_examples_are_pieces_of_the_log_mel():
    sound = noise(40000)
    mel, examples = log_mel(sound), patches(sound)
    assert mel.shape == (248, 64) and torch.equal(mel[:192], examples.flatten(0, 2))


def test_batch_equals_one_at_a_time_on_any_leading_axes():
    sounds = noise(2, 3, 31000)
    batch = patches(sounds)
    assert batch.shape == (2, 3, 2, 1, 96, 64)
    for i in range(2):
        for j in range(3):
            assert torch.allclose(batch[i, j], patches(sounds[i, j]), atol=1e-5)


def test_a_tone_lights_its_band_with_its_amplitude():
    """Magnitude: twice the amplitude is log 2 more. Half a window's sum, 100, is the magnitude of a
    sine of amplitude 1."""
    t = torch.arange(16000) / 16000
    one, two = (log_mel(a * torch.sin(2 * math.pi * 1000 * t)) for a in (0.25, 0.5))
    centres = 700 * (10 ** ((np.linspace(150.4907, 2840.0377, 66)) / 2595) - 1)
    assert abs(centres[1:-1][int(one.mean(0).argmax())] - 1000) < 50
    peak = one.mean(0).argmax()
    assert torch.allclose((two - one)[:, peak], torch.tensor(math.log(2)), atol=1e-3)
    height = np.interp(1000, np.arange(257) * 31.25, mel_filterbank()[:, int(peak)])
    assert 0.25 * 100 * height * 0.8 < float(one[:, peak].exp().mean()) < 0.25 * 100 * 3


def test_other_rates_are_resampled_and_nonsense_is_refused():
    t = torch.arange(32000) / 32000
    sound = torch.sin(2 * math.pi * 440 * t)
    ours, expected = log_mel(sound, 32000), log_mel(torch.sin(2 * math.pi * 440 * t[::2]))
    assert (
        ours.shape == expected.shape == (98, 64)
        and ours.mean(0).argmax() == expected.mean(0).argmax()
    )
    assert torch.allclose(ours[5:-5].amax(1), expected[5:-5].amax(1), atol=5e-3)
    with pytest.raises(ValueError):
        patches(torch.zeros(48000, dtype=torch.int16))


def test_autocast_and_inference_mode_change_nothing():
    sound = noise(16000).requires_grad_()
    _constants.cache_clear()
    with torch.inference_mode():
        expected = log_mel(noise(16000)).clone()
    with torch.autocast("cpu", torch.bfloat16):
        ours = log_mel(sound)
    assert torch.equal(ours, expected)
    ours.sum().backward()  # the cached window is not poisoned by inference mode
    assert sound.grad.isfinite().all() and sound.grad.abs().sum() > 0


# The network --------------------------------------------------------------------------------------


def test_names_are_the_published_ones():
    assert (
        list(VGGish((4, 4, 4, 4), hidden=4, outputs=4).state_dict()) == list(KEYS)
        and len(KEYS) == 18
    )


def test_golden_map_from_the_convolutions_of_the_file_alone(tmp_path):
    path = tmp_path / "vggish.pth"
    torch.save(
        published(k for k in KEYS if k.startswith("features."))
        | {"embeddings.4.bias": torch.zeros(128)},
        path,
    )
    model = VGGish(hidden=None).eval()
    assert not hasattr(model, "embeddings")
    load_published(model.features, path, prefix="features.")
    with torch.no_grad():
        assert_golden(model.features(patches(wave())), "features_512")
    with pytest.raises(InputError, match=r"5 missing \(embeddings.0.weight"):  # strict
        load_published(VGGish(hidden=8), path)


@pytest.mark.slow
def test_golden_embedding_from_the_whole_file(tmp_path):
    torch.save(published(KEYS), tmp_path / "vggish.pth")
    model = load_published(vggish(), tmp_path / "vggish.pth").eval()
    with torch.no_grad():
        examples = patches(wave())
        assert_golden(model.features(examples), "features_512")
        assert_golden(model(examples), "embedding_128")
        assert torch.allclose(model(examples[1:]), model(examples)[1:], atol=1e-6)
    compared = {
        "wave_pcm",
        "examples",
        "features_512",
        "embedding_128",
        "examples_from_stereo_22050",
    }
    assert set(GOLDEN.files) == compared | {
        "pca_uint8",
        "check_stereo_22050",
    }  # the post-processor is not here


def test_narrow_vggish_batch_and_flattening():
    torch.manual_seed(0)
    model, x = VGGish((4, 8, 8, 16), hidden=32, outputs=12).eval(), noise(3, 1, 96, 64)
    together = model(x)
    assert (
        model.channels == 16
        and model.features(x).shape == (3, 16, 6, 4)
        and together.shape == (3, 12)
    )
    assert (together >= 0).all() and (together == 0).any()  # ReLU after the last layer too
    for i in range(3):
        assert torch.allclose(model(x[i : i + 1])[0], together[i], atol=1e-5)
    first = model.embeddings[0]
    cells = model.features(x)
    naive = sum(
        cells[0, c, i, j] * first.weight[:, (i * 4 + j) * 16 + c]
        for i in range(6)
        for j in range(4)
        for c in range(16)
    )
    hidden = []
    first.register_forward_hook(lambda _, __, out: hidden.append(out))
    model(x)
    assert torch.allclose(hidden[0][0], naive + first.bias, atol=1e-5)


def test_short_segments_have_a_map_too():
    model = VGGish((4, 8, 8, 16), hidden=None)
    assert model.features(log_mel(noise(2, 1, 4000))).shape == (2, 16, 1, 4)  # 0.25 s


def test_narrow_vggish_starts_at_a_useful_size_and_trains():
    torch.manual_seed(0)
    model = VGGish((8, 8, 16, 16), hidden=None)
    x = patches(noise(8, 16000))[:, 0]
    assert 0.1 < model.features(x).std().item() < 10
    head, target = torch.nn.Linear(16, 2), torch.arange(8) % 2
    x[target == 1, :, :, 32:] -= 1
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], 3e-3)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(head(model.features(x).mean((2, 3))), target)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    assert loss < 0.1
