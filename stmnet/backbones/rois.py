"""Boxes of a detector: anchors, their coding, non-maximum suppression, and RoIAlign.

Boxes are (…, 4) as x0, y0, x1, y1 in pixels, continuous: a pixel is 1 wide, the right edge of the
image is at W. Everything is on the device of its input, with no loop over boxes.
"""
import math

import torch
import torch.nn.functional as F

from common.metrics import box_iou

RATIOS = (0.5, 1.0, 2.0)  # height / width of the anchors of a place
GROWTH = math.log(1000 / 16)  # how much wider or higher than its anchor a box gets at most
BLOCK = 1024  # boxes whose overlaps with all that stay are in memory at once


def cell_anchors(side: float, device=None) -> torch.Tensor:
    """→ (3, 4) anchors around 0, one for each of RATIOS, of area side² before rounding."""
    root = torch.tensor(RATIOS, device=device).sqrt()
    width, height = 1 / root * side, root * side
    return (torch.stack([-width, -height, width, height], 1) / 2).round()


def anchors(image: tuple, grid: tuple, side: float, device=None) -> torch.Tensor:
    """Anchors (h · w · 3, 4) of (h, w) = grid positions of an image of (H, W): rows, then ratios.

    Positions are H // h and W // w apart, which is less than the stride if a map was rounded up."""
    y, x = (torch.arange(n, device=device) * (length // n) for length, n in zip(image, grid))
    y, x = torch.meshgrid(y, x, indexing="ij")
    positions = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)  # (h · w, 1, 4)
    return (positions + cell_anchors(side, device)).flatten(0, 1)


def decode(deltas: torch.Tensor, boxes: torch.Tensor, weights=(1.0, 1.0, 1.0, 1.0)) -> torch.Tensor:
    """deltas (…, 4) of boxes (…, 4), broadcast → boxes (…, 4).

    Deltas over their weights are the shift of the centre in units of the box, and the logarithms of
    how much wider and higher it gets (Girshick et al., "Rich feature hierarchies", CVPR 2014,
    appendix C)."""
    shift, growth = (deltas / deltas.new_tensor(weights)).split(2, -1)
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + size / 2 + shift * size
    half = growth.clamp(max=GROWTH).exp() * size / 2
    return torch.cat([centre - half, centre + half], -1)


def clip(boxes: torch.Tensor, size: tuple) -> torch.Tensor:
    """Boxes (…, 4), cut off at the edges of an image of (H, W)."""
    height, width = size
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def at_least(boxes: torch.Tensor, side: float) -> torch.Tensor:
    """(…, 4) → (…,) bool: both width and height are `side` or more."""
    return (boxes[..., 2:] - boxes[..., :2] >= side).all(-1)


def nms(boxes, scores, threshold: float, groups=None, most=None) -> torch.Tensor:
    """Greedy non-maximum suppression: boxes (n, 4), scores (n,) → indices (k,), best first.

    A box goes if its IoU with one that stays and comes before it is *more* than the threshold; of
    equal scores the first comes first. groups (n,): only boxes of one group suppress each other.
    most: no more than so many, the highest. Memory: O(n · BLOCK), with `most` at most O((most +
    BLOCK) · BLOCK). Raises ValueError if a box is not finite or has x1 < x0 or y1 < y0."""
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    groups = torch.zeros_like(order) if groups is None else groups[order]

    def suppress(a, b):  # positions in that order (p,), (q,) → (p, q), whether a would remove b
        iou = box_iou(boxes[a, None], boxes[None, b])
        return (iou > threshold) & (groups[a, None] == groups[b])

    best = order.new_empty(0)
    for block in torch.arange(len(order), device=order.device).split(BLOCK):
        block = block[~suppress(best, block).any(0)]
        removes = suppress(block, block).triu(1)  # only later ones
        # The greedy result is the only vector with stay[i] = not any(stay[j] and removes[j, i] for
        # j < i), since each value follows from those before it. If the right-hand side is computed
        # for all i at once, the first value is right, and after each repetition one more is right
        # and remains so. When nothing changes it has ended. Chains of suppression are short.
        stay, before = torch.ones_like(block, dtype=torch.bool), None
        while before is None or not torch.equal(stay, before):
            stay, before = ~(removes & stay[:, None]).any(0), stay
        best = torch.cat([best, block[stay]])
        if most is not None and len(best) >= most:
            break
    return order[best[:most]]


def batched_nms(boxes, scores, groups, threshold: float, most=None) -> torch.Tensor:
    """`nms` in each group (n,) by itself, e.g. in each class."""
    return nms(boxes, scores, threshold, groups, most)


def pyramid_levels(boxes: torch.Tensor, count: int) -> torch.Tensor:
    """(n, 4) → (n,) int64: which of `count` maps, of strides 4, 8, …, a box is looked up in.

    A box of area 224² in the third (Lin et al., "Feature Pyramid Networks", CVPR 2017, section
    4.2, where the first is called P2)."""
    side = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    return (4 + torch.log2(side / 224) + 1e-6).floor().clamp(2, count + 1).long() - 2


def roi_align(maps, strides, boxes, image, level, bins: int = 7, samples: int = 2) -> torch.Tensor:
    """Features within boxes (He et al., "Mask R-CNN", ICCV 2017): (n, C, bins, bins).

    Each is the mean of samples² bilinear values. maps: (B, C, h, w) each, of any sizes; strides:
    pixels of a position of each; boxes (n, 4) in pixels; image (n,) int64, 0 … B - 1, and level
    (n,) int64, an index of maps: where each box is looked up. As in torchvision's kernels with
    aligned=False, the value of a position is at its number, not half a position later; a box is at
    least one position wide and high; a sample outside a map has the value of the border up to one
    position away, then 0."""
    table = torch.cat([m.permute(0, 2, 3, 1).flatten(0, 2) for m in maps])  # (R, C): all positions
    size = torch.tensor([m.shape[2:] for m in maps], device=boxes.device)  # (L, 2), h and w
    rows = torch.tensor([m.numel() // m.shape[1] for m in maps], device=boxes.device)  # (L,)
    height, width = size[level].T  # (n,) each
    first = (rows.cumsum(0) - rows)[level] + image * height * width  # (n,), each map's first row

    boxes = boxes / boxes.new_tensor(strides)[level, None]
    extent = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    ticks = torch.arange(bins * samples, device=boxes.device, dtype=boxes.dtype)
    ticks = (ticks + 0.5) / samples  # in bins
    x, xw = _taps(boxes[:, :1] + ticks * (extent[:, :1] / bins), width, bins)
    y, yw = _taps(boxes[:, 1:2] + ticks * (extent[:, 1:] / bins), height, bins)
    row = first[:, None, None] + y * width[:, None, None]  # (n, bins, 2 · samples)
    row = row[:, :, None, :, None] + x[:, None, :, None]  # (n, bins, bins, …, …)
    weight = yw[:, :, None, :, None] * xw[:, None, :, None] / samples**2
    values = F.embedding_bag(row.flatten(0, 2).flatten(1), table, mode="sum",
                             per_sample_weights=weight.flatten(0, 2).flatten(1).to(table.dtype))
    return values.unflatten(0, (len(boxes), bins, bins)).permute(0, 3, 1, 2)


def _taps(at: torch.Tensor, length: torch.Tensor, bins: int):
    """Points (n, bins · samples) on an axis of `length` (n,) → neighbours of the points of each bin
    and their weights, (n, bins, samples · 2) each."""
    last = length[:, None] - 1
    is_inside = (at >= -1) & (at <= length[:, None])
    near = at.clamp(min=0).minimum(last.to(at.dtype))
    low = near.floor().long()
    part = near - low
    neighbours = torch.stack([low, (low + 1).minimum(last)], -1)
    weights = torch.stack([1 - part, part], -1) * is_inside[..., None]
    return (neighbours.unflatten(1, (bins, -1)).flatten(2),
            weights.unflatten(1, (bins, -1)).flatten(2))
