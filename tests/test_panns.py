"""avkd/panns.py against the published PANNs, and its laws."""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from avkd.backbones import panns
from avkd.backbones.panns import Cnn14, mel_filterbank
from common.io import InputError
from common.io import load_published
from tests.goldens import fill

pytestmark = pytest.mark.slow

GOLDENS = Path(__file__).parent / "goldens"
RATES = {"cnn14": 32000, "cnn14_16k": 16000, "wavegram_logmel_cnn14": 32000}
WIDTHS = {"cnn14": 4, "cnn14_16k": 4, "wavegram_logmel_cnn14": 16}  # of narrow models
# Where a golden array lies: the module whose output it is, and what of it was kept.
STORED = {
    "conv_block1": ("conv_block1", np.s_[:, ::16, ::4, ::4]),
    "conv_block2": ("conv_block2", np.s_[:, ::16, ::4, ::2]),
    "conv_block4": ("conv_block4", np.s_[:, ::16]),
    "conv_block6": ("conv_block6", np.s_[:, ::32]),
    "wavegram_pre_bn0": ("pre_bn0", np.s_[:, ::8, ::32]),
    "wavegram_pre_block3": ("pre_block3", np.s_[:, ::8, ::4]),
}


def new(name="cnn14"):
    return getattr(panns, name)(width=WIDTHS[name], classes=5)


def small(name="cnn14"):
    """A narrow model with statistics and biases that are not those of a new one."""
    model = new(name).eval()
    model.load_state_dict(fill.fill_state_dict(model.state_dict()))
    return model


def waveforms(name, count=2, samples=None):
    """(count, samples) in [-1, 1]; the goldens' own second of audio if samples is None."""
    pcm = [
        fill.make_pcm(f"{name}-wave-{i}", samples or RATES[name], RATES[name]) for i in range(count)
    ]
    return torch.from_numpy(np.stack(pcm)) / 32768


def assert_golden(value, expected, name):
    value = value.numpy()
    assert value.shape == expected.shape, name
    assert np.abs(value - expected).max() <= 2e-5 * np.abs(expected).max(), name


# The published files ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", RATES)
def test_golden(name):
    """Not by way of a file, which would be of 330 MB: the narrow models below are."""
    model = getattr(panns, name)().eval()
    model.load_state_dict(fill.fill_state_dict(model.state_dict()))
    golden, seen = np.load(GOLDENS / f"{name}.npz"), {}
    hooks = [
        getattr(model, part).register_forward_hook(
            lambda _, __, out, key=key, kept=kept: seen.update({key: out[kept].clone()})
        )
        for key, (part, kept) in STORED.items()
        if hasattr(model, part)
    ]
    with torch.no_grad():
        seen.update(model(waveforms(name)))
        assert torch.equal(model(waveforms(name))["embedding"], seen["embedding"])
    assert len(hooks) == len(seen) - 3
    assert np.abs(seen.pop("logmel").numpy() - golden["logmel"]).max() < 1e-3  # dB
    of_the_front_end = {
        "logmel",
        "melW",
        "stft_rows",
        "conv_real_rows",
        "conv_imag_rows",
        "check_waves",
        "waves_pcm",
    }
    assert set(seen) == set(golden.files) - of_the_front_end  # all are compared, here or below
    for key, value in seen.items():
        assert_golden(value, golden[key], key)


@pytest.mark.parametrize("name", RATES)
def test_golden_front_end(name):
    model, golden, waves = new(name), np.load(GOLDENS / f"{name}.npz"), waveforms(name)
    if "waves_pcm" in golden:
        assert np.array_equal(waves * 32768, golden["waves_pcm"])
    logmel = model.log_mel(waves).numpy()
    assert (
        logmel.shape == golden["logmel"].shape and np.abs(logmel - golden["logmel"]).max() < 1e-3
    )  # dB
    assert_golden(model.logmel_extractor.melW, golden["melW"], "melW")
    for part in ("conv_real", "conv_imag"):
        kernels = model.spectrogram_extractor["stft"][part].weight
        assert_golden(kernels[golden["stft_rows"], 0], golden[f"{part}_rows"], part)


