"""Detection: overlap of boxes, and the scores of sets with silent and off-screen audio (SLAVC)."""
import math

import torch

from .arrays import check_maps, check_values, portable


@portable
def box_iou(a, b):
    """|a ∩ b| / |a ∪ b| of boxes (…, 4), x0, y0, x1, y1; 0 where both have no area. Broadcasts."""
    inter, union, _ = overlap(a, b)
    return torch.where(union > 0, inter / union, 0)


@portable
def generalized_box_iou(a, b):
    """IoU − (|hull| − |a ∪ b|) / |hull| in [-1, 1], boxes (…, 4) (Rezatofighi et al. 2019)."""
    _, union, hull = overlap(a, b)
    return box_iou(a, b) - torch.where(hull > 0, (hull - union) / hull, 0)


def overlap(a, b):
    """Boxes (…, 4), broadcast → areas of intersection, union and hull (the smallest box around)."""
    for name, box in (("a", a), ("b", b)):
        if box.shape[-1:] != (4,):
            raise ValueError(f"boxes {name}: expected (…, 4), got {tuple(box.shape)}")
        bad = ~(box.isfinite().all(-1) & (box[..., 2:] >= box[..., :2]).all(-1))
        if bad.any():
            raise ValueError(f"boxes {name}: box {bad.nonzero()[0].tolist()} is not finite with "
                             "x0 <= x1, y0 <= y1")
    inside = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    around = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)]
    inter = inside.clamp(min=0).prod(-1)
    return inter, areas[0] + areas[1] - inter, around.prod(-1)


@portable
def confidence(heatmaps):
    """The mean of the ⌈n/4⌉ largest values, (N, H, W) → (N,).

    SLAVC's evaluator then maps the range of its model to [0, 1], which keeps the order."""
    rows, = check_maps(heatmaps=heatmaps)
    return rows.topk(math.ceil(rows.shape[1] / 4), dim=1).values.mean(1)


def average_precision(confidence, values, sounding, exact=False, at=0.5):
    """AP = Σₖ maxⱼ≥ₖ Pⱼ · (Rₖ₊₁ − Rₖ), thresholds k from the highest confidence down.

    confidence (N,), values (N,) cIoU, sounding (N,) number of sources or a flag. As in SLAVC's
    evaluator (also sslalign's), the thresholds are every (N // 200)-th of the sorted confidences
    without the highest, and the sum begins at the first recall. exact=True: all are thresholds, and
    steps are Rₖ − Rₖ₋₁ from recall 0, so that a perfect ranking has AP 1."""
    samples = check_detections(confidence, values, sounding)
    thresholds = samples[0].sort(descending=True).values
    thresholds = thresholds if exact else thresholds[1::max(1, len(thresholds) // 200)]
    precision, recall = precision_recall(*samples, thresholds, at)
    steps = recall.diff(prepend=recall.new_zeros(1)) if exact else recall.diff()
    best = precision.flip(0).cummax(0).values.flip(0)  # (T,)
    return float((best[:len(steps)] * steps).sum())


def max_f1(confidence, values, sounding, exact=False, at=0.5):
    """The best F1 = 2PR / (P + R) over thresholds at every (N // 10)-th sorted confidence.

    SLAVC's evaluator. exact=True: every confidence is a threshold."""
    samples = check_detections(confidence, values, sounding)
    thresholds = samples[0].sort().values[::1 if exact else max(1, len(samples[0]) // 10)]
    precision, recall = precision_recall(*samples, thresholds, at)
    return float((2 * precision * recall / (precision + recall).clamp(min=1e-300)).max())


def check_detections(confidence, values, sounding):
    """(N,) float64 confidence and values, (N,) bool: has a source. ValueError if lengths differ."""
    confidence = check_values(confidence, "confidence")
    if confidence.isnan().any():
        raise ValueError(f"confidence: {int(confidence.isnan().sum())} are not a number")
    n = len(confidence)
    return confidence, check_values(values, "values", n), check_values(sounding, "sounding", n) > 0


def precision_recall(confidence, values, has_source, thresholds, at):
    """P = TP / (TP + FP), R = TP / (TP + FN) at each of (T,) thresholds; 1 if there are none.

    Detected is where confidence >= threshold. TP: has a source, and value >= at. FP: every other
    detection. FN: has a source, not detected. So a detection in the wrong place lowers P only."""
    is_detected = confidence >= thresholds[:, None]  # (T, N)
    hits = (is_detected & has_source & (values >= at)).sum(1).double()  # (T,)
    detected, positives = is_detected.sum(1), hits + (~is_detected & has_source).sum(1)
    return (torch.where(detected > 0, hits / detected, 1),
            torch.where(positives > 0, hits / positives, 1))


def loc_acc(values, sounding, at=0.5):
    """LocAcc: share of samples with a source whose value > at, strictly (SLAVC's evaluator)."""
    values = check_values(values)
    has_source = check_values(sounding, "sounding", len(values)) > 0
    return float((values[has_source] > at).double().mean())  # NaN if none has a source
