"""From maps to numbers: arrays alone, whoever made the maps."""
import numpy as np

from common import metrics

SIZE = 224  # side of the maps on which predictions and truths are compared, as in the released evaluation
RULES = ("", "_adaptive", "_exact", "_adaptive_exact")  # top half, top B; strictly above the threshold, or exactly so many pixels


def values(maps, truth, masks=None, extended=False, exact=False) -> dict:
    """What is known of each sample. maps (n, SIZE, SIZE), truth likewise in [0, 1], masks likewise 0/1 or None → arrays (n,):

    - ciou and ciou_adaptive by the published rule, pointing;
    - extended: confidence, the mean of the top quarter. AP and F1 look at its order alone: the range of the maps is of no matter;
    - exact: ciou_exact, ciou_adaptive_exact, of as many pixels as the paper's sentences say;
    - with masks mask_ciou, mask_iou (Tables XIII, XIV) and f (n, 2), each also _adaptive.

    ValueError for what is not finite or out of range: see common.maps.check.
    """
    found = metrics.localization(maps, truth)
    if extended:
        found["confidence"] = metrics.confidence(maps)
    if exact:
        for rule in ("", "_adaptive"):
            kind = "adaptive_exact" if rule else "median_exact"
            found[f"ciou{rule}_exact"] = metrics.ciou(metrics.binarize(maps, kind, truth), truth)
    if masks is not None:
        for rule, kind in (("", "median"), ("_adaptive", "adaptive")):
            predicted = metrics.binarize(maps, kind, masks)
            found |= {f"mask_ciou{rule}": metrics.ciou(predicted, masks), f"mask_iou{rule}": metrics.mask_iou(predicted, masks),
                      f"f{rule}": f_of_masks(predicted, masks)}
    return found


def f_of_masks(predicted, masks, beta2=0.3):
    """`metrics.f_curves` of predictions that are masks, (n, H, W) bool: (n, 2), for such a curve has two values: at the first
    of the 255 thresholds, 0, that of the whole picture, at all others that of the mask. NaN where the truth is empty."""
    true = masks > 0
    hits, found, area, pixels = (predicted & true).sum((1, 2)), predicted.sum((1, 2)), true.sum((1, 2)), true[0].size
    # (1 + beta²) P R / (beta² P + R) with P = hits / found and R = hits / area
    f = np.stack([(1 + beta2) * area / (beta2 * area + pixels), (1 + beta2) * hits / np.maximum(beta2 * area + found, 1e-30)], 1)
    return np.where(area[:, None] > 0, f, np.nan)


def floors(truth, masks=None, extended=False) -> dict:
    """`values` of what looks at nothing, (n, SIZE, SIZE) truths as in `values` → {"centre", "whole", "ceiling"}.

    centre: a map that is highest in the middle and falls towards the edges: its top half is the central square of half the
    area, its top B a central square of the truth's area. whole: the whole picture. ceiling: the best that any map can do.
    """
    ring = np.abs(2 * np.arange(SIZE) - (SIZE - 1))  # whole numbers: what is as far from the middle is equal to the bit
    centre = 1 - np.maximum(ring[:, None], ring).astype(np.float32) / SIZE  # (SIZE, SIZE)
    found = {"centre": values(np.broadcast_to(centre, truth.shape), truth, masks, extended), "whole": {}, "ceiling": {}}
    for prefix, gt in (("", truth), ("mask_", masks)):
        if gt is not None:
            known = metrics.baseline_values(gt)
            found["whole"][f"{prefix}ciou"], found["ceiling"][f"{prefix}ciou"] = known["whole"], known["ceiling"]
            found["ceiling"][f"{prefix}ciou_adaptive"] = (gt > 0).any((1, 2)).astype(np.float64)  # less one pixel
    return found


def summary(values, feeds, groups=None, sounding=None) -> dict:
    """The metrics of a set from `values` (those that it has), as in metrics.json: fractions.

    feeds: which of pairs, masks, interactive, extended. groups (n,): the picture of each sample. sounding (n,) bool: the others
    count in extended/ only.
    """
    sounding = np.ones(len(values["ciou"]), bool) if sounding is None else np.asarray(sounding)
    heard = {name: x[sounding] for name, x in values.items()}
    result = {}
    if "pairs" in feeds:
        for rule in RULES:
            if f"ciou{rule}" in heard:
                result[f"pairs/ciou{rule}@0.5"] = metrics.success_rate(heard[f"ciou{rule}"])
                result[f"pairs/auc{rule}"] = metrics.auc(heard[f"ciou{rule}"])
        if "pointing" in heard:
            result["pairs/pointing"] = metrics.success_rate(heard["pointing"])
    if "interactive" in feeds:
        pictures = np.asarray(groups)[sounding]
        for rule in RULES:
            if f"ciou{rule}" in heard:
                result[f"interactive/iiou{rule}"] = metrics.interactive(heard[f"ciou{rule}"], pictures)
                result[f"interactive/iauc{rule}"] = metrics.interactive_auc(heard[f"ciou{rule}"], pictures)
        if "pointing" in heard:
            result["interactive/pointing"] = metrics.interactive(heard["pointing"], pictures)
    if "extended" in feeds:
        if "confidence" in values:
            detections = values["confidence"], values["ciou"], sounding
            result |= {"extended/ap": metrics.average_precision(*detections), "extended/max_f1": metrics.max_f1(*detections)}
        result["extended/loc_acc"] = metrics.loc_acc(values["ciou"], sounding)
    if "masks" in feeds:
        for rule in RULES[:2]:
            if f"mask_iou{rule}" in heard:
                result[f"masks/miou{rule}"] = metrics.mean(heard[f"mask_iou{rule}"])
                result[f"masks/f_score{rule}"] = metrics.best_f(heard[f"f{rule}"])
            if f"mask_ciou{rule}" in heard:
                result[f"masks/ciou{rule}@0.5"] = metrics.success_rate(heard[f"mask_ciou{rule}"])
                result[f"masks/auc{rule}"] = metrics.auc(heard[f"mask_ciou{rule}"])
    return result
