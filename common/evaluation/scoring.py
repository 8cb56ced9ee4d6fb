"""From heatmaps to scores of samples, and from scores to metrics.

A *column* of the results is the model's own heatmaps, or those of a control or a baseline, named by
its prefix in metrics.json. N samples of a test set, n of a batch; maps are S × S, S = SIZE.

>>> scores = {"ciou": np.array([0.9, 0.2, 0.6, 0.7]), "pointing": np.array([1.0, 0, 1, 1])}
>>> aggregate(scores, ["interactive"], groups=["a", "a", "b", "b"])
{'interactive/iiou': 0.5, 'interactive/iauc': 0.4, 'interactive/pointing': 0.5}
"""
from typing import NamedTuple

import numpy as np
import torch

from common import metrics
from common.training import dist, progress_bar

from .page import score_curve
from .test_sets import PROTOCOL, SIZE, shuffled_partners

BATCH = 50
CONTROLS = {"shuffled": "control/shuffled_", "silent": "control/silent_",
            "noise": "control/noise_"}  # audio → column
LEVELS = np.linspace(0, 1, 101)  # quantiles of a heatmap that are kept, see `lit_areas`
# Foreground is the upper half of the pixels or (adaptive) as many as the ground truth has: those
# strictly above a threshold, as published, or (exact) exactly so many.
RULES = ("", "_adaptive", "_exact", "_adaptive_exact")


class Batch(NamedTuple):
    """Samples of a test set on their way into a predictor."""
    images: list  # n of (H, W, 3) uint8
    audio: dict  # features (n, c) of "matched" audio and of the CONTROLS
    align_corners: bool = False
    ids: list | None = None
    protocol: str = PROTOCOL


class Prediction(NamedTuple):
    """What `predict(batch)` returns, on the CPU."""
    heatmaps: dict  # column → (n, h, w); the first is the model's own
    features: dict  # name → (n, d), of image and audio, for retrieval


def batches(rows) -> list:
    return [rows[i:i + BATCH] for i in range(0, len(rows), BATCH)]


def encode_test_audio(predictor, test_set) -> dict:
    """`Batch.audio` of a whole test set, (N, c) each: audio is encoded once for all heatmaps."""
    parts, count = [], len(test_set.ids)
    for rows in progress_bar(batches(dist.split(count)), name=f"audio, {test_set.name}"):
        parts.append(predictor.encode_audio(torch.stack([test_set.waveform(i) for i in rows])))
    features = dist.merge_rows(parts, count)  # (N, c)
    samples = round(predictor.config.crop * predictor.config.sample_rate)
    noise = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))
    silent, noise = predictor.encode_audio(torch.stack([torch.zeros(samples), noise])).cpu()
    partners = shuffled_partners(test_set.groups, test_set.labels)
    return {"matched": features, "shuffled": features[partners],
            "silent": silent.expand(len(features), -1), "noise": noise.expand(len(features), -1)}


def make_batch(test_set, audio: dict, rows) -> Batch:
    """Samples `rows` of a test set with their part of its encoded audio."""
    rows = list(rows)
    return Batch([test_set.image(i) for i in rows], {kind: x[rows] for kind, x in audio.items()},
                 test_set.align_corners, [test_set.ids[i] for i in rows], test_set.protocol)


def score_samples(predictor, test_set, audio: dict) -> tuple[dict, dict]:
    """Predict and score a test set, each process its part, all with the results of all samples:
    scores {column: {name: (N, …)}}, see `score_maps`, and features {name: (N, d)}."""
    parts, merged, count = {}, {}, len(test_set.ids)
    for rows in progress_bar(batches(dist.split(count)), name=f"heatmaps, {test_set.name}"):
        heatmaps, features = predictor.predict(make_batch(test_set, audio, rows))
        columns = {**score_batch(heatmaps, test_set, rows), "features": features}
        for column, name, x in ((c, name, x) for c in columns for name, x in columns[c].items()):
            parts.setdefault((column, name), []).append(torch.as_tensor(x))
    for column, name in dist.gather_objects(list(parts))[0]:  # other processes may have no rows
        x = dist.merge_rows(parts.get((column, name), []), count).numpy()
        merged.setdefault(column, {})[name] = x
    features = merged.pop("features", {})
    return merged, features


