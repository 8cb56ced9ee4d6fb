"""Metrics against naive definitions and their laws. Published numbers: test_metrics_goldens.py."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from common import metrics as m
from common.metrics.protocols import PROTOCOLS, values_at_ranks

EXACT = {"rtol": 0, "atol": 1e-9, "equal_nan": True}
quick = settings(max_examples=40, deadline=None)
KINDS = ("fixed", "median", "adaptive", "median_exact", "adaptive_exact")


# Naive definitions


def naive_ciou(pred, gt):
    top = bottom = 0.0
    for p, g in zip(pred.ravel().tolist(), gt.ravel().tolist()):
        top += p * g
        bottom += g + (p if g == 0 else 0)
    return top / bottom if bottom else float("nan")


def naive_auc(values):
    rates = [sum(v >= 0.05 * i for v in values) / len(values) for i in range(21)]
    return sum(0.05 * (a + b) / 2 for a, b in pairwise(rates))


def naive_counts(confidence, values, sounding, threshold):
    right = wrong = missed = 0
    for c, v, s in zip(confidence, values, sounding):
        if c >= threshold:
            right, wrong = (right + 1, wrong) if s and v >= 0.5 else (right, wrong + 1)
        elif s:
            missed += 1
    return right / (right + wrong) if right + wrong else 1.0, right / (
        right + missed
    ) if right + missed else 1.0


def naive_threshold(heat, kind, area):
    ordered, n = sorted(heat.ravel().tolist()), heat.size
    return ordered[n // 2 if kind == "median" or area == 0 else n - area]


def naive_f(prob, gt):
    best = []
    for t in torch.linspace(0, 1 - 1e-10, 255).tolist():
        scores = []
        for p, g in zip(prob, gt):
            if g.any():
                mask = p >= np.float32(t)
                hit, size = (mask & (g > 0)).sum(), mask.sum()
                precision, recall = hit / size if size else 0, hit / g.sum()
                scores.append(1.3 * precision * recall / (0.3 * precision + recall) if hit else 0)
        best.append(sum(scores) / len(scores))
    return max(best)


def naive_recall(query, gallery, k, labels):
    hits = 0
    for i, q in enumerate(query):
        scores = [round(float(q @ g / np.linalg.norm(q) / np.linalg.norm(g)), 9) for g in gallery]
        nearest = sorted(range(len(gallery)), key=lambda j: (-scores[j], j))[:k]
        hits += any(labels[j] == labels[i] for j in nearest)
    return hits / len(query)


@st.composite
def scenes(draw, ties=None):
    """Maps and gts (N, H, W): with or without ties, fractional or not, some empty or full."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, h, w = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    coarse = draw(st.booleans()) if ties is None else ties
    maps = (
        rng.integers(0, 4, (n, h, w)) / 4
        if coarse
        else rng.permutation(n * h * w).reshape(n, h, w) / (n * h * w)
    )
    gt = np.where(
        rng.random((n, 1, 1)) < 0.2,
        rng.integers(0, 2, (n, 1, 1)),
        rng.integers(0, 3, (n, h, w)) / 2,
    )
    return maps.astype(np.float32), (gt if draw(st.booleans()) else np.ceil(gt)).astype(np.float32)


@quick
@given(scenes())
def test_ciou_and_thresholds_equal_naive_ones(scene):
    maps, gt = scene
    for kind in ("median", "adaptive"):
        tau = [naive_threshold(a, kind, int((g != 0).sum())) for a, g in zip(maps, gt)]
        np.testing.assert_array_equal(m.threshold(maps, kind, gt), np.float32(tau))
        want = [naive_ciou(a > t, g) for a, t, g in zip(maps, tau, gt)]
        np.testing.assert_allclose(m.ciou(m.binarize(maps, kind, gt), gt), want, **EXACT)
        np.testing.assert_allclose(
            m.localization(maps, gt)["ciou" if kind == "median" else "ciou_adaptive"], want, **EXACT
        )


