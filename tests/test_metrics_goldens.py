"""Metrics against the published evaluators: tests/goldens/metrics.npz, metrics.json."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from common import metrics as m
from tests.goldens import fill

GOLDENS = Path(__file__).parent / "goldens"
G = np.load(GOLDENS / "metrics.npz")
J = json.loads((GOLDENS / "metrics.json").read_text())
EXACT = {"rtol": 0, "atol": 1e-9, "equal_nan": True}


@pytest.fixture(scope="module")
def main():
    """The 64 samples: heatmaps, normalised, objects, gt; and the 16 silent heatmaps."""
    heat, objects, silent = (
        np.stack([fill.make_heatmap(grid) for grid in G[name]])
        for name in ("main_grid", "main_object_grid", "silent_grid")
    )
    boxes = np.where(G["main_boxes"] < 0, 0, G["main_boxes"]).astype(np.float64)
    flickr = G["main_is_flickr"][:, None, None]
    gt = np.where(flickr, m.boxes_to_map(boxes, 224, consensus=2), m.boxes_to_map(boxes, 224))
    return {"heat": heat, "maps": m.normalise(heat), "objects": objects, "silent": silent, "gt": gt}


@pytest.fixture(scope="module")
def edge():
    return m.normalise(G["edge_heat_u8"] / np.float32(255)), G["edge_gt_times2_u8"] / np.float32(2)


def test_ground_truth_and_thresholds(main, edge):
    np.testing.assert_array_equal(main["gt"].sum((1, 2)), G["main_gt_sum"])
    for name, maps, gt in (("main", main["maps"], main["gt"]), ("edge", *edge)):
        np.testing.assert_array_equal(m.threshold(maps, "median"), G[f"{name}_iiou_thr"])
        np.testing.assert_array_equal(m.threshold(maps, "adaptive", gt), G[f"{name}_iiou_thr_adap"])


def test_ciou_of_samples(main, edge):
    for name, maps, gt in (("main", main["maps"], main["gt"]), ("edge", *edge)):
        np.testing.assert_allclose(
            m.ciou(m.binarize(maps, "median"), gt), G[f"{name}_iiou_ciou"], **EXACT
        )
        np.testing.assert_allclose(
            m.ciou(m.binarize(maps, "adaptive", gt), gt), G[f"{name}_iiou_ciou_adap"], **EXACT
        )
        for protocol in ("ezvsl", "lvs"):
            mask = m.binarize(maps, protocol=protocol)
            np.testing.assert_allclose(m.ciou(mask, gt), G[f"{name}_{protocol}_ciou"], **EXACT)
            of_protocol = m.localization(maps, gt, protocol)["ciou"]
            np.testing.assert_allclose(of_protocol, G[f"{name}_{protocol}_ciou"], **EXACT)
        together = m.localization(maps, gt)
        np.testing.assert_allclose(together["ciou"], G[f"{name}_iiou_ciou"], **EXACT)
        np.testing.assert_allclose(together["ciou_adaptive"], G[f"{name}_iiou_ciou_adap"], **EXACT)
        np.testing.assert_array_equal(together["pointing"], m.pointing(maps, gt))
    guided = m.object_guided(main["heat"], main["objects"], 0.4)
    for kind, key in (("median", "main_ogl_ciou"), ("adaptive", "main_ogl_ciou_adap")):
        np.testing.assert_allclose(
            m.ciou(m.binarize(guided, kind, main["gt"]), main["gt"]), G[key], **EXACT
        )


def test_results_of_a_set():
    groups = G["main_group"]
    for suffix in ("", "_adap"):
        values, want = G[f"main_iiou_ciou{suffix}"], J["main_iiou"]
        assert m.success_rate(values) == pytest.approx(want["cIoU" + suffix], abs=1e-9)
        assert m.auc(values) == pytest.approx(want["AUC" + suffix], abs=1e-9)
        assert m.interactive(values, groups) == pytest.approx(want["IIoU" + suffix], abs=1e-9)
        assert m.interactive_auc(values, groups) == pytest.approx(want["IAUC" + suffix], abs=1e-9)
    assert m.mean(G["main_iiou_ciou"]) == pytest.approx(J["main_iiou"]["mean_ciou"], abs=1e-9)
    for name in ("main", "edge"):
        assert m.success_rate(G[f"{name}_ezvsl_ciou"]) == pytest.approx(
            J[f"{name}_ezvsl"]["AP50"], abs=1e-9
        )
        assert m.auc(G[f"{name}_ezvsl_ciou"]) == pytest.approx(J[f"{name}_ezvsl"]["AUC"], abs=1e-9)
    assert m.success_rate(G["main_ogl_ciou_adap"]) == pytest.approx(
        J["main_ogl"]["cIoU_adap"], abs=1e-9
    )


def test_undefined_samples_do_not_poison_a_set():
    values = G[
        "edge_iiou_ciou"
    ]  # the last is NaN; the published IIoU, IAUC and mean are NaN with it
    assert np.isnan(values).sum() == 1 and np.isnan(values[-1])
    assert m.success_rate(values) == pytest.approx(J["edge_iiou"]["cIoU"], abs=1e-9)
    assert m.auc(values) == pytest.approx(J["edge_iiou"]["AUC"], abs=1e-9)
    assert m.mean(values) == pytest.approx(np.mean(values[:-1]), abs=1e-12)
    assert m.interactive(values, range(13)) == m.success_rate(values)
    assert m.interactive_auc(values, range(13)) == m.auc(values)
    assert math.isnan(m.mean([float("nan")])) and m.success_rate([float("nan")], at=0) == 0


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_extended_sets(main, kind):
    np.testing.assert_allclose(
        m.confidence(np.concatenate([main["heat"], main["silent"]])),
        G["full_confidence"],
        atol=1e-6,
    )
    protocol = {"relative": "slavc", "absolute": "slavc-absolute"}[kind]
    heat = np.concatenate([main["heat"], main["silent"]])
    gt = np.concatenate([main["gt"], np.zeros((16, 224, 224), np.float32)])
    scored = m.normalise(heat) if kind == "relative" else heat
    np.testing.assert_allclose(
        m.localization(scored, gt, protocol)["ciou"], G[f"full_{kind}_ciou"], **EXACT
    )
    values, sound, area, want = (
        G[f"full_{kind}_ciou"],
        G["full_box_count"],
        G["full_area"],
        J[f"full_{kind}_slavc"],
    )
    limits = {"small": (0, 32), "medium": (32, 96), "large": (96, 144), "huge": (144, 10000)}
    subsets = {"all": sound >= 0, "visible": sound > 0}
    subsets |= {k: (sound > 0) & (area >= a * a) & (area < b * b) for k, (a, b) in limits.items()}
    for name, chosen in subsets.items():
        part = G["full_confidence"][chosen], values[chosen], sound[chosen]
        for at in (50, 75):
            assert m.average_precision(*part, at=at / 100) == pytest.approx(
                want[f"AP-{name}@{at}"], abs=1e-9
            )
            assert m.max_f1(*part, at=at / 100) == pytest.approx(
                want[f"maxF1-{name}@{at}"], abs=5.1e-4
            )  # printed to 0.1 %
        assert m.auc(values[chosen & (sound > 0)]) == pytest.approx(
            want[f"AUC-{name}@50"], abs=1e-9
        )
    assert m.loc_acc(values, sound) == pytest.approx(want["precision_at_50"], abs=1e-9)


def test_segmentation(main):
    frames = J["avsbench_frames"]
    logits = np.concatenate([main["heat"], main["silent"]])[:65]
    logits = 8 * (logits - np.float32(0.5))
    masks = np.concatenate([main["gt"] > 0, np.zeros((16, 224, 224), bool)])[:65]
    masks[frames["empty_mask"]], masks[frames["full_mask"]] = False, True
    logits[frames["logit_zero"]], logits[frames["logit_minus5"]] = 0, -5
    np.testing.assert_allclose(m.mask_iou(logits > 0, masks), G["avs_frame_iou"], atol=1e-5)
    assert m.mask_miou(logits > 0, masks) == pytest.approx(
        J["avsbench"]["mIoU_all_frames_one_batch"], abs=1e-5
    )
    prob, masks = torch.from_numpy(logits).sigmoid(), torch.from_numpy(masks)
    curves = m.f_curves(prob, masks)
    np.testing.assert_allclose(curves.amax(1).nan_to_num(), G["avs_frame_f"], atol=1e-5)
    assert m.f_score(prob, masks) == pytest.approx(
        J["avsbench"]["F_all_frames_one_batch"], abs=1e-5
    )
    np.testing.assert_allclose(
        [np.nan_to_num(m.best_f(c)) for c in curves.split(5)], G["avs_clip_f"], atol=1e-5
    )


def test_boxes_are_rasterised_as_published():
    def kept(key, scale, count):
        boxes = scale(G[key].astype(np.float64))
        return np.where(
            np.arange(boxes.shape[1])[None, :, None] < G[count][:, None, None], boxes, 0
        )

    def vggss(size):
        return m.boxes_to_map(
            kept("raster_vggss_boxes", lambda b: np.clip(b, 0, 1) * size, "raster_vggss_count"),
            size,
        )

    np.testing.assert_array_equal(vggss(224), np.unpackbits(G["raster_vggss_maps_packed"], axis=-1))
    np.testing.assert_array_equal(
        vggss(384), np.unpackbits(G["raster_turn384_maps_packed"], axis=-1)
    )
    flickr = kept(
        "raster_flickr_boxes256", lambda b: np.trunc(224 * b / 256), "raster_flickr_count"
    )
    assert (flickr < 0).any()  # a negative edge is a negative index in the published code
    np.testing.assert_array_equal(
        m.boxes_to_map(flickr, 224, consensus=2) * 2, G["raster_flickr_maps_times2"]
    )
    turn = kept(
        "raster_flickr_boxes256", lambda b: np.trunc(384 * b / 256).clip(0), "raster_flickr_count"
    )  # TURN clips
    flickr = m.boxes_to_map(turn, 384, consensus=2)
    np.testing.assert_array_equal(flickr.sum((1, 2)), G["raster_flickr_turn384_gt_sum"])
    corner, extent = G["turn_pred_xywh"][:, :2], G["turn_pred_xywh"][:, 2:]
    predicted = np.concatenate([corner, corner + extent], 1).clip(0)[:, None] * 384
    predicted = m.boxes_to_map(predicted, (384, 384))
    values = np.concatenate([m.ciou(predicted, vggss(384)), m.ciou(predicted[:13], flickr)])
    np.testing.assert_allclose(values, G["turn_ciou"], **EXACT)
    assert [m.success_rate(values), m.auc(values)] == pytest.approx(
        list(J["turn"].values()), abs=1e-9
    )


def test_resizing_of_the_protocols(main):
    small = {
        7: 4 * fill.make_input("metrics-lowres", (6, 1, 7, 7))[:, 0],
        14: fill.make_input("metrics-lowres14", (2, 1, 14, 14))[:, 0],
    }
    for protocol, name in (
        ("ezvsl", "bilinear_aligned"),
        ("slavc", "bicubic_aligned"),
        ("sslalign", "cv2_linear"),
    ):
        for side, maps in small.items():
            large = m.resize(maps, 224, protocol)
            np.testing.assert_allclose(large[:, ::9, ::9], G[f"upsample{side}_{name}"], atol=2e-5)
        if name != "bicubic_aligned":
            maps, gt = m.normalise(m.resize(small[7], (224, 224), protocol)), main["gt"][:6]
            np.testing.assert_allclose(
                m.ciou(m.binarize(maps, "median"), gt), G[f"upsample7_{name}_ciou"], atol=1e-4
            )
            np.testing.assert_allclose(
                m.ciou(m.binarize(maps, "adaptive", gt), gt),
                G[f"upsample7_{name}_ciou_adap"],
                atol=1e-4,
            )
    np.testing.assert_array_equal(
        m.resize(small[7], 224, "sslalign", align_corners=True), m.resize(small[7], 224, "ezvsl")
    )
