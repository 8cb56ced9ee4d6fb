"""From boxes and similarities to masks: ground truth, thresholds, resizing, and the conventions of the published evaluators.

Maps are (N, H, W), finite; a truth is (N, H, W) in [0, 1], fractional where annotators disagree. `portable` functions
take numpy arrays or tensors and answer in kind, tensors on the device of their input.
"""
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F


class Protocol(NamedTuple):
    """What published evaluators do differently. Name it beside every score."""
    strict: bool  # a pixel is predicted where map > threshold, else where map >= threshold
    mode: str  # of resizing
    aligned: bool  # align_corners of resizing
    ciou: str  # what its "cIoU" (SLAVC: "Precision", AVSBench: "mIoU") is over a set
    vggss: int | None  # samples in its lists of ids
    flickr: int | None


PROTOCOLS = {
    # Half-pixel is its path for VGG-SS with its own models; its other sets are resized with aligned corners.
    "sslalign": Protocol(True, "bilinear", False, "share >= 0.5", 4655, 250),
    "ezvsl": Protocol(False, "bilinear", True, "mean", 5158, 249),
    "slavc": Protocol(False, "bicubic", True, "share > 0.5", 5158, 250),
    "avsbench": Protocol(True, "bilinear", False, "mean", None, None),
}


def tensor(x):
    """A numpy array as a tensor, sharing memory where torch can; anything else as it is."""
    return torch.from_numpy(np.require(x, requirements="CW")) if isinstance(x, np.ndarray) else x


def portable(function):
    """Let a function of tensors take numpy arrays too, and then answer in numpy. No gradient is recorded."""
    @functools.wraps(function)
    @torch.no_grad()
    def both(*args, **kwargs):
        arrays = [a for a in (*args, *kwargs.values()) if isinstance(a, np.ndarray)]
        result = function(*map(tensor, args), **{name: tensor(a) for name, a in kwargs.items()})
        if not arrays:
            return result
        return {name: x.numpy() for name, x in result.items()} if isinstance(result, dict) else result.numpy()
    return both


# Pixels. Inside, rows (N, n) of pixels are numpy arrays on the CPU, where numpy compares, counts and selects several times as
# fast as torch, and tensors elsewhere; what there is one of in each row, (N,), is a tensor.

BLOCK = 16  # rows


def by_rows(function, *arrays):
    """function(*arrays), on the CPU in blocks of rows on torch's number of threads: a block stays in the cache, and numpy lets
    go of the interpreter while it works."""
    if not isinstance(arrays[0], np.ndarray) or len(arrays[0]) <= BLOCK:  # a single block is not worth a thread
        return function(*arrays)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        blocks = list(pool.map(lambda i: function(*(a[i:i + BLOCK] for a in arrays)), range(0, len(arrays[0]), BLOCK)))
    return tuple(torch.cat(parts) for parts in zip(*blocks))


def extremes(rows):
    """(N, n) → least and largest value of each row, (N,) twice; NaN where any value is."""
    if isinstance(rows, np.ndarray):
        return torch.from_numpy(rows.min(1)), torch.from_numpy(rows.max(1))
    return rows.amin(1), rows.amax(1)


def above(rows, tau, strict: bool = True):
    """(N, n) and a number or (N,) → (N, n) bool: value > tau, or >= tau when not strict. Masks stay as they are."""
    if rows.dtype in (torch.bool, np.bool_):
        return rows
    tau = tau[:, None] if isinstance(tau, torch.Tensor) else tau
    tau = tau.numpy() if isinstance(rows, np.ndarray) and isinstance(tau, torch.Tensor) else tau
    return rows > tau if strict else rows >= tau


def count(masks) -> torch.Tensor:
    """(N, n) bool → (N,) number of true pixels."""
    return torch.tensor([np.count_nonzero(row) for row in masks]) if isinstance(masks, np.ndarray) else masks.sum(1)


def kth(rows, ranks) -> torch.Tensor:
    """(N, n), ranks (N, K) → (N, K): in each row the values at ascending ranks, counted from 0, by partial selections."""
    if not isinstance(rows, np.ndarray):
        top = rows.topk(rows.shape[1] - int(ranks.min()), dim=1).values  # (N, largest number of pixels needed)
        return top.gather(1, rows.shape[1] - 1 - ranks)
    values = np.empty(ranks.shape, rows.dtype)
    for i, (first, *others) in enumerate(ranks.tolist()):
        row = rows[i].copy()
        row.partition(first)
        values[i, 0] = row[first]
        for j, rank in enumerate(others, 1):  # in the part where it lies
            start = first if rank >= first else 0
            part = row[first:] if rank >= first else row[:first]
            part.partition(rank - start)
            values[i, j] = part[rank - start]
    return torch.from_numpy(values)