@quick
@given(scenes())
def test_exact_rules_take_exactly_their_pixels_the_largest_first(scene):
    maps, gt = scene
    half, area = maps[0].size // 2, (gt != 0).sum((1, 2))
    for kind, want in (
        ("median_exact", np.full(len(maps), half)),
        ("adaptive_exact", np.where(area > 0, area, half)),
    ):
        mask = m.binarize(maps, kind, gt)
        for heat, chosen, k in zip(maps, mask, want):
            first = sorted(range(heat.size), key=lambda i: (-heat.flat[i], i))[:k]
            assert sorted(first) == np.flatnonzero(chosen).tolist()
    perfect = m.ciou(m.binarize(gt, "adaptive_exact", gt), gt)
    np.testing.assert_array_equal(perfect, np.where(area > 0, 1.0, 0.0 if half else np.nan))


@quick
@given(scenes())
def test_the_top_pixels_of_an_empty_mask_are_none(scene):
    """Else the rule for masks is the adaptive one."""
    maps, gt = scene
    mask, has_gt = m.binarize(maps, "adaptive_mask", gt), gt.any((1, 2))
    assert not mask[~has_gt].any()
    np.testing.assert_array_equal(mask[has_gt], m.binarize(maps, "adaptive", gt)[has_gt])
    assert (m.mask_iou(mask, gt > 0)[~has_gt] == 1).all()


@pytest.mark.slow
@quick
@given(scenes())
def test_one_at_a_time_numpy_and_tensors_agree(scene):
    maps, gt = scene
    functions = [
        m.pointing,
        m.f_curves,
        lambda a, g: m.confidence(a),
        lambda a, g: m.ciou(m.binarize(a, "adaptive", g), g),
        lambda a, g: m.localization(a, g)["ciou"],
        lambda a, g: m.iou(a > 0.5, g > 0),
        lambda a, g: m.mask_iou(a > 0.5, g > 0),
    ]
    functions += [lambda a, g, k=k: m.threshold(a, k, g) for k in KINDS]
    for function in functions:
        batch, tensors = function(maps, gt), function(torch.from_numpy(maps), torch.from_numpy(gt))
        assert isinstance(batch, np.ndarray) and isinstance(tensors, torch.Tensor)
        np.testing.assert_array_equal(batch, tensors.numpy())
        np.testing.assert_array_equal(
            batch,
            np.concatenate([function(maps[i : i + 1], gt[i : i + 1]) for i in range(len(maps))]),
        )


@quick
@given(scenes())
def test_values_at_ranks_are_those_of_a_sort(scene):
    """What other devices compute, and what numpy does on the CPU."""
    rows = torch.from_numpy(scene[0]).flatten(1)
    ranks = torch.randint(rows.shape[1], (len(rows), 2))
    want = rows.sort(1).values.gather(1, ranks)
    assert torch.equal(values_at_ranks(rows, ranks), want)


@quick
@given(scenes(), st.sampled_from(sorted(PROTOCOLS)))
def test_localization_obeys_the_protocol(scene, name):
    """Equal to `ciou` of `binarize`; masks are {>} or {>=}, in LVS with the maximum."""
    maps, gt = scene
    protocol, scores = PROTOCOLS[name], m.localization(maps, gt, name)
    mask = m.binarize(maps, protocol=name)
    tau = m.threshold(maps, protocol.rule)[:, None, None]
    want = maps > tau if protocol.is_strict else maps >= tau
    want |= (maps == maps.max((1, 2), keepdims=True)) & (name == "lvs")
    np.testing.assert_array_equal(mask, want)
    adaptive = m.binarize(maps, "adaptive", gt, protocol=name)
    np.testing.assert_array_equal(scores["ciou"], m.ciou(mask, gt))
    np.testing.assert_array_equal(scores["ciou_adaptive"], m.ciou(adaptive, gt))
    np.testing.assert_array_equal(scores["pointing"], m.pointing(maps, gt))


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_protocols_of_a_constant_map_and_of_scale(name):
    """A constant map selects nothing or everything; rules that are relative ignore the scale."""
    protocol, constant = PROTOCOLS[name], np.full((1, 4, 4), 0.5, np.float32)
    everything = not protocol.is_strict or protocol.has_peak
    assert m.binarize(constant, protocol=name).all() == everything
    assert m.binarize(constant, protocol=name).any() == everything
    gt = m.boxes_to_map(np.array([[[0, 0, 2, 4]]]), 4)
    want = 0.5 if everything else 0.0
    assert m.localization(constant, gt, name)["ciou"] == want
    maps = np.random.default_rng(0).random((8, 9, 9), dtype=np.float32)
    is_same = (m.binarize(2 * maps - 4, protocol=name) == m.binarize(maps, protocol=name)).all()
    assert is_same == (protocol.rule != "absolute")


