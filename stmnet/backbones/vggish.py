"""VGGish (Hershey et al., "CNN Architectures for Large-Scale Audio Classification", ICASSP 2017).

Its log-mel front end, and its network with the published key names. The post-processor (PCA,
quantisation) is left out: the paper uses the map of 512 channels.
"""
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from common.io import resample

RATE = 16000  # Hz
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, and the power of two above the window
BANDS, LOWEST, HIGHEST = 64, 125.0, 7500.0  # mel bands, their ends in Hz
FRAMES = 96  # of an example, 0.96 s
SAMPLES = (FRAMES - 1) * HOP + WINDOW  # that one example needs: 15 600, 0.975 s
OFFSET = 0.01  # added before the logarithm
BLOCK = 2**16  # samples whose spectra are in memory at once, on a CPU
KAISER_BEST = {"zeros": 50 * 0.9173473137, "rolloff": 0.9173473137, "beta": 12.9846}  # resampy's


def log_mel(waveform: torch.Tensor, sample_rate: int = RATE) -> torch.Tensor:
    """Log-mel magnitudes: (…, n) in [-1, 1] → (…, 1 + (n - 400) // 160, 64), float32.

    n counts after resampling to 16 kHz. Frames without padding, periodic Hann window, magnitudes
    (not powers) of the spectrum, log(x + 0.01): silence is -4.6. Raises ValueError if n < 400, or
    if samples are not floating point."""
    x = resample(waveform, sample_rate, RATE, **KAISER_BEST)
    n = x.shape[-1]
    if n < WINDOW:
        raise ValueError(f"{n} samples at {RATE} Hz are shorter than one frame of {WINDOW}")
    window, filters = _constants(x.device)
    clips = x.reshape(-1, n).float()  # (N, n)
    parts = clips.split(len(clips) if x.is_cuda else max(1, BLOCK // n))
    with torch.autocast(x.device.type, enabled=False):
        spectra = (torch.fft.rfft(part.unfold(-1, WINDOW, HOP) * window, FFT) for part in parts)
        mel = torch.cat([torch.log(spectrum.abs() @ filters + OFFSET) for spectrum in spectra])
    return mel.reshape(*x.shape[:-1], *mel.shape[1:])  # (…, frames, 64)


def segments_at(waveform: torch.Tensor, times, samples: int) -> torch.Tensor:
    """Waveform (N,) at 16 kHz, T times in seconds → (T, samples) centred on them, 0 outside."""
    first = np.rint(np.asarray(times) * RATE).astype(np.int64) - samples // 2  # (T,)
    before = max(0, -int(first.min()))
    after = max(0, int(first.max()) + samples - len(waveform))
    padded = torch.nn.functional.pad(waveform, (before, after))
    return padded[torch.from_numpy(first)[:, None] + before + torch.arange(samples)]


def sound_track(segments, fps: float):
    """The audio of T steps (n,) from their segments (T, samples): the middle of each."""
    length = min(round(RATE / fps), segments.shape[1])
    return segments.narrow(1, (segments.shape[1] - length) // 2, length).flatten()


class AudioStream:
    """`segments_at` of a file of raw s16le, mono, 16 kHz, in the order of time; 0 after its end.

    It reads no more than a segment needs, and holds no more than the last one."""

    def __init__(self, file, samples: int):
        self.file, self.window, self.end = file, np.zeros(samples, np.int16), 0

    def segment(self, time: float) -> torch.Tensor:
        """(samples,) in [-1, 1], centred on `time` in seconds, which never goes back."""
        samples = len(self.window)
        end = round(time * RATE) - samples // 2 + samples
        data = self.file.read(2 * (end - self.end))
        new = np.zeros(end - self.end, np.int16)
        new[:len(data) // 2] = np.frombuffer(data[:len(data) // 2 * 2], "<i2")
        self.window, self.end = np.concatenate([self.window, new])[len(new):], end
        return torch.from_numpy(self.window / np.float32(2**15))


def patches(waveform: torch.Tensor, sample_rate: int = RATE) -> torch.Tensor:
    """(…, n) in [-1, 1] → (…, examples, 1, 96, 64): `log_mel` in pieces of 96 frames.

    An incomplete last one is dropped. Raises ValueError if none is complete: one needs 15 600
    samples at 16 kHz, 0.975 s, two need 30 960."""
    x = log_mel(waveform, sample_rate)
    examples = x.shape[-2] // FRAMES
    if not examples:
        raise ValueError(f"{x.shape[-2]} frames are less than one example of {FRAMES}, which "
                         f"needs {SAMPLES} samples at {RATE} Hz")
    return x[..., :examples * FRAMES, :].unflatten(-2, (examples, 1, FRAMES))


def mel_filterbank() -> np.ndarray:
    """(257, 64) triangles of height 1 at equal steps of HTK mel from 125 to 7500 Hz, linear in mel.

    The published code also sets the row of DC to 0; with these ends it is 0 already."""
    def mel(hertz):
        return 1127 * np.log1p(np.asarray(hertz) / 700)
    bins = mel(np.linspace(0, RATE / 2, FFT // 2 + 1))[:, None]
    edges = np.linspace(mel(LOWEST), mel(HIGHEST), BANDS + 2)
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    return np.maximum(0, np.minimum((bins - low) / (peak - low), (high - bins) / (high - peak)))


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a tensor made within inference_mode could never be used in training
def _constants(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    filters = torch.from_numpy(mel_filterbank()).float()
    return torch.hann_window(WINDOW, device=device), filters.to(device)


def convolutions(widths=(64, 128, 256, 512)) -> nn.Sequential:
    """(B, 1, M, N) → (B, widths[3], M // 16, N // 16): 3×3 convolutions with ReLU.

    The last two widths have two. After each width the map is halved by a maximum."""
    layers, channels = [], 1
    for width, repeats in zip(widths, (1, 1, 2, 2), strict=True):
        for _ in range(repeats):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class VGGish(nn.Module):
    """`features` is the convolutions: (B, 1, 96, 64) → (B, widths[3], 6, 4), first time, then mel.

    hidden=None leaves out the three layers behind the map; load_published(model.features, path,
    prefix="features.") then loads the published file's convolutions, strictly."""

    def __init__(self, widths=(64, 128, 256, 512), hidden=4096, outputs=128):
        super().__init__()
        self.channels = widths[-1]
        self.features = convolutions(widths)
        if hidden is not None:
            flat = widths[-1] * (FRAMES // 16) * (BANDS // 16)
            self.embeddings = nn.Sequential(
                nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                nn.Linear(hidden, outputs), nn.ReLU())
        for layer in self.features:  # He et al. 2015: torch's default would vanish here
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, patches):
        """patches (B, 1, 96, 64) → embedding (B, 128), none of it negative."""
        x = self.features(patches).permute(0, 2, 3, 1)  # (B, 6, 4, 512), channels last
        return self.embeddings(x.flatten(1))


def vggish():
    """vggish-10086976.pth, a bare state_dict; 72.1 M parameters, 4.5 M of them in `features`."""
    return VGGish()
