"""What only avkd's commands do: --repeats, evaluation on other objects, Table 2 in small."""

import json

import pytest
from PIL import Image

from avkd import ablate, evaluate, train
from common.io import read_json, write_audio
from common.scenes import Scenes
from tests.test_lifecycle import ROOT, TINY, bad

pytestmark = pytest.mark.slow


def test_repeats(tmp_path, monkeypatch, capsys):
    """Trainings of several seeds, their mean and deviation; a second call trains nothing."""
    monkeypatch.chdir(tmp_path)
    flags = [
        *TINY["avkd"].split(),
        "--steps",
        "2",
        "--name",
        "r",
        "--seed",
        "4",
        "--repeats",
        "2",
        "--device",
        "cpu",
    ]
    train.main(flags)
    first, second = (
        read_json(tmp_path / "runs" / "avkd" / f"r-{seed}" / "metrics.json") for seed in (4, 5)
    )
    assert (first["seed"], second["seed"]) == (4, 5)
    found = json.loads((tmp_path / "runs" / "avkd" / "r.json").read_text())
    for key in ("avc/auc", "og/auc", "control/silent_auc", "validation/score"):
        a, b = first[key], second[key]
        assert found[key] == {
            "mean": pytest.approx((a + b) / 2),
            "std": pytest.approx(abs(a - b) / 2**0.5),
        }
    assert found["repeats"] == 2 and first["validation/score"] != second["validation/score"]
    table = capsys.readouterr().out
    assert (
        f"{100 * (first['avc/auc'] + second['avc/auc']) / 2:.1f} ± " in table
        and "2 trainings" in table
    )
    monkeypatch.setattr(train, "train", None)
    train.main(flags)
    assert json.loads((tmp_path / "runs" / "avkd" / "r.json").read_text()) == found
    other = " ".join(flags)
    assert "r-4: is of another configuration (tau)" in bad(
        "avkd.train", f"{other} --tau 0.5", capsys, monkeypatch
    )
    assert "--resume" in bad("avkd.train", "--resume --name r-4 --repeats 2", capsys, monkeypatch)


def test_hints_are_of_the_images_of_the_training(tmp_path, monkeypatch):
    """Another share of lone objects makes other images of the same seed, and so other hints."""
    monkeypatch.chdir(tmp_path)
    for lone in ("0", "1"):
        train.main(
            [
                *TINY["avkd"].split(),
                "--steps",
                "1",
                "--device",
                "cpu",
                "--name",
                lone,
                "--lone",
                lone,
            ]
        )
    hints = sorted((tmp_path / "runs" / "avkd" / "teachers").glob("*/attention-*"))
    assert len(hints) == 2 and hints[0].parent == hints[1].parent
    assert (hints[0] / "e_v.npy").read_bytes() != (hints[1] / "e_v.npy").read_bytes()


def test_a_checkpoint_without_its_small_teacher(tmp_path, monkeypatch, capsys):
    """Elsewhere it is evaluated alone; nothing is trained for the object-guided variants."""
    monkeypatch.chdir(tmp_path)
    train.main([*TINY["avkd"].split(), "--steps", "1", "--device", "cpu", "--name", "a"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    evaluate.main(
        [
            "--checkpoint",
            str(tmp_path / "runs" / "avkd" / "a" / "best.pt"),
            "--out",
            "here",
            "--device",
            "cpu",
        ]
    )
    alone = read_json(tmp_path / "elsewhere" / "here" / "metrics-scenes.json")
    whole = read_json(tmp_path / "runs" / "avkd" / "a" / "metrics.json")
    assert (
        "No object-guided variants" in capsys.readouterr().out
        and not (tmp_path / "elsewhere" / "runs").exists()
    )
    assert not [k for k in alone if k.startswith("og")]
    assert all(
        whole[k] == value for k, value in alone.items() if k.startswith(("avc/", "control/"))
    )


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory):
    """A folder of five cut-outs, each with audio."""
    root, scenes = tmp_path_factory.mktemp("cutouts"), Scenes(0, 64, 8000, 0.5)
    for k in range(5):
        Image.new("RGBA", (40, 30), (40 * k, 90, 200 - 30 * k, 255)).save(root / f"thing{k}.png")
        write_audio(root / f"thing{k}.wav", scenes.waveform(k, scenes.rng(6, k))[0], 8000)
    return root


def test_other_objects_and_back(cutouts, tmp_path, monkeypatch, capsys):
    """Cross-data evaluation: a model of the built-in objects on a folder's, and the reverse."""
    monkeypatch.chdir(tmp_path)
    flags = [*TINY["avkd"].split(), "--steps", "2", "--device", "cpu", "--name"]
    train.main([*flags, "a"])
    train.main([*flags, "b", "--objects", str(cutouts)])
    runs = tmp_path / "runs" / "avkd"
    for name, objects, suffix in (
        ("a", str(cutouts), cutouts.name),
        ("b", "procedural", "procedural"),
    ):
        evaluate.main(
            ["--checkpoint", str(runs / name / "best.pt"), "--objects", objects, "--device", "cpu"]
        )
        crossed, same = (
            read_json(runs / name / f"metrics-scenes-{suffix}.json"),
            read_json(runs / name / "metrics.json"),
        )
        assert (
            crossed["samples"] == same["samples"] == 8
            and crossed["baseline/centre_auc"] != same["baseline/centre_auc"]
        )
        assert (runs / name / f"samples-scenes-{suffix}.png").is_file()
    same = (
        read_json(runs / "b" / "metrics-scenes-procedural.json"),
        read_json(runs / "a" / "metrics.json"),
    )
    assert same[0]["baseline/centre_auc"] == same[1]["baseline/centre_auc"]  # the same scenes
    assert "gone" in bad(
        "avkd.evaluate",
        f"--checkpoint {runs / 'a' / 'best.pt'} --objects gone",
        capsys,
        monkeypatch,
    )


def test_table_2_in_small(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ablate.main(
        [
            "--table",
            "2",
            "--seeds",
            "1",
            "--jobs",
            "2",
            *TINY["avkd"].split(),
            "--steps",
            "1",
            "--device",
            "cpu",
        ]
    )
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 6 and all(name in row for name, row in zip(ablate.TABLES["2"], rows[2:]))
    logs = [
        json.loads(p.read_text().splitlines()[0])
        for p in sorted((tmp_path / "runs" / "avkd").glob("ablate-*/log.jsonl"))
    ]
    terms = sorted(("audio_hint" in row, "visual_hint" in row) for row in logs)
    assert terms == [(False, False), (False, True), (True, False), (True, True)]
    assert (
        len(list((tmp_path / "runs" / "avkd" / "teachers").glob("*"))) == 1
    )  # four trainings, one pair of teachers
