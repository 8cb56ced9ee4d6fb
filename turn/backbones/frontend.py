"""The audio front end: log-mel spectrograms and SpecAugment (appendix A.2.1)."""
from functools import lru_cache

import numpy as np
import torch


def log_mel(waveform: torch.Tensor, sample_rate: int, *, n_fft: int = 2048, hop: int = 1024, n_mels: int = 128,
            filterbank_rate: int | None = None) -> torch.Tensor:
    """Log-mel power spectrogram: (…, n) samples in [-1, 1] → (…, 1 + n // hop, n_mels), float32, on the waveform's device.

    Frames are centred, the ends reflected (so n must exceed n_fft / 2: torch raises RuntimeError otherwise); periodic Hann
    window, power 2, HTK mel triangles from 0 Hz to half of `filterbank_rate`, log(x + 1e-7). Ten seconds at 22 050 Hz give
    the paper's 216 × 128. `filterbank_rate` is the rate for which the triangles are laid out, `sample_rate` when None;
    16000 on 22 050 Hz audio gives the numbers of TURN's released code, which leaves its filterbank at that rate.
    """
    with torch.autocast(waveform.device.type, enabled=False):
        x = waveform.reshape(-1, waveform.shape[-1]).float()  # (N, n)
        window, filters = _constants(n_fft, n_mels, filterbank_rate or sample_rate, x.device)
        spectrum = torch.stft(x, n_fft, hop, window=window, center=True, pad_mode="reflect", return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()  # (N, n_fft // 2 + 1, frames)
        mel = power.transpose(1, 2) @ filters  # (N, frames, n_mels)
        return torch.log(mel + 1e-7).reshape(*waveform.shape[:-1], *mel.shape[1:])


def mel_filterbank(n_fft: int, n_mels: int, rate: int) -> np.ndarray:
    """(n_fft // 2 + 1, n_mels) triangles, linear in Hz, of height 1 (no area normalisation), at equal steps of HTK mel."""
    bins = np.linspace(0, rate / 2, n_fft // 2 + 1)[:, None]
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 1400), n_mels + 2) / 2595) - 1)
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    return np.maximum(0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a tensor made within inference_mode could never be used in training
def _constants(n_fft: int, n_mels: int, rate: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    filters = torch.from_numpy(mel_filterbank(n_fft, n_mels, rate)).float()
    return torch.hann_window(n_fft, device=device), filters.to(device)


def spec_augment(logmel: torch.Tensor, rng: np.random.Generator, time: int = 64, freq: int = 8,
                 stripes: int = 2) -> torch.Tensor:
    """A copy of `logmel` (frames, mels) with `stripes` stripes of frames and as many of mels set to 0 (Park et al. 2019).

    The width of a stripe is uniform below `time` or `freq`, its place uniform. 0 is the value that the released code puts into
    the log-mel; it is not silence, which is log(1e-7).
    """
    masked = logmel.clone()
    for view, limit in ((masked, time), (masked.T, freq)):
        for width in rng.integers(0, min(limit, len(view)), stripes):
            begin = rng.integers(0, len(view) - width)
            view[begin:begin + width] = 0
    return masked
