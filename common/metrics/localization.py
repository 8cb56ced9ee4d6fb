"""Metrics: one definition each, with its source. All are functions of arrays; see `common.maps` for masks and thresholds.

Values of samples are (N,) float64. Where nothing is true and nothing is predicted a value is NaN: `success_rate`, `auc`
and the interactive metrics count it as a miss, `mean` leaves it out, `undefined` says how many there are. What is
computed over a set is a Python float in [0, 1].
"""
import math

import numpy as np
import torch

from .protocols import (PROTOCOLS, above, binarize, boxes_to_map, by_rows, check, check_pair,  # noqa: F401
                         consensus_map, count, kth, normalise, object_guided, portable, rank, resize, tensor, threshold)
from .retrieval import alignment, magnitude, retrieval  # noqa: F401


# Localisation, sample by sample

def _masks(pred, gt):
    """Checked rows (N, n): pred bool, gt bool or float in [0, 1]."""
    rows, truth = check_pair(pred, gt, "pred", 0, 1)
    mask = above(rows, 0)
    bad = (count(mask) != count(above(rows, 1, strict=False))).nonzero() if mask is not rows else ()
    if len(bad):
        raise ValueError(f"pred: sample {int(bad[0])} has values between 0 and 1, expected a mask: see binarize")
    return mask, truth


@portable
def ciou(pred, gt):
    """Consensus IoU: masks (N, H, W) and truth (N, H, W) in [0, 1] → (N,), sum(pred gt) / (sum(gt) + sum(pred [gt = 0])).

    stmnet 4.2, and the evaluators of Flickr-SoundNet, LVS, EZ-VSL, SLAVC and sslalign. Pixels of a fractional truth give
    partial hits and never false ones, so it is an IoU of masks only for a 0/1 truth. An empty truth scores 0, or NaN if
    nothing is predicted either.
    """
    return by_rows(lambda pred, gt: _ciou([pred], gt), *_masks(pred, gt))[0]


def _ciou(preds, gt):
    """`ciou` of several predictions (N, n) bool against one truth (N, n)."""
    true = above(gt, 0)
    area = count(true).double()
    hits = [count(pred & true).double() for pred in preds]
    outside = [count(pred) - hit for pred, hit in zip(preds, hits)]
    # A 0/1 truth is counted; only rows with fractions are summed.
    for i in () if true is gt else (count(above(gt, 1, strict=False)) != area).nonzero()[:, 0].tolist():
        weights = tensor(gt[i]).double()
        area[i] = weights.sum()
        for pred, hit in zip(preds, hits):
            hit[i] = weights[tensor(pred[i])].sum()
    return [hit / (area + out) for hit, out in zip(hits, outside)]


@portable
def pointing(maps, gt):
    """Pointing game (Zhang et al. 2016): (N, H, W) twice → (N,) 1.0 where the first maximum lies in the truth, else 0.0."""
    return _pointing(*check_pair(maps, gt))


def _pointing(rows, gt):
    peak = tensor(rows.argmax(1))[:, None]
    return (tensor(gt).gather(1, peak)[:, 0] > 0).double()


@portable
def localization(maps, gt, strict=True):
    """The three values that every evaluation needs, in one go: maps and truths (N, H, W) → {"ciou", "ciou_adaptive", "pointing"}.

    Equal to `ciou` of `binarize` by "median" and by "adaptive", and `pointing`; checks and selections are shared.
    """
    def block(rows, gt):
        taus = kth(rows, torch.stack([rank(rows, "median", gt), rank(rows, "adaptive", gt)], 1))  # (N, 2)
        return *_ciou([above(rows, tau, strict) for tau in taus.unbind(1)], gt), _pointing(rows, gt)
    return dict(zip(("ciou", "ciou_adaptive", "pointing"), by_rows(block, *check_pair(maps, gt))))


@portable
def iou(a, b):
    """IoU of masks, (N, H, W) twice → (N,); NaN where both are empty."""
    a, b = _masks(a, b)
    b = above(b, 0)
    return count(a & b).double() / count(a | b)


def _overlap(a, b):
    """(intersection, union, hull) of boxes (…, 4), broadcast."""
    for name, box in (("a", a), ("b", b)):
        if box.shape[-1:] != (4,):
            raise ValueError(f"boxes {name}: expected (…, 4), got {tuple(box.shape)}")
        bad = ~(box.isfinite().all(-1) & (box[..., 2:] >= box[..., :2]).all(-1))
        if bad.any():
            raise ValueError(f"boxes {name}: box {bad.nonzero()[0].tolist()} is not finite with x0 <= x1, y0 <= y1")
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    inter = size.prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)]
    return inter, areas[0] + areas[1] - inter, hull.prod(-1)


@portable
def box_iou(a, b):
    """IoU of boxes (…, 4) as x0, y0, x1, y1, broadcast: a[:, None], b[None] for all pairs. 0 where both have no area."""
    inter, union, _ = _overlap(a, b)
    return torch.where(union > 0, inter / union, 0)


