"""stmnet/backbones/faster_rcnn.py against torchvision's outputs, its loading, and its laws."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from common.io import InputError
from common.metrics import box_iou
from stmnet.backbones.faster_rcnn import FasterRcnn, faster_rcnn_r50_fpn, load
from stmnet.backbones.resnet import BasicBlock, FrozenBatchNorm, ResNet
from stmnet.backbones.rois import anchors, cell_anchors, clip, decode, pyramid_levels
from tests.goldens import fill
from tests.test_rois import encode

pytestmark = pytest.mark.slow

GOLDENS = Path(__file__).parent / "goldens"


def keys(suffix=""):
    return json.loads((GOLDENS / f"fasterrcnn_resnet50_fpn{suffix}.keys.json").read_text())


def narrow(**options):
    torch.manual_seed(0)
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=8, num_classes=None, norm=FrozenBatchNorm)
    options = {
        "width": 16,
        "hidden": 32,
        "num_classes": 5,
        "side": 64,
        "longest": 128,
        "anchor": 8,
        "top": 50,
        "threshold": 0.0,
        "detections": 20,
        **options,
    }
    return FasterRcnn(body, **options).eval()


# Goldens.


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "fasterrcnn.pth"
    torch.save({k: torch.from_numpy(fill.fill_array(k, s)) for k, s in keys().items()}, path)
    model = load(faster_rcnn_r50_fpn(threshold=0.02), path).eval()
    path.unlink()
    return model


def compare(golden, ours, absolute):
    """Within 2e-5 of the greatest value, or what `absolute` says; whole numbers exactly."""
    for name, value in ours.items():
        value, expected = np.asarray(value), golden[name]
        assert value.shape == expected.shape, name
        if expected.dtype.kind == "i":
            assert (value == expected).all(), name
        else:
            tolerance = absolute.get(name, 2e-5 * np.abs(expected).max())
            assert np.abs(value - expected).max() <= tolerance, name


def is_full(name):
    return name.startswith(("full_", "det_", "roi_fixed", "rois_fixed", "transformed"))


def rois_of_the_golden(model, maps, boxes):
    """`rois`, but outside a map its border goes on for ever.

    So does the Python version of RoIAlign with which the goldens were made, unlike the compiled
    ones, and ours. 64 pixels of border are put around the maps, and the boxes moved."""
    bordered = [
        torch.nn.functional.pad(m, 4 * [64 // 4 // 2**level], mode="replicate")
        for level, m in enumerate(maps[:-1])
    ]
    return model.rois([*bordered, maps[-1]], [boxes + 64])


@pytest.mark.slow
@torch.no_grad()
def test_golden_without_resizing(published):
    golden = np.load(GOLDENS / "fasterrcnn_resnet50_fpn.npz")
    x, size = torch.from_numpy(fill.make_input("fasterrcnn-direct", (1, 3, 96, 128))), (96, 128)
    maps = published.pyramid(x)
    heads = [published.rpn["head"](m) for m in maps]
    places = [anchors(size, m.shape[2:], 32 * 2**i) for i, m in enumerate(maps)]
    decoded = decode(torch.cat([deltas[0] for _, deltas in heads]), torch.cat(places))
    [(boxes, scores)] = published.propose(maps, size, [size])
    features = rois_of_the_golden(published, maps, boxes[:20])
    hidden = published.roi_heads["box_head"](features)
    logits, deltas = published.roi_heads["box_predictor"](hidden)
    ours = {
        "fpn_0": maps[0][:, ::16, ::2, ::2],
        "fpn_1": maps[1][:, ::16],
        "fpn_2": maps[2][:, ::8],
        "fpn_3": maps[3][:, ::8],
        "fpn_pool": maps[4][:, ::8],
        "anchors_head": torch.cat(places)[:64],
        "anchors_tail": torch.cat(places)[-64:],
        "anchor_count": [len(p) for p in places],
        "cell_anchors": torch.stack([cell_anchors(32 * 2**i) for i in range(5)]),
        "decoded_head": decoded[:64],
        "decoded_tail": decoded[-64:],
        "proposal_count": [len(boxes)],
        "proposals_top20": boxes[:20],
        "scores_top20": scores[:20],
        "roi_level_top20": pyramid_levels(boxes[:20], 4),
        "roi_features_top20": features[:, ::32],
        "box_head_top20": hidden[:, ::8],
        "class_logits_top20": logits,
        "box_regression_top20": deltas.flatten(1)[:, ::4],
    }
    for level, m, (objectness, deltas), (a, b) in zip(
        (0, 1, 2, 3, "pool"), maps, heads, [(2, 4)] + 4 * [(1, 1)]
    ):
        grid = m.shape[2:]
        ours[f"objectness_{level}"] = objectness.unflatten(1, (*grid, 3)).permute(0, 3, 1, 2)[
            ..., ::a, ::a
        ]
        ours[f"deltas_{level}"] = (
            deltas.unflatten(1, (*grid, 3)).flatten(3).permute(0, 3, 1, 2)[..., ::b, ::b]
        )
    compare(
        golden,
        ours,
        {
            "proposals_top20": 1e-2,
            "scores_top20": 1e-5,
            "cell_anchors": 0,
            "anchors_head": 0,
            "anchors_tail": 0,
        },
    )
    assert set(ours) == {
        n for n in golden.files if not is_full(n) and not n.startswith("check_")
    }  # all are compared


@pytest.mark.slow
@torch.no_grad()
def test_golden_of_a_picture(published, monkeypatch):
    """One call, in which what the stages pass on is kept."""
    golden, stages = np.load(GOLDENS / "fasterrcnn_resnet50_fpn.npz"), {}

    def keep(name, stage):
        def call(*args):
            stages[name] = stage(*args)
            return stages[name]

        monkeypatch.setattr(published, name, call)

    for name in ("inputs", "pyramid", "propose"):
        keep(name, getattr(published, name))
    noise = fill.make_input("fasterrcnn-image", (3, 96, 128))
    [found] = published(
        [torch.from_numpy(np.clip(np.float32(0.5) + np.float32(0.2) * noise, 0, 1))]
    )
    (inputs, sizes), maps, [(boxes, scores)] = (
        stages[name] for name in ("inputs", "pyramid", "propose")
    )
    fixed = torch.from_numpy(golden["rois_fixed"])
    ours = {
        "transformed_size": sizes[0],
        "transformed_shape": inputs.shape,
        "transformed": inputs[:, :, ::40, ::40],
        **{f"full_fpn_{i}": maps[i][:, ::32, ::8, ::8] for i in range(3)},
        "full_fpn_3": maps[3][:, ::16, ::4, ::4],
        "full_fpn_pool": maps[4][:, ::16, ::4, ::4],
        "full_proposals_top20": boxes[:20],
        "full_scores_top20": scores[:20],
        "full_proposal_count": [len(boxes)],
        "det_boxes_top20": found["boxes"][:20],
        "det_scores_top20": found["scores"][:20],
        "det_labels_top20": found["labels"][:20],
        "det_count": [len(found["boxes"])],
        "roi_fixed_level": pyramid_levels(fixed, 4),
        "roi_fixed_features": rois_of_the_golden(published, maps, fixed)[:, ::32],
    }
    pixels, score = (
        ("full_proposals_top20", "det_boxes_top20"),
        ("full_scores_top20", "det_scores_top20"),
    )
    compare(golden, ours, dict.fromkeys(pixels, 1e-2) | dict.fromkeys(score, 1e-5))
    assert set(ours) == {n for n in golden.files if is_full(n)} - {"rois_fixed", "det_score_thresh"}
    assert published.threshold == pytest.approx(golden["det_score_thresh"].item())


# Loading.


def test_published_keys_and_constants():
    model = faster_rcnn_r50_fpn()
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == keys()
    assert {m.eps for m in model.modules() if isinstance(m, FrozenBatchNorm)} == {0.0}
    assert sum(v.numel() for v in model.state_dict().values()) == pytest.approx(41.8e6, rel=2e-3)
    settings = ("side", "longest", "anchor", "top", "threshold", "detections")
    assert [getattr(model, s) for s in settings] == [800, 1333, 32, 1000, 0.05, 100]


def torchvision_names(state):
    """From our names to today's, by two lists of the full-size model, in the same order."""
    names = dict(zip(keys(), keys("_torchvision"), strict=True))
    return {names.get(k, k): v for k, v in state.items()}