@pytest.mark.parametrize("name", ["slavc-absolute", "avsbench", "fixed"])
def test_protocols_with_a_fixed_threshold(name):
    """In the map's own units, or (stmnet) between its minimum and maximum."""
    maps = np.array([[[0.0, 0.2, 0.4, 0.5, 0.8]]], np.float32)
    want = {
        "slavc-absolute": [0, 0, 0, 1, 1],
        "avsbench": [0, 0, 0, 0, 1],
        "fixed": [0, 0, 0, 1, 1],
    }
    assert m.binarize(maps, protocol=name).astype(int).tolist() == [[want[name]]]
    lower = m.binarize(maps, protocol=name, tau=0.1)
    assert lower.sum() == 4 and m.localization(maps, maps, name, tau=0.1)["ciou"] == 1


@pytest.mark.slow
@quick
@given(scenes(ties=False))
def test_laws_of_localisation(scene):
    maps, gt = scene
    order = np.random.default_rng(len(maps)).permutation(len(maps))
    for kind in KINDS:
        mask = m.binarize(maps, kind, gt)
        values = m.ciou(mask, gt)
        assert ((values >= 0) & (values <= 1) | np.isnan(values)).all()
        np.testing.assert_array_equal(
            m.ciou(m.binarize(maps[order], kind, gt[order]), gt[order]), values[order]
        )
        if kind != "fixed":
            np.testing.assert_array_equal(
                m.binarize(np.exp(3 * maps.astype(np.float64)) - 7, kind, gt), mask
            )
    empty = gt.sum((1, 2)) == 0
    np.testing.assert_array_equal(m.ciou(gt == 0, gt)[~empty], 0)  # disjoint
    np.testing.assert_array_equal(m.ciou(gt > 0, gt), np.where(empty, np.nan, 1))
    np.testing.assert_array_equal(
        m.ciou(maps > 0.5, m.consensus_map((gt > 0)[:, None], 1)), m.iou(maps > 0.5, gt > 0)
    )


unit = st.floats(0, 1, allow_subnormal=False)


@quick
@given(
    st.lists(st.tuples(unit | st.sampled_from([0.15, 0.3, 0.5]), unit), min_size=1, max_size=30),
    st.integers(1, 4),
)
def test_laws_of_sets(pairs, size):
    values, other = np.array(pairs).T
    assert m.auc(values) == pytest.approx(naive_auc(values), abs=1e-12)
    assert m.auc(np.maximum(values, other)) >= m.auc(values)
    assert m.interactive(values, range(len(values))) == m.success_rate(values)
    assert m.interactive_auc(values, range(len(values))) == m.auc(values)
    whole = len(values) // size * size  # groups of equal size
    if whole:
        names = [f"image{i // size}" for i in range(whole)]
        want = np.mean([all(values[i : i + size] >= 0.5) for i in range(0, whole, size)])
        assert m.interactive(values[:whole], names) == pytest.approx(want)
        assert m.interactive(values[:whole], names) <= m.success_rate(values[:whole]) + 1e-12
        assert m.interactive_auc(values[:whole], names) <= m.auc(values[:whole]) + 1e-12