@portable
def generalized_box_iou(a, b):
    """GIoU of boxes (…, 4), broadcast (Rezatofighi et al. 2019): IoU - (hull - union) / hull, in [-1, 1]."""
    inter, union, hull = _overlap(a, b)
    return torch.where(union > 0, inter / union, 0) - torch.where(hull > 0, (hull - union) / hull, 0)


@portable
def confidence(maps, low=0.0, high=1.0, share=0.25):
    """(N, H, W) → (N,): the mean of the top quarter of a map, rescaled from the model's range [low, high] to [0, 1].

    SLAVC's evaluator; like there, what bicubic resizing puts outside of the range stays outside.
    """
    rows = tensor(check(maps, "maps"))
    return (rows.topk(math.ceil(share * rows.shape[1]), dim=1).values.mean(1) - low) / (high - low)


# Localisation, over a set

def _values(values, name="values", length=None):
    """(N,) float64 in numpy; NaN is admitted, infinities are not."""
    values = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or np.isinf(values).any() or length not in (None, len(values)):
        raise ValueError(f"{name}: expected ({length or 'N'},) with N > 0 and no infinity, got {values.shape}, "
                         f"infinite at {np.flatnonzero(np.isinf(values))[:1].tolist()}")
    return values


def mean(values):
    """The mean of the values that are defined (not NaN); NaN if none is."""
    values = _values(values)
    return float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else float("nan")


def undefined(values):
    """How many samples have nothing true and nothing predicted."""
    return int(np.isnan(_values(values)).sum())


def success_rate(values, at=0.5):
    """Share of (N,) values >= at: cIoU@0.5 (sslalign, LVS, TURN; EZ-VSL calls it AP50), IoU@0.5."""
    return float((_values(values) >= at).mean())


def _curve(values):
    """Success rates at 0, 0.05, …, 1: (21,), and the area under them by trapezoids."""
    rates = (values[None] >= 0.05 * np.arange(21)[:, None]).mean(1)
    return float((rates[:-1] + rates[1:]).sum() * 0.05 / 2)


def auc(values):
    """Area under the success rates of (N,) values at 0, 0.05, …, 1, by trapezoids (Flickr-SoundNet's evaluator and all since)."""
    return _curve(_values(values))


def _worst(values, groups):
    """The least value of each group, (G,); a value that is not defined is below every threshold."""
    values = _values(values)
    groups = np.asarray(groups.cpu() if isinstance(groups, torch.Tensor) else groups)
    if groups.shape != values.shape:
        raise ValueError(f"groups: expected one for each of {len(values)} values, got {groups.shape}")
    names, index = np.unique(groups, return_inverse=True)
    worst = np.full(len(names), np.inf)
    np.minimum.at(worst, index, np.where(np.isnan(values), -1, values))
    return worst


def interactive(values, groups, at=0.5):
    """IIoU (sslalign 4.1.2): share of groups (a picture with its several sounds) whose every member has value >= at."""
    return float((_worst(values, groups) >= at).mean())


def interactive_auc(values, groups):
    """IAUC (sslalign 4.1.2): `interactive` at 0, 0.05, …, 1, area by trapezoids."""
    return _curve(_worst(values, groups))


def _precision_recall(confidence, values, sounding, thresholds, at):
    """(T,) precision and recall of 'sounds, and here' at confidence >= thresholds.

    A detection is right where something sounds and value >= at. Recall is over right detections and sounding samples that
    were not detected: a detection in the wrong place counts against precision only (SLAVC's evaluator).
    """
    def detected(which):
        return which.sum() - np.searchsorted(np.sort(confidence[which]), thresholds)
    right = detected(sounding & (values >= at))
    found = detected(np.ones_like(sounding))
    missed = sounding.sum() - detected(sounding)
    return (np.where(found > 0, right / np.maximum(found, 1), 1.0),
            np.where(right + missed > 0, right / np.maximum(right + missed, 1), 1.0))


def _detections(confidence, values, sounding):
    confidence, sounding = _values(confidence, "confidence"), np.asarray(_values(sounding, "sounding") > 0)
    if np.isnan(confidence).any() or len(sounding) != len(confidence):
        raise ValueError(f"{len(confidence)} confidences, {len(sounding)} flags; not a number: {int(np.isnan(confidence).sum())}")
    return confidence, _values(values, length=len(confidence)), sounding


