"""From the heatmaps of T frames to their scores (3.3, 4.2), and from those to metrics."""
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from common import metrics
from common.evaluation.boxes import boxes_from_maps
from common.evaluation.page import score_curve

from .backbones.rois import nms
from .data import BACKGROUND

SIZE, TAU = 256, 0.5  # side of the maps that are compared, threshold of cIoU (4.2)
NEIGHBOURS = 1.5  # seconds between frames of which stability is measured, at most
PAGE_RULES = {f"τ = {TAU}": "fixed"}  # threshold that the page begins with
METRICS = {"ciou_mean": ("ciou", metrics.mean), "ciou@0.5": ("ciou", metrics.success_rate),
           "pointing": ("pointing", metrics.success_rate), "iou@0.5": ("iou", metrics.success_rate),
           "stability": ("stability", metrics.mean)}


class FrameScores(NamedTuple):
    """Each (T,), NaN in frames where it is not defined; None if not measured."""
    iou: torch.Tensor
    ciou: torch.Tensor | None = None
    pointing: torch.Tensor | None = None
    stability: torch.Tensor | None = None
    curve: torch.Tensor | None = None  # (T, number of thresholds), see score_curve


class VideoScores(NamedTuple):
    """All that is measured of T frames, of one video or of several."""
    columns: dict  # prefix of metrics.json → FrameScores
    gt_stability: np.ndarray  # (T,), what a perfect map would have
    has_gt: np.ndarray  # (T,) bool
    is_silent: np.ndarray  # (T,) bool
    labels: np.ndarray  # (T,) class names
    pred_labels: np.ndarray  # (T,) class names


def concatenate(videos) -> VideoScores:
    """The scores of all frames of several videos, in their order."""
    columns = {prefix: FrameScores(*(None if parts[0] is None else torch.cat(parts)
                                     for parts in zip(*(v.columns[prefix] for v in videos))))
               for prefix in videos[0].columns}
    return VideoScores(columns, *map(np.concatenate, list(zip(*videos))[1:]))


def aggregate(scores: VideoScores, classes, box_map: str) -> dict:
    """Full keys of metrics.json, without the group → numbers. Localization is of frames with gt."""
    has_gt, labels, flat = scores.has_gt, scores.labels, {"frames/n": int(scores.has_gt.sum())}
    for prefix, frames in {**scores.columns, "frames/": scores.columns[f"{box_map}/"]}.items():
        values = {name: x[has_gt] for name, x in frames._asdict().items() if x is not None}
        flat |= {prefix + metric: mean(values[name]) for metric, (name, mean) in METRICS.items()
                 if name in values and not values[name].isnan().all()}
    if not np.isnan(scores.gt_stability).all():
        flat["truth/stability"] = metrics.mean(scores.gt_stability)
    is_right, is_event = scores.pred_labels == labels, labels != BACKGROUND
    for key, count, where in (
            ("events/accuracy", "events/n", is_event & np.isin(labels, classes)),
            ("silence/accuracy", "silence/n", scores.is_silent),
            ("silence/accuracy_with_edges", "silence/n_with_edges", ~is_event)):
        flat[count] = int(where.sum())
        if where.any():
            flat[key] = float(is_right[where].mean())
    for label in sorted(set(labels[has_gt])):
        iou = scores.columns[f"{box_map}/"].iou[has_gt & (labels == label)]
        flat |= {f"class/{label}/iou@0.5": metrics.success_rate(iou), f"class/{label}/n": len(iou)}
    return flat


def enlarge(maps):
    """(T, h, w) → (T, SIZE, SIZE), bilinear, each from 0 to 1 (4.2); a constant map is 0."""
    maps = metrics.resize(maps.float(), SIZE)
    is_constant = maps.amax((1, 2), True) == maps.amin((1, 2), True)
    return torch.where(is_constant, 0, metrics.normalise(maps))


