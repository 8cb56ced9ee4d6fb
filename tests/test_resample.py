"""common.io.resample: resampling against the formula, sines and torchaudio's output; fit."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.io import crop_audio, fit, resample
from tests.goldens import fill

GOLDENS = Path(__file__).parent / "goldens"


def tone(frequency, rate, seconds=0.5, dtype=torch.float64):
    return torch.sin(
        2 * math.pi * frequency * torch.arange(round(rate * seconds), dtype=torch.float64) / rate
    ).to(dtype)


def power(x):
    return 10 * math.log10(x[len(x) // 4 : -len(x) // 4].square().mean().item())


RATES = [
    (44100, 16000),
    (16000, 44100),
    (22050, 32000),
    (48000, 16000),
    (8000, 22050),
    (96000, 22050),
    (11025, 16000),
    (44101, 16000),
    (16000, 22051),
]


@pytest.mark.parametrize("old, new", RATES)
def test_resampled_sine_is_the_sine_at_the_other_rate(old, new):
    frequency = 0.2 * min(old, new)
    y, want = resample(tone(frequency, old), old, new), tone(frequency, new)
    middle = slice(len(want) // 10, -len(want) // 10)
    n = min(len(y), len(want))
    assert abs(len(y) - len(want)) <= 1
    assert (y[:n] - want[:n])[middle].abs().max() < 2e-3


@pytest.mark.parametrize(
    "old, new", [(44100, 16000), (48000, 16000), (96000, 22050), (44101, 16000)]
)
def test_nothing_folds_back_from_above_the_new_nyquist(old, new):
    assert (
        power(resample(tone(0.62 * new, old), old, new)) < -43
    )  # a sine has -3 dB: 40 dB below it
    assert power(resample(tone(0.35 * new, old), old, new)) > -3.1


@pytest.mark.parametrize("old, new", RATES)
def test_a_constant_stays_and_the_length_is_rounded_up(old, new):
    y = resample(torch.ones(old // 4 + 1, dtype=torch.float64), old, new)
    assert len(y) == math.ceil((old // 4 + 1) * new / old)
    assert (y[len(y) // 4 : -len(y) // 4] - 1).abs().max() < 2e-3


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 300), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_resampling_is_the_sum_that_the_formula_says(old, new, n, seed):
    x = np.random.default_rng(seed).standard_normal((2, n))
    length = -(-n * new // old)
    cutoff = 0.99 * min(old, new)
    t = (
        np.arange(n)[None] / old - np.arange(length)[:, None] / new
    ) * cutoff  # (length, n), at any gcd: seconds are seconds
    kernel = np.where(abs(t) < 6, np.sinc(t) * np.cos(np.pi * t / 12) ** 2, 0) * cutoff / old
    want = x @ kernel.T if old != new else x
    got = resample(torch.from_numpy(x), old, new)
    assert got.shape == (2, length) and np.abs(got.numpy() - want).max() < 1e-9
    both = resample(torch.from_numpy(x[0] + 3 * x[1]), old, new)
    assert torch.allclose(both, got[0] + 3 * got[1], atol=1e-9)  # linear, and rows do not mix


def test_another_filter_is_the_one_asked_for():
    x, zeros, rolloff, beta = np.random.default_rng(0).standard_normal(300), 9.5, 0.9, 7.0
    t = (
        (np.arange(300)[None] / 3 - np.arange(200)[:, None] / 2) * rolloff * 2
    )  # (200, 300), in zero crossings
    kaiser = np.where(
        abs(t) < zeros, np.i0(beta * np.sqrt(np.maximum(0, 1 - (t / zeros) ** 2))) / np.i0(beta), 0
    )
    got = resample(torch.from_numpy(x), 3, 2, zeros=zeros, rolloff=rolloff, beta=beta).numpy()
    assert np.abs(got - (np.sinc(t) * kaiser * rolloff * 2 / 3) @ x).max() < 1e-6


def test_long_waveforms_are_multiplied_in_parts_without_a_seam():
    x = torch.randn(2, 700001, generator=torch.Generator().manual_seed(0))
    y, late = resample(x, 3, 2), resample(x[:, 450000:], 3, 2)
    assert y.shape == (2, 466668) and torch.allclose(y[:, 300050:], late[:, 50:], atol=1e-6)


def test_torchaudio_as_turn_uses_it():
    golden = np.load(GOLDENS / "melspec_turn.npz")
    x = torch.stack(
        [
            torch.from_numpy(fill.make_pcm(f"turn-short_stereo-{c}", 68800, 16000) / 32768).float()
            for c in (0, 1)
        ]
    )
    y = resample(x, 16000, 22050).numpy()
    assert y.shape[1] == golden["short_stereo_resampled_len"][0]
    # torchaudio computes its filters in float32, we in float64: 3e-6 apart. A width of 7 would be
    # 4e-3 apart, a rolloff of 0.98 3e-3.
    assert np.abs(y[:, :400] - golden["short_stereo_resampled_head"]).max() < 5e-6
    assert np.abs(y[:, -400:] - golden["short_stereo_resampled_tail"]).max() < 5e-6


def test_resample_keeps_type_and_refuses_nonsense():
    assert resample(torch.zeros(0), 3, 2).shape == (0,)
    assert resample(torch.zeros(3, 0, 5), 3, 2).shape == (3, 0, 4)
    x = torch.rand(1000)
    with torch.inference_mode():
        resample(x, 7, 5)
    x.requires_grad_()
    resample(x, 7, 5).sum().backward()  # the cache is not poisoned by inference mode
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resample(x.detach(), 7, 5), resample(x.detach(), 7, 5).float())
        assert (resample(x.detach(), 7, 5) - resample(x.detach().double(), 7, 5)).abs().max() < 1e-5
    for rates in ((0, 1), (1, 0), (-1, 1)):
        with pytest.raises(ValueError):
            resample(x, *rates)
    with pytest.raises(ValueError):
        resample(torch.ones(9, dtype=torch.int16), 3, 2)


@given(st.integers(1, 50), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_fit(n, samples):
    x = torch.arange(2 * n).view(2, n)
    y = fit(x, samples)
    assert y.shape == (2, samples) and torch.equal(y[0], torch.arange(samples) % n)
    assert torch.equal(y[1], y[0] + n) and torch.equal(fit(y, samples), y)


def test_fit_and_crop_refuse_nonsense():
    for call in (
        lambda: fit(torch.zeros(2, 0), 3),
        lambda: crop_audio(torch.zeros(0), 100),
        lambda: crop_audio(torch.zeros(9), 100, clip=1, crop=2),
        lambda: crop_audio(torch.zeros(9), 100, crop=0),
    ):
        with pytest.raises(ValueError):
            call()