def test_both_generations_of_names_load(tmp_path):
    source = narrow().state_dict()
    for state in (source, torchvision_names(source)):
        torch.save(state, tmp_path / "x.pth")
        model = narrow()
        for value in model.state_dict().values():
            value.zero_()
        assert load(model, tmp_path / "x.pth") is model
        assert model.state_dict().keys() == source.keys() and all(
            torch.equal(v, source[k]) for k, v in model.state_dict().items()
        )
    assert len(torchvision_names(source).keys() - source.keys()) == 18


@pytest.mark.parametrize("rename", [dict, torchvision_names], ids=["published", "torchvision"])
def test_loading_is_strict(tmp_path, rename):
    state = rename(narrow().state_dict())
    lost = next(k for k in state if "inner_blocks.2" in k and k.endswith("bias"))
    del state[lost]
    state["backbone.body.fc.weight"] = torch.zeros(2)
    state["rpn.head.bbox_pred.bias"] = torch.zeros(16)
    torch.save(state, tmp_path / "x.pth")
    model = narrow()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InputError) as error:
        load(model, tmp_path / "x.pth")
    text = str(error.value)
    assert (
        f"1 missing ({lost})" in text
        and "1 extra (backbone.body.fc.weight)" in text
        and "FasterRcnn" in text
    )
    assert "1 misshapen (rpn.head.bbox_pred.bias (16,) for (12,))" in text and "\n" not in text
    assert all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items()
    )  # nothing was half loaded
    with pytest.raises(InputError, match="no such file"):
        load(model, tmp_path / "none.pth")


