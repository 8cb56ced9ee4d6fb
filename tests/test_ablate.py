"""common.training.ablation with a toy training: what is run, what is not run again, the table."""

import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.io import InputError, read_json
from common.training import ablation, git_commit
from common.training.ablation import ablate
from tests.test_lifecycle import NARROW
from turn import ablate as turn

ROOT = Path(__file__).resolve().parents[1]
TRAIN = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
for name in ("out", "name"):
    parser.add_argument("--" + name)
parser.add_argument("--seed", type=int)
parser.add_argument("--x", type=float, default=0.5)
parser.add_argument("--resume", action="store_true")
args = parser.parse_args()
folder = pathlib.Path(args.out, "toy", args.name)
folder.mkdir(parents=True, exist_ok=True)
with open(pathlib.Path(args.out, "log"), "a") as log:
    log.write(f"{args.x} {args.seed} {args.resume}" + chr(10))
if args.x > 1:
    raise SystemExit("toy.train: error: x is too large")
metrics = {"a/score": args.x + args.seed / 100, "b/score": None, "samples": 7}  # null: undefined
(folder / "metrics.json").write_text(json.dumps(metrics))
"""
TABLES = {
    "1": {"default": [], "more": ["--x", "0.7"]},
    "2": {"ours": [], "less": ["--x", "0.1"]},
    "bad": {"broken": ["--x", "2"]},
}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").touch()
    (tmp_path / "toy" / "train.py").write_text(TRAIN)
    monkeypatch.chdir(tmp_path)
    return lambda *argv: ablate(
        "toy",
        "about",
        TABLES,
        {"a/score": "score", "b/score": "null", "c": "no"},
        ["--jobs", "1", *argv],
    )


def test_the_table(toy, capsys):
    toy("--seeds", "3")
    lines = capsys.readouterr().out.splitlines()
    assert [c.strip() for c in lines[0].strip("|").split("|")] == [
        "",
        "score",
    ]  # what was not measured is no column
    assert (
        "default" in lines[2]
        and "51.0 ± 1.0" in lines[2]
        and "more" in lines[3]
        and "71.0 ± 1.0" in lines[3]
    )
    assert "3 seeds" in lines[-1] and "7 samples" in lines[-1]
    assert Path("runs/toy/ablate-1.md").read_text().splitlines() == lines
    assert sorted(Path("runs/log").read_text().splitlines()) == sorted(
        f"{x} {s} False" for x in (0.5, 0.7) for s in range(3)
    )


def test_the_table_as_json(toy, tmp_path, capsys):
    toy("--table", "1", "2", "--seeds", "2", "--out-results", "results/toy table.json", "--x=0.2")
    table = read_json("results/toy table.json")
    assert table["rows"][0]["name"] == "1: default" and len(table["rows"]) == 4
    for row, x in zip(table["rows"], (0.2, 0.2, 0.2, 0.2)):  # the last --x counts
        assert row["values"] == {"score": pytest.approx([100 * x, 100 * x + 1])}
    assert {k: v for k, v in table.items() if k not in ("rows", "date", "machine", "note")} == {
        "title": "Ablation of toy: 1, 2",
        "command": "python -m toy.ablate --jobs 1 --table 1 2 --seeds 2 --out-results "
        "'results/toy table.json' --x=0.2",
        "commit": git_commit(),
        "n": 7,
        "seeds": [0, 1],
        "columns": ["score"],
    }
    assert table["note"] in capsys.readouterr().out


def test_nothing_is_done_twice(toy, capsys):
    """Rows that two tables share, calls that are repeated, trainings that were interrupted."""
    toy("--table", "1", "2", "--seeds", "1")
    assert (
        "1: default" in capsys.readouterr().out
        and len(Path("runs/log").read_text().splitlines()) == 3
    )
    toy("--table", "2", "--seeds", "2")
    assert len(Path("runs/log").read_text().splitlines()) == 5
    done = sorted(Path("runs/toy").glob("ablate-*-seed1"))
    (done[0] / "metrics.json").rename(done[0] / "last.pt")
    toy("--table", "2", "--seeds", "2")
    assert [line.split()[2] for line in Path("runs/log").read_text().splitlines()] == [
        "False"
    ] * 5 + ["True"]
    toy(
        "--seeds", "1", "--x", "0.2"
    )  # flags for all trainings come last; other flags are other runs
    assert sum(read_json(p)["a/score"] == 0.2 for p in Path("runs/toy").glob("*/metrics.json")) == 2


def test_edited_code_is_trained_anew(toy, tmp_path, monkeypatch):
    """Outside git too, where no commit tells one state of the code from another."""
    monkeypatch.setattr(ablation, "__file__", str(tmp_path / "common" / "training" / "a.py"))
    toy("--seeds", "1")
    toy("--seeds", "1")
    assert len(Path("runs/log").read_text().splitlines()) == 2
    Path("toy/losses.py").write_text("tau = 1\n")
    toy("--seeds", "1")
    assert len(Path("runs/log").read_text().splitlines()) == 4


def test_a_training_that_fails_is_one_line(toy, capsys):
    with pytest.raises(SystemExit) as ended:
        toy("--table", "bad", "--seeds", "1")
    err = capsys.readouterr().err
    assert ended.value.code == 2 and len(err.strip().splitlines()) == 1 and "x is too large" in err


@pytest.mark.parametrize("flag", ["--name=a", "--seed=5", "--resume"])
def test_flags_that_a_training_has_from_the_ablation(toy, capsys, flag):
    with pytest.raises(SystemExit) as ended:
        toy("--table", "1", flag)
    assert ended.value.code == 2 and "each training has its own" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_killed_ablation_leaves_no_training_behind(tmp_path):
    flags = f"{NARROW} --scenes 48 --sounds 24 --held-out 8 --batch-size 8 --batch-intermediate 4 "
    flags += f"--epochs 9999 --validate-every 9999 --jobs 1 --device cpu --out {tmp_path}"
    command = [sys.executable, "-m", "turn.ablate", *flags.split()]
    ablation = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("turn/ablate-*/lock")):
        assert ablation.poll() is None
        time.sleep(0.1)
    trainings = [p for p in Path("/proc").glob("[0-9]*/cmdline") if is_in(tmp_path, p)]
    ablation.terminate()
    _, err = ablation.communicate(timeout=60)
    assert ablation.returncode == 2 and err.count("error:") == 1
    assert len(trainings) == 2 and not [p for p in trainings if is_in(tmp_path, p)]  # its own too


def is_in(folder, cmdline) -> bool:
    try:
        return str(folder).encode() in cmdline.read_bytes()
    except OSError:  # it has ended
        return False


@pytest.mark.parametrize("flags", [["--seeds", "0"], ["--jobs", "0"], ["--table", "9"]])
def test_bad_flags(toy, capsys, flags):
    with pytest.raises(SystemExit) as ended:
        toy(*flags)
    assert ended.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.fixture
def trained(monkeypatch):
    """Flags of the trainings that are asked for; each fails."""
    asked = []

    def train(method, out, name, flags):
        asked.append(flags)
        raise InputError(name, "is trained")

    monkeypatch.setattr("common.training.ablation.run_one", train)
    return asked


def test_real_data_must_be_named(capsys, trained):
    """As --flag value or --flag=value, before anything is trained."""
    for flags, reason in (
        (["--table", "3"], "it needs --root"),
        (["--table", "3", "--root=data"], "on a --benchmark"),
        (["--table", "4", "--preset", "paper", "--root", "data"], "on a --benchmark"),
    ):
        with pytest.raises(SystemExit):
            turn.main(flags)
        assert reason in capsys.readouterr().err and not trained
    flags = ["--root=data", "--benchmark=vggss", "--benchmark-root", "vggss"]
    with pytest.raises(SystemExit):
        turn.main(["--table", "3", *flags])
    assert "is trained" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["sslalign", "avkd"])
def test_flags_on_scenes_alone(method, trained):
    """What makes a table decisive on scenes does not reach the paper's setting on real data."""
    module = importlib.import_module(f"{method}.ablate")
    for table, flags in module.ON_SCENES.items():
        for extra in ([], ["--root=data", "--benchmark=vggss"]):
            trained.clear()
            with pytest.raises(SystemExit):
                module.main(["--table", table, "--seeds", "1", "--jobs", "1", *extra])
            begins_so = trained[0][: len(flags)] == list(flags)
            assert begins_so == (flags[0] in trained[0]) == (not extra)


@pytest.mark.parametrize("method", ["turn", "sslalign", "avkd", "stmnet"])
def test_the_rows_are_settings(method):
    """Every flag of every row is one of the method's; no two rows are the same training."""
    from common.training import Parser, add_flags, given_flags, resolve

    module, config = (importlib.import_module(f"{method}.{name}") for name in ("ablate", "config"))
    parser = Parser(prog="p")
    add_flags(parser, config.PRESETS)
    for table, rows in module.TABLES.items():
        made, on_scenes = [], vars(module).get("ON_SCENES", {}).get(table, [])
        for flags in rows.values():
            args = parser.parse_args([*on_scenes, *flags, *["--augment"] * (table == "3")])
            made.append(resolve(config.PRESETS, given_flags(args)))
        assert len(set(made)) == len(made), table
    assert len(set(module.COLUMNS.values())) == len(module.COLUMNS)  # a heading is a key of results