@quick
@given(
    st.lists(
        st.tuples(st.sampled_from([0.1, 0.4, 0.4001, 0.9]) | unit, unit, st.integers(0, 2)),
        min_size=1,
        max_size=40,
    )
)
def test_detection_equals_naive_counting(rows):
    confidence, values, sounding = np.array(rows).T
    thresholds = sorted(confidence, reverse=True)
    for exact in (False, True):
        points = [
            naive_counts(confidence, values, sounding, t)
            for t in (thresholds if exact else thresholds[1:])
        ]
        best = [max(p for p, _ in points[i:]) for i in range(len(points))]
        recall = [r for _, r in points]
        steps = [r - q for q, r in pairwise([0, *recall] if exact else recall)]
        want = sum(b * s for b, s in zip(best, steps))
        assert m.average_precision(confidence, values, sounding, exact) == pytest.approx(
            want, abs=1e-12
        )
        every = thresholds[::-1][:: 1 if exact else max(1, len(rows) // 10)]
        f1 = [
            2 * p * r / (p + r) if p + r else 0
            for p, r in (naive_counts(confidence, values, sounding, t) for t in every)
        ]
        assert m.max_f1(confidence, values, sounding, exact) == pytest.approx(max(f1), abs=1e-12)
    located = [v > 0.5 for v, s in zip(values, sounding) if s]
    assert m.loc_acc(values, sounding) == pytest.approx(
        np.mean(located) if located else float("nan"), nan_ok=True
    )


def test_a_perfect_detector_has_exact_ap_1():
    assert m.average_precision([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], [1, 2, 0, 0], exact=True) == 1
    # As published: the highest confidence is no threshold, and the first recall is no step.
    assert m.average_precision([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], [1, 2, 0, 0]) == 0.0
    assert m.loc_acc([0.5, 0.6], [1, 1]) == 0.5 and m.success_rate([0.5, 0.6]) == 1


@settings(max_examples=8, deadline=None)
@given(scenes())
def test_f_is_naive_and_does_not_depend_on_batches(scene):
    prob, gt = scene[0], np.ceil(scene[1])
    if not gt.any():
        assert math.isnan(m.f_score(prob, gt))
        return
    assert m.f_score(prob, gt) == pytest.approx(naive_f(prob, gt), abs=1e-9)
    curves = [m.f_curves(prob[i : i + 2], gt[i : i + 2]) for i in range(0, len(prob), 2)]
    assert m.best_f(np.concatenate(curves)) == pytest.approx(m.f_score(prob, gt), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 14), st.booleans())
def test_retrieval_is_naive_and_chunked_equals_full(seed, n, duplicates):
    rng = np.random.default_rng(seed)
    v, a = (
        rng.normal(size=(2, n, 3))
        if not duplicates
        else rng.integers(1, 3, (2, n, 3)).astype(float)
    )
    for labels in (None, rng.integers(0, 4, n), [f"class{i % 3}" for i in range(n)]):
        full = m.retrieval(v, a, labels=labels)
        for way, (x, y) in (("forward", (v, a)), ("backward", (a, v))):
            want = {
                k: naive_recall(x, y, k, range(n) if labels is None else labels) for k in (1, 5, 10)
            }
            assert full[way] == pytest.approx(want)
        assert m.retrieval(v, a, labels=labels, chunk=3) == full
        assert m.retrieval(torch.from_numpy(v), torch.from_numpy(a), labels=labels) == full


@pytest.mark.parametrize("duplicates", [False, True])
def test_float32_ranks_are_those_of_float64(duplicates):
    """On random vectors, and on copies of 40 of them, whose cosines tie in any order of sums."""
    rng = np.random.default_rng(0)
    v, a = rng.normal(size=(2, 200, 64))
    a = v + 2 * a
    if duplicates:
        v, a = v[rng.integers(0, 40, 200)], a[rng.integers(0, 40, 200)]
    for labels in (None, rng.integers(0, 9, 200)):
        recall = m.retrieval(v, a, k=(1, 10), labels=labels, chunk=64)
        for way, (x, y) in (("forward", (v, a)), ("backward", (a, v))):
            names = range(200) if labels is None else labels
            assert recall[way] == {k: naive_recall(x, y, k, names) for k in (1, 10)}


def test_cosines_that_differ_by_less_than_a_millionth_are_equal():
    """The partner of the second query is nearer by 5e-9, a tie that the first wins, or by 2e-6."""
    for angle, recall in ((1e-4, 0.5), (2e-3, 1.0)):
        gallery = np.array([[np.cos(angle), np.sin(angle)], [1, 0]])
        assert m.retrieval(np.array([[0, 1], [1, 0]]), gallery, k=(1,))["forward"][1] == recall


def test_collapsed_embeddings_retrieve_at_chance():
    assert m.retrieval(np.ones((20, 4)), np.ones((20, 4)))["forward"] == {
        1: 1 / 20,
        5: 5 / 20,
        10: 10 / 20,
    }


def test_alignment_and_magnitude():
    v, a = np.random.default_rng(0).normal(size=(2, 30, 5))
    v1, a1 = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (v, a))
    distance = np.linalg.norm(v1 - a1, axis=1)
    assert m.alignment(v, 3 * a) == pytest.approx((v1 * a1).sum(1).mean())
    assert m.magnitude(v, 3 * a) == pytest.approx((distance.mean(), distance.std()))
    assert m.alignment(v, v) == pytest.approx(1) and m.magnitude(v, v) == pytest.approx((0, 0))


