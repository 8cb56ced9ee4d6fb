"""sslalign/frontend.py against the published spectrograms, and the laws of what is heard."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from common.io import crop_audio
from sslalign.backbones.frontend import log_spectrogram
from tests.goldens import fill

GOLDEN = np.load(Path(__file__).parent / "goldens" / "logspec_ezvsl.npz")
SILENCE = float(np.log(1e-7)) / 12


def wave(tag, scale):
    rate = 22050 if tag == "22050" else 16000
    pcm = fill.make_pcm(f"logspec-{tag}", int(GOLDEN[f"{tag}_samples"][0]), rate)
    return torch.from_numpy(pcm / scale).float(), rate


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 4


def assert_golden(ours, name, step):
    assert (1, *ours.shape) == tuple(GOLDEN[f"{name}_shape"]) and ours.dtype == torch.float32
    for axis, key in (1, "time"), (0, "freq"):
        if f"{name}_mean_over_{key}_f64" in GOLDEN:
            np.testing.assert_allclose(
                ours.double().mean(axis), GOLDEN[f"{name}_mean_over_{key}_f64"], rtol=0, atol=1e-5
            )
    if step:
        np.testing.assert_allclose(ours[:, ::step], GOLDEN[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("tag", ["long", "short"])
def test_released_numbers_of_our_own_path(tag):
    waveform, rate = wave(tag, 32768)
    assert_golden(log_spectrogram(crop_audio(waveform, rate)), f"{tag}_sslalign_lvs", 8)
    assert_golden(
        log_spectrogram(crop_audio(waveform, rate, clip=5)), f"{tag}_sslalign_lvs_5s", None
    )


@pytest.mark.parametrize("tag, clip", [("long", 10), ("short", 3), ("22050", 10)])
def test_released_numbers_of_ezvsl(tag, clip):
    """Its three seconds are in the middle of the file: a clip as long as the file."""
    waveform, rate = wave(tag, 32767)
    assert len(waveform) == clip * rate
    assert_golden(
        log_spectrogram(crop_audio(waveform, rate, clip=clip), rate, hop=238),
        f"{tag}_ezvsl",
        6 if tag == "22050" else 4,
    )


@pytest.mark.parametrize("window, hop", [(64, 20), (65, 65)])  # an odd window has no Nyquist bin
def test_against_a_naive_spectrogram(window, hop):
    waveform = np.random.default_rng(0).normal(0.3, 0.2, 700)
    taper = np.ones(window)
    for n in range(window):
        for distance in n, window - n:
            if distance < window / 8:
                taper[n] = 0.5 - 0.5 * np.cos(np.pi * distance / (window / 8))
    rows = []
    for i in range(0, len(waveform) - window + 1, hop):
        segment = waveform[i : i + window] - waveform[i : i + window].mean()
        density = abs(np.fft.rfft(segment * taper)) ** 2 / (8000 * sum(taper**2))
        density[1 : -1 if window % 2 == 0 else None] *= 2
        rows.append(np.log(density + 1e-7) / 12)
    ours = log_spectrogram(torch.from_numpy(waveform), 8000, window=window, hop=hop)
    np.testing.assert_allclose(ours, np.array(rows).T, rtol=0, atol=1e-5)


def test_the_power_is_that_of_the_sound():
    """A density integrates to the variance (Parseval)."""
    density = (log_spectrogram(noise(16000)) * 12).double().exp() - 1e-7
    assert float(density.sum(0).mean() * 16000 / 512) == pytest.approx(1 / 16, rel=0.05)


def test_batch_equals_single_on_any_leading_axes():
    waveforms = noise(2, 3, 4096)
    batch = log_spectrogram(waveforms)
    assert batch.shape == (2, 3, 257, 23)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(
                batch[i, j], log_spectrogram(waveforms[i, j]), rtol=0, atol=1e-6
            )


def test_gain_offset_and_silence():
    waveform = noise(4096)
    once, twice = log_spectrogram(waveform), log_spectrogram(2 * waveform)
    power = (once * 12).exp() - 1e-7
    torch.testing.assert_close(twice, torch.log(4 * power + 1e-7) / 12, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        log_spectrogram(waveform + 0.5), once, rtol=0, atol=2e-3
    )  # segments are freed of their mean
    for constant in 0.0, 0.5:
        torch.testing.assert_close(
            log_spectrogram(torch.full((1024,), constant)), torch.full((257, 4), SILENCE)
        )


def test_gradient_also_after_inference_mode():
    options = {"sample_rate": 11025, "window": 256, "hop": 100}
    waveform = noise(2000)
    with torch.inference_mode():
        log_spectrogram(waveform, **options)
    waveform.requires_grad_()
    log_spectrogram(waveform, **options).sum().backward()
    assert waveform.grad.isfinite().all() and waveform.grad.abs().max() > 0
    direction, step = noise(2000, seed=1), 1e-3
    ahead, behind = (
        log_spectrogram((waveform + s * direction).detach(), **options).double().sum()
        for s in (step, -step)
    )
    assert float(waveform.grad @ direction) == pytest.approx(
        float(ahead - behind) / (2 * step), rel=0.02
    )


def test_autocast_keeps_float32_and_a_short_waveform_is_an_error():
    waveform = noise(2000)
    with torch.autocast("cpu", torch.bfloat16):
        cast = log_spectrogram(waveform)
    assert cast.dtype == torch.float32 and torch.equal(cast, log_spectrogram(waveform))
    with pytest.raises(RuntimeError):
        log_spectrogram(waveform[:511])


class Dtypes(TorchDispatchMode):
    """Collects the dtypes of whatever operations give."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.seen |= {result.dtype} if isinstance(result, torch.Tensor) else set()
        return result


