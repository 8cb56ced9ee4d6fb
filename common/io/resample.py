"""One waveform at another sampling rate, or of another length."""
import math
from functools import lru_cache
from operator import index

import torch
import torch.nn.functional as F

ZEROS, ROLLOFF = 6, 0.99  # what torchaudio does unless told otherwise, and so TURN's released code


def resample(waveform, rate_in, rate_out, zeros=ZEROS, rolloff=ROLLOFF, beta=None):
    """(…, n) at `rate_in` Hz → (…, ceil(n·rate_out/rate_in)): band-limited interpolation (Smith & Gossett, ICASSP 1984).

    The low-pass filter is a sinc with `zeros` zero crossings on each side under a Hann window (with `beta` a Kaiser window),
    which cuts off at `rolloff` times the lower Nyquist frequency. Outside of the waveform there is silence. ValueError for a
    waveform that is not floating point or a rate that is not positive.
    """
    rate_in, rate_out = index(rate_in), index(rate_out)
    if min(rate_in, rate_out) < 1 or not waveform.is_floating_point():
        raise ValueError(f"cannot resample {waveform.dtype} from {rate_in} to {rate_out} Hz")
    if rate_in == rate_out:
        return waveform
    common = math.gcd(rate_in, rate_out)
    old, new = rate_in // common, rate_out // common  # `old` samples become `new` ones: a block
    width, filters = _filters(old, new, zeros, rolloff, beta, waveform.dtype, waveform.device)
    n = waveform.shape[-1]
    length = -(-n * new // old)
    blocks = -(-length // new)
    padded = F.pad(waveform.reshape(math.prod(waveform.shape[:-1]), n), (width, width + old))  # (B, n + …)
    groups = []
    with torch.autocast(waveform.device.type, enabled=False):  # eight bits of mantissa are no sound
        for first, taps in filters:
            windows = padded[:, first:].unfold(-1, taps.shape[1], old)[:, :blocks]  # (B, blocks, inputs), a view
            parts = windows.split(max(1, 2**22 // taps.shape[1]), 1)  # the product copies its windows: a part at a time
            groups.append(torch.cat([part @ taps.T for part in parts], 1))  # (B, blocks, outputs)
    return torch.cat(groups, -1).flatten(1)[:, :length].reshape(*waveform.shape[:-1], length)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is cached serves callers in and out of inference mode
def _filters(old, new, zeros, rolloff, beta, dtype, device):
    """How far the filter reaches, in input samples, and for each 64 of a block's outputs: first input, (outputs, inputs)."""
    cutoff = rolloff * min(old, new)  # zero crossings in a block
    width = math.ceil(zeros * old / cutoff)
    filters = []
    for k in torch.arange(new).split(64):  # output k lies at k·old/new; coprime rates would make one matrix of gigabytes
        first, last = int(k[0]) * old // new, int(k[-1]) * old // new
        j = torch.arange(first - width, last + width + 1)
        t = (j * new - k[:, None] * old).double() * (cutoff / (old * new))  # (outputs, inputs), in zero crossings
        x = t.clamp(-zeros, zeros) / zeros
        if beta is None:
            window = torch.cos(x * (math.pi / 2)).square()
        else:
            window = torch.i0(beta * (1 - x * x).sqrt()) / torch.i0(torch.tensor(beta).double()) * (x.abs() < 1)
        filters.append((first, (torch.sinc(t) * window * (cutoff / old)).to(device, dtype)))
    return width, filters


def fit(waveform, samples, where="start"):
    """(…, n) → (…, samples): repeated if it is shorter; if longer, its start or its "centre" is kept."""
    n = waveform.shape[-1]
    if n == 0 or where not in ("start", "centre"):
        raise ValueError(f"cannot fit {n} samples to {samples} at {where!r}")
    if n < samples:
        return waveform.repeat(*[1] * (waveform.dim() - 1), -(-samples // n))[..., :samples]
    first = (n - samples) // 2 if where == "centre" else 0
    return waveform[..., first:first + samples]


def crop_audio(waveform: torch.Tensor, sample_rate: int, clip: float = 10.0, crop: float = 3.0, shift: float = 0.0) -> torch.Tensor:
    """(…, n) → (…, round(crop · rate)) in [-1, 1]: the `crop` seconds in the middle of the first `clip` seconds.

    The waveform is first repeated where it is shorter than the clip (AVSBench: clip = 5), and clipped. `shift` moves the
    excerpt by that many seconds, at most to an end of the clip: the hand-crafted positive of a sound is a random shift (section
    3.3). ValueError for an empty waveform or a crop longer than its clip.
    """
    total, length = round(clip * sample_rate), round(crop * sample_rate)
    if not 0 < length <= total:
        raise ValueError(f"no excerpt of {crop} s in a clip of {clip} s")
    first = min(max(0, round(((clip - crop) / 2 + shift) * sample_rate)), total - length)
    return fit(waveform, total)[..., first:first + length].clamp(-1, 1)