boxes = st.lists(st.floats(-50, 50), min_size=4, max_size=4).map(
    lambda b: [*np.minimum(b[:2], b[2:]), *np.maximum(b[:2], b[2:])]
)


@quick
@given(boxes, boxes, st.floats(-20, 20), st.floats(0.5, 4))
def test_laws_of_boxes(a, b, shift, scale):
    a, b = np.array(a), np.array(b)
    iou, giou = m.box_iou(a, b), m.generalized_box_iou(a, b)
    assert 0 <= iou <= 1 and -1 <= giou <= iou + 1e-12
    assert m.generalized_box_iou(b, a) == pytest.approx(giou, abs=1e-9) and m.box_iou(
        b, a
    ) == pytest.approx(iou, abs=1e-9)
    if min(*(a[2:] - a[:2]), *(b[2:] - b[:2])) > 1e-3:
        assert m.box_iou(a, a) == 1 == m.generalized_box_iou(a, a)
        assert m.generalized_box_iou(a * scale + shift, b * scale + shift) == pytest.approx(
            giou, abs=1e-6
        )


def test_boxes_by_hand():
    a, b = np.array([[0.0, 0, 2, 2], [0, 0, 1, 1]]), np.array([[1.0, 1, 3, 3], [3, 3, 4, 4]])
    np.testing.assert_allclose(m.box_iou(a[:, None], b[None]), [[1 / 7, 0], [0, 0]])
    np.testing.assert_allclose(m.generalized_box_iou(a, b), [1 / 7 - 2 / 9, -14 / 16])
    masks = m.boxes_to_map(
        np.stack([a, b])[:, :, None], 4
    )  # (2, 2, 4, 4): integer boxes, so masks and boxes agree
    np.testing.assert_allclose(m.iou(masks[0], masks[1]), m.box_iou(a, b))
    assert m.boxes_to_map(np.array([[0.9, 0, 2.9, 1], [1, 0, 1, 3]]), (2, 3)).tolist() == [
        [1, 1, 0],
        [0, 0, 0],
    ]
    assert m.boxes_to_map(np.zeros((0, 4)), 2).tolist() == [[0, 0], [0, 0]]


# Edges


def test_what_the_published_rule_makes_of_ties():
    gt = np.zeros((1, 4, 4), np.float32)
    gt[0, :2] = 1
    constant, same = np.full((1, 4, 4), 0.3, np.float32), gt
    assert (
        m.ciou(m.binarize(same, "adaptive", gt), gt) == 0
        and m.ciou(m.binarize(same, "adaptive_exact", gt), gt) == 1
    )
    for kind in ("fixed", "median", "adaptive"):
        assert (
            not m.binarize(constant, kind, gt).any()
            and m.binarize(constant, kind, gt, protocol="ezvsl").all()
        )
    np.testing.assert_array_equal(
        m.binarize(constant, "median_exact")[0], gt[0] > 0
    )  # first in row order
    assert m.binarize(2 * gt - 7, "fixed", tau=0.5).tolist() == (gt > 0).tolist()
    assert (
        m.normalise(constant).tolist() == constant.tolist()
        and m.normalise(2 * gt - 7).tolist() == gt.tolist()
    )


def test_one_pixel_and_an_empty_gt():
    one, none = np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32)
    assert m.threshold(one, "median") == 1 and not m.binarize(one, "median_exact").any()
    assert (
        m.ciou(one, one) == 1
        and m.ciou(none, one) == 0
        and m.ciou(one, none) == 0
        and np.isnan(m.ciou(none, none))
    )
    assert m.mask_iou(none, none) == 1 and m.mask_iou(one, none) == 0
    assert m.pointing(one, none) == 0 and m.pointing(one, one) == 1