# The whole, narrow.


@pytest.mark.parametrize(
    "shape, size, padded",
    [
        ((96, 128), (800, 1066), (800, 1088)),
        ((1, 1), (800, 800), (800, 800)),
        ((1, 100), (13, 1333), (32, 1344)),
        ((720, 1280), (749, 1333), (768, 1344)),
        ((5000, 1), (1333, 1), (1344, 32)),
    ],
)
def test_resizing(shape, size, padded):
    model = narrow(side=800, longest=1333)
    inputs, sizes = model.inputs([torch.ones(3, *shape)])
    assert sizes == [size] and inputs.shape == (1, 3, *padded)
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(inputs[0, :, : size[0], : size[1]], white[:, None, None])
    assert inputs[:, :, size[0] :].abs().sum() == 0 and inputs[..., size[1] :].abs().sum() == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 57), (200, 3), (37, 51)])
def test_pictures_of_any_size(shape):
    model = narrow()
    images = [torch.rand(3, *shape), torch.rand(3, 40, 64)]
    for image, found, proposed in zip(images, model(images), model.proposals(images), strict=True):
        height, width = image.shape[1:]
        for result, most in ((found, 20), (proposed, 50)):
            boxes, scores = result["boxes"], result["scores"]
            assert 0 < len(boxes) == len(scores) <= most and boxes.shape[1] == 4
            assert (boxes >= 0).all() and (
                boxes <= torch.tensor([width, height] * 2) * (1 + 1e-5)
            ).all()
            assert (
                (boxes[:, 2:] > boxes[:, :2]).all()
                and (scores.diff() <= 0).all()
                and (scores >= 0).all()
                and (scores <= 1).all()
            )
        assert (
            found["labels"].dtype == torch.int64
            and found["labels"].min() >= 1
            and found["labels"].max() <= 4
        )


def test_a_batch_is_its_pictures():
    model, images = narrow(), torch.rand(3, 3, 48, 70)
    for call in (model, model.proposals):
        together = call(images)
        for i, image in enumerate(images):
            [alone] = call([image])
            assert alone.keys() == together[i].keys()
            assert all(
                torch.allclose(v.float(), together[i][k].float(), atol=1e-4)
                for k, v in alone.items()
            )


