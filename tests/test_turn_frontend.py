"""turn/backbones/frontend.py against the released code's spectrograms, and the laws of masking."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.io import fit, resample
from tests.goldens import fill
from turn.backbones.frontend import log_mel, mel_filterbank, spec_augment

GOLDEN = np.load(Path(__file__).parent / "goldens" / "melspec_turn.npz")


def full():
    return torch.from_numpy(fill.make_pcm("turn-full-0", 220500, 22050) / 32768).float()


def short_stereo():
    channels = np.stack([fill.make_pcm(f"turn-short_stereo-{i}", 68800, 16000) for i in range(2)])
    return fit(resample(torch.from_numpy(channels / 32768).float(), 16000, 22050), 220500)


def assert_mel(logmel, golden):
    mel = logmel.double().exp().numpy() - 1e-7
    np.testing.assert_allclose(mel, golden, rtol=1e-4, atol=1e-3)


def test_released_numbers_with_the_filterbank_for_16000_hz():
    ours = log_mel(full().clamp(-1, 1), 22050, filterbank_rate=16000)
    assert ours.shape == (216, 128) and ours.dtype == torch.float32
    np.testing.assert_allclose(ours, GOLDEN["full_logmel_caption"], rtol=0, atol=1e-3)
    assert_mel(ours[::4], GOLDEN["full_mel_localization"])


def test_the_filterbank_for_the_real_rate_is_the_default():
    ours = log_mel(full().clamp(-1, 1), 22050)
    np.testing.assert_allclose(
        ours[::4], GOLDEN["full_logmel_if_filterbank_were_22050"], rtol=0, atol=1e-3
    )


def test_short_stereo_resampled_and_repeated():
    stereo = short_stereo()
    mono = log_mel(stereo.mean(0).clamp(-1, 1), 22050, filterbank_rate=16000)
    assert_mel(mono[::4], GOLDEN["short_stereo_mel_localization"])
    both = log_mel(stereo.clamp(-1, 1), 22050, filterbank_rate=16000)
    assert both.shape == (2, 216, 128)
    golden = GOLDEN["short_stereo_logmel_caption_ch0"]
    assert_mel(both[0, ::4], np.exp(golden))
    # Above 8 kHz there is only what the resampler's filter leaks. torchaudio rounds that filter's
    # phases to float32, which moves the samples by 2e-6 and these bands by 2e-3; ours are float64.
    np.testing.assert_allclose(both[0, ::4, :112], golden[:, :112], rtol=0, atol=1e-3)
    np.testing.assert_allclose(both[0, ::4], golden, rtol=0, atol=3e-3)


def test_filterbank():
    np.testing.assert_allclose(
        mel_filterbank(2048, 128, 16000), GOLDEN["mel_filterbank"], rtol=0, atol=2e-5
    )


def test_against_a_naive_spectrogram():
    """A small front end frame by frame, with numpy's FFT."""
    wave = np.random.default_rng(0).uniform(-1, 1, 4000)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    padded = np.pad(wave, 256, mode="reflect")
    frames = [
        np.abs(np.fft.rfft(window * padded[i : i + 512])) ** 2
        for i in range(0, len(padded) - 511, 256)
    ]
    expected = np.log(np.array(frames) @ mel_filterbank(512, 64, 16000) + 1e-7)
    ours = log_mel(torch.from_numpy(wave), 16000, n_fft=512, hop=256, n_mels=64)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)


def test_batch_equals_single_and_silence_is_finite():
    waves = torch.randn(2, 3, 4096, generator=torch.Generator().manual_seed(0))
    waves[1, 1] = 0
    batch = log_mel(waves, 16000, n_fft=512, hop=256, n_mels=64)
    assert batch.shape == (2, 3, 17, 64) and batch.isfinite().all()
    torch.testing.assert_close(
        batch[0, 2], log_mel(waves[0, 2], 16000, n_fft=512, hop=256, n_mels=64)
    )
    torch.testing.assert_close(batch[1, 1], torch.full((17, 64), float(np.log(1e-7))))


def test_constants_made_in_inference_mode_can_be_trained_with():
    options = {"n_fft": 256, "hop": 128, "n_mels": 16}
    wave = torch.randn(2000)
    with torch.inference_mode():
        log_mel(wave, 11025, **options)
    wave.requires_grad_()
    log_mel(wave, 11025, **options).sum().backward()
    assert wave.grad.isfinite().all()


def test_autocast_keeps_float32():
    wave = torch.randn(2000)
    options = {"n_fft": 256, "hop": 128, "n_mels": 16}
    with torch.autocast("cpu", torch.bfloat16):
        cast = log_mel(wave, 8000, **options)
    assert torch.equal(cast, log_mel(wave, 8000, **options))


def test_spec_augment_masks_stripes_with_zero():
    logmel = torch.full((216, 128), -3.0)
    widths = []
    for seed in range(200):
        masked = spec_augment(logmel, np.random.default_rng(seed))
        assert torch.equal(logmel, torch.full((216, 128), -3.0))  # the input is not touched
        assert set(masked.unique().tolist()) <= {0.0, -3.0}
        rows, columns = (masked == 0).all(1), (masked == 0).all(0)
        assert torch.equal(
            masked == 0, rows[:, None] | columns
        )  # whole frames and whole mels, nothing else
        for line in rows, columns:
            starts = int((line[1:] & ~line[:-1]).sum() + line[0])
            assert starts <= 2
        widths.append((rows.sum().item(), columns.sum().item()))
    widths = np.array(widths)
    assert widths.max(0)[0] > 63 and widths.max(0)[1] > 7 and np.all(widths.max(0) <= (126, 14))
    assert np.all(np.abs(widths.mean(0) - (2 * 31.5 * 0.9, 2 * 3.5)) < (6, 1))


@pytest.mark.parametrize("shape", [(1, 1), (10, 4)])
def test_spec_augment_of_a_map_smaller_than_its_stripes(shape):
    for seed in range(20):
        assert spec_augment(torch.ones(shape), np.random.default_rng(seed)).shape == shape


def test_spec_augment_follows_the_generator():
    logmel = torch.ones(216, 128)
    a, b, c = (spec_augment(logmel, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
