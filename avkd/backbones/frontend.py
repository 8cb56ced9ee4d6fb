"""The audio front end: the log spectrogram that EZ-VSL, LVS and the authors' evaluations take.

n samples of a waveform, W of a window.

>>> log_spectrogram(torch.zeros(2, 48000), 16000, window=512, hop=159).shape  # 3 seconds
torch.Size([2, 257, 299])
"""
from functools import lru_cache

import torch

TAPER = 0.25  # the part of a window over which it rises and falls


def log_spectrogram(waveform, sample_rate: int = 16000, *, window: int = 512, hop: int = 159):
    """The log of the power spectral density P, as scipy.signal.spectrogram has it by default.

        P[f, t] = 2 |FFT(w · (x_t − mean(x_t)))[f]|² / (sample_rate · Σ w²)
        log( P + 1e-7 ) / 12

    x_t: the `window` samples from t · hop on, without padding. w: a periodic Tukey(0.25) window.
    The 2, for negative frequencies, is 1 at frequency 0 and at half the sample rate.

    waveform: (…, n) in [-1, 1]. Returns (…, W // 2 + 1, 1 + (n − W) // hop) float32, on the same
    device. Silence is log(1e-7) / 12 = -1.34. Raises RuntimeError if n < W."""
    taper, sides = _constants(window, sample_rate, waveform.device)
    segments = waveform.float().unfold(-1, window, hop)  # (…, frames, W), a view
    segments = segments - segments.mean(-1, keepdim=True)
    spectrum = torch.fft.rfft(segments.mul_(taper))  # (…, frames, W // 2 + 1)
    density = (spectrum.real.square() + spectrum.imag.square()) * sides
    return ((density + 1e-7).log() / 12).transpose(-1, -2)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a tensor made within inference_mode could never be used in training
def _constants(window: int, rate: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """w / √(rate · Σ w²) (W,), and how often a frequency counts (W // 2 + 1,)."""
    n = torch.arange(window, dtype=torch.float64)
    edge = torch.minimum(n, window - n) / (TAPER / 2 * window)  # periodic: 0 at the first sample
    taper = 0.5 - 0.5 * torch.cos(torch.pi * edge.clamp(max=1))
    sides = torch.ones(window // 2 + 1)
    sides[1:(window + 1) // 2] = 2
    return (taper / (rate * taper.square().sum()).sqrt()).float().to(device), sides.to(device)