def score_batch(heatmaps: dict, test_set, rows) -> dict:
    """`score_maps` of every column, of the first by exact rules too, and of the baselines."""
    gt = np.stack([test_set.gt_map(i) for i in rows])  # (n, S, S)
    masks = None
    if "masks" in test_set.metric_groups:
        masks = np.stack([test_set.gt_mask(i) for i in rows])
    has_confidence, scores = "extended" in test_set.metric_groups, {}
    for column, maps in heatmaps.items():
        maps = metrics.resize(maps, SIZE, test_set.protocol, test_set.align_corners).numpy()
        scores[column] = score_maps(maps, gt, masks, has_confidence, is_exact=not scores,
                                    protocol=test_set.protocol)
        coarse = maps[:, ::4, ::4].reshape(len(maps), -1)
        scores[column]["levels"] = np.quantile(coarse, LEVELS, axis=1).T  # (n, 101)
    next(iter(scores.values()))["area"] = (gt > 0).mean((1, 2))
    return {**scores, **baseline_scores(gt, masks, has_confidence, test_set.protocol)}


def lit_areas(scores: dict, has_source) -> dict:
    """How much of an image lights up, for audio that belongs to it and for what does not: the share
    of the pixels above one threshold for all (after arXiv 2410.01020), {column: fraction}.

    The threshold is the median, over samples, of the value above which a sample's own heatmap, of
    the first column, has as many pixels as its ground truth. scores: of `score_samples`."""
    own = next(iter(scores.values()))
    tau = np.median([np.interp(1 - area, LEVELS, levels) for area, levels in
                     zip(own["area"][has_source], own["levels"][has_source])])
    return {column: float(np.mean([1 - np.interp(tau, levels, LEVELS) for levels in x["levels"]]))
            for column, x in scores.items() if x is own or column in CONTROLS.values()}


def score_maps(maps, gt, masks=None, has_confidence=False, is_exact=False,
               protocol=PROTOCOL) -> dict:
    """Scores of each sample, (n,) each. maps (n, S, S), gt in [0, 1] and masks in {0, 1} likewise.

    - ciou, ciou_adaptive, pointing; if is_exact, also ciou_exact and ciou_adaptive_exact, and
      ciou_curve (n, number of thresholds), see `score_curve`;
    - confidence: the mean of the upper quarter, of which AP and F1 need the order only;
    - against masks: mask_ciou, mask_iou (sslalign, Tables XIII and XIV) and mask_f (n, 2), each
      also _adaptive.

    Raises ValueError if a value is not finite or out of range."""
    scores = metrics.localization(maps, gt, protocol)
    if has_confidence:
        scores["confidence"] = metrics.confidence(maps)
    if is_exact:
        for rule, kind in (("", "median_exact"), ("_adaptive", "adaptive_exact")):
            pred = metrics.binarize(maps, kind, gt, protocol=protocol)
            scores[f"ciou{rule}_exact"] = metrics.ciou(pred, gt)
        scores["ciou_curve"] = score_curve(maps, gt)
    if masks is not None:
        for rule, kind, mask_kind in (("", None, None), ("_adaptive", "adaptive", "adaptive_mask")):
            pred = metrics.binarize(maps, kind, masks, protocol=protocol)
            scores[f"mask_ciou{rule}"] = metrics.ciou(pred, masks)
            pred = metrics.binarize(maps, mask_kind, masks, protocol=protocol)
            scores[f"mask_iou{rule}"] = metrics.mask_iou(pred, masks)
            scores[f"mask_f{rule}"] = f_of_masks(pred, masks)
    return scores


