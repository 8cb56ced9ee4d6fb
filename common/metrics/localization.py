"""Localization: how well heatmaps and masks agree with the ground truth.

Scores of samples are (N,) float64. Where the gt is empty and nothing is predicted, a score is NaN:
`success_rate`, `auc` and the interactive metrics count it as a miss, and `mean` leaves it out.
Scores of a set are Python floats in [0, 1].
"""
import torch

from .arrays import check_maps, check_values, portable
from .protocols import PROTOCOLS, binarize, exceeds, thresholds_of_rows

BLOCK = 4  # heatmaps of 224² at a time; with their masks, more leave a processor's cache


@portable
def ciou(pred, gt):
    """Consensus IoU, masks (N, H, W) and gt (N, H, W) in [0, 1] → (N,).

        cIoU = Σ pred · gt / ( Σ gt + Σ pred · [gt = 0] )

    stmnet 4.2, and the evaluators of Flickr-SoundNet, LVS, EZ-VSL, SLAVC and sslalign. A pixel of a
    fractional gt is a partial hit and never a false one, so this is an IoU of masks for a 0/1 gt.

    >>> gt = torch.tensor([[[1, .5, 0, 0]]])  # one annotator of two marked the second pixel
    >>> ciou(torch.tensor([[[1, 1, 1, 0]]]), gt)  # 1.5 / (1.5 + 1)
    tensor([0.6000], dtype=torch.float64)
    """
    return ciou_of_rows(*check_maps(pred=pred, gt=gt))


def ciou_of_rows(pred, gt):
    """`ciou` of masks (…, N, n) of 0 and 1 and one gt (N, n) → (…, N)."""
    hits, area = (pred * gt).sum(-1, dtype=torch.float64), gt.sum(-1, dtype=torch.float64)
    return hits / (area + (pred * (1 - gt.sign())).sum(-1))


@portable
def pointing(heatmaps, gt):
    """Pointing game (Zhang et al. 2016): [gt > 0 at the first maximum], (N, H, W) twice → (N,)."""
    rows, gt_rows = check_maps(heatmaps=heatmaps, gt=gt)
    return is_peak_in(rows.view(gt.shape), gt_rows.view(gt.shape))


def is_peak_in(heatmaps, gt):
    """`pointing` without checks; the maximum's row, then its column: faster than one argmax."""
    i = torch.arange(len(gt), device=gt.device)
    y = heatmaps.amax(2).argmax(1)  # (N,)
    return (gt[i, y, heatmaps[i, y].argmax(1)] > 0).double()


@portable
def localization(heatmaps, gt, protocol="sslalign", tau=0.5):
    """What every evaluation needs at once: (N, H, W) twice → {"ciou", "ciou_adaptive", "pointing"}.

    ciou is `ciou` of `binarize` by the protocol, ciou_adaptive the same by the adaptive rule."""
    rows, gt_rows = check_maps(heatmaps=heatmaps, gt=gt)
    protocol, values = PROTOCOLS[protocol], []
    for x, g in zip(rows.split(BLOCK), gt_rows.split(BLOCK)):
        taus = thresholds_of_rows(x, [protocol.rule, "adaptive"], g, tau)  # (2, BLOCK)
        values.append(ciou_of_rows(exceeds(x, taus, protocol), g))
    plain, adaptive = torch.cat(values, 1)
    return {"ciou": plain, "ciou_adaptive": adaptive,
            "pointing": is_peak_in(rows.view(gt.shape), gt)}


@portable
def iou(a, b):
    """|a ∩ b| / |a ∪ b| of masks (N, H, W) → (N,); NaN where both are empty.

    >>> iou(torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[0, 1, 1, 1]]]))
    tensor([0.2500], dtype=torch.float64)
    """
    a, b = (x > 0 for x in check_maps(pred=a, gt=b))
    return (a & b).sum(1).double() / (a | b).sum(1)


def mean(values):
    """The mean of the values that are not NaN; NaN if all are."""
    return float(check_values(values).nanmean())


def success_rate(values, at=0.5):
    """Share of values >= at: cIoU@0.5 (sslalign, LVS, TURN; EZ-VSL calls it AP50), IoU@0.5."""
    return float((check_values(values) >= at).double().mean())


def auc(values):
    """Area under `success_rate` at 0, 0.05, …, 1, by trapezoids (all since Flickr-SoundNet)."""
    values, at = check_values(values), 0.05 * torch.arange(21, dtype=torch.float64)
    return float(torch.trapezoid((values >= at[:, None]).double().mean(1), dx=0.05))


@portable
def baseline_values(gt):
    """cIoU of predictions that ignore image and audio, gt (N, H, W) → {name: (N,)}.

    "whole": the whole image. "centre": its central rectangle of half the area. "upper_bound": the
    half of the image where gt is highest, the best of all halves: min(2g, 1 / 2g) for a 0/1 gt of
    area g."""
    check_maps(gt=gt)
    (height, width), centre = gt.shape[1:], torch.zeros_like(gt, dtype=torch.bool)
    h, w = max(1, round(height * 0.5 ** 0.5)), max(1, round(width * 0.5 ** 0.5))
    top, left = (height - h) // 2, (width - w) // 2
    centre[:, top:top + h, left:left + w] = True
    return {"whole": ciou(torch.ones_like(centre), gt), "centre": ciou(centre, gt),
            "upper_bound": ciou(binarize(gt, "median_exact"), gt)}