def test_boxes_are_in_pixels_of_the_image():
    """Two images, resized by 4 and 1/2, and one box in pixels of the resized images."""
    model, images, box = (
        narrow(num_classes=2),
        [torch.rand(3, 16, 32), torch.rand(3, 130, 200)],
        torch.tensor([[8.0, 4, 64, 32]]),
    )
    model.propose = lambda maps, shape, sizes: [(box, torch.ones(1)) for _ in sizes]
    stub(model, torch.zeros(2, 2))
    small, large = (
        [[2.0, 1, 16, 8]],
        [[8 * 200 / 98, 4 * 130 / 64, 64 * 200 / 98, 32 * 130 / 64]],
    )  # 130 × 200 become 64 × 98
    for call in (model, model.proposals):
        for found, expected in zip(call(images), (small, large), strict=True):
            assert torch.allclose(found["boxes"], torch.tensor(expected))


def test_nothing_found():
    model = narrow(threshold=1.0)
    [found] = model([torch.rand(3, 40, 40)])
    assert (
        found["boxes"].shape == (0, 4)
        and found["scores"].shape == (0,)
        and found["labels"].shape == (0,)
    )
    maps = narrow().pyramid(torch.rand(1, 3, 64, 64))
    [(boxes, scores, labels)] = narrow().classify(maps, [torch.zeros(0, 4)], [(64, 64)])
    assert boxes.shape == (0, 4) and len(scores) == len(labels) == 0 and labels.dtype == torch.int64


@pytest.mark.parametrize(
    "images",
    [
        [],
        [torch.ones(3, 8, 8, dtype=torch.uint8)],
        [torch.rand(1, 3, 8, 8)],
        [torch.rand(1, 8, 8)],
        torch.rand(3, 8, 8),
        [torch.rand(3, 0, 8)],
    ],
)
def test_other_shapes_are_refused(images):
    with pytest.raises(ValueError, match="expected images"):
        narrow()(images)


def test_proposals_obey_their_rules():
    model = narrow(top=3000)
    inputs, sizes = model.inputs([torch.rand(3, 64, 90), torch.rand(3, 64, 100)])
    maps = model.pyramid(inputs)
    for level in maps:  # each alone, so that nothing may overlap
        for (boxes, scores), size in zip(model.propose([level], inputs.shape[2:], sizes), sizes):
            assert (
                torch.equal(boxes, clip(boxes, size))
                and (boxes[:, 2:] - boxes[:, :2] >= 1e-3).all()
                and len(boxes) == len(scores)
            )
            assert box_iou(boxes[:, None], boxes[None]).triu(1).max() <= 0.7
    [(every, scores), _] = model.propose(maps, inputs.shape[2:], sizes)
    assert (box_iou(every[:, None], every[None]).triu(1) > 0.7).any()  # of different levels
    images = torch.rand(1, 3, 64, 90)
    [few], [all_] = model.proposals(images, top=7), model.proposals(images)
    assert len(few["boxes"]) == 7 and all(torch.equal(v, all_[k][:7]) for k, v in few.items())


def test_proposals_of_two_levels():
    """The head is given: objectness of six anchors in two levels, deltas to boxes of our choice."""
    expected = torch.tensor(
        [
            [[0.0, 0, 20, 20], [0, 0, 20, 20], [-9, 40, 9, 99]],
            [[0.0, 0, 20, 20], [30, 30, 50, 50], [5, 5, 5.0009, 9]],
        ]
    )
    chances = torch.tensor([[0.9, 0.8, 0.3], [0.7, 0.6, 0.95]])

    def propose(top):
        model = narrow(top=top)
        deltas = [
            encode(w, anchors((64, 64), (1, 1), 8 * 2**i), (1, 1, 1, 1))
            for i, w in enumerate(expected)
        ]
        answers = iter((c.logit()[None], d[None]) for c, d in zip(chances, deltas))
        model.rpn["head"].forward = lambda x: next(answers)
        [(boxes, scores)] = model.propose([torch.zeros(1, 16, 1, 1)] * 2, (64, 64), [(64, 50)])
        return boxes, scores

    boxes, scores = propose(
        3
    )  # equal ones of a level are one, the last is too narrow, the third is cut, left out: top
    assert torch.allclose(scores, torch.tensor([0.9, 0.7, 0.6]))
    assert torch.allclose(
        boxes, torch.stack([expected[0, 0], expected[1, 0], expected[1, 1]]), atol=1e-4
    )
    boxes, scores = propose(50)
    assert torch.allclose(boxes[3], torch.tensor([0.0, 40, 9, 64]), atol=1e-4) and len(boxes) == 4
    assert torch.allclose(
        propose(2)[1], torch.tensor([0.9, 0.7])
    )  # two of each level: the second level's 0.95 is one of them