def f_of_masks(pred, masks, beta2=0.3):
    """`metrics.f_curves` of masks (n, S, S) bool → (n, 2); NaN without ground truth.

        F = (1 + β²) P R / (β² P + R),  P = hits / predicted pixels,  R = hits / gt pixels

    Such a curve is that of the whole image at threshold 0, and of the mask at the 254 others."""
    gt = masks > 0
    hits, area, pixels = (pred & gt).sum((1, 2)), gt.sum((1, 2)), gt[0].size
    of_image = (1 + beta2) * area / (beta2 * area + pixels)
    of_mask = (1 + beta2) * hits / np.maximum(beta2 * area + pred.sum((1, 2)), 1e-30)
    return np.where(area[:, None] > 0, np.stack([of_image, of_mask], 1), np.nan)


def baseline_scores(gt, masks=None, has_confidence=False, protocol=PROTOCOL) -> dict:
    """`score_maps` without a look at the image, and the best that a heatmap can reach.

    centre: a heatmap that falls from the middle to the edges. whole: all is foreground."""
    ring = np.abs(2 * np.arange(SIZE) - (SIZE - 1))  # whole numbers, so that ties are exact
    centre = 1 - np.maximum(ring[:, None], ring).astype(np.float32) / SIZE  # (S, S)
    centre = score_maps(np.broadcast_to(centre, gt.shape), gt, masks, has_confidence,
                        protocol=protocol)
    whole, best = {}, {}
    for name, target in (("ciou", gt), ("mask_ciou", masks)):
        if target is not None:
            values = metrics.baseline_values(target)
            whole[name], best[name] = values["whole"], values["upper_bound"]
            best[f"{name}_adaptive"] = (target > 0).any((1, 2)).astype(np.float64)  # but a pixel
    return {"baseline/centre_": centre, "baseline/whole_": whole, "baseline/upper_bound_": best}


IIOU = {"iiou{}": ("ciou{}", metrics.interactive), "iauc{}": ("ciou{}", metrics.interactive_auc)}
METRICS = {  # group → metric → the score that it is of, and how; {} is one of RULES
    "pairs": {"ciou{}@0.5": ("ciou{}", metrics.success_rate),
              "auc{}": ("ciou{}", metrics.auc),
              "pointing": ("pointing", metrics.success_rate)},
    "interactive": {**IIOU, "pointing": ("pointing", metrics.interactive)},
    "single-source": IIOU, "multi-source": IIOU,  # of sets that have images of both
    "masks": {"miou{}": ("mask_iou{}", metrics.mean),
              "f_score{}": ("mask_f{}", metrics.best_f),
              "ciou{}@0.5": ("mask_ciou{}", metrics.success_rate),
              "auc{}": ("mask_ciou{}", metrics.auc)}}


def aggregate(scores: dict, metric_groups, groups=None, has_source=None, is_complete=None) -> dict:
    """Metrics of a column, {"GROUP/METRIC": fraction}, of which it has the scores (`score_maps`).

    groups: (N,), the image of each sample. has_source: (N,) bool; others count in extended/ only.
    is_complete: (N,) bool, if all sources of its image are here; others are not interactive."""
    has_source = np.ones(len(scores["ciou"]), bool) if has_source is None else has_source
    result, is_complete = {}, has_source if is_complete is None else is_complete & has_source
    groups = np.asarray(range(len(has_source)) if groups is None else groups)
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    of_images = {"interactive": is_complete, "single-source": is_complete & (sizes[index] == 1),
                 "multi-source": is_complete & (sizes[index] > 1)}
    for group in [group for group in METRICS if group in metric_groups]:
        is_used = of_images.get(group, has_source)
        images = [groups[is_used]] if group in of_images else []
        if not is_used.any():
            continue
        for rule in RULES:
            for metric, (score, function) in METRICS[group].items():
                key, score = f"{group}/{metric}".format(rule), score.format(rule)
                if score in scores and key not in result:
                    result[key] = function(scores[score][is_used], *images)
    if "extended" in metric_groups:
        if "confidence" in scores:
            detections = scores["confidence"], scores["ciou"], has_source
            result["extended/ap"] = metrics.average_precision(*detections)
            result["extended/max_f1"] = metrics.max_f1(*detections)
        result["extended/loc_acc"] = metrics.loc_acc(scores["ciou"], has_source)
    return result
