"""stmnet/backbones/rois.py: suppression, coding of boxes, anchors, RoIAlign against loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metrics import box_iou
from stmnet.backbones import rois
from stmnet.backbones.rois import (
    anchors,
    batched_nms,
    cell_anchors,
    clip,
    decode,
    nms,
    pyramid_levels,
    roi_align,
)

pytestmark = pytest.mark.slow


# Non-maximum suppression.


def greedy(boxes, scores, threshold, groups):
    kept, overlap = [], box_iou(boxes[:, None], boxes[None]).tolist()
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):  # stable
        if all(groups[i] != groups[j] or overlap[j][i] <= threshold for j in kept):
            kept.append(i)
    return kept


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.integers(0, 6)] * 4, st.integers(0, 4), st.integers(0, 1)), max_size=24
    ),
    st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    st.sampled_from([1, 2, 5, 1024]),
    st.sampled_from([None, 1, 3]),
)
def test_nms_is_greedy(drawn, threshold, block, most):
    """Whole numbers: overlaps equal to the threshold, equal scores, equal and empty boxes occur."""
    x, y, w, h, score, group = torch.tensor(drawn).reshape(-1, 6).T
    boxes = torch.stack([x, y, x + w, y + h], 1).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rois, "BLOCK", block)
        single, several = (
            nms(boxes, score.float(), threshold, most=most),
            batched_nms(boxes, score.float(), group, threshold, most),
        )
    assert single.tolist() == greedy(boxes, score.tolist(), threshold, [0] * len(boxes))[:most]
    assert several.tolist() == greedy(boxes, score.tolist(), threshold, group.tolist())[:most]


def test_nms_of_equal_overlap_keeps_both():
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 2, 1]])
    scores = torch.tensor([0.5, 0.9, 0.4])
    assert nms(boxes, scores, 0.5).tolist() == [1, 0] and nms(boxes, scores, 0.49).tolist() == [1]


def test_nms_follows_a_chain_to_its_end():
    """Each box would remove the next one: every second stays, however far."""
    at = torch.arange(300.0)
    boxes = torch.stack([3 * at, 0 * at, 3 * at + 10, 0 * at + 1], 1)
    assert nms(boxes, -at, 0.5).tolist() == list(range(0, 300, 2))


def test_nms_of_many_boxes_needs_little_memory(monkeypatch):
    sizes, original = [], box_iou
    monkeypatch.setattr(
        rois, "box_iou", lambda a, b: sizes.append(len(a) * b.shape[1]) or original(a, b)
    )
    corners = torch.randint(0, 40, (20000, 2)).float() * 10
    boxes, scores = torch.cat([corners, corners + 10], 1), torch.rand(20000)
    kept = nms(boxes, scores, 0.5, most=1200)
    assert len(kept) == 1200 and max(sizes) <= (1200 + rois.BLOCK) * rois.BLOCK
    cells = set()  # equal boxes or none at all: the greatest of each cell stays
    for i in scores.argsort(descending=True, stable=True).tolist():
        if len(cells) < 1200 and tuple(corners[i].tolist()) not in cells:
            assert int(kept[len(cells)]) == i
            cells.add(tuple(corners[i].tolist()))


# Boxes.


def encode(boxes, origin, weights):
    size, to = origin[:, 2:] - origin[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = ((boxes[:, :2] + boxes[:, 2:]) - (origin[:, :2] + origin[:, 2:])) / 2 / size
    return torch.cat([shift, (to / size).log()], 1) * torch.tensor(weights)


@pytest.mark.parametrize(
    "weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (1.0, 2.0, 3.0, 4.0)]
)
def test_boxes_survive_coding(weights):
    torch.manual_seed(0)
    boxes, origin = torch.rand(2, 100, 4) * 100
    boxes[:, 2:] += boxes[:, :2] + 1
    origin[:, 2:] += origin[:, :2] + 10
    assert torch.allclose(decode(encode(boxes, origin, weights), origin, weights), boxes, atol=1e-3)
    assert torch.allclose(decode(torch.zeros(100, 4), origin, weights), origin, atol=1e-4)


def test_growth_has_a_limit():
    box = torch.tensor([[10.0, 10, 12, 14]])
    far = decode(torch.tensor([[0.0, 0, 50, 50]]), box)
    assert torch.allclose(far[:, 2:] - far[:, :2], torch.tensor([[2.0, 4.0]]) * 62.5, rtol=1e-5)
    near = decode(torch.tensor([[0.0, 0, 4.1, -50]]), box)
    assert torch.allclose(
        near[:, 2:] - near[:, :2], torch.tensor([[2 * math.exp(4.1), 0.0]]), rtol=1e-5
    )


def test_anchors():
    assert cell_anchors(32).tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    all_ = anchors((800, 1088), (13, 17), 512).unflatten(0, (13, 17, 3))
    centre = (all_[..., :2] + all_[..., 2:]) / 2
    assert (centre[..., 0] == 64 * torch.arange(17)[:, None]).all() and (
        centre[..., 1] == 61 * torch.arange(13)[:, None, None]
    ).all()
    assert torch.equal(all_[0, 0], cell_anchors(512))


def test_clip():
    boxes = torch.tensor([[-1.0, -2, 50, 60], [30, 5, 31, 40], [1, 2, 3, 4]])
    assert clip(boxes, (20, 30)).tolist() == [[0, 0, 30, 20], [30, 5, 30, 20], [1, 2, 3, 4]]


def test_levels():
    sides = torch.tensor([0.0, 1, 111.9, 112, 223.9, 224, 447, 448, 5000])
    boxes = torch.stack([0 * sides, 0 * sides, sides / 2, 2 * sides], 1)
    assert pyramid_levels(boxes, 4).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert pyramid_levels(boxes, 2).tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]


def naive_align(m, stride, box, bins, samples):
    """(C, h, w), one box → (C, bins, bins), a loop over everything."""
    height, width = m.shape[1:]
    x0, y0, x1, y1 = (float(v) / stride for v in box)
    w, h = max(x1 - x0, 1.0) / bins, max(y1 - y0, 1.0) / bins

    def value(y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return torch.zeros(len(m), dtype=m.dtype)
        y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
        i, j = int(y), int(x)
        k, n = min(i + 1, height - 1), min(j + 1, width - 1)
        a, b = y - i, x - j
        return (1 - a) * ((1 - b) * m[:, i, j] + b * m[:, i, n]) + a * (
            (1 - b) * m[:, k, j] + b * m[:, k, n]
        )

    out = torch.zeros(len(m), bins, bins, dtype=m.dtype)
    for p in range(bins):
        for q in range(bins):
            for s in range(samples):
                for t in range(samples):
                    out[:, p, q] += (
                        value(
                            y0 + (p + (s + 0.5) / samples) * h, x0 + (q + (t + 0.5) / samples) * w
                        )
                        / samples**2
                    )
    return out


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            *[st.integers(-16, 80)] * 2,
            *[st.integers(0, 70)] * 2,
            st.integers(0, 1),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([(1, 1), (3, 2), (2, 3)]),
)
def test_roi_align_is_the_loop(drawn, parts):
    """Steps of 0.731… and 0.577… pixels: no sample lies on an edge, where roundings differ."""
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, h, w, dtype=torch.float64) for h, w in ((9, 11), (5, 6), (1, 2))]
    strides = (4, 8, 16)
    x, y, w, h, picture, level = torch.tensor(drawn, dtype=torch.float64).T
    x, y, w, h = 0.7310585 * x, 0.7310585 * y, 0.5772157 * w, 0.5772157 * h
    boxes, picture, level = torch.stack([x, y, x + w, y + h], 1), picture.long(), level.long()
    ours = roi_align(maps, strides, boxes, picture, level, *parts)
    assert ours.shape == (len(boxes), 3, parts[0], parts[0])
    for i, box in enumerate(boxes):
        assert torch.allclose(
            ours[i],
            naive_align(maps[level[i]][picture[i]], strides[level[i]], box, *parts),
            atol=1e-9,
        )


def test_roi_align_of_a_ramp_and_of_nothing():
    """A linear map is read exactly: the value at the middle of each part."""
    ramp = torch.arange(20.0).expand(1, 1, 16, 20)
    box, zero = torch.tensor([[8.0, 8, 36, 36]]), torch.zeros(1, dtype=torch.int64)
    assert torch.allclose(
        roi_align([ramp], [4], box, zero, zero)[0, 0], (2.5 + torch.arange(7.0)).expand(7, 7)
    )
    assert torch.allclose(
        roi_align([ramp.mT], [4], box, zero, zero)[0, 0], (2.5 + torch.arange(7.0)).expand(7, 7).mT
    )
    assert roi_align([ramp], [4], box[:0], zero[:0], zero[:0]).shape == (0, 1, 7, 7)
