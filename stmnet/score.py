"""From maps to numbers: arrays alone, whoever made the maps. Everything is of the T frames of a video at once (3.3, 4.2)."""
import numpy as np
import torch

from common import metrics

from common.evaluation.boxes import boxes_from_maps
from .backbones.rois import nms

SIZE = 256  # side of the maps on which predictions and truths are compared (4.2)
TAU = 0.5  # of cIoU (4.2)
NEIGHBOURS = 1.5  # seconds: annotated frames are one apart, where none is left out


def enlarged(maps):
    """(T, h, w) → (T, SIZE, SIZE), bilinear, each from 0 to 1 (4.2); a constant map is 0."""
    maps = metrics.resize(maps.float(), SIZE)
    return torch.where(maps.amax((1, 2), True) > maps.amin((1, 2), True), metrics.normalise(maps), 0)


def truth_of(boxes):
    """T arrays (n, 4) in [0, 1] → (T, SIZE, SIZE) 0/1: the union of a frame's boxes."""
    return metrics.boxes_to_map(padded(boxes) * SIZE, SIZE)


def padded(boxes):
    """T of (n, 4), n differs → (T, most, 4); boxes of zeros mark nothing."""
    found = torch.zeros(len(boxes), max(1, *(len(b) for b in boxes), 0), 4, dtype=torch.float64)
    for row, own in zip(found, boxes):
        row[:len(own)] = torch.as_tensor(own)[:, :4]
    return found


def values(maps, truth, shown, times) -> dict:
    """maps (T, SIZE, SIZE), truth likewise 0/1, shown (T,) bool: frames that are not background, times (T,) in seconds → {name: (T,)}
    and "boxes".

    ciou: of {map > TAU}, the map being normalised; NaN where nothing is there and nothing is predicted. pointing. iou: of the unions
    of boxes; frames that count as background have none. stability: see there, of {map > TAU}.
    """
    masks = metrics.binarize(maps, "fixed", tau=TAU)
    boxes = [b if there else b[:0] for b, there in zip(boxes_from_maps(maps), shown.tolist())]
    return {"ciou": metrics.ciou(masks, truth), "pointing": metrics.pointing(maps, truth), "iou": iou_of_boxes(boxes, truth),
            "stability": stability(masks, truth, times), "boxes": boxes}


def iou_of_boxes(boxes, truth):
    """The union of a frame's boxes with the truth: (T,); NaN where there is neither."""
    return metrics.iou(truth_of(boxes) > 0, truth > 0)


def stability(masks, truth, times):
    """IoU of each frame's mask with the next one's: (T,); NaN at the end, where one of the two has no truth, and where they are
    more than NEIGHBOURS apart."""
    there = truth.flatten(1).any(1)
    found = torch.full((len(masks),), torch.nan, dtype=torch.float64)
    if len(masks) > 1:
        both = there[:-1] & there[1:] & torch.from_numpy(np.diff(times) <= NEIGHBOURS)
        found[:-1] = torch.where(both, metrics.iou(masks[:-1], masks[1:]), torch.nan)
    return found


def floors(truth) -> dict:
    """`values` without boxes of what looks at nothing: {"centre", "whole"}. centre: a map that falls from the middle, whose
    {map > TAU} is the central square of a quarter of the picture; its box is that of half. whole: the picture."""
    side = torch.arange(SIZE)
    ring = torch.maximum((2 * side - SIZE + 1).abs()[:, None], (2 * side - SIZE + 1).abs())
    centre = (1 - (ring - 1) / (SIZE - 2.0)).expand(truth.shape)  # (T, SIZE, SIZE), 1 in the middle and 0 at the edge
    known = metrics.baseline_values(truth)
    return {"centre": {"ciou": metrics.ciou(centre > TAU, truth), "pointing": metrics.pointing(centre, truth), "iou": known["centre"]},
            "whole": {"ciou": known["whole"], "iou": known["whole"]}}


def grounded(proposals, alpha, config):
    """Boxes (N, 4) in [0, 1] and one map alpha (SIZE, SIZE), which sums to 1 → those that stay (n, 5) with their S_n, the best first.

    S_n is the sum of the map within a box (3.3), with config.area_normalised its mean; then config.nms, and the first
    config.grounded of what is left.
    """
    table = torch.nn.functional.pad(alpha.double().cumsum(0).cumsum(1), (1, 0, 1, 0))  # sums of all rectangles from the corner
    x0, y0, x1, y1 = (proposals * SIZE).round().long().clamp(0, SIZE).T
    S = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    if config.area_normalised:
        S = S / ((x1 - x0) * (y1 - y0)).clamp(min=1)
    kept = nms(proposals, S, config.nms, most=config.grounded)
    return torch.cat([proposals[kept], S[kept, None].float()], 1)


def summary(values) -> dict:
    """The localization metrics of {name: (N,)} over frames with a truth, which those are that have a value: fractions by name."""
    result = {"ciou_mean": metrics.mean(values["ciou"]), "ciou@0.5": metrics.success_rate(values["ciou"])} if "ciou" in values else {}
    if "pointing" in values:
        result["pointing"] = metrics.success_rate(values["pointing"])
    result["iou@0.5"] = metrics.success_rate(values["iou"])
    if "stability" in values and not np.isnan(values["stability"]).all():
        result["stability"] = metrics.mean(values["stability"])
    return result
