"""avkd's evaluation: guidance, a model on scenes and on files, costs, localization."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avkd import evaluate, guidance, localize
from avkd.backbones import small
from avkd.config import PAPER, TINY
from avkd.count import cost
from avkd.model import Avkd, localization_map
from avkd.backbones.resnet import resnet18
from common.evaluation import (
    CONTROLS,
    FileTestSet,
    SceneTestSet,
    draw_samples,
    score_samples,
    shuffled_partners,
)
from common.evaluation.scoring import make_batch
from avkd.backbones.views import normalise
from common import metrics
from common.io import InputError, read_image, read_json, write_audio, write_image
from tests.layouts import write
from common.benchmarks.pairs import TEST, make_scenes, read_input
from common.scenes import Scenes
from common.scenes.composition import PAIR
from common.io import load_published
from tests.goldens import fill

pytestmark = pytest.mark.slow

CONFIG = replace(
    TINY,
    width=8,
    image_size=32,
    channels=16,
    held_out=6,
    sample_rate=4000,
    seconds=0.5,
    crop=0.25,
    window=64,
    hop=32,
    teacher_steps=2,
)
CPU = torch.device("cpu")
COLUMNS = {*evaluate.VARIANTS, *CONTROLS.values()}


def saved(config, path):
    """A checkpoint of a new model; the small teacher of its scenes goes beside it."""
    torch.manual_seed(0)
    config = replace(config, out=str(path.parent / "runs"))
    torch.save(
        {
            "method": "avkd",
            "config": asdict(config),
            "model": Avkd(config).state_dict(),
            "report": {"validation/i2a_r@1": 0.5},
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = saved(CONFIG, tmp_path_factory.mktemp("model") / "best.pt")
    evaluate.load_predictor(path, CPU, make=True)  # trains the small teacher
    return path


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    root = tmp_path_factory.mktemp("flickr")
    write(Scenes(4, 48, 4000, 0.4), root, "flickr", 6)
    return root


def predict(predictor, test, rows):
    return predictor.predict(make_batch(test, predictor.encode_test_audio(test), rows)).heatmaps


def bad(module, flags, capsys):
    """Run a command: status 2 and one line on stderr, which is returned."""
    with pytest.raises(SystemExit) as ended:
        module.main([str(flag) for flag in flags])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    (line,) = [line for line in err.splitlines() if "listed" not in line]
    return line


# What guides the maps


def drawn(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def unit(x):
    """One map from 0 to 1."""
    return (x - x.min()) / (x.max() - x.min())


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 4), queries=st.integers(1, 6), seed=st.integers(0, 99))
def test_confident_is_the_mean_of_the_sure_queries(n, queries, seed):
    confidence, maps = 0.6 * drawn(seed, n, queries), drawn(seed + 1, n, queries, 2, 3)
    confidence[0, 0] = 0.3  # is enough
    found, has_detection = guidance.confident_mean(confidence, maps)
    assert found.shape == (n, 2, 3) and has_detection.shape == (n,) and has_detection[0]
    for i in range(n):
        sure = [maps[i, q] for q in range(queries) if confidence[i, q] >= 0.3]
        assert has_detection[i] == bool(sure)
        torch.testing.assert_close(found[i], sum(sure) / len(sure) if sure else torch.zeros(2, 3))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 4), seed=st.integers(0, 99))
def test_guidance_is_the_formula(n, seed):
    avc, objects, detections = (
        9 * drawn(seed, n, 4, 5) - 3,
        2 * drawn(seed + 1, n, 4, 5),
        drawn(seed + 2, n, 4, 5),
    )
    has_detection = drawn(seed + 3, n) < 0.5
    by_two, by_three = (
        guidance.og_avc(avc, objects),
        guidance.og_avc_detr(avc, objects, detections, has_detection),
    )
    for i in range(n):
        a, o, d = (unit(x[i]) for x in (avc, objects, detections))
        torch.testing.assert_close(by_two[i], 0.6 * a + 0.4 * o)
        torch.testing.assert_close(
            by_three[i], (a + o + d) / 3 if has_detection[i] else (a + o) / 2
        )
    torch.testing.assert_close(
        guidance.og_avc(5 * avc + 1, objects / 3), by_two
    )  # each from 0 to 1, whatever its range
    torch.testing.assert_close(
        guidance.og_avc_detr(avc, 5 * objects, detections - 1, has_detection), by_three
    )
    nothing = guidance.og_avc_detr(
        avc, objects, torch.zeros(n, 4, 5), torch.zeros(n, dtype=torch.bool)
    )
    torch.testing.assert_close(nothing, (metrics.normalise(avc) + metrics.normalise(objects)) / 2)


@settings(max_examples=20, deadline=None)
@given(which=st.integers(0, 2), at=st.integers(1, 18), seed=st.integers(0, 99))
def test_guidance_grows_with_each_of_its_maps(which, at, seed):
    """By its weight; nothing else moves while the least and the greatest stay."""
    maps = [drawn(seed + k, 1, 20) for k in range(3)]
    for x in maps:
        x[0, 0], x[0, 19] = 0, 1
    higher = [x.clone() for x in maps]
    higher[which][0, at] = (maps[which][0, at] + 1) / 2
    step, here = (higher[which] - maps[which])[0, at], torch.arange(20) == at

    def gain(function, *more, of=3):
        before, after = (
            function(*(x.view(1, 4, 5) for x in y[:of]), *more).flatten() for y in (maps, higher)
        )
        assert (after - before)[~here].abs().max() == 0
        return float((after - before)[at] / step)

    if which < 2:
        assert gain(guidance.og_avc, of=2) == pytest.approx((0.6, 0.4)[which], rel=1e-3)
        assert gain(guidance.og_avc_detr, torch.tensor([False])) == pytest.approx(1 / 2, rel=1e-3)
    assert gain(guidance.og_avc_detr, torch.tensor([True])) == pytest.approx(1 / 3, rel=1e-3)


def test_objects_of_published_networks():
    """The mean over channels; attention of queries whose best class but "no object" reaches 0.3."""

    class Queries(torch.nn.Module):
        def forward(self, x):
            sizes.append(x.shape[-1])
            logits = torch.zeros(len(x), 3, 5)
            logits[:, 0, 4], logits[:, 1, 1], logits[0, 2, 3] = (
                9.0,
                1.5,
                3.0,
            )  # no object; 0.53; 0.83 in the first image
            return {
                "pred_logits": logits
                - 2 * (torch.arange(len(x)) > 1)[:, None, None] * logits.clamp(max=3),
                "attention": attention,
            }

    attention, sizes = drawn(3, 3, 3, 2, 2), []
    images = list((255 * drawn(4, 3, 64, 64, 3)).byte().numpy())
    torch.manual_seed(0)
    body = resnet18().eval()
    with torch.no_grad():
        objects, (found, has_detection) = guidance.Guide(body, Queries())(images)
        views = guidance.image_batch(images, 224, CPU)
        torch.testing.assert_close(objects, body.features(normalise(views)).mean(1))
        assert guidance.Guide(body)(images)[1] is None
    assert views.shape == (3, 3, 224, 224) and sizes == [800]  # whatever the AVC model sees
    assert has_detection.tolist() == [True, True, False]
    torch.testing.assert_close(
        found,
        torch.stack([(attention[0, 1] + attention[0, 2]) / 2, attention[1, 1], torch.zeros(2, 2)]),
    )


# Of a model


@pytest.mark.slow
def test_maps_and_controls(checkpoint):
    predictor, test = (
        evaluate.load_predictor(checkpoint, CPU, make=True),
        SceneTestSet(CONFIG, "interactive", "ezvsl"),
    )
    assert isinstance(predictor.guide, guidance.SmallGuide) and "small detector" in predictor.note
    rows = [0, 3]
    maps = predict(predictor, test, rows)
    assert set(maps) == COLUMNS
    views = guidance.image_batch([test.image(i) for i in rows], CONFIG.image_size, CPU)
    with torch.no_grad():
        f_v = predictor.model.encode_image(views)
        for column, a in (
            ("avc/", [test.waveform(i) for i in rows]),
            ("control/silent_", [torch.zeros(1000)] * 2),
            ("control/shuffled_", [test.waveform(j) for j in shuffled_partners(test.groups)[rows]]),
        ):
            torch.testing.assert_close(
                maps[column], localization_map(f_v, predictor.encode_audio(torch.stack(a)))
            )
        fine = guidance.image_batch([test.image(i) for i in rows], 2 * CONFIG.image_size, CPU)
        objects = predictor.guide.classifier.features(fine).mean(1)
        assert objects.shape == (2, *(2 * x for x in maps["avc/"].shape[1:]))
        large = [metrics.resize(x, 224, "ezvsl") for x in (maps["avc/"], objects)]
        found, has_detection = guidance.confident_mean(*predictor.guide.detector.detect(views))
    torch.testing.assert_close(maps["og/"], guidance.og_avc(*large, (0.75, 0.25)))
    found = metrics.resize(found, 224, "ezvsl")
    torch.testing.assert_close(maps["og_detr/"], guidance.og_avc_detr(*large, found, has_detection))
    weighted = {"og_weights": (1.0, 0.4), "og_detr_weights": (1.0, 0.0, 2.0)}
    other = predict(evaluate.load_predictor(checkpoint, CPU, weighted), test, rows)
    torch.testing.assert_close(other["og/"], guidance.og_avc(*large, (1.0, 0.4)))
    expected = guidance.og_avc_detr(*large, found, has_detection, (1.0, 0.0, 2.0))
    torch.testing.assert_close(other["og_detr/"], expected)
    for i, j in enumerate(shuffled_partners(test.groups)):
        assert test.groups[i] != test.groups[j]


@pytest.mark.slow
def test_the_silent_control_does_not_depend_on_the_audio(checkpoint):
    predictor, test = (
        evaluate.load_predictor(checkpoint, CPU, make=True),
        SceneTestSet(CONFIG, "pair", "ezvsl"),
    )
    before = predict(predictor, test, [1, 4])
    test.waveform = lambda i, waveform=test.waveform: waveform(i).flip(0) * 0.3
    after = predict(predictor, test, [1, 4])
    for column in COLUMNS:
        is_fixed = column in ("control/silent_", "control/noise_")
        assert torch.equal(before[column], after[column]) == is_fixed


@pytest.mark.slow
def test_a_model_that_does_not_listen(checkpoint):
    """Its scores are the same for any audio; those of a model that listens differ somewhere."""
    predictor, test = (
        evaluate.load_predictor(checkpoint, CPU, make=True),
        SceneTestSet(CONFIG, "pair", "ezvsl"),
    )
    merged = score_samples(predictor, test, predictor.encode_test_audio(test))[0]
    assert not np.array_equal(merged["avc/"]["ciou"], merged["control/silent_"]["ciou"])
    torch.nn.init.zeros_(predictor.model.F_a.projection.weight)
    merged = score_samples(predictor, test, predictor.encode_test_audio(test))[0]
    for column in CONTROLS.values():
        for name in ("ciou", "ciou_adaptive", "pointing", "mask_iou"):
            np.testing.assert_array_equal(merged["avc/"][name], merged[column][name])


def test_scenes_of_one_object(monkeypatch):
    """A smaller set beside the others, which stay as they were."""
    monkeypatch.setattr(evaluate, "NUM_LONE", 4)
    *sets, lone = evaluate.scene_test_sets(CONFIG, "ezvsl")
    assert [len(x.ids) for x in sets] == [6, 6, 6] and len(lone.ids) == 4
    plain = SceneTestSet(CONFIG, "pair", "ezvsl")
    for i, sample in enumerate(sets[0].samples):
        np.testing.assert_array_equal(sample.image, plain.image(i))
    assert [x.prefix for x in (*sets, lone)] == ["", "", "", "one/"] and lone.name != plain.name
    scenes = make_scenes(TEST, CONFIG, 1)
    for i, sample in enumerate(lone.samples):
        rng = scenes.rng(PAIR, i)
        scene = scenes.scene(rng, scenes.classes(rng))
        assert len(scene.boxes) == 1 and sample.cls == scene.classes[0]
        np.testing.assert_array_equal(sample.mask, scene.masks[0])


@pytest.mark.slow
def test_every_number_of_the_interface(checkpoint, tmp_path, capsys):
    command = f"--checkpoint {checkpoint} --out {tmp_path} --out-results {tmp_path}/table.json"
    evaluate.main([*command.split(), "--device", "cpu"])
    found, text = read_json(tmp_path / "metrics-scenes.json"), capsys.readouterr().out
    local = [
        f"{name}{rule}{at}"
        for name, at in (("ciou", "@0.5"), ("auc", ""))
        for rule in ("", "_adaptive")
    ]
    of_each = {
        *local,
        "pointing",
        "iiou_adaptive",
        "iauc",
        "iiou",
        "extended_ap",
        "extended_loc_acc",
        "masks_miou",
        "masks_f_score_adaptive",
    }
    expected = {
        f"{prefix}{name}"
        for prefix in ("avc/", "og/", "og_detr/", "control/silent_", "control/shuffled_")
        for name in of_each
    }
    expected |= {f"one/{v}/ciou_adaptive@0.5" for v in ("avc", "og", "og_detr")}
    expected |= {f"baseline/{name}_ciou@0.5" for name in ("centre", "whole", "upper_bound")} | {
        "one/control/silent_ciou@0.5",
        "one/baseline/centre_ciou_adaptive@0.5",
        "avc/ciou_exact@0.5",
        "avc/iiou_adaptive_exact",
        "control/noise_iiou_adaptive",
    }
    own = ("avc/", "control/silent_", "control/shuffled_", "control/noise_")
    expected |= {f"{prefix}negatives_lit_area" for prefix in own}
    assert expected <= set(found), expected - set(found)
    assert (
        found["samples"] == found["one/samples"] == 6
        and found["protocol"] == "ezvsl"
        and found["preset"] == "tiny"
        and found["seed"] == 0
    )
    assert found["validation/i2a_r@1"] == 0.5 and not [
        name for name in found if re.search("retrieval|alignment|pairs/", name)
    ]
    assert all(
        0 <= x <= 1
        for name, x in found.items()
        if re.match("(avc|og|og_detr|control|baseline)/", name)
    )
    assert found["baseline/upper_bound_ciou@0.5"] >= max(
        found["avc/ciou@0.5"], found["baseline/whole_ciou@0.5"]
    )
    for heading in (
        "AVC",
        "OG-AVC",
        "OG-AVC-DETR",
        "silent audio",
        "shuffled audio",
        "baseline: centre",
        "baseline: whole image",
        "upper bound",
        "small detector",
        "scenes, pair, one object, N = 6",
    ):
        assert heading in text
    assert not [name for name in found if re.match("one/.*(iiou|extended)", name)]
    for name in ("samples", "sounds"):
        assert read_image(tmp_path / f"{name}-scenes.png").shape[2] == 3
    assert {p.name for p in tmp_path.iterdir()} == {
        "metrics-scenes.json",
        "table.json",
        "samples-scenes.png",
        "sounds-scenes.png",
        "report-scenes.html",
    }
    table = read_json(tmp_path / "table.json")
    assert table["n"] == 6 and table["seeds"] == [0] and "N = 6" in table["title"]
    assert table["command"].startswith("python -m avkd.evaluate --checkpoint ")
    row = next(row for row in table["rows"] if row["name"] == "pairs: cIoU@0.5 adaptive")
    for column, key in (("AVC", "avc/"), ("silent audio", "control/silent_")):
        assert row["values"][column] == [100 * found[f"{key}ciou_adaptive@0.5"]]


@pytest.mark.slow
def test_scores_are_those_of_the_maps(checkpoint):
    predictor, test = (
        evaluate.load_predictor(checkpoint, CPU, make=True),
        SceneTestSet(CONFIG, "pair", "ezvsl"),
    )
    result = evaluate.evaluate(predictor, [test])
    found, pages = result.metrics, result.sheets
    maps = predict(predictor, test, range(6))
    gt = np.stack([test.gt_map(i) for i in range(6)])
    for prefix in ("avc/", "og/", "og_detr/", "control/silent_"):
        x = metrics.resize(maps[prefix], 224, "ezvsl").numpy()
        ciou = metrics.ciou(metrics.binarize(x, "median", protocol="ezvsl"), gt)
        assert found[f"{prefix}ciou@0.5"] == metrics.success_rate(ciou) and found[
            f"{prefix}auc"
        ] == metrics.auc(ciou)
        assert found[f"{prefix}pointing"] == metrics.success_rate(metrics.pointing(x, gt))
    assert found["samples"] == 6 and set(pages) == {"samples"}
    assert pages["samples"]["columns"] == [
        "ground truth",
        "AVC",
        "OG-AVC",
        "OG-AVC-DETR",
        "shuffled audio",
        "silent audio",
        "noise",
    ]
    test = SceneTestSet(CONFIG, "interactive", "ezvsl")
    page = draw_samples(predictor, test, predictor.encode_test_audio(test), evaluate.VARIANTS)
    assert (
        page["columns"] == ["ground truth 1", "AVC 1", "ground truth 2", "AVC 2"]
        and [len(row) for row in page["rows"]] == [4] * 3
    )


@pytest.mark.slow
def test_on_files_without_and_with_objects(disk, tmp_path, capsys):
    """A model of files has no small teacher; a published ResNet-18 guides it, DETR is missed."""
    path = saved(replace(CONFIG, data="vggsound", hints="none"), tmp_path / "best.pt")
    command = f"--checkpoint {path} --data flickr --root {disk} --device cpu".split()
    evaluate.main([*command, "--out", str(tmp_path / "alone")])
    alone, text = read_json(tmp_path / "alone" / "metrics-flickr.json"), capsys.readouterr().out
    assert (
        "avc/ciou@0.5" in alone
        and not [k for k in alone if k.startswith("og")]
        and "No object-guided variants" in text
    )
    torch.manual_seed(1)
    torch.save(fill.fill_state_dict(resnet18().state_dict()), tmp_path / "resnet18.pth")
    evaluate.main(
        [
            *command,
            "--out",
            str(tmp_path / "og"),
            "--object-weights",
            str(tmp_path / "resnet18.pth"),
        ]
    )
    guided, text = read_json(tmp_path / "og" / "metrics-flickr.json"), capsys.readouterr().out
    assert (
        "og/ciou@0.5" in guided
        and not [k for k in guided if k.startswith("og_detr")]
        and "No OG-AVC-DETR" in text
    )
    assert {k: v for k, v in guided.items() if not k.startswith("og/")} == {
        **alone,
        "seconds": guided["seconds"],
    }
    predictor, test = (
        evaluate.load_predictor(path, CPU, {"object_weights": str(tmp_path / "resnet18.pth")}),
        FileTestSet(CONFIG, "flickr", disk),
    )
    body, rows = load_published(resnet18(), tmp_path / "resnet18.pth").eval(), [0, 5]
    maps = predict(predictor, test, rows)
    views = guidance.image_batch([test.image(i) for i in rows], 224, CPU)
    assert test.align_corners  # not as scenes and VGG-SS are resized
    with torch.no_grad():
        large = [
            metrics.resize(x, 224, "sslalign", test.align_corners)
            for x in (maps["avc/"], body.features(normalise(views)).mean(1))
        ]
    torch.testing.assert_close(maps["og/"], guidance.og_avc(*large, CONFIG.og_weights))
    assert not (tmp_path / "runs").exists()  # nothing was trained for it


# Bad input


def test_bad_checkpoints(tmp_path, capsys):
    whole, out = (
        saved(replace(CONFIG, data="vggsound", hints="none"), tmp_path / "whole.pt"),
        tmp_path / "out",
    )
    state = torch.load(whole, weights_only=True)
    configs = {
        "fields": {"unknown": 1},
        "width": {"width": 4},
        "value": {"tau": -1.0},
        "kind": {"width": "8"},
    }
    for name, change in {
        **{name: {"config": {**state["config"], **odd}} for name, odd in configs.items()},
        "keys": {"model": {}},
        "list": {"model": [1]},
        "method": {"method": "sslalign"},
        "none": {"config": None},
    }.items():
        torch.save({**state, **change}, tmp_path / f"{name}.pt")
        assert f"{name}.pt: " in bad(
            evaluate,
            ["--checkpoint", tmp_path / f"{name}.pt", "--out", out, "--device", "cpu"],
            capsys,
        )
    for name, content in {
        "empty": b"",
        "text": b"what is this",
        "cut": whole.read_bytes()[:5000],
    }.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}\.pt: [^\n]*$"):
            evaluate.load_predictor(tmp_path / f"{name}.pt", CPU)
    torch.save({"fc1.weight": torch.zeros(2)}, tmp_path / "published.pt")
    with pytest.raises(InputError, match=r"published\.pt: [^\n]*$"):
        evaluate.load_predictor(tmp_path / "published.pt", CPU)
    torch.save({"a": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match=r"wrong\.pth: not the weights of this ResNet[^\n]*$"):
        evaluate.load_predictor(whole, CPU, {"object_weights": str(tmp_path / "wrong.pth")})
    assert not out.exists()


def test_bad_flags(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = [
        "--checkpoint",
        saved(replace(CONFIG, data="vggsound", hints="none"), tmp_path / "best.pt"),
        "--out",
        tmp_path / "out",
    ]
    for case, word in (
        ([*model, "--data", "vggsound", "--root", "."], "cannot be evaluated on"),
        ([*model, "--data", "none"], "none"),
        ([*model, "--data", ""], "--data"),
        ([*model, "--detr", "a.pth"], "--detr goes with --object-weights"),
        ([*model, "--object-weights", "gone.pth"], "gone.pth: no such file"),
        ([*model, "--og-weights", "1"], "--og-weights are two numbers"),
        ([*model, "--og-detr-weights", "0", "0", "1"], "--og-weights are two numbers"),
        ([*model, "--protocol", "none"], "invalid choice: 'none'"),
        ([*model, "--object-model", "vgg16"], "invalid choice: 'vgg16'"),
        ([*model, "--detr-size", "9"], "--detr-size must be at least 32"),
        (["--checkpoint", "gone.pt"], "gone.pt"),
        ([*model, "--device", "toaster"], "toaster"),
        (["--count", "--preset", "large"], "invalid choice: 'large'"),
        ([], "no run with a best.pt here"),
        (["--nonsense"], "--nonsense"),
    ):
        assert word in bad(evaluate, case, capsys)
    assert not (tmp_path / "out").exists()


# Counting


def test_the_cost_of_a_layer():
    """A convolution: one multiply-add for each output, channel and place of its kernel."""
    layer = torch.nn.Conv2d(3, 8, 5, padding=2)
    assert cost(layer, lambda: layer(torch.zeros(1, 3, 10, 12))) == (
        8 * 3 * 25 + 8,
        10 * 12 * 8 * 3 * 25,
    )
    layer = torch.nn.Linear(7, 9)
    assert cost(layer, lambda: layer(torch.zeros(1, 7))) == (7 * 9 + 9, 63)
    with torch.device("meta"):
        assert sum(p.numel() for p in Avkd(PAPER).parameters()) == 24_448_000


@pytest.mark.slow
def test_the_table_of_the_paper_s_variants(capsys):
    evaluate.main(["--count"])
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert (
        rows[0] == ["AVC", "24.448 M", "4.51 G", "24.5 M / 7.2 G"]
        and "61.3 M / 64.3 G" in text
        and len(rows) == 5
    )
    (avc, og, both, large, without), multiplied = (
        [float(row[k].split()[0]) for row in rows] for k in (1, 2)
    )
    assert og - avc == pytest.approx(11.1765, abs=1e-3)  # ResNet-18 without its classifier
    assert both - og == large - og == pytest.approx(41.524, abs=1e-3) and without == pytest.approx(
        avc + both - og, abs=2e-3
    )
    assert multiplied[1] - multiplied[0] == pytest.approx(1.81, abs=0.011)
    assert (
        8 < (multiplied[3] - multiplied[1]) / (multiplied[2] - multiplied[1]) < 14
    )  # 12.8 times the pixels
    assert multiplied[4] == pytest.approx(multiplied[0] + multiplied[3] - multiplied[1], abs=0.02)


# Localisation


@pytest.mark.slow
@pytest.mark.parametrize("variant", evaluate.VARIANTS.values())
def test_localize(variant, checkpoint, tmp_path, capsys):
    rng, (height, width) = np.random.default_rng(0), (70, 100)
    write_image(tmp_path / "in.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    write_audio(tmp_path / "in.wav", rng.normal(0, 0.1, 3000), 11025)
    command = [
        "--image",
        f"{tmp_path}/in.png",
        "--audio",
        f"{tmp_path}/in.wav",
        "--checkpoint",
        f"{checkpoint}",
        "--device",
        "cpu",
    ]
    localize.main([*command, "--variant", variant, "--out", f"{tmp_path}/a/b.png"])
    assert f"{tmp_path}/a/b.png" in capsys.readouterr().out and read_image(
        tmp_path / "a/b.png"
    ).shape == (height, width, 3)
    found = json.loads((tmp_path / "a/b.json").read_text())
    assert found["variant"] == variant and found["checkpoint"] == str(checkpoint)
    assert (
        found["boxes"]
        and len(found["boxes"]) == len(found["scores"])
        and 0 <= found.get("similarity", found.get("greatest weighted sum of maps")) <= 1
        and ("similarity" in found) == (variant == "AVC")
    )
    assert all(
        0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in found["boxes"]
    )
    predictor, image = evaluate.load_predictor(checkpoint, CPU), read_image(tmp_path / "in.png")
    waveform, _ = read_input(predictor.config, tmp_path / "in.wav")
    clip = localize.localize(predictor, variant, image, waveform)
    boxes = clip.boxes[0]
    assert clip.heatmaps.ndim == 3 and clip.facts.items() <= found.items()
    np.testing.assert_allclose(
        boxes[:, :4] * torch.tensor([width, height, width, height]), found["boxes"], rtol=1e-5
    )


def test_localize_refuses(tmp_path, capsys):
    rng = np.random.default_rng(0)
    write_image(tmp_path / "in.png", rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    write_audio(tmp_path / "in.wav", rng.normal(0, 0.1, 3000), 11025)
    path = saved(replace(CONFIG, data="vggsound", hints="none"), tmp_path / "best.pt")
    good = {
        "image": tmp_path / "in.png",
        "audio": tmp_path / "in.wav",
        "out": tmp_path / "c.png",
        "checkpoint": path,
        "device": "cpu",
    }
    for change, word in (
        ({"image": tmp_path / "in.wav"}, "in.wav: "),
        ({"audio": tmp_path / "in.png"}, "in.png: "),
        ({"image": "gone.png"}, "gone.png: "),
        ({"out": tmp_path / "c.gif"}, "c.gif: the overlay is a PNG"),
        ({"checkpoint": tmp_path / "in.png"}, "in.png: "),
        ({"variant": "all"}, "invalid choice"),
        ({"variant": "OG-AVC"}, "--variant: OG-AVC: No object-guided variants"),
        ({"object-weights": "gone.pth"}, "gone.pth: no such file"),
        ({"detr": "a.pth"}, "--detr goes with --object-weights"),
        ({"detr-size": "9"}, "--detr-size must be at least 32"),
        ({"og-weights": "1"}, "--og-weights are two numbers"),
    ):
        flags = [
            part for name, value in {**good, **change}.items() for part in (f"--{name}", value)
        ]
        assert word in bad(localize, flags, capsys)
    assert not [p for p in tmp_path.iterdir() if p.stem == "c"]


def test_the_small_detector_s_scenes_are_no_others():
    """No seed of training, validation or test."""
    from common.benchmarks.pairs import TEST, VALIDATION

    assert small.SEED > VALIDATION and small.SEED not in (TEST, VALIDATION)
