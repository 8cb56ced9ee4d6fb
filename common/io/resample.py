"""One waveform at another sampling rate, or of another length.

>>> waveform = torch.arange(44100) / 44100
>>> resample(waveform, 44100, 16000).shape
torch.Size([16000])
"""
import math
from functools import lru_cache

import torch
import torch.nn.functional as F

MAX_CACHED = 2000  # filters of rates with larger quotients, as of 44101 Hz, are not kept


def resample(waveform, rate_in, rate_out, zeros=6, rolloff=0.99, beta=None):
    """Band-limited interpolation (Smith and Gossett, ICASSP 1984).

        y(t) = Σₙ x[n] h(t − n/rate_in),  h(t) = c/rate_in · sinc(c·t) · w(c·t/zeros)
        c = rolloff · min(rate_in, rate_out)

    w is a Hann window on [−1, 1], with `beta` a Kaiser window, so that the low-pass filter h has
    `zeros` zero crossings on each side. Outside of the waveform there is silence. The defaults are
    torchaudio's, which TURN's released code uses.
    waveform: (…, n) floating point. Returns (…, ceil(n · rate_out / rate_in)).
    Raises ValueError for another dtype or a rate that is not positive."""
    if min(rate_in, rate_out) < 1 or not waveform.is_floating_point():
        raise ValueError(f"cannot resample {waveform.dtype} from {rate_in} to {rate_out} Hz")
    if rate_in == rate_out:
        return waveform
    divisor = math.gcd(rate_in, rate_out)
    old, new = rate_in // divisor, rate_out // divisor  # a block: `old` samples become `new`
    make = _filters if max(old, new) <= MAX_CACHED else _filters.__wrapped__
    width, filters = make(old, new, zeros, rolloff, beta, waveform.dtype, waveform.device)
    n = waveform.shape[-1]
    length, blocks = -(-n * new // old), -(-n // old)
    rows = waveform.reshape(math.prod(waveform.shape[:-1]), n)  # (B, n)
    padded = F.pad(rows, (width, width + old))  # (B, n + …)
    groups = []
    with torch.autocast(waveform.device.type, enabled=False):  # bfloat16 is too coarse for audio
        for first, taps in filters:
            windows = padded[:, first:].unfold(-1, taps.shape[1], old)[:, :blocks]  # a view
            parts = windows.split(max(1, 2**22 // taps.shape[1]), 1)  # the product copies its part
            groups.append(torch.cat([part @ taps.T for part in parts], 1))  # (B, blocks, outputs)
    del padded, windows, parts
    resampled = torch.cat(groups, -1).flatten(1)[:, :length]  # (B, length)
    return resampled.reshape(*waveform.shape[:-1], length)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # the cache serves callers in and out of inference mode
def _filters(old, new, zeros, rolloff, beta, dtype, device):
    """The filter's reach in samples; first input and taps (outputs, inputs) of parts of a block."""
    cutoff = rolloff * min(old, new)  # zero crossings in a block
    width = math.ceil(zeros * old / cutoff)
    filters = []
    # Output k of a block lies at input k·old/new. All taps of coprime rates would be gigabytes.
    for k in torch.arange(new).split(64):
        first, last = int(k[0]) * old // new, int(k[-1]) * old // new
        j = torch.arange(first - width, last + width + 1)
        t = (j * new - k[:, None] * old).double() * (cutoff / (old * new))  # (outputs, inputs)
        x = t.clamp(-zeros, zeros) / zeros
        if beta is None:
            window = torch.cos(x * (math.pi / 2)).square()
        else:
            peak = torch.i0(torch.tensor(beta).double())
            window = torch.i0(beta * (1 - x * x).sqrt()) / peak * (x.abs() < 1)
        filters.append((first, (torch.sinc(t) * window * (cutoff / old)).to(device, dtype)))
    return width, filters


def fit(waveform, samples):
    """(…, n) → (…, samples): the beginning of the waveform, which is repeated if it is shorter."""
    if waveform.shape[-1] == 0:
        raise ValueError("cannot repeat an empty waveform")
    return waveform[..., torch.arange(samples) % waveform.shape[-1]]


def crop_audio(waveform, sample_rate, clip=10.0, crop=3.0, shift=0.0):
    """The `crop` seconds in the middle of the first `clip` seconds, in [-1, 1].

    (…, n) → (…, round(crop · sample_rate)). A waveform shorter than the clip is repeated.
    `shift` moves the crop by seconds, at most to an end of the clip.
    Raises ValueError for an empty waveform or a crop longer than its clip.

    >>> crop_audio(torch.arange(10) / 10, sample_rate=1, crop=4, shift=1)
    tensor([0.4000, 0.5000, 0.6000, 0.7000])
    """
    total, length = round(clip * sample_rate), round(crop * sample_rate)
    if not 0 < length <= total:
        raise ValueError(f"no crop of {crop} s in a clip of {clip} s")
    first = min(max(0, round(((clip - crop) / 2 + shift) * sample_rate)), total - length)
    return fit(waveform, total)[..., first:first + length].clamp(-1, 1)
