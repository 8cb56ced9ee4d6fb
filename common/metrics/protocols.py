"""From heatmaps to masks: thresholds, resizing, and the conventions of the published evaluators.

Heatmaps are (N, H, W), n = H · W pixels; B is the number of pixels of a sample's gt that are not 0.
"""
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from .arrays import check_maps, portable


class Protocol(NamedTuple):
    """What the published evaluators do differently between a model's map and its mask."""
    rule: str  # of `threshold`
    is_strict: bool  # a pixel is predicted where heatmap > threshold, else where >= threshold
    mode: str  # of `resize`
    align_corners: bool
    has_peak: bool = False  # pixels equal to the maximum are predicted in any case


PROTOCOLS = {  # their "cIoU" of a set; their number of clips of VGG-SS, of Flickr-SoundNet
    # success_rate; 4655, 250. It resizes VGG-SS like this, its other sets with align_corners.
    "sslalign": Protocol("median", True, "bilinear", False),
    # success_rate; 5158, 249. Masks are made in place: > threshold becomes 1, then < 1 becomes 0.
    "lvs": Protocol("median", True, "bilinear", False, has_peak=True),
    "ezvsl": Protocol("median", False, "bilinear", True),  # mean ("AP50": success_rate); 5158, 249
    # loc_acc ("Precision"); 5158, 250. Relative prediction, and its default: scores >= 0.5.
    "slavc": Protocol("median", False, "bicubic", True),
    "slavc-absolute": Protocol("absolute", False, "bicubic", True),
    # success_rate; 5158, 250. Maps in [0, 1] at 224; it reports the best of τ = 0.05, …, 0.95.
    "acl": Protocol("absolute", False, "bilinear", False),
    "avsbench": Protocol("absolute", True, "bilinear", False),  # mask_miou of sigmoid(logit) > 0.5
    "fixed": Protocol("fixed", True, "bilinear", False),  # stmnet 4.2
}
RULES = ("median", "adaptive", "adaptive_mask", "median_exact", "adaptive_exact", "fixed",
         "absolute")


@portable
def normalise(heatmaps):
    """(x − min) / (max − min) of each heatmap; a constant one stays."""
    x = check_maps(heatmaps=heatmaps)[0].view(heatmaps.shape)
    low, high = x.amin((1, 2), True), x.amax((1, 2), True)
    return torch.where(high > low, (x - low) / (high - low), x)


def object_guided(heatmaps, objects, alpha=0.4):
    """Object-guided localization (EZ-VSL; sslalign, Table II), two (N, H, W) → (N, H, W).

        norm( α · norm(heatmap) + (1 − α) · norm(object map) )
    """
    return normalise(normalise(heatmaps) * alpha + normalise(objects) * (1 - alpha))


@portable
def resize(heatmaps, size, protocol="sslalign", align_corners=None):
    """(N, h, w) → (N, H, W) as the protocol does; size: H = W, or (H, W)."""
    x, rule = check_maps(heatmaps=heatmaps)[0].view(heatmaps.shape), PROTOCOLS[protocol]
    align_corners = rule.align_corners if align_corners is None else align_corners
    return F.interpolate(x[:, None], size, mode=rule.mode, align_corners=align_corners)[:, 0]


@portable
def threshold(heatmaps, rule, gt=None, tau=0.5):
    """The value above which a pixel is predicted, (N, H, W) → (N,).

    - "median": the value at ascending rank n // 2, "top 50 %" (all evaluators since LVS);
    - "adaptive": the value at ascending rank n − B, rank n // 2 if B = 0 (sslalign 4.1.2). Fewer
      than B pixels are above it: the published evaluator's rule, not the paper's sentence;
    - "adaptive_mask": the same, but ∞ if B = 0: "the top B pixels" of an empty mask are none;
    - "median_exact", "adaptive_exact": the least value of exactly n // 2, exactly B pixels;
    - "fixed": min + τ · (max − min), so τ on the min-max normalised heatmap (stmnet 4.2, τ = 0.5);
    - "absolute": τ in the heatmap's own units (SLAVC, AVSBench: τ = 0.5).

    >>> x = torch.tensor([[[0., 1, 2], [3, 4, 5]]])
    >>> threshold(x, "median"), threshold(x, "adaptive", gt=x > 3), threshold(x, "fixed")
    (tensor([3.]), tensor([4.]), tensor([2.5000]))
    """
    if rule not in RULES or heatmaps.dtype == torch.bool:
        raise ValueError(f"unknown threshold {rule!r}, or a mask instead of heatmaps")
    gt = gt if rule.startswith("adaptive") else torch.zeros_like(heatmaps)  # no other rule looks
    if gt is None:
        raise ValueError(f"threshold {rule!r} needs gt")
    rows, gt_rows = check_maps(heatmaps=heatmaps, gt=gt)
    return thresholds_of_rows(rows, [rule], gt_rows, tau)[0]