def test_nothing_is_computed_in_double_precision():
    waveform = noise(4096)
    log_spectrogram(waveform)  # the window, once
    with Dtypes() as used:
        log_spectrogram(waveform)
    assert used.seen == {torch.float32, torch.complex64}


def test_the_three_seconds():
    ramp = torch.arange(160000) / 160000
    for clip, first in (10, 56000), (5, 16000):
        assert torch.equal(crop_audio(ramp, 16000, clip=clip), ramp[first : first + 48000])
    short = noise(20000).clamp(-1, 1)
    assert torch.equal(crop_audio(short, 16000), short.repeat(8)[56000:104000])
    assert crop_audio(torch.tensor([-7.0, 0.5, 7]), 2).tolist() == [
        0.5,
        1,
        -1,
        0.5,
        1,
        -1,
    ]  # samples 7 to 12 of 20, clipped
    stereo = noise(2, 20000).clamp(-1, 1)
    assert torch.equal(crop_audio(stereo, 16000)[1], crop_audio(stereo[1], 16000))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3000),
    st.sampled_from([100, 101, 220]),
    st.floats(0.5, 10),
    st.floats(0.05, 1),
    st.floats(-20, 20),
)
def test_the_excerpt_is_a_moved_part_of_the_clip(n, rate, clip, share, shift):
    waveform, crop = torch.arange(n) / n, share * clip
    ours = crop_audio(waveform, rate, clip, crop, shift)
    length, total = round(crop * rate), round(clip * rate)
    assert len(ours) == length
    whole = waveform.repeat(-(-total // n))[:total]
    places = (whole.unfold(0, length, 1) == ours).all(1).nonzero()[:, 0]
    expected = min(max(0.0, ((clip - crop) / 2 + shift) * rate), total - length)
    assert (places - expected).abs().min() <= 1


def test_shift_stops_at_the_ends_and_moves_by_seconds():
    ramp = torch.arange(160000) / 160000
    for shift, first in (0.25, 60000), (-0.25, 52000), (99, 112000), (-99, 0):
        assert torch.equal(crop_audio(ramp, 16000, shift=shift), ramp[first : first + 48000])


@pytest.mark.parametrize("n, clip, crop", [(0, 10, 3), (100, 2, 3), (100, 2, 0)])
def test_no_excerpt(n, clip, crop):
    with pytest.raises(ValueError):
        crop_audio(torch.zeros(n), 16000, clip, crop)