def stub(model, logits, deltas=None):
    """`model` whose second stage gives these logits (n, classes), and boxes as proposed."""
    deltas = torch.zeros(*logits.shape, 4) if deltas is None else deltas
    model.roi_heads["box_predictor"].forward = lambda x: (logits, deltas)
    return model


def test_detections_obey_their_rules():
    """Five boxes; classes are background, 1, 2. Scores are probabilities given as logarithms."""
    boxes = torch.tensor(
        [[0.0, 0, 20, 20], [0, 0, 20, 19], [30, 30, 50, 50], [40, 0, 40.005, 20], [0, 40, 20, 60]]
    )
    chances = torch.tensor(
        [[0.1, 0.6, 0.3], [0.1, 0.5, 0.4], [0.9, 0.06, 0.04], [0.1, 0.8, 0.1], [0.98, 0.01, 0.01]]
    )
    model = narrow(num_classes=3, threshold=0.05)
    maps = model.pyramid(torch.rand(1, 3, 64, 64))
    [(found, scores, labels)] = stub(model, chances.log()).classify(maps, [boxes], [(64, 64)])
    # Of the first two, the better one in each class; 0.04 and 0.01 are too little; the fourth is
    # under 0.01 wide; never background.
    assert torch.allclose(scores, torch.tensor([0.6, 0.4, 0.06])) and labels.tolist() == [1, 2, 1]
    assert torch.equal(found, boxes[[0, 1, 2]])
    model.detections = 2
    assert len(stub(model, chances.log()).classify(maps, [boxes], [(64, 64)])[0][0]) == 2


def test_deltas_of_detections_are_weighted_and_clipped():
    model = narrow(num_classes=2)
    maps, box = model.pyramid(torch.rand(1, 3, 64, 64)), torch.tensor([[10.0, 10, 30, 20]])
    deltas = torch.tensor(
        [[[0.0] * 4, [10.0, 5.0, 5 * math.log(2), 0.0]]]
    )  # one width to the right, half a height down, twice as wide
    [(found, _, _)] = stub(model, torch.zeros(1, 2), deltas).classify(maps, [box], [(64, 50)])
    assert torch.allclose(
        found, torch.tensor([[20.0, 15, 50, 25]]), atol=1e-4
    )  # 60, clipped to the image's 50


def test_fewer_stages_and_low_precision():
    body = ResNet(
        BasicBlock, (1, 1, 1), width=8, num_classes=None, norm=partial(FrozenBatchNorm, eps=0.0)
    )
    model = FasterRcnn(
        body,
        width=16,
        hidden=32,
        num_classes=3,
        side=64,
        longest=64,
        anchor=8,
        top=30,
        threshold=0.0,
    ).eval()
    images = torch.rand(2, 3, 64, 64)
    assert [tuple(m.shape[1:]) for m in model.pyramid(images)] == [
        (16, 16, 16),
        (16, 8, 8),
        (16, 4, 4),
        (16, 2, 2),
    ]
    plain = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(images)
    assert all(r["boxes"].dtype == r["scores"].dtype == torch.float32 for r in low)
    assert all(
        abs(float(a["scores"][0]) - float(b["scores"][0])) < 0.05 for a, b in zip(low, plain)
    )
    assert not any(r["boxes"].requires_grad for r in plain)