@portable
def binarize(heatmaps, rule=None, gt=None, tau=0.5, protocol="sslalign"):
    """Predicted masks, (N, H, W) → (N, H, W) bool.

        A(τ) = { heatmap > τ }, or { heatmap >= τ } if the protocol is not strict

    τ is the `threshold` by the rule, the protocol's if None. The strict rule selects nothing of a
    constant heatmap, and scores a heatmap that equals its 0/1 gt 0, since all ones tie with τ. The
    exact rules select exactly their number of pixels, among ties the first in row order."""
    protocol = PROTOCOLS[protocol]
    rule = rule or protocol.rule
    rows, tau = heatmaps.flatten(1), threshold(heatmaps, rule, gt, tau)
    if not rule.endswith("_exact"):
        return exceeds(rows, tau, protocol).bool().view(heatmaps.shape)
    masks, ties = rows > tau[:, None], rows == tau[:, None]
    gt_rows = rows if gt is None else gt.flatten(1).double()
    missing = num_pixels(rule, gt_rows) - masks.sum(1)  # (N,)
    return (masks | ties & (ties.cumsum(1) <= missing[:, None])).view(heatmaps.shape)


def num_pixels(rule, gt_rows):
    """(N,) number of the largest pixels that a rank rule selects, ties aside. gt_rows: (N, n)."""
    n = gt_rows.shape[1]
    half = n // 2 if rule.endswith("_exact") else n - n // 2  # published: the value at rank n // 2
    half = torch.full((len(gt_rows),), half, device=gt_rows.device)
    if not rule.startswith("adaptive"):
        return half
    area = gt_rows.sign().sum(1).long()
    return area if rule == "adaptive_mask" else torch.where(area > 0, area, half)


def thresholds_of_rows(rows, rules, gt_rows, tau):
    """`threshold` of rows (N, n) by several rules → (len(rules), N)."""
    ranks = torch.stack([rows.shape[1] - num_pixels(rule, gt_rows) for rule in rules], 1)
    taus = values_at_ranks(rows, ranks.clamp(max=rows.shape[1] - 1))  # (N, len(rules))
    taus = taus.masked_fill(ranks == rows.shape[1], torch.inf).T  # (len(rules), N)
    if "fixed" in rules:
        low = rows.amin(1)  # (N,)
        taus[rules.index("fixed")] = low + tau * (rows.amax(1) - low)
    if "absolute" in rules:
        taus[rules.index("absolute")] = tau
    return taus


def values_at_ranks(rows, ranks):
    """(N, n), (N, K) → (N, K): in each row, the values at ascending ranks, counted from 0."""
    if not rows.is_cpu:
        return rows.sort(1).values.gather(1, ranks)
    # On a CPU, numpy's partitions take a small part of torch's sort; those by one rank are fast.
    values = [[np.partition(row, k)[k] for k in ks] for row, ks in zip(rows.numpy(), ranks.numpy())]
    return torch.from_numpy(np.stack(values))


def exceeds(rows, tau, protocol):
    """(N, n), thresholds (…, N) → masks (…, N, n) of 0 and 1 in the type of rows.

    On a CPU, a comparison into floating point is five times as fast as one into bool."""
    compare = torch.gt if protocol.is_strict else torch.ge
    masks = compare(rows, tau[..., None], out=rows.new_empty(*tau.shape, rows.shape[1]))
    return masks.maximum((rows == rows.amax(1, True)).to(rows)) if protocol.has_peak else masks