def average_precision(confidence, values, sounding, exact=False, at=0.5):
    """AP over sets with silent and off-screen sounds: (N,) confidence, cIoU, number of things that sound (or a flag).

    Default: SLAVC's evaluator (also sslalign's): thresholds at the sorted confidences without the highest, every
    (N // 200)-th from the top, sum of max(precision from here on) * step to the *next* recall, from the first recall on.
    exact=True: every confidence is a threshold, and the steps begin at recall 0, so that a perfect ranking has AP 1.
    """
    confidence, values, sounding = _detections(confidence, values, sounding)
    thresholds = np.sort(confidence)[::-1] if exact else np.sort(confidence)[:-1][::-max(1, len(confidence) // 200)]
    precision, recall = _precision_recall(confidence, values, sounding, thresholds, at)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((best * np.diff(recall, prepend=0)).sum() if exact else (best[:-1] * np.diff(recall)).sum())


def max_f1(confidence, values, sounding, exact=False, at=0.5):
    """The highest F1 over thresholds at every (N // 10)-th sorted confidence (SLAVC's evaluator), or at all (exact)."""
    confidence, values, sounding = _detections(confidence, values, sounding)
    thresholds = np.sort(confidence)[::1 if exact else max(1, len(confidence) // 10)]
    precision, recall = _precision_recall(confidence, values, sounding, thresholds, at)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-300)).max())


def loc_acc(values, sounding, at=0.5):
    """LocAcc: share of the sounding samples with value > at, strictly, whatever the confidence (SLAVC's evaluator)."""
    values = _values(values)
    sounding = _values(sounding, "sounding", len(values)) > 0
    return float((values[sounding] > at).mean()) if sounding.any() else float("nan")


# Segmentation

@portable
def mask_iou(pred, gt):
    """AVSBench's IoU: masks (N, H, W) twice → (N,); an empty truth scores the share of background that is predicted as such.

    AVSBench predicts sigmoid(logit) > 0.5; sslalign (Table XIII) `binarize`s with "median", and "adaptive" for mIoU Adap.
    """
    pred, gt = _masks(pred, gt)
    true = above(gt, 0)
    plain = count(pred & true).double() / count(pred | true).clamp(min=1)
    return torch.where(count(true) > 0, plain, 1 - count(pred).double() / pred.shape[1])


def mask_miou(pred, gt):
    """The mean of `mask_iou`."""
    return mean(mask_iou(pred, gt))


@portable
def f_curves(prob, gt, beta2=0.3):
    """(N, H, W) in [0, 1] and 0/1 truth → (N, 255): F_beta at prob >= linspace(0, 1, 255); NaN where the truth is empty."""
    flat, gt = map(tensor, check_pair(prob, gt, "prob", 0, 1))
    thresholds = torch.linspace(0, 1 - 1e-10, 255, device=flat.device)  # the last is 1.0 in float32, as published
    passed = torch.bucketize(flat.float(), thresholds, right=True)  # (N, n): how many thresholds a pixel reaches
    cells = (torch.arange(len(flat), device=flat.device)[:, None] * 256 + passed).flatten()

    def at_least(weights=None):  # (N, 255): the sum of pixels that reach threshold t
        sums = torch.bincount(cells, weights, len(flat) * 256).double().view(-1, 256)
        return sums.flip(1).cumsum(1).flip(1)[:, 1:]
    true = above(gt, 0)
    area = true.sum(1, keepdim=True).double()
    precision, recall = at_least(true.double().flatten()) / at_least().clamp(min=1), at_least(true.double().flatten()) / area
    f = (1 + beta2) * precision * recall / (beta2 * precision + recall).clamp(min=1e-30)
    return torch.where(area > 0, f, torch.nan)


def best_f(curves):
    """(N, 255) → the best threshold of the curve's mean over the samples that have a truth; NaN if none has.

    AVSBench's released code takes the best threshold of every mini-batch, so that its result changes with the batch size;
    here, as in ACL-SSL's correction, the mean is over the whole set. Concatenate the curves of batches first.
    """
    curves = np.asarray(curves.cpu() if isinstance(curves, torch.Tensor) else curves)
    curves = curves[~np.isnan(curves).any(1)]
    return float(curves.mean(0).max()) if len(curves) else float("nan")


def f_score(prob, gt, beta2=0.3):
    """AVSBench's F (beta² = 0.3, 255 thresholds) of probabilities, or of masks (sslalign Table XIII): `best_f` of `f_curves`."""
    return best_f(f_curves(prob, gt, beta2))


# Floors and ceilings

@portable
def baseline_values(gt):
    """(N, H, W) truths → {"whole", "centre", "ceiling"}: (N,) cIoU of predictions that look at nothing. See `baselines`."""
    check(gt, "gt", 0, 1)
    height, width = gt.shape[1:]
    h, w = max(1, round(height * 0.5 ** 0.5)), max(1, round(width * 0.5 ** 0.5))
    top, left = (height - h) // 2, (width - w) // 2
    whole, centre = torch.ones_like(gt, dtype=torch.bool), torch.zeros_like(gt, dtype=torch.bool)
    centre[:, top:top + h, left:left + w] = True
    # No half of the picture does better than the half where the truth is highest: min(g / 0.5, 0.5 / g) for a 0/1 truth.
    return {"whole": ciou(whole, gt), "centre": ciou(centre, gt), "ceiling": ciou(binarize(gt, "median_exact"), gt)}


def baselines(gt):
    """What a score means: {"whole/ciou@0.5", "whole/auc", "whole/mean", the same with centre/ and ceiling/} for truths (N, H, W).

    Whole: the picture. Centre: its central square (rectangle) of half the area. Ceiling: the best that any map can do under the
    "median" rule, ties aside.
    """
    return {f"{name}/{metric}": function(values) for name, values in baseline_values(gt).items()
            for metric, function in (("ciou@0.5", success_rate), ("auc", auc), ("mean", mean))}