@pytest.mark.parametrize("shape", [(3, 2, 3), (4, 5, 7), (2, 1, 1)])
def test_pointing_and_confidence_against_loops(shape):
    """The gt of one of two annotators counts, the first of equal maxima, and ⌈n/4⌉ values."""
    rng = np.random.default_rng(0)
    maps, gt = (rng.integers(0, high, shape) / np.float32(2) for high in (5, 3))
    expected = [float(g.flat[x.argmax()] > 0) for x, g in zip(maps, gt)]
    assert m.pointing(maps, gt).tolist() == expected
    count = math.ceil(maps[0].size / 4)
    expected = [np.sort(x.ravel())[::-1][:count].mean() for x in maps]
    np.testing.assert_allclose(m.confidence(maps), expected, rtol=1e-6)


def test_baselines():
    rng = np.random.default_rng(0)
    start, extent = rng.integers(0, 12, (40, 1, 2)), rng.integers(0, 16, (40, 1, 2))
    gt = m.boxes_to_map(
        np.concatenate([start, np.minimum(start + extent, 20)], -1).astype(float), 20
    )
    share, centre = gt.mean((1, 2), dtype=np.float64), np.zeros((20, 20))
    centre[3:17, 3:17] = 1  # 14 = round(20 * sqrt(1 / 2))
    want = {
        "whole": [naive_ciou(np.ones((20, 20)), g) for g in gt],
        "centre": [naive_ciou(centre, g) for g in gt],
        "upper_bound": [min(g / 0.5, 0.5 / g) if g else 0.0 for g in share],
    }
    for name, found in m.baseline_values(gt).items():
        values = want.pop(name)
        np.testing.assert_allclose(found, values, **EXACT)
        assert m.auc(found) == pytest.approx(naive_auc(values))
        assert m.mean(found) == pytest.approx(np.mean(values))
        assert m.success_rate(found) == np.mean(np.array(values) >= 0.5)
    assert not want
    maps = rng.random(gt.shape)
    assert (
        m.ciou(m.binarize(maps, "median_exact"), gt) <= m.baseline_values(gt)["upper_bound"] + 1e-12
    ).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_input_names_the_sample(value):
    maps, gt = np.random.default_rng(0).random((2, 3, 4, 4), dtype=np.float32)
    bad = maps.copy()
    bad[1, 2, 3] = value
    for call in (
        lambda: m.threshold(bad, "median"),
        lambda: m.localization(bad, gt),
        lambda: m.ciou(maps > 0.5, bad),
        lambda: m.normalise(bad),
        lambda: m.pointing(bad, gt),
        lambda: m.confidence(bad),
        lambda: m.resize(bad, 8),
    ):
        with pytest.raises(ValueError, match="sample 1"):
            call()


def test_more_bad_input():
    maps = np.random.default_rng(0).random((3, 4, 4), dtype=np.float32)
    for call, words in (
        (lambda: m.ciou(maps, maps), "sample 0.*mask"),
        (lambda: m.ciou(maps > 0.5, maps + 1), "sample 0"),
        (lambda: m.ciou(maps > 0.5, maps[:, :2]), "differ"),
        (lambda: m.threshold(maps[0], "median"), "expected"),
        (lambda: m.threshold(maps, "adaptive"), "needs gt"),
        (lambda: m.threshold(maps, "otsu"), "unknown"),
        (lambda: m.f_curves(2 * maps, maps > 0.5), "sample 0"),
        (lambda: m.success_rate([]), "values"),
        (lambda: m.auc([[0.5]]), "values"),
        (lambda: m.interactive([0.5, 1], [0]), "groups"),
        (lambda: m.average_precision([np.nan], [1], [1]), "not a number"),
        (lambda: m.loc_acc([1, 1], [1]), "sounding"),
        (lambda: m.box_iou(np.ones(3), np.ones(3)), "expected"),
        (lambda: m.box_iou(np.array([[0.0, 0, 1, 1], [1, 0, 0, 1]]), np.ones(4)), "box \\[1\\]"),
        (lambda: m.retrieval(np.array([[1.0], [np.inf]]), np.ones((2, 1))), "pair 1"),
        (lambda: m.retrieval(np.ones((2, 1)), np.ones((3, 1))), "pairs"),
        (lambda: m.retrieval(np.ones((2, 1)), np.ones((2, 1)), labels=[1]), "labels"),
        (lambda: m.boxes_to_map(np.ones((2, 3)), 4), "boxes"),
        (lambda: m.consensus_map(maps, 0), "c > 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
