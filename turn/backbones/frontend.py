"""The audio front end: log-mel spectrograms and SpecAugment (appendix A.2.1)."""
from functools import lru_cache

import numpy as np
import torch

from common.io import fit, read_audio

BLOCK = 2**18  # samples whose spectra are in memory at once, on a CPU


def read_logmel(path, config, around=None):
    """`logmel_of` what `read_clip` reads of an audio file: (L_m, c)."""
    return logmel_of(read_clip(path, config, around), config)


def read_clip(path, config, around=None):
    """An audio file → waveform (n,) of config.seconds: repeated if shorter, cut if longer.

    around: the (start, end) in seconds of what the audio is for, as a frame of a long video; it is
    in the middle of the clip. None: the clip is the beginning of the file."""
    start = max(0.0, (sum(around or (0.0, 0.0)) - config.seconds) / 2)
    waveform, _ = read_audio(path, config.sample_rate, start=start, seconds=config.seconds)
    return fit(waveform, round(config.seconds * config.sample_rate)).clamp(-1, 1)


def logmel_of(waveform, config):
    """waveform (…, n) at config.sample_rate → (…, L_m, c)."""
    return log_mel(waveform, config.sample_rate, n_fft=config.n_fft, hop=config.hop,
                   n_mels=config.n_mels, filterbank_rate=config.filterbank_rate or None)


def log_mel(waveform: torch.Tensor, sample_rate: int, *, n_fft: int = 2048, hop: int = 1024,
            n_mels: int = 128, filterbank_rate: int | None = None) -> torch.Tensor:
    """Log-mel power spectrogram: (…, n) in [-1, 1] → (…, 1 + n // hop, n_mels) float32.

    Frames are centred, with reflected ends (torch raises RuntimeError unless n exceeds n_fft / 2);
    periodic Hann window, power 2, triangles on the HTK mel scale from 0 Hz to half of
    `filterbank_rate`, log(x + 1e-7). Ten seconds at 22 050 Hz give the paper's 216 × 128.
    `filterbank_rate` is `sample_rate` if None. The authors' code leaves it at 16 000."""
    with torch.autocast(waveform.device.type, enabled=False):
        x = waveform.reshape(-1, waveform.shape[-1]).float()  # (N, n)
        window, filters = _constants(n_fft, n_mels, filterbank_rate or sample_rate, x.device)
        mels = []
        for part in x.split(len(x) if x.is_cuda else max(1, BLOCK // max(1, x.shape[1]))):
            spectrum = torch.stft(part, n_fft, hop, window=window, center=True,
                                  pad_mode="reflect", return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()  # (…, n_fft // 2 + 1, frames)
            mels.append(torch.log(power.transpose(1, 2) @ filters + 1e-7))
        mel = torch.cat(mels)  # (N, frames, n_mels)
        return mel.reshape(*waveform.shape[:-1], *mel.shape[1:])


def mel_filterbank(n_fft: int, n_mels: int, rate: int) -> np.ndarray:
    """(n_fft // 2 + 1, n_mels): triangles of height 1, linear in Hz, at equal steps of HTK mel."""
    bins = np.linspace(0, rate / 2, n_fft // 2 + 1)[:, None]
    mels = np.linspace(0, 2595 * np.log10(1 + rate / 1400), n_mels + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    return np.maximum(0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a tensor made within inference_mode could never be used in training
def _constants(n_fft: int, n_mels: int, rate: int, device: torch.device) -> tuple:
    filters = torch.from_numpy(mel_filterbank(n_fft, n_mels, rate)).float()
    return torch.hann_window(n_fft, device=device), filters.to(device)


def spec_augment(logmel: torch.Tensor, rng: np.random.Generator, time: int = 64, freq: int = 8,
                 stripes: int = 2) -> torch.Tensor:
    """SpecAugment (Park et al. 2019): a copy of `logmel` (frames, mels) with stripes of zeros.

    `stripes` are of frames and as many of mels. The width of a stripe is uniform below `time` or
    `freq`, its place uniform. 0 is the value of the authors' code; silence would be log(1e-7)."""
    masked = logmel.clone()
    for view, limit in ((masked, time), (masked.T, freq)):
        for width in rng.integers(0, min(limit, len(view)), stripes):
            begin = rng.integers(0, len(view) - width)
            view[begin:begin + width] = 0
    return masked