def boxes_to_maps(boxes):
    """T arrays (n, 4 or more) in [0, 1], n differs → (T, SIZE, SIZE) 0/1: the union of each."""
    padded = torch.zeros(len(boxes), max(1, *map(len, boxes), 0), 4, dtype=torch.float64)
    for row, frame in zip(padded, boxes):
        row[:len(frame)] = torch.as_tensor(frame)[:, :4]
    return metrics.boxes_to_map(padded * SIZE, SIZE)


def foreground_boxes(maps, labels) -> list:
    """Boxes of enlarged maps: T of (n, 5), in [0, 1] with a score; none where it is background."""
    return [boxes[:0] if label == BACKGROUND else boxes
            for boxes, label in zip(boxes_from_maps(maps), labels)]


def iou_of_boxes(boxes, gt):
    """IoU of the union of a frame's boxes with gt: (T,); NaN if both are empty."""
    return metrics.iou(boxes_to_maps(boxes) > 0, gt > 0)


def stability(masks, gt, times):
    """IoU of each frame's mask with the next one's: (T,). NaN at the end, if one of the two has no
    gt, or if they are more than NEIGHBOURS apart."""
    has_gt = gt.flatten(1).any(1)
    values = torch.full((len(masks),), torch.nan, dtype=torch.float64)
    if len(masks) > 1:
        both = has_gt[:-1] & has_gt[1:] & torch.from_numpy(np.diff(times) <= NEIGHBOURS)
        values[:-1] = torch.where(both, metrics.iou(masks[:-1], masks[1:]), torch.nan)
    return values


def score_maps(maps, gt, labels, times) -> FrameScores:
    """Scores of T enlarged maps; gt 0/1 (T, SIZE, SIZE), T predicted labels, times in seconds.
    cIoU (4.2) and stability are of A(τ) = {α > τ}, τ = TAU; NaN if A(τ) and gt are empty."""
    masks = metrics.binarize(maps, "fixed", tau=TAU)
    return FrameScores(iou_of_boxes(foreground_boxes(maps, labels), gt), metrics.ciou(masks, gt),
                       metrics.pointing(maps, gt), stability(masks, gt, times),
                       torch.from_numpy(score_curve(maps, gt)))


def baseline_scores(gt) -> dict:
    """Prefix → FrameScores of two constant predictions: the whole image, and a map that falls from
    the centre, whose A(TAU) has a quarter of the image and whose box a half."""
    ring = (2 * torch.arange(SIZE) - SIZE + 1).abs()
    centre = 1 - (torch.maximum(ring[:, None], ring) - 1) / (SIZE - 2.0)  # 1 in the middle
    centre, values = centre.expand(gt.shape), metrics.baseline_values(gt)
    return {"baseline/centre_": FrameScores(values["centre"], metrics.ciou(centre > TAU, gt),
                                            metrics.pointing(centre, gt)),
            "baseline/whole_": FrameScores(values["whole"], values["whole"])}


def ground_proposals(proposals, alpha, config):
    """The proposals of one frame, scored by its localization map, section 3.3.

        Sₙᵗ = Σᵢⱼ mₙᵗ(i,j) α̂ₐᵥᵗ(i,j),   mₙᵗ the mask of box n, its edges rounded to pixels

    proposals (N, 4) in [0, 1], alpha (SIZE, SIZE), which sums to 1 → at most config.grounded boxes
    with their Sₙ (…, 5), best first, after NMS. config.area_normalised divides Sₙ by Σᵢⱼ mₙ.
    """
    table = F.pad(alpha.double().cumsum(0).cumsum(1), (1, 0, 1, 0))  # [y, x]: sum of alpha[:y, :x]
    x0, y0, x1, y1 = (proposals * SIZE).round().long().clamp(0, SIZE).T
    S = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]  # (N,)
    if config.area_normalised:
        S = S / ((x1 - x0) * (y1 - y0)).clamp(min=1)
    best = nms(proposals, S, config.nms, most=config.grounded)
    return torch.cat([proposals[best], S[best, None].float()], 1)
