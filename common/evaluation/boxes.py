"""Boxes of heatmaps: Otsu's threshold, connected components, one box around each.

stmnet (section 3.3) scores such boxes; the other methods draw them. Heatmaps are (N, H, W), finite.
All are worked on at once, on their device, with no loop over pixels or components.

>>> heatmap = torch.zeros(1, 10, 10)
>>> heatmap[0, 2:5, 4:8] = 1
>>> boxes_from_maps(heatmap)
[tensor([[0.4000, 0.2000, 0.8000, 0.5000, 1.0000]])]
"""
import torch
import torch.nn.functional as F

from common import metrics
from common.scenes.objects import tight_boxes

BINS = 256


def otsu(maps: torch.Tensor) -> torch.Tensor:
    """Otsu's thresholds of maps normalised to [0, 1] (Otsu 1979, Eq. (18)): (N, H, W) → (N,).

        t* = argmax over t of ω₀(t) ω₁(t) (μ₀(t) − μ₁(t))²,  the first t if several are best

    ω and μ: the number of pixels and their mean level, below and above a bound t of the histogram.
    Bins are open below and closed above, so that the upper class is exactly {map > threshold}."""
    levels = ((unit_maps(maps) * BINS).ceil() - 1).clamp(min=0).long().flatten(1)  # (N, H·W)
    first_bin = BINS * torch.arange(len(levels), device=levels.device)[:, None]
    counts = torch.bincount((levels + first_bin).flatten(), minlength=BINS * len(levels))
    counts = counts.view(-1, BINS)
    # Sums are whole numbers, so that equal variances are equal to the bit.
    pixels = counts.cumsum(1)  # (N, BINS), up to each bin
    mass = (counts * torch.arange(BINS, device=levels.device)).cumsum(1)
    all_pixels, all_mass = pixels[:, -1:], mass[:, -1:]
    between = (all_mass * pixels - mass * all_pixels).double().square()
    between = between / (pixels * (all_pixels - pixels)).clamp(min=1)
    return (between.argmax(1) + 1).to(torch.float32) / BINS


def unit_maps(maps: torch.Tensor) -> torch.Tensor:
    """Each map to [0, 1], a constant one to 0. Raises ValueError if a value is not finite."""
    maps = metrics.normalise(maps)
    return torch.where(maps.amax((1, 2), True) > maps.amin((1, 2), True), maps, 0)


def components(masks: torch.Tensor) -> torch.Tensor:
    """Number the 8-connected components of masks: (N, H, W) bool → (N, H, W) int64.

    0 is outside; components count 1, 2, … through all masks. Rows are cut into runs, and runs that
    touch are joined: in each round every class of runs hooks itself to the greatest that it
    touches, and chains of hooks are followed to their ends by pointer jumping. Rounds and jumps are
    logarithmic in the number of runs, for a spiral too."""
    masks = F.pad(masks, (1, 1))  # no pixel touches the next row's: (N, H, W + 2)
    is_start = masks & ~masks.roll(1, 2)  # of a run
    runs = is_start.flatten().cumsum(0).view(masks.shape) * masks  # 1, 2, … and 0 outside
    touching = []  # pixels and their neighbours above, of any two runs at least where one starts
    for shift in (-1, 0, 1):
        upper, is_upper, is_upper_start = (x[:, :-1].roll(shift, 2)
                                           for x in (runs, masks, is_start))
        where = masks[:, 1:] & is_upper & (is_upper_start | is_start[:, 1:])
        touching.append(torch.stack([upper[where], runs[:, 1:][where]]))
    a, b = torch.cat(touching, 1)  # (E,) numbers of runs, twice
    number = torch.arange(int(is_start.sum()) + 1, device=masks.device)
    parent = number
    while len(a):
        parent = parent.scatter_reduce(0, torch.minimum(a, b), torch.maximum(a, b), "amax")
        while not torch.equal(further := parent[parent], parent):
            parent = further
        a, b = parent[a], parent[b]
        a, b = a[a != b], b[a != b]
    labels = (parent == number).cumsum(0) - 1  # of roots: 1, 2, …; of the outside: 0
    return labels[parent][runs[:, :, 1:-1]]


def boxes_from_maps(maps: torch.Tensor, least: float = 0.01) -> list[torch.Tensor]:
    """Boxes of heatmaps (N, H, W): N tensors (n, 5) float32, x0 y0 x1 y1 in [0, 1] and a score.

    A box is around each component of {normalised map > `otsu`} that has at least the share `least`
    of the image's pixels. Its score is the mean of the normalised map in the component; the highest
    score comes first. Boxes are half-open: x1 = (last column + 1) / W. A constant map has no box.
    Raises ValueError if maps are of another shape or not finite."""
    maps = unit_maps(maps)
    count, height, width = maps.shape
    masks = maps > otsu(maps)[:, None, None]
    index, y, x = masks.nonzero(as_tuple=True)  # (P,) each, P pixels in all masks
    member = components(masks)[masks] - 1  # (P,)
    area = torch.bincount(member)  # (K,), K components

    def reduce(values, how):  # (P,) → (K,)
        return values.new_zeros(len(area)).scatter_reduce(0, member, values, how,
                                                          include_self=False)
    edges = [reduce(x, "amin") / width, reduce(y, "amin") / height,
             (reduce(x, "amax") + 1) / width, (reduce(y, "amax") + 1) / height]
    score = reduce(maps[masks].double(), "sum") / area
    boxes, index = torch.stack([*edges, score.float()], 1), reduce(index, "amax")  # (K, 5), (K,)
    order = score.argsort(descending=True, stable=True)
    order = order[index[order].argsort(stable=True)]
    order = order[area[order].double() / (height * width) >= least]  # 3 / 30 is 0.1 to the bit
    return list(boxes[order].split(torch.bincount(index[order], minlength=count).tolist()))


def hull_of_maps(maps: torch.Tensor) -> torch.Tensor:
    """The smallest box around {normalised map ≥ 0.5}: (N, H, W) → (N, 4) in [0, 1]. stmnet's
    authors predict this box; Otsu's threshold, taken within it, is 0. A constant map: 0."""
    masks = (unit_maps(maps) >= 0.5).cpu().numpy()
    return torch.from_numpy(tight_boxes(masks)).to(maps.device)


def iou_plus_one(boxes: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """IoU of (…, 4) pixels whose widths and heights are one more than the differences of edges, as
    in Pascal VOC and in the code of stmnet's authors; broadcasts."""
    one = torch.tensor([0, 0, 1, 1], device=boxes.device)
    return metrics.box_iou(boxes + one, gt + one)


def best_rectangle(gt: torch.Tensor) -> torch.Tensor:
    """The rectangle (4,) of a grid of 10 × 10 cells that has IoU ≥ 0.5 with most of (at most 2000
    of) the boxes (N, 4) in [0, 1]: it looks at nothing, but knows where a test set has them."""
    gt = gt[::-(-len(gt) // 2000)]
    intervals = torch.combinations(torch.arange(11)) / 10  # (55, 2), from low to high
    x, y = (intervals[i] for i in torch.cartesian_prod(torch.arange(55), torch.arange(55)).T)
    grid = torch.stack([x, y], -1).flatten(1)  # (3025, 4): x0, y0, x1, y1
    hits = sum((metrics.box_iou(grid[:, None], part[None].float()) >= 0.5).sum(1)
               for part in gt.split(256))
    return grid[hits.argmax()]
