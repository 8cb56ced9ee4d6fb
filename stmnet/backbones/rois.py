"""Boxes of a detector: anchors, their coding, non-maximum suppression, and features within boxes (RoIAlign).

Boxes are (…, 4) as x0, y0, x1, y1 in pixels, continuous: a pixel is 1 wide and the picture's right edge is at W. Everything is
on the device of its input, with no loop over boxes.
"""
import math

import torch
import torch.nn.functional as F

from common.metrics import box_iou

RATIOS = (0.5, 1.0, 2.0)  # height / width of the anchors of a place
GROWTH = math.log(1000 / 16)  # no box gets more than so much wider or higher than its anchor
BLOCK = 1024  # boxes whose overlaps with all kept ones are in memory at once


def cell_anchors(side: float, device=None) -> torch.Tensor:
    """→ (3, 4) anchors around 0, of area side² but for the rounding to whole pixels, one for each of RATIOS."""
    root = torch.tensor(RATIOS, device=device).sqrt()
    width, height = 1 / root * side, root * side
    return (torch.stack([-width, -height, width, height], 1) / 2).round()


def anchors(picture: tuple, grid: tuple, side: float, device=None) -> torch.Tensor:
    """Anchors (h · w · 3, 4) of a map of (h, w) = grid places over a picture of (H, W): places in rows, then ratios.

    Places are H // h and W // w apart, which is a little less than the stride where a map was rounded up.
    """
    y, x = (torch.arange(n, device=device) * (length // n) for length, n in zip(picture, grid))
    y, x = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)  # (h · w, 1, 4)
    return (places + cell_anchors(side, device)).flatten(0, 1)


def decode(deltas: torch.Tensor, boxes: torch.Tensor, weights=(1.0, 1.0, 1.0, 1.0)) -> torch.Tensor:
    """deltas (…, 4) of boxes (…, 4), broadcast → boxes (…, 4).

    Deltas over their weights are the shift of the centre in units of the box, and the logarithms of how much wider and higher
    it gets (Girshick et al., "Rich feature hierarchies", CVPR 2014, appendix C).
    """
    shift, growth = (deltas / deltas.new_tensor(weights)).split(2, -1)
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + size / 2 + shift * size
    half = growth.clamp(max=GROWTH).exp() * size / 2
    return torch.cat([centre - half, centre + half], -1)


def clip(boxes: torch.Tensor, size: tuple) -> torch.Tensor:
    """Boxes (…, 4), cut off at the edges of a picture of (H, W)."""
    height, width = size
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def at_least(boxes: torch.Tensor, side: float) -> torch.Tensor:
    """(…, 4) → (…,) bool: both width and height are `side` or more."""
    return (boxes[..., 2:] - boxes[..., :2] >= side).all(-1)


def nms(boxes, scores, threshold: float, groups=None, most=None) -> torch.Tensor:
    """Greedy non-maximum suppression: boxes (n, 4), scores (n,) → indices (k,) of those that stay, the highest score first.

    A box goes when its IoU with one that stays and comes before it is *more* than the threshold; of equal scores the first comes
    first. groups (n,): boxes of different groups leave each other alone. most: no more than so many, the highest.
    Memory: O(n · BLOCK), and no more than O((most + BLOCK) · BLOCK) with `most`. ValueError for a box that is not finite or has
    x1 < x0 or y1 < y0.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    groups = torch.zeros_like(order) if groups is None else groups[order]

    def suppress(a, b):  # positions in that order (p,), (q,) → (p, q), whether a would remove b
        return (box_iou(boxes[a, None], boxes[None, b]) > threshold) & (groups[a, None] == groups[b])

    kept = order.new_empty(0)
    for block in torch.arange(len(order), device=order.device).split(BLOCK):
        block = block[~suppress(kept, block).any(0)]
        removes = suppress(block, block).triu(1)  # only later ones
        # The greedy answer is the one vector that fulfils stay[i] = not any(stay[j] and removes[j, i] for j < i), since each
        # value follows from those before it. For the same reason, when the right-hand side is computed for all i at once, the
        # first value is right at once, and one more (at least) is right and remains so after each repetition: from any start it
        # ends there, and as soon as nothing changes it has ended. Chains of suppression are short, and so are the repetitions.
        stay, before = torch.ones_like(block, dtype=torch.bool), None
        while before is None or not torch.equal(stay, before):
            stay, before = ~(removes & stay[:, None]).any(0), stay
        kept = torch.cat([kept, block[stay]])
        if most is not None and len(kept) >= most:
            break
    return order[kept[:most]]


def batched_nms(boxes, scores, groups, threshold: float, most=None) -> torch.Tensor:
    """`nms` in each group (n,) by itself, e.g. in each class."""
    return nms(boxes, scores, threshold, groups, most)


def pyramid_levels(boxes: torch.Tensor, count: int) -> torch.Tensor:
    """(n, 4) → (n,) int64, which of the `count` maps, of strides 4, 8, …, a box is looked up in: one of area 224² in the third
    (Lin et al., "Feature Pyramid Networks", CVPR 2017, Eq. (1), where the first is called P2)."""
    side = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    return (4 + torch.log2(side / 224) + 1e-6).floor().clamp(2, count + 1).long() - 2


def roi_align(maps, strides, boxes, picture, level, bins: int = 7, samples: int = 2) -> torch.Tensor:
    """Features within boxes (He et al., "Mask R-CNN", ICCV 2017): the mean of samples² bilinear values in each of bins² parts.

    maps: a sequence of (B, C, h, w), of any sizes; strides: the pixels of a place of each; boxes (n, 4) in pixels; picture
    (n,) int64, 0 … B - 1, and level (n,) int64, an index of maps: where each box is looked up → (n, C, bins, bins).
    The value of a place is at its number, not half a place later ("aligned=False"); a box is taken as one place wide and high at
    least; a sample outside a map is the value of its border up to one place away, then 0, as in torchvision's compiled kernels.
    """
    table = torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps])  # (R, C), all places of all maps
    size = torch.tensor([m.shape[2:] for m in maps], device=boxes.device)  # (L, 2), h and w
    rows = torch.tensor([m.numel() // m.shape[1] for m in maps], device=boxes.device)  # (L,)
    height, width = size[level].T  # (n,) each
    first = (rows.cumsum(0) - rows)[level] + picture * height * width  # (n,), the row of the map's first place

    boxes = boxes / boxes.new_tensor(strides)[level, None]
    extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    ticks = (torch.arange(bins * samples, device=boxes.device, dtype=boxes.dtype) + 0.5) / samples  # in bins
    x, xw = _taps(boxes[:, :1] + ticks * (extent[:, :1] / bins), width, bins)  # (n, bins, 2 · samples), place and weight
    y, yw = _taps(boxes[:, 1:2] + ticks * (extent[:, 1:] / bins), height, bins)
    place = first[:, None, None] + y * width[:, None, None]  # (n, bins, 2 · samples)
    place = place[:, :, None, :, None] + x[:, None, :, None]  # (n, bins, bins, 2 · samples, 2 · samples)
    weight = yw[:, :, None, :, None] * xw[:, None, :, None] / samples**2
    values = F.embedding_bag(place.flatten(0, 2).flatten(1), table, mode="sum",  # weighted sums of rows, which are never laid out
                             per_sample_weights=weight.flatten(0, 2).flatten(1).to(table.dtype))
    return values.unflatten(0, (len(boxes), bins, bins)).permute(0, 3, 1, 2)


def _taps(at: torch.Tensor, length: torch.Tensor, bins: int):
    """Positions (n, bins · samples) on an axis of `length` (n,) → neighbours and their weights (n, bins, samples · 2) of each bin."""
    last = length[:, None] - 1
    inside = (at >= -1) & (at <= length[:, None])
    near = at.clamp(min=0).minimum(last.to(at.dtype))
    low = near.floor().long()
    part = near - low
    places = torch.stack([low, (low + 1).minimum(last)], -1)
    weights = torch.stack([1 - part, part], -1) * inside[..., None]
    return places.unflatten(1, (bins, -1)).flatten(2), weights.unflatten(1, (bins, -1)).flatten(2)
