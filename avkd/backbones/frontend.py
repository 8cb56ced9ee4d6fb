"""The audio front end: which three seconds are heard, and their log spectrogram (section 4.1.3: as in "the previous works")."""
from functools import lru_cache

import torch

TAPER = 0.25  # the part of a segment over which the Tukey window rises and falls


def log_spectrogram(waveform: torch.Tensor, sample_rate: int = 16000, *, window: int = 512, hop: int = 159) -> torch.Tensor:
    """(…, n) samples in [-1, 1] → (…, window // 2 + 1, frames), log(x + 1e-7) / 12, float32, on the waveform's device.

    x is the one-sided power spectral density as scipy.signal.spectrogram has it by default (so in EZ-VSL, LVS and the released
    evaluation): segments without padding, so frames = 1 + (n - window) // hop, each freed of its mean and then tapered by a
    periodic Tukey(0.25) window. Three seconds at 16 kHz give 257 × 299; EZ-VSL's hop of 238 gives 257 × 200. Silence is
    log(1e-7) / 12 = -1.34. torch raises RuntimeError where n < window.
    """
    taper, sides = _constants(window, sample_rate, waveform.device)
    segments = waveform.float().unfold(-1, window, hop)  # (…, frames, window), a view
    segments = segments - segments.mean(-1, keepdim=True)
    spectrum = torch.fft.rfft(segments.mul_(taper))  # (…, frames, window // 2 + 1)
    density = (spectrum.real.square() + spectrum.imag.square()) * sides
    return ((density + 1e-7).log() / 12).transpose(-1, -2)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a tensor made within inference_mode could never be used in training
def _constants(window: int, rate: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The window (window,), scaled so that squares are densities, and what a bin counts (window // 2 + 1,)."""
    n = torch.arange(window, dtype=torch.float64)
    edge = torch.minimum(n, window - n) / (TAPER / 2 * window)  # periodic: 0 at the first sample, not at the last
    taper = 0.5 - 0.5 * torch.cos(torch.pi * edge.clamp(max=1))
    sides = torch.ones(window // 2 + 1)
    sides[1:(window + 1) // 2] = 2  # a real signal's negative frequencies; DC and Nyquist have none
    return (taper / (rate * taper.square().sum()).sqrt()).float().to(device), sides.to(device)