@pytest.mark.parametrize(
    "name, parameters",
    [  # the counts of the PANNs paper; 16 kHz changes the front end alone
        ("cnn14", 80_753_615),
        ("cnn14_16k", 80_753_615),
        ("wavegram_logmel_cnn14", 81_065_487),
    ],
)
def test_published_keys_are_all_and_only_ours(name, parameters):
    with torch.device("meta"):
        model = getattr(panns, name)()
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == json.loads(
        (GOLDENS / f"{name}.keys.json").read_text()
    )
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_load_is_strict(tmp_path):
    path, state = tmp_path / "panns.pth", small().state_dict()
    torch.save({"model": state}, path)
    assert torch.equal(load_published(new(), path, key="model").fc1.weight, state["fc1.weight"])
    del state["logmel_extractor.melW"], state["conv_block3.bn2.running_var"]
    state |= {"fc_transfer.bias": torch.zeros(5), "bn0.weight": torch.zeros(32)}
    torch.save({"model": state}, path)
    with pytest.raises(InputError) as error:
        load_published(new(), path, key="model")
    text = str(error.value)
    assert (
        "2 missing (logmel_extractor.melW, conv_block3.bn2.running_var)" in text
        and "1 extra (fc_transfer.bias)" in text
    )
    assert "1 misshapen (bn0.weight (32,) for (64,))" in text and "panns.pth" in text
    torch.save(state, path)
    with pytest.raises(InputError, match="no state_dict under 'model'"):
        load_published(new(), path, key="model")


def test_a_file_for_another_rate_is_refused(tmp_path):
    torch.save({"model": small("cnn14_16k").state_dict()}, tmp_path / "panns.pth")
    with pytest.raises(
        InputError,
        match=r"3 misshapen \(spectrogram_extractor\.stft\.conv_real\.weight \(257, 1, 512\) for",
    ):
        load_published(new(), tmp_path / "panns.pth", key="model")