def check(maps, name: str, low=-float("inf"), high=float("inf")):
    """(N, H, W) → rows (N, H*W), bool or float; ValueError naming the first sample that is not finite or leaves [low, high]."""
    if not isinstance(maps, torch.Tensor) or maps.dim() != 3 or maps[:1].numel() == 0:
        raise ValueError(f"{name}: expected (N, H, W) with N, H, W > 0, got {tuple(getattr(maps, 'shape', ()))}")
    rows = maps.detach().flatten(1)
    rows = rows if rows.dtype in (torch.bool, torch.float32, torch.float64) else rows.float()
    rows = rows.numpy() if rows.is_cpu else rows
    if maps.dtype != torch.bool:
        least, most = by_rows(extremes, rows)
        bad = ~(least.isfinite() & most.isfinite() & (least >= low) & (most <= high))
        if bad.any():
            i = int(bad.nonzero()[0])
            raise ValueError(f"{name}: sample {i} has values from {float(least[i])} to {float(most[i])}, "
                             f"expected finite values in [{low}, {high}]")
    return rows


def check_pair(maps, gt, name: str = "maps", low=-float("inf"), high=float("inf")):
    """Rows of both, or a ValueError: see `check`; the truth is in [0, 1] and has the shape of the maps."""
    rows, truth = check(maps, name, low, high), check(gt, "gt", 0, 1)
    if maps.shape != gt.shape:
        raise ValueError(f"{name} {tuple(maps.shape)} and gt {tuple(gt.shape)} differ in shape")
    return rows, truth


# Ground truth

@portable
def boxes_to_map(boxes, size, consensus=None):
    """Rasterise boxes: (…, K, 4) as x0, y0, x1, y1 in pixels → (…, H, W) float32 in [0, 1]. size: H = W, or (H, W).

    Edges are truncated to integers and used as the half-open slices [y0:y1, x0:x1] of the published evaluators: a box with
    x1 <= x0 marks nothing (so zeros are padding), and a negative edge counts from the far side, so that clip first whatever
    may leave the picture (VGG-SS: clip to [0, 1], then times 224; Flickr-SoundNet: int(224 * v / 256), not clipped by
    EZ-VSL and sslalign, clipped at 0 by TURN). The union, or with consensus=c the sum over c, at most 1: `consensus_map`.
    """
    boxes = torch.as_tensor(boxes)
    if boxes.dim() < 2 or boxes.shape[-1] != 4 or not boxes.isfinite().all():
        raise ValueError(f"boxes: expected finite (…, K, 4), got {tuple(boxes.shape)}, finite: {bool(boxes.isfinite().all())}")
    height, width = (size, size) if isinstance(size, int) else size
    masks = []
    for first, last, length in ((1, 3, height), (0, 2, width)):
        edges = boxes[..., [first, last]].double().trunc()  # (…, K, 2)
        edges = torch.where(edges < 0, edges + length, edges).clamp(0, length)
        pixel = torch.arange(length, device=boxes.device)
        masks.append((pixel >= edges[..., :1]) & (pixel < edges[..., 1:]))  # (…, K, length)
    masks = masks[0][..., :, None] & masks[1][..., None, :]  # (…, K, H, W)
    return masks.any(-3).float() if consensus is None else consensus_map(masks, consensus)


@portable
def consensus_map(masks, c):
    """(…, n, H, W) masks of n annotators → (…, H, W) float32, min(sum_j m_j / c, 1): TURN Eq. (14). Flickr-SoundNet: c = 2."""
    if c <= 0 or masks.dim() < 3:
        raise ValueError(f"expected masks (…, n, H, W) and c > 0, got {tuple(masks.shape)} and {c}")
    return (masks.float().sum(-3) / c).clamp(max=1)


# Maps

@portable
def normalise(maps):
    """Each map to [0, 1] by its own minimum and maximum; a constant map stays as it is (as published)."""
    rows = check(maps, "maps")
    (low, high), maps = (x[:, None, None] for x in by_rows(extremes, rows)), tensor(rows).view(maps.shape)
    return torch.where(high > low, (maps - low) / torch.where(high > low, high - low, 1), maps)


