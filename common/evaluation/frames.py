"""Scores of the frames of a video: heatmaps and boxes against boxes of what sounds (stmnet 4.2).

T frames, whose ground truth is a list of T arrays of boxes (n, 4) in [0, 1], n = 0 where nothing
that sounds is in view. Two protocols make one IoU of a frame. "paper": boxes of Otsu's threshold
and components, union against union. "released", stmnet's authors' code: the hull of what reaches
half of the maximum against the hull of the ground truth, + 1 pixel.
"""
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from common import metrics

from .boxes import best_rectangle, boxes_from_maps, hull_of_maps, iou_plus_one, unit_maps

SIZE, TAU = 256, 0.5  # side of the maps that are compared, threshold of cIoU (4.2)
NEIGHBOURS = 1.5  # seconds between frames of which stability is measured, at most
PAGE_RULES = {f"τ = {TAU}": "fixed"}  # threshold that the page begins with
METRICS = {"pointing": ("pointing", metrics.success_rate), "iou@0.5": ("iou", metrics.success_rate),
           "iou_gated@0.5": ("iou_gated", metrics.success_rate),
           "iou_released@0.5": ("iou_released", metrics.success_rate),
           "ciou_mean": ("ciou", metrics.mean), "ciou@0.5": ("ciou", metrics.success_rate),
           "stability": ("stability", metrics.mean)}


class FrameScores(NamedTuple):
    """Each (T,), NaN in frames where it is not defined; None if not measured."""
    iou: torch.Tensor  # protocol "paper": boxes of Otsu and components, union against union
    iou_released: torch.Tensor | None = None  # the authors' code: hull against hull, + 1 pixel
    iou_gated: torch.Tensor | None = None  # "paper", no box where the class is background
    ciou: torch.Tensor | None = None
    pointing: torch.Tensor | None = None
    stability: torch.Tensor | None = None


def enlarge(maps):
    """(T, h, w) → (T, SIZE, SIZE), bilinear, each from 0 to 1 (4.2); a constant map is 0."""
    return unit_maps(metrics.resize(maps.float(), SIZE))


def boxes_to_maps(boxes):
    """T > 0 arrays (n, 4 or more) in [0, 1], n differs → (T, SIZE, SIZE) 0/1: the union of each."""
    boxes = [torch.as_tensor(frame)[:, :4].double() for frame in boxes]
    return metrics.boxes_to_map(pad_sequence(boxes, batch_first=True) * SIZE, SIZE)


def hulls(boxes):
    """T of (n, 4) → (T, 4) the smallest box around all of a frame's; zeros where there is none."""
    boxes = [torch.as_tensor(b)[:, :4].double() for b in boxes]
    return torch.stack([torch.cat([b[:, :2].amin(0), b[:, 2:].amax(0)]) if len(b) else
                        torch.zeros(4, dtype=torch.float64) for b in boxes])


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


def score_maps(maps, boxes, times, is_background) -> FrameScores:
    """Scores of T enlarged maps; boxes: T of the ground truth; times in seconds; is_background: T
    bool, whether the predicted class is background. cIoU (4.2) and stability are of
    A(τ) = {α > τ}, τ = TAU; NaN if A(τ) and gt are empty."""
    gt, masks = boxes_to_maps(boxes), metrics.binarize(maps, "fixed", tau=TAU)
    iou = iou_of_boxes(boxes_from_maps(maps), gt)
    gated = torch.where(torch.as_tensor(is_background) & ~iou.isnan(), 0.0, iou)
    released = iou_plus_one(SIZE * hull_of_maps(maps), SIZE * hulls(boxes))
    return FrameScores(iou, released, gated, metrics.ciou(masks, gt), metrics.pointing(maps, gt),
                       stability(masks, gt, times))


def baseline_scores(boxes) -> dict:
    """Prefix → FrameScores of predictions that look at nothing, for T frames with these boxes: the
    whole image, its central half, which points to the middle, the best fixed rectangle."""
    half, found = 0.5**0.5 / 2, {}
    rectangles = {"whole": torch.tensor([0.0, 0, 1, 1]), "fixed": best_rectangle(hulls(boxes)),
                  "centre": torch.tensor([0.5 - half] * 2 + [0.5 + half] * 2)}
    blocks = [boxes_to_maps(boxes[i:i + 256]) for i in range(0, len(boxes), 256)]
    for name, rectangle in rectangles.items():
        mask = boxes_to_maps([rectangle[None]]) > 0
        iou = torch.cat([metrics.iou(mask.expand(gt.shape), gt > 0) for gt in blocks])
        released = iou_plus_one(SIZE * rectangle.double(), SIZE * hulls(boxes))
        pointing = torch.cat([gt[:, SIZE // 2 - 1, SIZE // 2 - 1].double() for gt in blocks])
        found[f"baseline/{name}_"] = FrameScores(
            iou, released, ciou=iou, pointing=pointing if name == "centre" else None)
    return found