# The front end ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rate, window, mels, fmin, fmax",
    [(32000, 1024, 64, 50, 14000), (16000, 512, 64, 50, 8000), (8000, 256, 32, 0, 900)],
)
def test_mel_filterbank_against_a_loop(rate, window, mels, fmin, fmax):
    def mel(hz):
        return hz * 15 / 1000 if hz <= 1000 else 15 + 27 * math.log(hz / 1000, 6.4)

    def inverse(m):  # by bisection, so that the inverse formula is checked as well
        low, high = 0.0, 20000.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if mel(middle) < m else (low, middle)
        return low

    ours = mel_filterbank(rate, window, mels, fmin, fmax)
    assert ours.shape == (window // 2 + 1, mels)
    for m in range(mels):
        low, peak, high = (
            inverse(mel(fmin) + (mel(fmax) - mel(fmin)) * (m + i) / (mels + 1)) for i in range(3)
        )
        for k in range(window // 2 + 1):
            f = k * rate / window
            height = (
                (f - low) / (peak - low)
                if low < f <= peak
                else (high - f) / (high - peak)
                if peak < f < high
                else 0
            )
            assert abs(ours[k, m] - height * 2 / (high - low)) < 1e-9


def test_the_fft_is_the_convolution_with_the_files_kernels():
    model, waves = small(), waveforms("cnn14")
    stft = model.spectrogram_extractor["stft"]
    for scale in (1.0, 0.5):  # the window is the file's own
        for kernel in stft.values():
            kernel.weight *= scale
        padded = F.pad(waves[:, None], (512, 512), mode="reflect")
        power = sum(
            F.conv1d(padded, kernel.weight, stride=320).square() for kernel in stft.values()
        )
        mel = torch.einsum("bft,fm->btm", power, model.logmel_extractor.melW)
        expected = 10 * mel.clamp(min=1e-10).log10()[:, None]
        assert (model.log_mel(waves) - expected).abs().max() < 1e-3


def test_a_tone_is_at_its_frequency_and_time():
    t = torch.arange(32000) / 32000
    wave = torch.sin(2 * math.pi * 1000 * t) * ((t >= 0.5) & (t < 0.7))  # frames 50 to 69
    logmel = small().log_mel(wave[None])[0, 0]
    assert int(logmel[60].argmax()) == int(
        mel_filterbank(32000, 1024, 64, 50, 14000)[32].argmax()
    )  # bin 32: 1000 Hz
    loud = (logmel.amax(1) > logmel.max() - 3).nonzero()
    assert 50 <= loud.min() <= 51 and 68 <= loud.max() <= 70
    assert (logmel[:47] == -100).all()


def test_autocast_leaves_the_front_end_alone():
    model, waves = small(), waveforms("cnn14")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logmel, low = model.log_mel(waves), model(waves)["embedding"]
    assert torch.equal(logmel, model.log_mel(waves))
    assert torch.allclose(low.float(), model(waves)["embedding"], atol=0.03 * float(low.max()))


# The network --------------------------------------------------------------------------------------


def test_cnn14_against_plain_functions():
    model, waves = small(), waveforms("cnn14")
    state = model.state_dict()

    def norm(x, name):
        weight, bias, mean, var = (
            state[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias  # channels last

    x = norm(model.log_mel(waves), "bn0")
    for i in range(1, 7):
        for j in (1, 2):
            x = F.conv2d(x, state[f"conv_block{i}.conv{j}.weight"], padding=1)
            x = norm(x.permute(0, 2, 3, 1), f"conv_block{i}.bn{j}").permute(0, 3, 1, 2).relu()
        if i < 6:
            x = (
                x[:, :, : x.shape[2] // 2 * 2]
                .unflatten(2, (-1, 2))
                .unflatten(4, (-1, 2))
                .mean((3, 5))
            )
    x = torch.stack(
        [
            sum(frames.mean(1) for frames in one.unbind(1)) / one.shape[1] + one.mean(2).amax(1)
            for one in x
        ]
    )
    embedding = F.linear(x, state["fc1.weight"], state["fc1.bias"]).clamp(min=0)
    scores = 1 / (
        1 + (-F.linear(embedding, state["fc_audioset.weight"], state["fc_audioset.bias"])).exp()
    )
    with torch.no_grad():
        ours = model(waves)
    assert ours["embedding"].shape == (2, model.embedding_size) and ours[
        "clipwise_output"
    ].shape == (2, 5)
    assert torch.allclose(ours["embedding"], embedding, atol=1e-5) and torch.allclose(
        ours["clipwise_output"], scores, atol=1e-5
    )


@pytest.mark.parametrize("name", ["cnn14", "wavegram_logmel_cnn14"])
def test_batch_is_each_sound_alone(name):
    model, waves = small(name), waveforms(name, 3, 24000)
    with torch.no_grad():
        together = model(waves)
        for i in range(3):
            for key, value in model(waves[i : i + 1]).items():
                assert torch.allclose(together[key][i], value[0], atol=1e-6), key


@pytest.mark.parametrize("name", RATES)
def test_silence_and_full_scale_are_finite(name):
    model = small(name)
    waves = torch.stack(
        [torch.zeros(16000), torch.ones(16000), torch.ones(16000) * (-1.0) ** torch.arange(16000)]
    )
    assert torch.equal(
        model.log_mel(waves[:1]), torch.full((1, 1, 16000 // model.hop + 1, 64), -100.0)
    )
    with torch.no_grad():
        out = model(waves)
    assert all(value.isfinite().all() for value in out.values())
    assert (
        out["embedding"].min() == 0
        and out["clipwise_output"].min() >= 0
        and out["clipwise_output"].max() <= 1
    )


@pytest.mark.parametrize("name", RATES)
def test_every_parameter_is_used(name):
    model = small(name).train()
    model(waveforms(name))["clipwise_output"].sum().backward()
    assert [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ] == []
    assert not any(
        n.startswith(("spectrogram_extractor", "logmel_extractor"))
        for n, _ in model.named_parameters()
    )


shared = cache(small)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1500), st.sampled_from(["cnn14", "wavegram_logmel_cnn14"]))
def test_any_length_from_the_least(more, name):
    model = shared(name)
    waves = waveforms(name, 1, model.min_samples + more)
    with torch.no_grad():
        assert model(waves)["embedding"].shape == (1, model.embedding_size)
        if (
            name == "wavegram_logmel_cnn14"
        ):  # a frame that only the log-mel has is left out at the end
            logmel = model.log_mel(waves)
            both, x = model.stem(waves, logmel), Cnn14.stem(model, waves, logmel)
            assert 0 <= x.shape[2] - both.shape[2] <= 1 and torch.equal(
                both[:, :16], x[:, :, : both.shape[2]]
            )


@pytest.mark.parametrize("name", RATES)
def test_too_short_a_sound_is_an_error(name):
    model = small(name)
    for samples in (0, 1, 600, model.min_samples - 1):
        with pytest.raises(ValueError, match=f"{samples} samples is too short"):
            model(torch.zeros(1, samples))
