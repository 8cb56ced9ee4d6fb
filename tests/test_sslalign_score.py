"""From heatmaps to metrics: the published evaluator's values, laws, baselines in closed form."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from common import metrics
from common.evaluation import SIZE, aggregate, scoring
from common.evaluation.tables import HEADINGS, metric_keys, spell
from sslalign import evaluate
from sslalign.crossmodal import score_cross_modal
from tests.goldens import fill

GOLDENS = Path(__file__).parent / "goldens"
G = np.load(GOLDENS / "metrics.npz")
J = json.loads((GOLDENS / "metrics.json").read_text())
quick = settings(max_examples=40, deadline=None)
ALL = ("pairs", "interactive", "extended", "masks")


def box(x0, y0, x1, y1):
    return metrics.boxes_to_map(np.array([[[x0, y0, x1, y1]]]), SIZE)


def noise(count, seed=0):
    return np.random.default_rng(seed).random((count, SIZE, SIZE), dtype=np.float32)


# The published evaluators


def test_the_published_evaluator():
    """The results of the 64 samples of the goldens, whose own are in test_metrics_goldens.py."""
    heat = np.stack([fill.make_heatmap(grid) for grid in G["main_grid"]])
    boxes = np.where(G["main_boxes"] < 0, 0, G["main_boxes"]).astype(np.float64)
    gt, both = (metrics.boxes_to_map(boxes, SIZE, consensus=n) for n in (1, 2))
    gt = np.where(G["main_is_flickr"][:, None, None], both, gt)
    found, want = scoring.score_maps(metrics.normalise(heat), gt), J["main_iiou"]
    result = aggregate(found, ("pairs", "interactive"), G["main_group"])
    for rule, suffix in (("", ""), ("_adaptive", "_adap")):
        ours = [result[f"pairs/{name}"] for name in (f"ciou{rule}@0.5", f"auc{rule}")]
        ours += [result[f"interactive/{name}{rule}"] for name in ("iiou", "iauc")]
        assert ours == pytest.approx(
            [want[name + suffix] for name in ("cIoU", "AUC", "IIoU", "IAUC")], abs=1e-9
        )


def test_published_extended_sets():
    values = {"ciou": G["full_relative_ciou"], "confidence": G["full_confidence"]}
    has_source, want = G["full_box_count"] > 0, J["full_relative_slavc"]
    result = aggregate(values, ("pairs", "extended"), has_source=has_source)
    assert result["extended/ap"] == pytest.approx(want["AP-all@50"], abs=1e-9)
    assert result["extended/max_f1"] == pytest.approx(want["maxF1-all@50"], abs=5.1e-4)
    assert result["extended/loc_acc"] == pytest.approx(want["precision_at_50"], abs=1e-9)
    assert result["pairs/auc"] == pytest.approx(
        metrics.auc(values["ciou"][has_source]), abs=1e-12
    )  # what is silent is left out
    assert result["pairs/auc"] != pytest.approx(metrics.auc(values["ciou"]), abs=1e-3)


# Laws


@given(st.lists(st.floats(0, 1), min_size=2, max_size=24), st.integers(1, 3), st.integers(0, 99))
@quick
def test_laws_of_iiou(ciou, members, seed):
    ciou = np.array(ciou[: len(ciou) // members * members] or [0.5] * members)
    groups = np.arange(len(ciou)) // members
    values = {"ciou": ciou, "pointing": np.round(ciou)}
    result = aggregate(values, ALL[:2], groups)
    assert (
        result["interactive/iiou"] <= result["pairs/ciou@0.5"]
        and result["interactive/iauc"] <= result["pairs/auc"] + 1e-12
    )
    assert result["interactive/pointing"] <= result["pairs/pointing"]
    order = np.random.default_rng(seed).permutation(len(ciou))
    assert aggregate(
        {k: x[order] for k, x in values.items()}, ALL[:2], groups[order]
    ) == pytest.approx(result, abs=1e-12)
    alone = aggregate(values, ALL[:2], np.arange(len(ciou)))
    assert [alone["interactive/iiou"], alone["interactive/iauc"]] == [
        alone["pairs/ciou@0.5"],
        alone["pairs/auc"],
    ]


def test_members_without_a_source_do_not_count():
    values = {"ciou": np.array([0.9, 0.1, 0.6, 0.7])}
    groups, has_source = ["a", "a", "b", "b"], np.array([True, False, True, True])
    assert aggregate(values, ALL[:2], groups)["interactive/iiou"] == 0.5
    assert aggregate(values, ALL[:2], groups, has_source)["interactive/iiou"] == 1
    assert aggregate(values, ALL[:2], groups, has_source)["pairs/ciou@0.5"] == 1


def test_the_range_of_the_maps_does_not_matter():
    maps, gt = noise(12), np.concatenate([box(20, 20, 180, 190)] * 12)
    gt[6:] = 0
    maps[:5, 20:190, 20:180] += 0.6
    has_source = np.arange(12) < 6
    cosines = np.float32(2) * maps - np.float32(1)
    one, two = (
        aggregate(
            scoring.score_maps(x, gt, has_confidence=True), ("extended",), has_source=has_source
        )
        for x in (maps, cosines)
    )
    assert one == pytest.approx(two, abs=1e-9) and one["extended/ap"] > 0.5


def test_strict_and_exact_rules():
    """A map that is the truth itself: all its ones tie with the published threshold."""
    gt = box(30, 40, 130, 100)
    found = scoring.score_maps(gt, gt, is_exact=True)
    assert (found["ciou_adaptive"], found["ciou_adaptive_exact"]) == (0, 1)
    flat = scoring.score_maps(np.full_like(gt, 0.5), gt, is_exact=True)
    assert flat["ciou"] == 0 and flat["ciou_exact"] > 0
    result = aggregate(found, ("pairs",))
    assert (result["pairs/ciou_adaptive@0.5"], result["pairs/ciou_adaptive_exact@0.5"]) == (0, 1)


def test_f_of_masks_is_that_of_255_thresholds():
    predicted, gt = (
        noise(5) > np.array([0.1, 0.5, 0.9, 0.5, 2])[:, None, None],
        (noise(5, 1) > 0.7).astype(np.float32),
    )
    gt[3] = 0
    curves = metrics.f_curves(predicted, gt)  # (5, 255)
    np.testing.assert_allclose(
        scoring.f_of_masks(predicted, gt)[:, [0] + [1] * 254], curves, rtol=0, atol=1e-9
    )
    assert np.isnan(curves[3]).all() and metrics.best_f(
        scoring.f_of_masks(predicted, gt)
    ) == pytest.approx(metrics.best_f(curves), abs=1e-12)


def test_masks_are_scored_as_avsbench_does():
    maps, masks = noise(6), (noise(6, 2) > 0.8).astype(np.float32)
    masks[5] = 0
    result = aggregate(
        scoring.score_maps(maps, np.maximum(masks, box(0, 0, 9, 9)), masks), ("masks",)
    )
    for rule, kind in (("", "median"), ("_adaptive", "adaptive")):
        predicted = metrics.binarize(maps, kind, masks)
        ours = [
            result[f"masks/{name}"]
            for name in (f"miou{rule}", f"f_score{rule}", f"ciou{rule}@0.5", f"auc{rule}")
        ]
        ciou = metrics.ciou(predicted, masks)
        predicted[5] &= rule == ""  # the top B pixels of an empty mask are none: its IoU is 1
        assert ours == pytest.approx(
            [
                metrics.mask_miou(predicted, masks),
                metrics.f_score(predicted, masks),
                metrics.success_rate(ciou),
                metrics.auc(ciou),
            ],
            abs=1e-9,
        )
    assert set(result) == {
        f"masks/{name}"
        for name in (
            "miou",
            "f_score",
            "ciou@0.5",
            "auc",
            "miou_adaptive",
            "f_score_adaptive",
            "ciou_adaptive@0.5",
            "auc_adaptive",
        )
    }


# Baselines and the upper bound


def test_baselines_in_closed_form():
    gt = np.concatenate([box(56, 56, 168, 168), box(0, 0, 112, 112), box(0, 0, 224, 168)])
    centre, whole, best = scoring.baseline_scores(gt, gt).values()
    half = 158**2  # the central square of half of 224 · 224 pixels, in whole pixels
    overlap = [112**2, 79**2, 158 * 135]  # rows and columns 33 … 190
    area = [112**2, 112**2, 224 * 168]
    np.testing.assert_allclose(centre["ciou"], [o / (a + half - o) for o, a in zip(overlap, area)])
    # The largest central squares of fewer than B pixels: sides 110, 110 and 192.
    overlap = [110**2, 55**2, 192 * 152]
    np.testing.assert_allclose(
        centre["ciou_adaptive"],
        [o / (a + side**2 - o) for o, a, side in zip(overlap, area, (110, 110, 192))],
    )
    assert centre["pointing"].tolist() == [
        1,
        1,
        1,
    ]  # the middle's first pixel is 111, 111
    np.testing.assert_allclose(whole["ciou"], [0.25, 0.25, 0.75])
    np.testing.assert_allclose(best["ciou"], [0.5, 0.5, 2 / 3])
    assert best["ciou_adaptive"].tolist() == [1, 1, 1]
    for scores in (centre, whole, best):
        np.testing.assert_array_equal(scores["ciou"], scores["mask_ciou"])
    assert "ciou_adaptive" not in whole
    assert scoring.baseline_scores(np.zeros_like(gt))["baseline/upper_bound_"][
        "ciou_adaptive"
    ].tolist() == [0, 0, 0]


def test_a_perfect_map_reaches_the_upper_bound():
    gt = np.concatenate([box(10, 20, 90, 100), box(0, 0, 224, 160), box(60, 60, 180, 200)])
    found, best = (
        scoring.score_maps(gt + np.float32(0.5) * noise(3), gt, gt),
        scoring.baseline_scores(gt, gt)["baseline/upper_bound_"],
    )
    np.testing.assert_allclose(found["ciou"], best["ciou"], atol=1e-3)
    np.testing.assert_allclose(found["ciou_adaptive"], best["ciou_adaptive"], atol=1e-3)
    assert found["pointing"].all() and found["mask_iou_adaptive"].min() > 0.999
    centre = scoring.baseline_scores(gt)["baseline/centre_"]
    assert (found["ciou"] > centre["ciou"]).all()


# Cross-modal


def test_retrieval_both_ways_and_alignment():
    """Audio 1 is nearest to image 0; image 1 is nearest to its own audio."""
    visual = np.array([[1, 0.0], [0, 1], [-1, 0.2]])
    audio = np.array([[1, 0.1], [0.9, 0.5], [-1, 0]])
    found = score_cross_modal(
        {"visual": visual, "audio": audio, "visual_projected": audio, "audio_projected": audio},
        ["a", "a", "b"],
    )
    assert (
        found["retrieval/a2i_r@1_instance"] == pytest.approx(2 / 3)
        and found["retrieval/i2a_r@1_instance"] == 1
    )
    assert found["retrieval/a2i_r@1_category"] == 1 == found["retrieval/a2i_r@1_projected_instance"]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (visual, audio)]
    assert found["alignment/cosine"] == pytest.approx((unit[0] * unit[1]).sum(1).mean())
    distance = np.linalg.norm(unit[0] - unit[1], axis=1)
    assert [found["alignment/magnitude"], found["alignment/magnitude_std"]] == pytest.approx(
        [distance.mean(), distance.std()]
    )
    plain = score_cross_modal({"visual": visual, "audio": audio}, ["a", None, "b"])
    assert plain and not [name for name in plain if "category" in name or "projected" in name]


# Names


def test_names_in_metrics_json():
    gt, masks = np.concatenate([box(9, 9, 99, 99)] * 4), (noise(4, 3) > 0.5).astype(np.float32)
    values = scoring.score_maps(noise(4), gt, masks, has_confidence=True, is_exact=True)
    results = aggregate(values, ALL, [0, 0, 1, 1])
    columns = [*evaluate.VARIANTS, *HEADINGS]
    keys = metric_keys(dict.fromkeys(columns, results))
    assert len(keys) == len(columns) * len(results)
    assert {
        "pairs/ciou@0.5",
        "control/silent_iiou_adaptive",
        "control/shuffled_ciou_adaptive@0.5",
        "control/silent_masks_ciou@0.5",
        "control/shuffled_interactive_pointing",
        "ogl/iauc",
        "baseline/centre_auc",
    } <= set(keys)
    assert [spell(name) for name in ("pairs/ciou_adaptive@0.5", "extended/max_f1")] == [
        "pairs: cIoU@0.5 adaptive",
        "extended: max F1",
    ]
