"""Boxes from maps: Otsu's threshold, connected components, one box each.

stmnet (section 3.3) scores such boxes; the other methods show them beside their maps. Maps are (N, H, W), finite; all are
worked on at once, on their device, with no loop over pixels or components.
"""
import torch
import torch.nn.functional as F

from common.metrics.protocols import normalise

BINS = 256


def otsu(maps: torch.Tensor) -> torch.Tensor:
    """(N, H, W) → (N,) thresholds of the maps normalised to [0, 1]: of all that part the histogram of 256 equal bins in two, the
    first for which the variance between the two classes is greatest (Otsu 1979, equation 18).

    Bins are open below and closed above, so that the upper class is exactly {map > threshold}. ValueError: see `_unit`.
    """
    levels = ((_unit(maps) * BINS).ceil() - 1).clamp(min=0).long().flatten(1)  # (N, H · W)
    first = BINS * torch.arange(len(levels), device=levels.device)[:, None]
    counts = torch.bincount((levels + first).flatten(), minlength=BINS * len(levels)).view(-1, BINS)
    below = counts.cumsum(1)  # (N, BINS), pixels up to a bin; whole numbers, so that equal variances are equal to the bit
    mass = (counts * torch.arange(BINS, device=levels.device)).cumsum(1)
    pixels, total = below[:, -1:], mass[:, -1:]
    between = (total * below - mass * pixels).double().square() / (below * (pixels - below)).clamp(min=1)
    return (between.argmax(1) + 1).to(torch.float32) / BINS


def _unit(maps: torch.Tensor) -> torch.Tensor:
    """Each map to [0, 1], a constant one to 0. ValueError for another shape than (N, H, W), and for what is not finite."""
    maps = normalise(maps)
    return torch.where(maps.amax((1, 2), True) > maps.amin((1, 2), True), maps, 0)


def components(masks: torch.Tensor) -> torch.Tensor:
    """(N, H, W) bool → (N, H, W) int64: 0 outside, else the number of the 8-connected component, 1, 2, … through all masks.

    Rows are cut into runs; runs that touch are joined. In each round every class of runs hooks itself to the greatest that it
    touches, and chains of hooks are followed to their ends by pointer jumping. Within two rounds a class has taken in another or
    was itself taken in, so rounds and jumps are logarithmic in the number of runs, for a spiral too.
    """
    masks = F.pad(masks, (1, 0))  # a column of background: (N, H, W + 1)
    first = masks & ~masks.roll(1, 2)  # where runs begin
    runs = first.flatten().cumsum(0).view(masks.shape) * masks  # 1, 2, … and 0 outside
    upper, lower = masks[:, :-1], masks[:, 1:]  # each pixel and the one below
    left, right = (slice(None), slice(None), slice(-1)), (slice(None), slice(None), slice(1, None))
    below = upper & lower & (first[:, :-1] | first[:, 1:])  # one pair of pixels for two runs that overlap
    falls = upper[left] & lower[right] & ~upper[right]  # and for two that touch in a corner, like \
    rises = upper[right] & lower[left] & ~upper[left]  # or like /
    top, low = runs[:, :-1], runs[:, 1:]
    a = torch.cat([top[below], top[left][falls], top[right][rises]])  # (E,), runs that touch ...
    b = torch.cat([low[below], low[right][falls], low[left][rises]])  # ... these

    number = torch.arange(int(first.sum()) + 1, device=masks.device)
    parent = number
    while len(a):
        parent = parent.scatter_reduce(0, torch.minimum(a, b), torch.maximum(a, b), "amax")
        while not torch.equal(further := parent[parent], parent):
            parent = further
        a, b = parent[a], parent[b]
        a, b = a[a != b], b[a != b]
    names = (parent == number).cumsum(0) - 1  # number → 1, 2, … at roots, the outside is 0
    return names[parent][runs[right]]


def boxes_from_maps(maps: torch.Tensor, least: float = 0.01, threshold=None) -> list[torch.Tensor]:
    """(N, H, W) → N tensors (n, 5) float32: x0, y0, x1, y1 in [0, 1] of the picture, and the mean of the normalised map within.

    A box is around each component of {normalised map > threshold} that has at least `least` of the picture's pixels; the
    greatest mean comes first. Boxes are half-open: x1 = (last column + 1) / W. threshold: a number or (N,), in units of the
    normalised map; None is `otsu`. A constant map has no box. ValueError: see `_unit`.
    """
    maps = _unit(maps)
    count, height, width = maps.shape
    threshold = otsu(maps) if threshold is None else torch.as_tensor(threshold, device=maps.device).expand(count)
    masks = maps > threshold[:, None, None]
    picture, y, x = masks.nonzero(as_tuple=True)  # (P,) each, P pixels in all masks
    member = components(masks)[masks] - 1  # (P,)
    area = torch.bincount(member)  # (K,), K components

    def over(values, reduce):  # (P,) → (K,)
        return values.new_zeros(len(area)).scatter_reduce(0, member, values, reduce, include_self=False)
    edges = [over(x, "amin") / width, over(y, "amin") / height, (over(x, "amax") + 1) / width, (over(y, "amax") + 1) / height]
    score = over(maps[masks].double(), "sum") / area
    boxes, picture = torch.stack([*edges, score.float()], 1), over(picture, "amax")  # (K, 5), (K,)
    order = score.argsort(descending=True, stable=True)
    order = order[picture[order].argsort(stable=True)]
    order = order[area[order].double() / (height * width) >= least]  # 3 / 30 is 0.1 to the bit, 0.1 * 6 * 5 is not 3
    return list(boxes[order].split(torch.bincount(picture[order], minlength=count).tolist()))
