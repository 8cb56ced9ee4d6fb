"""sslalign's evaluation: of a model, of saved heatmaps, on scenes and files; localization."""

import json
import re
import shutil
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from common import metrics
from common.benchmarks.pairs import cropped_waveform, read_input, training_pairs
from common.io import InputError, read_audio, read_image, read_json, write_audio, write_image
from tests.layouts import write
from common.scenes import Scenes
from sslalign import crossmodal, evaluate, localize
from sslalign.backbones.views import test_view
from sslalign.config import TINY
from sslalign.model import Sslalign, cosine_map
from common.evaluation import (
    CONTROLS,
    Batch,
    FileTestSet,
    Prediction,
    SceneTestSet,
    aggregate,
    draw_samples,
    saved,
    score_samples,
    scoring,
    shuffled_partners,
    test_sets,
)
from common.evaluation.scoring import make_batch
from common.evaluation.tables import images_line

test_sets.__test__ = False  # pytest takes it for a test
pytestmark = pytest.mark.slow

CONFIG = replace(
    TINY,
    width=8,
    image_size=32,
    projection=16,
    held_out=6,
    sample_rate=4000,
    seconds=0.5,
    crop=0.25,
    window=64,
    hop=32,
)
CPU = torch.device("cpu")
HEATMAP = {"": "heatmap"}
LAYOUTS = {
    "vggss": ("pairs", "retrieval"),
    "is3": ("pairs", "interactive", "masks", "retrieval"),
    "vggss-extended": ("pairs", "extended", "retrieval"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "best.pt"
    torch.save(
        {
            "method": "sslalign",
            "config": asdict(CONFIG),
            "model": Sslalign(CONFIG).state_dict(),
            "report": {},
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    roots = {name: tmp_path_factory.mktemp(name) for name in LAYOUTS}
    for name, root in roots.items():
        write(Scenes(4, 48, 4000, 0.4), root, name, 6)
    return roots


@pytest.fixture(scope="module")
def results(checkpoint, disk, tmp_path_factory):
    """{data: (metrics of the model, folder with its maps)}, by the command."""
    found = {}
    for data in ("scenes", *LAYOUTS):
        out = tmp_path_factory.mktemp(f"out-{data}")
        root = f"--root {disk[data]}" if data in disk else ""
        evaluate.main(
            f"--checkpoint {checkpoint} --data {data} {root} --out {out} "
            f"--device cpu --save-maps {out / 'maps'}".split()
        )
        found[data] = read_json(out / f"metrics-{data}.json"), out
    return found


def score(predictor, test):
    return score_samples(predictor, test, predictor.encode_test_audio(test))[0]


def encode_images(predictor, test, rows):
    x = torch.stack([test_view(test.image(i), CONFIG.image_size) for i in rows])
    with torch.no_grad():
        return predictor.model.encode_image(x)


def predict(predictor, test, rows):
    return predictor.predict(make_batch(test, predictor.encode_test_audio(test), rows))


def bad(module, flags, capsys):
    """Run a command: status 2 and one line on stderr, which is returned."""
    with pytest.raises(SystemExit) as ended:
        module.main([str(flag) for flag in flags])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    (line,) = [line for line in err.splitlines() if "listed" not in line]
    return line


# Numbers


def test_every_number_of_the_interface(results):
    found, out = results["scenes"]
    local = [
        f"{name}{rule}{at}"
        for name, at in (("ciou", "@0.5"), ("auc", ""))
        for rule in ("", "_adaptive")
    ]
    expected = {f"pairs/{name}" for name in (*local, "pointing")} | {
        f"masks/{name}" for name in (*local, "miou", "f_score_adaptive")
    }
    expected |= {
        f"interactive/{name}{rule}"
        for name in ("iiou", "iauc")
        for rule in ("", "_adaptive", "_exact")
    }
    expected |= {
        "interactive/pointing",
        "extended/ap",
        "extended/max_f1",
        "extended/loc_acc",
        "alignment/cosine",
        "alignment/magnitude",
    }
    expected |= {
        f"retrieval/{way}_r@{k}{suffix}_{kind}"
        for way in ("a2i", "i2a")
        for k in (1, 5, 10)
        for suffix in ("", "_projected")
        for kind in ("instance", "category")
    }
    expected |= {
        f"control/{kind}_{name}"
        for kind in ("silent", "shuffled", "noise")
        for name in (*local, "iiou_adaptive", "iauc", "extended_ap")
    }
    assert expected <= set(found)
    assert found["samples"] == 6 and found["protocol"] == "sslalign" and found["preset"] == "tiny"
    assert all(
        0 <= x <= 1
        for name, x in found.items()
        if re.match("(pairs|interactive|masks|extended|retrieval|control|baseline)/", name)
    )
    assert found["baseline/upper_bound_ciou@0.5"] >= max(
        found["pairs/ciou@0.5"], found["baseline/whole_ciou@0.5"]
    )
    for name in ("samples", "compositional"):
        assert read_image(out / f"{name}-scenes.png").shape[2] == 3


@pytest.mark.parametrize("data", ["scenes", *LAYOUTS])
def test_saved_maps_give_the_same_numbers(data, results, checkpoint, disk, tmp_path, capsys):
    ours, out = results[data]
    evaluate.main(
        f"--maps {out / 'maps'} --checkpoint {checkpoint} --data {data} "
        f"{f'--root {disk[data]}' if data in disk else ''} --out {tmp_path}".split()
    )
    text, again = capsys.readouterr().out, read_json(tmp_path / f"metrics-{data}.json")
    assert "cannot be made without the model" in text and "shuffled audio |" not in text
    of_model = {name for name in ours if not name.startswith("control")} - {"seconds"}
    assert set(again) - {"seconds"} == of_model
    assert {name: again[name] for name in of_model} == pytest.approx(
        {name: ours[name] for name in of_model}, abs=1e-9
    )


def test_what_files_feed(results, disk):
    for name, feeds in LAYOUTS.items():
        test, (found, _) = FileTestSet(CONFIG, name, disk[name]), results[name]
        assert set(test.metric_groups) == set(feeds)
        assert {key.split("/")[0] for key in found if "/" in key} == {
            *feeds,
            "alignment",  # of what has retrieval
            "control",
            "baseline",
            "negatives",
        }
        assert (
            test.waveform(0).shape == (1000,)
            and test.gt_map(0).shape == (224, 224)
            and found["samples"] == len(test.ids)
        )
    test = FileTestSet(CONFIG, "vggss-extended", disk["vggss-extended"])
    assert (
        test.has_source.sum() == 3
        and not test.gt_map(int(np.flatnonzero(~test.has_source)[0])).any()
    )
    write(Scenes(4, 48, 4000, 0.4), disk["vggss"] / "s4", "avsbench-s4", 1)
    test = FileTestSet(CONFIG, "avsbench-s4", disk["vggss"] / "s4")  # its clips are of 5 s
    torch.testing.assert_close(test.waveform(3), read_audio(test.samples[3].audio)[0][9500:10500])
    assert [s.metric_groups for s in test_sets(CONFIG, "scenes", "")][1:] == [
        ("interactive",),
        ("extended",),
    ]


def test_a_copy_of_the_ground_truth_is_found(disk, tmp_path, capsys):
    """Another method's maps, of any size, without vectors: nearly the upper bound, no retrieval."""
    test, rng = FileTestSet(CONFIG, "is3", disk["is3"]), np.random.default_rng(0)
    for i, key in enumerate(test.ids):
        side = 224 if i % 2 else 448
        gt = np.kron(test.gt_map(i), np.ones((side // 224, side // 224)))
        np.save(tmp_path / f"{key}.npy", gt + 0.5 * rng.random(gt.shape))
    evaluate.main(
        [
            "--maps",
            str(tmp_path),
            "--data",
            "is3",
            "--root",
            str(disk["is3"]),
            "--out",
            str(tmp_path),
        ]
    )
    found = read_json(tmp_path / "metrics-is3.json")
    assert found["interactive/iiou_adaptive"] == 1 == found["pairs/pointing"]
    assert found["pairs/auc"] == pytest.approx(found["baseline/upper_bound_auc"], abs=0.05)
    assert (
        "retrieval/a2i_r@1_instance" not in found
        and "6 found / 6 listed, 3 images" in capsys.readouterr().out
    )


def test_what_is_silent_needs_no_vectors(results, disk, tmp_path):
    ours, out = results["vggss-extended"]
    test = FileTestSet(CONFIG, "vggss-extended", disk["vggss-extended"])
    for i, key in enumerate(test.ids):
        for kind in ("npy", "npz") if test.has_source[i] else ("npy",):
            (tmp_path / f"{key}.{kind}").write_bytes((out / "maps" / f"{key}.{kind}").read_bytes())
    evaluate.main(
        [
            "--maps",
            str(tmp_path),
            "--data",
            "vggss-extended",
            "--root",
            str(disk["vggss-extended"]),
            "--out",
            str(tmp_path),
        ]
    )
    found = read_json(tmp_path / "metrics-vggss-extended.json")
    for name in ("alignment/cosine", "retrieval/a2i_r@1_category", "extended/ap"):
        assert found[name] == pytest.approx(ours[name], abs=1e-9)


# Controls


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_partners_are_of_another_image(groups):
    found, several = shuffled_partners(groups), len(set(groups)) > 1
    assert all((groups[i] != groups[j]) == several for i, j in enumerate(found))


def test_partners_are_half_the_list_away():
    for groups, partners in (
        (range(7), [3, 4, 5, 6, 0, 1, 2]),
        (["a", "a", "b", "b"], [2, 3, 0, 1]),
        (["a", "a", "a", "b"], [3, 3, 3, 1]),
    ):
        assert shuffled_partners(groups).tolist() == partners


def test_shuffled_audio_is_off_screen_where_labels_say_so():
    labels = ["dog", "cat", "dog", "owl", "owl", "cow"]
    assert shuffled_partners(list("aabbcc"), labels).tolist() == [3, 4, 5, 1, 1, 2]
    assert shuffled_partners(list("aabb"), ["dog", "cat"] * 2).tolist() == [2, 3, 0, 1]
    assert shuffled_partners(list("aabb"), [None, "cat"] * 2).tolist() == [2, 2, 0, 0]


def test_lit_areas_have_one_threshold_for_all():
    """Own maps light up as much as their gt has; half as bright audio lights up less of it."""
    ramp, area = np.linspace(0, 1, 101), np.array([0.2, 0.4, 0.6])
    own = {"levels": np.stack([ramp] * 3), "area": area}
    scores = {"": own, "control/silent_": {"levels": own["levels"] / 2}, "ogl/": dict(own)}
    found = scoring.lit_areas(scores, np.ones(3, bool))
    assert found == {"": pytest.approx(0.4), "control/silent_": pytest.approx(0)}
    scores["control/noise_"] = {"levels": own["levels"] + 0.2}
    assert scoring.lit_areas(scores, np.ones(3, bool))["control/noise_"] == pytest.approx(0.6)


@pytest.mark.parametrize("protocol", ["ezvsl", "slavc", "acl", "fixed"])
def test_saved_maps_by_another_protocol(protocol, disk, tmp_path, capsys):
    """The scores are those of the protocol's resizing and threshold."""
    test, rng = FileTestSet(CONFIG, "vggss", disk["vggss"]), np.random.default_rng(0)
    maps = rng.random((len(test.ids), 7, 7)).astype(np.float32)
    for key, x in zip(test.ids, maps):
        np.save(tmp_path / f"{key}.npy", x)
    evaluate.main(
        f"--maps {tmp_path} --data vggss --root {disk['vggss']} --out {tmp_path} "
        f"--protocol {protocol}".split()
    )
    assert f"protocol {protocol}, %" in capsys.readouterr().out
    found = read_json(tmp_path / "metrics-vggss.json")
    large = metrics.resize(torch.from_numpy(maps), 224, protocol)
    gt = torch.from_numpy(np.stack([test.gt_map(i) for i in range(len(maps))]))
    ciou = metrics.ciou(metrics.binarize(large, protocol=protocol), gt)
    assert found["protocol"] == protocol
    assert found["pairs/auc"] == pytest.approx(metrics.auc(ciou), abs=1e-9)


def test_ids_and_the_published_list_of_vggss(disk, tmp_path, capsys):
    """--ids takes a list; metadata/ours_vggss.txt is the default of the protocol sslalign alone."""
    root = shutil.copytree(disk["vggss"], tmp_path / "vggss")
    every = FileTestSet(CONFIG, "vggss", root).ids
    (tmp_path / "ids.txt").write_text("".join(f"{x}\n" for x in every[:2]))
    assert FileTestSet(CONFIG, "vggss", root, tmp_path / "ids.txt").ids == every[:2]
    (root / "metadata").mkdir(exist_ok=True)
    (root / "metadata" / "ours_vggss.txt").write_text(f"{every[3]}\n")
    assert FileTestSet(CONFIG, "vggss", root).ids == every[3:4]
    assert FileTestSet(CONFIG, "vggss", root, protocol="ezvsl").ids == every


def test_alignment_of_training_pairs(checkpoint, tmp_path, capsys):
    """Table VI is of the pairs of the training: of its scenes, or of files without boxes."""
    write(Scenes(4, 48, 4000, 0.4), tmp_path, "vggsound", 12)  # of which nine are for training
    predictor, flags = evaluate.load_predictor(checkpoint, CPU), f"--out {tmp_path} --device cpu"
    files = replace(CONFIG, data="vggsound", root=str(tmp_path))
    for config, more, count in (
        (CONFIG, "--training-pairs 4", 4),
        (files, f"--training-pairs 99 --data vggsound --root {tmp_path}", 3),
    ):
        evaluate.main(f"--checkpoint {checkpoint} {flags} {more}".split())
        found, (source, _) = read_json(tmp_path / "metrics-training.json"), training_pairs(config)
        waves = [cropped_waveform(source.waveform(i), config) for i in range(count)]
        with torch.no_grad():
            v = encode_images(predictor, source, range(count)).mean((2, 3))
            a = predictor.encode_audio(torch.stack(waves))
        cosines = torch.nn.functional.cosine_similarity(v, a)
        assert found["samples"] == count and "pairs/auc" not in found
        assert found["alignment/cosine"] == pytest.approx(cosines.mean().item(), abs=1e-5)
        assert f"{config.data}, {count} training pairs" in capsys.readouterr().out
    for more, word in (
        ("--training-pairs 1", "at least 2"),
        (f"--training-pairs 2 --maps {tmp_path}", "without --maps"),
        (f"--training-pairs 2 --data vggss --root {tmp_path}", "none of scenes, vggsound"),
    ):
        assert word in bad(evaluate, ["--checkpoint", checkpoint, *more.split()], capsys)


def test_an_image_that_lacks_a_source_is_left_out_of_iiou(disk, tmp_path):
    root = shutil.copytree(disk["is3"], tmp_path / "is3")
    whole = FileTestSet(CONFIG, "is3", root)
    whole.samples[0].audio.unlink()
    test = FileTestSet(CONFIG, "is3", root)
    assert len(test.ids) == len(whole.ids) - 1 and whole.is_complete.all()
    assert [test.ids[i] for i in np.flatnonzero(~test.is_complete)] == [whole.ids[1]]
    found = aggregate(
        {"ciou": np.arange(len(test.ids)) > 0},
        ("interactive",),
        test.groups,
        None,
        test.is_complete,
    )
    assert found["interactive/iiou"] == 1  # the first sample, a miss, is of the image left out
    assert "1 left out that lack a source" in images_line(test)
    assert "one source" not in images_line(test)  # it lacks one, and does not have one
    assert not {"single-source", "multi-source"} & {*whole.metric_groups}


def test_images_of_one_source_are_counted_and_scored_apart(checkpoint, tmp_path, capsys):
    """As VPO-MS has them: 759 of its 1432 images."""
    write(Scenes(4, 48, 4000, 0.4), tmp_path, "vpo-ms", 6)  # three images of two sources
    for path in tmp_path.rglob("vpo_ms_*.json"):
        path.write_text(json.dumps(json.loads(path.read_text())[1:]))
    test = FileTestSet(CONFIG, "vpo-ms", tmp_path)
    assert {"interactive", "single-source", "multi-source"} <= {*test.metric_groups}
    ciou = np.array([0.9, 0.6, 0.7, 0.8, 0.1])
    found = aggregate({"ciou": ciou}, test.metric_groups, test.groups, None, test.is_complete)
    assert found["interactive/iiou"] == pytest.approx(2 / 3)
    assert (found["single-source/iiou"], found["multi-source/iiou"]) == (1, 0.5)
    assert found["single-source/iauc"] == pytest.approx(metrics.auc(ciou[:1]))
    assert "3 images, 1 of them with one source" in images_line(test)
    evaluate.main(
        f"--checkpoint {checkpoint} --data vpo-ms --root {tmp_path} --out {tmp_path} "
        "--device cpu".split()
    )
    keys = read_json(tmp_path / "metrics-vpo-ms.json")
    assert {"single-source/iiou_adaptive", "control/silent_multi-source_iauc"} <= {*keys}
    assert "multi-source: IIoU adaptive" in capsys.readouterr().out


def test_shuffled_audio_is_of_another_image(checkpoint):
    predictor, test = evaluate.load_predictor(checkpoint, CPU), SceneTestSet(CONFIG, "interactive")
    maps, features = predict(predictor, test, [0, 3])
    v = encode_images(predictor, test, [0, 3])
    partners = shuffled_partners(test.groups)
    for column, a in (
        ("", [test.waveform(0), test.waveform(3)]),
        ("control/silent_", [torch.zeros(1000)] * 2),
        ("control/shuffled_", [test.waveform(j) for j in partners[[0, 3]]]),
    ):
        a = predictor.encode_audio(torch.stack(a))
        torch.testing.assert_close(maps[column], cosine_map(v, a))
        assert (column == "") == torch.allclose(features["audio"], a, atol=1e-6)
    assert test.groups[0] != test.groups[partners[0]]


def test_a_model_that_does_not_listen(checkpoint):
    """Its scores are the same for any audio; those of a model that listens differ somewhere."""
    predictor, test = evaluate.load_predictor(checkpoint, CPU), SceneTestSet(CONFIG, "pair")
    merged = score(predictor, test)
    assert not np.array_equal(merged[""]["ciou"], merged["control/silent_"]["ciou"])
    for name, x in predictor.model.audio.named_parameters():
        if "bn" in name or "downsample" in name:
            x.data.fill_(float("bias" in name))
    merged = score(predictor, test)
    for column in CONTROLS.values():
        for name in ("ciou", "ciou_adaptive", "pointing", "mask_iou"):
            np.testing.assert_array_equal(merged[""][name], merged[column][name])


def test_object_guided_refinement(checkpoint, tmp_path):
    predictor, test = (
        evaluate.load_predictor(checkpoint, CPU, ogl=True),
        SceneTestSet(CONFIG, "pair"),
    )
    assert predictor.object_net is predictor.model.visual and "the model itself" in predictor.note
    merged = score(predictor, test)
    assert not np.array_equal(merged[""]["ciou"], merged["ogl/"]["ciou"])
    maps, features = predict(predictor, test, [2, 4])
    v = encode_images(predictor, test, [2, 4])
    large = [metrics.resize(x, 224) for x in (maps[""], v.mean(1))]
    torch.testing.assert_close(maps["ogl/"], metrics.object_guided(*large, alpha=0.4))
    torch.testing.assert_close(
        features["visual_projected"], predictor.model.p_v(v.mean((2, 3))).detach()
    )
    for x in predictor.model.visual.parameters():  # without an object anywhere, nothing changes
        x.data.zero_()
    predictor.object_net, predictor.model = (
        predictor.model.visual,
        evaluate.load_predictor(checkpoint, CPU).model,
    )
    merged = score(predictor, test)
    np.testing.assert_allclose(merged[""]["ciou"], merged["ogl/"]["ciou"], atol=1e-3)
    torch.save({"a": torch.zeros(1)}, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match=r"wrong\.pth"):
        evaluate.load_predictor(checkpoint, CPU, ogl=True, object_weights=tmp_path / "wrong.pth")


# Bad input


def test_bad_maps(disk, tmp_path, capsys):
    test = FileTestSet(CONFIG, "vggss", disk["vggss"])
    command = [
        "--maps",
        tmp_path,
        "--data",
        "vggss",
        "--root",
        disk["vggss"],
        "--out",
        tmp_path / "out",
    ]
    for key in test.ids[:-1]:
        np.save(tmp_path / f"{key}.npy", np.random.default_rng(0).random((7, 7)))
    assert f"1 of 6 maps are missing, the first is {test.ids[-1]}.npy" in bad(
        evaluate, command, capsys
    )
    path, whole = tmp_path / f"{test.ids[-1]}.npy", np.ones((7, 7))
    fields = b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 1000000), }"
    header = (b"\x93NUMPY\x01\x00v\x00" + fields).ljust(127) + b"\n"
    cases = {
        "not finite": np.where(np.eye(7), np.inf, whole),
        "not finite ": whole * 1e300,
        "2 dimensions": np.ones((1, 7, 7)),
        "numbers": np.full((7, 7), "a"),
        "2 dimensions ": np.ones(7),
        "Python objects": np.array([[{}]]),
        "magic string": b"hello, a text",
        "empty file": b"",
        "mmap length": header,
        "more than 67108864 bytes": np.zeros((2**13, 2**10 + 1)),
    }
    for message, content in cases.items():
        path.write_bytes(content) if isinstance(content, bytes) else np.save(
            path, content, allow_pickle=True
        )
        line = bad(evaluate, command, capsys)
        assert " ".join(message.split()) in line and path.name in line
    with open(path, "wb") as file:  # an archive in a map's place
        np.savez(file, a=whole)
    assert path.name in bad(evaluate, command, capsys) and not (tmp_path / "out").exists()
    np.save(path, np.ones((7, 7), ">f2"))
    evaluate.main([str(flag) for flag in command])
    assert (tmp_path / "out" / "metrics-vggss.json").is_file()


def test_bad_vectors(disk, tmp_path, capsys):
    """Nobody needs vectors, but those that are there must be right."""
    test = FileTestSet(CONFIG, "vggss", disk["vggss"])
    command = [
        "--maps",
        tmp_path,
        "--data",
        "vggss",
        "--root",
        disk["vggss"],
        "--out",
        tmp_path / "out",
    ]
    rng = np.random.default_rng(0)
    for key in test.ids:
        np.save(tmp_path / f"{key}.npy", rng.random((7, 7)))
        np.savez(tmp_path / f"{key}.npz", visual=rng.random(5), audio=rng.random(5))
    last = tmp_path / f"{test.ids[-1]}.npz"
    good = rng.random(5)
    for content in (
        {"visual": good, "audio": good[:4]},
        {"visual": good},
        {"visual": good[None], "audio": good},
        {"visual": good * np.nan, "audio": good},
        {"visual": np.array([{}]), "audio": good},
        {},
    ):
        np.savez(last, **content)
        assert last.name in bad(evaluate, command, capsys)
    np.savez_compressed(
        last, visual=np.zeros(2**24, np.float64), audio=good
    )  # small on disk, 128 MB in memory
    assert last.stat().st_size < 2**20 and "visual has more than" in bad(evaluate, command, capsys)
    last.unlink()
    evaluate.main([str(flag) for flag in command])
    assert "alignment/cosine" not in read_json(tmp_path / "out" / "metrics-vggss.json")


def test_maps_stay_in_their_folder(tmp_path):
    """Whatever the ids of a benchmark are, and where links lead to."""
    folder, secret = tmp_path / "maps", tmp_path / "secret.npz"
    folder.mkdir()
    np.save(tmp_path / "secret.npy", np.ones((2, 2)))
    secret.write_bytes(b"secret")
    (folder / "link.npz").symlink_to(secret)
    found = Prediction({"": torch.zeros(1, 2, 2)}, {"visual": torch.zeros(1, 2)})
    model = SimpleNamespace(predict=lambda batch: found)
    for predictor, name in (
        (saved.SavedMaps(folder), "../secret"),
        (saved.MapWriter(model, folder), "../other"),
        (saved.MapWriter(model, folder), "link"),
    ):
        with pytest.raises(InputError, match="leaves"):
            predictor.predict(Batch([], {}, ids=[name]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["maps", "secret.npy", "secret.npz"]
    assert secret.read_bytes() == b"secret" and (folder / "link.npz").is_symlink()


def test_bad_flags(checkpoint, disk, tmp_path, capsys):
    model, flags = (
        ["--checkpoint", checkpoint, "--out", tmp_path / "out"],
        ["--data", "vggss", "--root", disk["vggss"]],
    )
    for case, word in (
        ([*model, "--data", "vggsound", "--root", "."], "cannot be evaluated on"),
        ([*model, "--data", "none"], "none"),
        ([*model, "--maps", tmp_path / "gone"], "gone"),
        ([*model, "--maps", tmp_path, "--ogl"], "--ogl"),
        ([*model, "--object-weights", "a.pth"], "--object-weights"),
        ([*model, "--data", ""], "--data"),
        ([*model, *flags, "--ogl", "--object-weights", tmp_path / "gone.pth"], "gone.pth"),
        (["--checkpoint", tmp_path / "gone.pt"], "gone.pt"),
    ):
        assert word in bad(evaluate, case, capsys)
    state = torch.load(checkpoint, weights_only=True)
    for name, change in {
        "fields": {"config": {**state["config"], "unknown": 1}},
        "keys": {"model": {}},
        "list": {"model": [1]},
        "width": {"config": {**state["config"], "width": 4}},
    }.items():
        torch.save({**state, **change}, tmp_path / f"{name}.pt")
        assert f"{name}.pt" in bad(
            evaluate, ["--checkpoint", tmp_path / f"{name}.pt", "--out", tmp_path / "out"], capsys
        )
    assert not (tmp_path / "out").exists()


# Sheets, localisation


def test_compositional_retrieval():
    """lambda = 1 finds the image itself, 0 what its audio finds; what is excluded is not found."""
    visual, audio = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0))
    assert crossmodal.nearest(crossmodal.compositional(7 * visual, audio, 1), visual, 1)[
        :, 0
    ].tolist() == list(range(9))
    alone = crossmodal.nearest(crossmodal.compositional(visual, 3 * audio, 0), visual, 4)
    torch.testing.assert_close(alone, crossmodal.nearest(audio, visual, 4))
    torch.testing.assert_close(
        crossmodal.compositional(visual, 5 * audio), crossmodal.compositional(3 * visual, audio)
    )
    out = torch.arange(9)[:, None]
    found = crossmodal.nearest(crossmodal.compositional(visual, audio, 1), visual, 8, out)
    assert [sorted(row) for row in found.tolist()] == [
        [j for j in range(9) if j != i] for i in range(9)
    ]


def test_sheets(checkpoint, disk):
    predictor, interactive = (
        evaluate.load_predictor(checkpoint, CPU),
        FileTestSet(CONFIG, "is3", disk["is3"]),
    )
    audio = predictor.encode_test_audio(interactive)
    page = draw_samples(predictor, interactive, audio, HEATMAP)
    assert (
        page["columns"] == ["ground truth 1", "heatmap 1", "ground truth 2", "heatmap 2"]
        and [len(row) for row in page["rows"]] == [4] * 3
    )
    assert page["captions"][0] == " | ".join(interactive.labels[:2])
    extended = SceneTestSet(CONFIG, "extended")
    page = draw_samples(predictor, extended, predictor.encode_test_audio(extended), HEATMAP)
    assert (
        len(page["rows"]) == 3 and len(page["columns"]) == len(page["rows"][0]) == 5
    )  # without a source there is no ground truth to show
    features = predict(predictor, interactive, range(6)).features
    interactive.labels = [None] * 6  # images are called by their ids
    page = crossmodal.draw_compositions({k: x.numpy() for k, x in features.items()}, interactive)
    assert (
        len(page["rows"]) == 3 and [len(row) for row in page["rows"]] == [3] * 3
    )  # three images, of which two are asked with
    for caption in page["captions"]:
        query, found = caption.split(": ")
        assert found and not {*query.split(" + audio of ")} & {*found.split(", ")}


@pytest.fixture
def album(disk, tmp_path):
    """A folder of images, one of them twice, and audio."""
    frames = sorted((disk["vggss"] / "frames").iterdir())
    for n, path in enumerate([frames[0], *frames]):
        (tmp_path / "in" / str(n % 2)).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "in" / str(n % 2) / f"{n}.jpg")
    shutil.copy(next((disk["vggss"] / "audio").iterdir()), tmp_path / "a.wav")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path


def retrieve(checkpoint, album, more):
    localize.main(
        f"--image {album}/in/0/0.jpg --audio {album}/a.wav --out {album}/found.png --device cpu "
        f"--checkpoint {checkpoint} --search {more}".split()
    )


def test_compositional_retrieval_of_ones_own(checkpoint, album, disk, capsys):
    """Figure 7. λ = 1 finds the image's copy, 0 what the audio alone is nearest to."""
    retrieve(checkpoint, album, f"{album}/in --lam 1 0.3 0")
    head, *rows = capsys.readouterr().out.splitlines()
    assert "found.png: 6 images are searched" in head
    names = [f"{n % 2}/{n}.jpg" for n in range(1, 7)]
    predictor = evaluate.load_predictor(checkpoint, CPU)
    images = [read_image(album / "in" / name) for name in ["0/0.jpg", *names]]
    a = predictor.encode_audio(read_input(CONFIG, album / "a.wav")[0][None])
    found = predictor.predict(Batch(images, {"matched": a.expand(7, -1)})).features
    v, a = (torch.nn.functional.normalize(found[f"{x}_projected"]) for x in ("visual", "audio"))
    for lam, row in zip((1, 0.3, 0), rows, strict=True):
        z = torch.nn.functional.normalize(lam * v[0] + (1 - lam) * a[0], dim=0)
        cosines = (v[1:] @ z).tolist()
        best = sorted(zip(cosines, names), reverse=True)[:5]
        assert row == f"lambda {lam}: " + ", ".join(f"{name} ({x:.2f})" for x, name in best)
    assert rows[0].startswith("lambda 1: 1/1.jpg (1.00)")
    assert read_image(album / "found.png").shape[1] > 6 * 144
    retrieve(checkpoint, album, f"{disk['vggss']} --data vggss")
    assert "frames/" in capsys.readouterr().out
    retrieve(checkpoint, album, "scenes")
    assert "found.png: 6 images" in (out := capsys.readouterr().out) and "pair-00000" in out


def test_what_cannot_be_retrieved(checkpoint, album, capsys):
    flags = ["--image", album / "in/0/0.jpg", "--audio", album / "a.wav"]
    flags += ["--checkpoint", checkpoint, "--device", "cpu", "--search"]
    (album / "alone").mkdir()
    for more, word in (
        ([album / "gone"], "gone: no folder with other images"),
        ([album / "in" / "notes.txt"], "no folder with other images"),
        ([album / "in", "--lam", "2"], "--lam from 0 to 1"),
        ([album / "in", "--lam", "nan"], "--lam from 0 to 1"),
        ([album / "in", "--data", "none"], "no such benchmark"),
        ([album / "in", "--image", ""], "goes with --image"),
        ([album / "in", "--out", album / "in/1/1.png"], "would be written over"),
    ):
        shutil.copy(album / "in/1/1.jpg", album / "in/1/1.png")
        assert word in bad(localize, [*flags, *more], capsys)
    (album / "in/1/1.jpg").write_bytes(b"nothing")
    assert "1.jpg: " in bad(localize, [*flags, album / "in"], capsys)


@pytest.mark.parametrize("height,width", [(70, 100), (1, 40), (200, 30)])
def test_localize(height, width, checkpoint, tmp_path, capsys):
    rng = np.random.default_rng(0)
    write_image(tmp_path / "in.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    write_audio(tmp_path / "in.wav", rng.normal(0, 0.1, 3000), 11025)
    localize.main(
        f"--image {tmp_path}/in.png --audio {tmp_path}/in.wav --out {tmp_path}/a/b.png "
        f"--checkpoint {checkpoint}".split()
    )
    assert f"{tmp_path}/a/b.png" in capsys.readouterr().out and read_image(
        tmp_path / "a/b.png"
    ).shape == (height, width, 3)
    found = json.loads((tmp_path / "a/b.json").read_text())
    assert (
        found["boxes"]
        and len(found["boxes"]) == len(found["scores"])
        and -1 <= found["similarity"] <= 1
    )
    assert all(
        0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in found["boxes"]
    )
    command = [
        "--image",
        tmp_path / "in.wav",
        "--audio",
        tmp_path / "in.wav",
        "--out",
        tmp_path / "c.png",
        "--checkpoint",
        checkpoint,
    ]
    assert "in.wav" in bad(localize, command, capsys) and not (tmp_path / "c.png").exists()
    assert "c.gif" in bad(localize, [*command[:5], tmp_path / "c.gif", *command[6:]], capsys)