def object_guided(maps, objects, alpha=0.4):
    """norm(alpha * norm(maps) + (1 - alpha) * norm(objects)), two (N, H, W): object-guided localisation (EZ-VSL; sslalign)."""
    return normalise(normalise(maps) * alpha + normalise(objects) * (1 - alpha))


@portable
def resize(maps, size, protocol="sslalign", aligned=None):
    """(N, h, w) → (N, H, W) by the protocol's interpolation; size: H = W, or (H, W); aligned overrides its align_corners."""
    maps = tensor(check(maps, "maps")).view(maps.shape)
    rule = PROTOCOLS[protocol]
    size = (size, size) if isinstance(size, int) else tuple(size)
    aligned = rule.aligned if aligned is None else aligned
    return F.interpolate(maps[:, None], size, mode=rule.mode, align_corners=aligned)[:, 0]


def pixels(rows, kind, gt):
    """(N, n) → (N,): of how many of the largest pixels a rank threshold is the smallest: half, or as many as gt (N, n) has."""
    half = rows.shape[1] // 2 if kind.endswith("exact") else rows.shape[1] - rows.shape[1] // 2  # published: rank n // 2
    if kind.startswith("adaptive"):
        area = count(above(gt, 0))
        return torch.where(area == 0, half, area)
    return torch.full((len(rows),), half, device=None if isinstance(rows, np.ndarray) else rows.device)


def rank(rows, kind, gt):
    """(N,) ascending rank of the threshold, counted from 0."""
    return (rows.shape[1] - pixels(rows, kind, gt)).clamp(max=rows.shape[1] - 1)


@portable
def threshold(maps, kind, gt=None, tau=0.5):
    """(N, H, W) → (N,) thresholds; the predicted pixels are A = {map > threshold} (see `binarize`). n = H * W. Kinds:

    - "fixed": tau on the map normalised by its minimum and maximum, in the map's own units (stmnet 4.2, tau = 0.5);
    - "median": the value at ascending rank n // 2, "top 50 %" (sslalign 4.1.2; Flickr-SoundNet, LVS, EZ-VSL, SLAVC);
    - "adaptive": the value at ascending rank n - B, B the number of pixels of gt that are not 0, n // 2 if there are none
      (sslalign 4.1.2; strictly fewer than B pixels pass: the published evaluator's rule, not the paper's sentence);
    - "median_exact", "adaptive_exact": the smallest value among exactly n // 2, exactly B pixels, as the papers say.
    """
    return _threshold(*_rows(maps, kind, gt), kind, tau)


def _rows(maps, kind, gt):
    if kind not in ("fixed", "median", "adaptive", "median_exact", "adaptive_exact"):
        raise ValueError(f"unknown threshold {kind!r}")
    if not kind.startswith("adaptive"):
        rows = truth = check(maps, "maps")  # no truth is looked at
    elif gt is None:
        raise ValueError(f"threshold {kind!r} needs gt")
    else:
        rows, truth = check_pair(maps, gt)
    if rows.dtype in (torch.bool, np.bool_):
        raise ValueError("maps: expected values, got a mask")
    return rows, truth


def _threshold(rows, truth, kind, tau):
    if kind == "fixed":
        least, most = by_rows(extremes, rows)
        return least + tau * (most - least)
    return by_rows(lambda x, gt: (kth(x, rank(x, kind, gt)[:, None])[:, 0],), rows, truth)[0]


@portable
def binarize(maps, kind, gt=None, tau=0.5, strict=True):
    """(N, H, W) → (N, H, W) bool: map > `threshold`, or >= when not strict (PROTOCOLS[name].strict).

    The published strict rule scores a map equal to its 0/1 truth 0.0, for all its ones tie with the threshold, and selects
    nothing from a constant map. The exact kinds select exactly their number of pixels; among ties the first in row order.
    """
    rows, truth = _rows(maps, kind, gt)
    tau = _threshold(rows, truth, kind, tau)
    over = above(rows, tau, strict or kind.endswith("exact"))
    if kind.endswith("exact"):
        missing = pixels(rows, kind, truth) - count(over)  # (N,)
        ties = tensor(above(rows, tau, strict=False) & ~over)
        over = tensor(over) | (ties & (ties.cumsum(1, dtype=torch.int32) <= missing[:, None]))
    return tensor(over).view(maps.shape)
