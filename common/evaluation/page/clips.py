"""What a page shows: plain data that a method fills in, and the same as JSON.

A Sample is T frames (an image has T = 1) with audio clips. A Clip has what the model finds for it.
S is the side of the maps on which heatmaps and ground truth are compared.
"""
import base64
import io
from dataclasses import dataclass, field

import numpy as np
import soundfile
import torch
from PIL import Image

from common import metrics
from common.io.files import to_numpy

TAUS = torch.linspace(0, 1, 41)  # thresholds of the curves
BLOCK = 4096  # samples that are encoded at once; libsndfile's Vorbis fails for long arrays
MAX_SIDE, SMALL = 480, 160  # pixels of an image in the page, and up to which it is a PNG


@dataclass
class Clip:
    """An audio clip, or a phrase, and what the model finds for it in T frames."""
    name: str = ""  # "its own", "silence", …
    waveform: torch.Tensor | None = None  # (n,)
    rate: int = 16000
    heatmaps: torch.Tensor | None = None  # (T, h, w)
    boxes: list = ()  # T of (n, 4), or (n, 5) with a score; x0, y0, x1, y1 in [0, 1]
    labels: list = ()  # T texts, as predicted classes
    gt: list = ()  # T of (S, S) in [0, 1], or of None where a frame is not annotated
    facts: dict = field(default_factory=dict)  # name → T numbers, or one if T = 1


@dataclass
class Sample:
    name: str
    frames: list  # T images (H, W, 3) uint8
    clips: list  # the first is shown first
    group: str = ""  # in its heading: first, best, worst
    times: list = ()  # T, seconds
    labels: list = ()  # T texts, as annotated classes; "" where a frame is not annotated


@dataclass
class Gallery:
    """Samples of a test set. rules: name → rule of `metrics.threshold`; curves: name → at TAUS."""
    name: str
    samples: list
    size: int = 224  # S
    align_corners: bool = False  # how heatmaps are resized to S × S
    rules: dict = field(default_factory=lambda: {"top 50 %": "median", "adaptive": "adaptive"})
    curves: dict = field(default_factory=dict)


def pick(scores, is_shown, count: int = 4) -> dict:
    """Which samples to show: {index: "first", "best" or "worst"}; `count` of each, none twice.

    >>> pick(np.array([0.5, 0.1, 0.9, 0.4]), np.array([True] * 4), count=1)
    {0: 'first', 2: 'best', 1: 'worst'}
    """
    rows, picked = np.flatnonzero(is_shown), {}
    order = rows[np.argsort(np.nan_to_num(to_numpy(scores)[rows], nan=-1), kind="stable")]
    for name, candidates in ("first", rows), ("best", order[::-1]), ("worst", order):
        fresh = [int(i) for i in candidates if int(i) not in picked][:count]
        picked |= dict.fromkeys(fresh, name)
    return picked


def score_curve(maps, gt) -> np.ndarray:
    """cIoU of {normalised heatmap > τ} for each τ of TAUS, (n, S, S) twice → (n, len(TAUS)). It is
    measured on every fourth pixel of both axes."""
    maps, gt = (torch.as_tensor(x)[:, ::4, ::4].contiguous() for x in (maps, gt))
    maps = metrics.normalise(maps - maps.amin((1, 2), True))  # a constant one is 0, as on the page
    return torch.stack([metrics.ciou(maps > tau, gt) for tau in TAUS], 1).numpy()


def mean_curves(values) -> dict:
    """`score_curve` of N samples → the curves of the set; undefined scores are misses."""
    values = np.nan_to_num(to_numpy(values), nan=0)
    return {"cIoU@0.5": (values >= 0.5).mean(0), "mean cIoU": values.mean(0)}


def pack(gallery: Gallery, audio: dict) -> dict:
    """A gallery as JSON has it. audio: samples → Ogg in base64, to which new clips are added."""
    samples = [{
        "name": s.name, "group": s.group, "width": s.frames[0].shape[1],
        "frames": [image_url(frame) for frame in s.frames], "labels": list(s.labels),
        "times": [round(float(t), 3) for t in s.times],
        "clips": [pack_clip(clip, gallery, audio) for clip in s.clips]} for s in gallery.samples]
    return {"name": gallery.name, "size": gallery.size, "align": gallery.align_corners,
            "taus": TAUS.tolist() if gallery.curves else [], "samples": samples,
            "curves": {k: np.round(v, 4).tolist() for k, v in gallery.curves.items()}}


def pack_clip(clip: Clip, gallery: Gallery, audio: dict) -> dict:
    key = None if clip.waveform is None else to_numpy(clip.waveform).tobytes()
    if key and key not in audio:
        audio[key] = ogg(clip.waveform, clip.rate)
    maps = [] if clip.heatmaps is None else clip.heatmaps.detach().float().cpu()
    facts = {k: np.atleast_1d(to_numpy(x)).round(4).tolist() for k, x in clip.facts.items()
             if np.isfinite(to_numpy(x)).all()}  # a cIoU of nothing with nothing is not defined
    return {"name": clip.name, "audio": list(audio).index(key) if key else -1, "facts": facts,
            "labels": list(clip.labels), "boxes": [to_numpy(b).round(4).tolist()
                                                   for b in clip.boxes],
            "gt": [[] if x is None else run_lengths(to_numpy(x)) for x in clip.gt],
            "maps": [{"h": len(x), "w": len(x[0]), "data": base64.b64encode(
                x.numpy().astype("<f4").tobytes()).decode()} for x in maps],
            "marks": marks(maps, clip.gt, gallery) if len(maps) else {}}


def marks(maps, gt, gallery: Gallery) -> dict:
    """The threshold of T heatmaps by each rule that can be applied, in units of the normalised map:
    the middle between the value above which a pixel is predicted and the next value, so that the
    browser's rounding does not matter."""
    maps, found = metrics.resize(maps, gallery.size, align_corners=gallery.align_corners), {}
    low, high = maps.amin((1, 2)), maps.amax((1, 2))
    for name, rule in gallery.rules.items():
        if rule != "adaptive" or (len(gt) and all(x is not None for x in gt)):
            taus = metrics.threshold(maps, rule, gt)
            above = torch.where(maps > taus[:, None, None], maps, high[:, None, None]).amin((1, 2))
            taus = (taus.double() + above.double()) / 2
            found[name] = ((taus - low) / (high - low).clamp(min=1e-30)).clamp(0, 1).tolist()
    return found


def ogg(waveform, rate: int) -> str:
    """A waveform (n,) as Ogg Vorbis in base64."""
    buffer, samples = io.BytesIO(), to_numpy(waveform).astype(np.float32).clip(-1, 1)
    with soundfile.SoundFile(buffer, "w", rate, 1, "VORBIS", format="OGG") as file:
        for first in range(0, len(samples), BLOCK):
            file.write(samples[first:first + BLOCK])
    return base64.b64encode(buffer.getvalue()).decode()


def image_url(image) -> str:
    """An image (H, W, 3) uint8 as a data URL: a PNG if it is small, else a JPEG."""
    image, buffer = Image.fromarray(to_numpy(image)), io.BytesIO()
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    kind = "png" if max(image.size) <= SMALL else "jpeg"
    image.save(buffer, format=kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def run_lengths(x) -> list:
    """A map (S, S) as value, length, value, length, … of its pixels in row order."""
    x = np.round(x.astype(np.float64).ravel(), 3)
    starts = np.flatnonzero(np.r_[True, x[1:] != x[:-1]])
    return np.stack([x[starts], np.diff(np.r_[starts, len(x)])], 1).ravel().tolist()
