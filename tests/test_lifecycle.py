"""The life of a run: killed and resumed, in several processes, in a copied folder, on bad input,
evaluated, used.

A new method adds its name to METHODS and its flags to TINY. Checks of one method name it.
"""

import importlib
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest
import torch

from common.io import read_json, write_audio, write_image
from tests import processes
from tests.layouts import write
from tests.test_page import read_page
from common.scenes import Scenes

METHODS = ["turn", "sslalign", "avkd", "stmnet"]
AUDIO = "--seconds 0.25 --sample-rate 8000 --n-fft 256 --hop 128 --n-mels 16 --time-mask 4"
NARROW = (
    "--image-size 32 --dim 16 --backbone-width 8 --codes 16 --text-layers 1 --audio-layers 1 "
    f"--visual-layers 1 --detr-steps 4 {AUDIO}"
)
# 12 steps, 6 in an epoch
TINY = {
    "turn": "--scenes 48 --sounds 24 --held-out 8 --batch-size 8 --batch-intermediate 4 "
    f"--epochs 2 --save-every 3 --dropout 0.1 {NARROW}",
    "sslalign": "--scenes 48 --held-out 8 --batch-size 8 --easy 1 --epochs 1 --save-every 3 "
    "--image-size 32 --width 8 --projection 8 --k 4 --encoder-steps 4 --semantic-from 0 "
    "--seconds 0.5 --crop 0.25 --shift 0.1 --window 128 --hop 64",
    "avkd": "--scenes 48 --held-out 8 --batch-size 8 --epochs 2 --save-every 3 "
    "--image-size 32 --width 8 --channels 16 --augment --teacher-steps 4 "
    "--seconds 0.5 --crop 0.25 --window 128 --hop 64",
    "stmnet": "--scenes 24 --held-out 8 --test-videos 4 --batch-size 4 --epochs 2 --save-every 3 "
    "--image-size 32 --width 8 --audio-width 8 --C 8 --augment "
    "--clip-seconds 2 --video-seconds 3 --encoder-steps 4",
}
# Changes one thing that a resumed run needs besides the weights: the state of the random numbers
# (dropout), Adam's means
ALTER = {
    "turn": lambda saved: saved["rng"][0].update(cpu=torch.Generator().manual_seed(99).get_state()),
    "sslalign": lambda saved: saved["optimizer"]["state"][0]["exp_avg"].zero_(),
    "avkd": lambda saved: saved["optimizer"]["state"][0]["exp_avg"].zero_(),
    "stmnet": lambda saved: saved["optimizer"]["state"][0]["exp_avg"].zero_(),
}
ROOT = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
# The keys of metrics.json that scripts rely on
SSLALIGN = [
    key.format(rule)
    for rule in ("", "_adaptive")
    for key in (
        "pairs/ciou{}@0.5",
        "pairs/auc{}",
        "interactive/iiou{}",
        "interactive/iauc{}",
        "masks/miou{}",
        "masks/f_score{}",
        "masks/ciou{}@0.5",
        "masks/auc{}",
        "control/silent_iiou{}",
        "control/shuffled_iiou{}",
        "control/silent_ciou{}@0.5",
        "control/shuffled_ciou{}@0.5",
    )
]
SSLALIGN += [
    f"retrieval/{way}_r@{k}{features}_{kind}"
    for way in ("a2i", "i2a")
    for k in (1, 5, 10)
    for features in ("", "_projected")
    for kind in ("instance", "category")
]
AVKD = [
    f"{variant}/{name}"
    for variant in ("avc", "og", "og_detr")
    for name in (
        "ciou@0.5",
        "auc",
        "ciou_adaptive@0.5",
        "auc_adaptive",
        "pointing",
        "iiou_adaptive",
    )
]
AVKD += ["one/avc/ciou_adaptive@0.5", "one/og/ciou_adaptive@0.5"]
AVKD += [
    f"control/{control}_{name}"
    for control in ("silent", "shuffled")
    for name in ("ciou_adaptive@0.5", "iiou_adaptive", "pointing")
]
SSLALIGN += [
    "pairs/pointing",
    "interactive/pointing",
    "extended/ap",
    "extended/max_f1",
    "extended/loc_acc",
    "alignment/cosine",
    "alignment/magnitude",
]
STMNET = [
    f"{group}/{name}"
    for group in ("frames", "attention", "scores")
    for name in ("ciou_mean", "ciou@0.5", "pointing", "iou@0.5")
]
STMNET += [
    f"{name}_{metric}"
    for name in ("control/silent", "control/shuffled", "baseline/centre", "baseline/whole")
    for metric in ("ciou_mean", "iou@0.5")
]
STMNET += [
    "frames/stability",
    "events/accuracy",
    "silence/accuracy",
    "turns/pointing",
    "turns/iou@0.5",
    "frames/n",
    "events/n",
    "silence/n",
]
OTHER_ARCHITECTURE = {
    "turn": {"dim": 32},
    "sslalign": {"projection": 32},
    "avkd": {"channels": 32},
    "stmnet": {"C": 32},
}
# The training command, except that the process sends itself SIGNAL at step STEP, as a person or a
# scheduler might.
INTERRUPTED = """
import os, sys
from common.training import Run
after = Run.end_step
def end_step(self, ended):
    if self.step == STEP:
        os.kill(os.getpid(), SIGNAL)
    after(self, ended)
Run.end_step = end_step
from METHOD.train import main
main(sys.argv[1:])
"""
# Likewise, in a validation.
IN_VALIDATION = """
import os, sys
from common.training import dist
merge_rows = dist.merge_rows
def stop(*arguments):
    os.kill(os.getpid(), SIGNAL)
    return merge_rows(*arguments)
dist.merge_rows = stop
from METHOD.train import main
main(sys.argv[1:])
"""


# Likewise, on a disk with room for files of 2500 bytes only.
FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
from METHOD.train import main
main(sys.argv[1:])
"""


def start(program, flags, cwd):
    return processes.start(program, flags.split(), cwd, ENV)


def done(process, status=0):
    out, err = process.communicate(timeout=200)
    assert process.returncode == status, f"{process.args}\n{out[-2000:]}{err[-3000:]}"
    return out, err


def run(program, flags, cwd):
    return done(start(program, flags, cwd))[0]


def run_in_two(program, flags, cwd):
    for process in processes.start_ranks(program, flags.split(), cwd, ENV):
        done(process)


def python(program, flags, cwd, env=ENV):
    """`python -m program flags`, as a user types it."""
    argv = [sys.executable, "-m", *program.split(), *flags.split()]
    done(subprocess.Popen(argv, cwd=cwd, env=env, text=True, stdout=PIPE, stderr=PIPE))


def torchrun(program, flags, cwd, n=2):
    python(f"torch.distributed.run --standalone --nproc-per-node {n} -m {program}", flags, cwd)


def bad(module, flags, capsys, monkeypatch):
    """Run a command in this process. It must end with status 2 and one line on stderr.

    Returns that line.
    """
    monkeypatch.setattr("common.training.run.signal.signal", lambda *args: None)
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main(flags if isinstance(flags, list) else flags.split())
    lines = capsys.readouterr().err.splitlines()
    err = "\n".join(
        line for line in lines if not line.endswith(" listed")
    )  # how many samples of a benchmark were found
    assert (
        ended.value.code == 2 and len(err.strip().splitlines()) == 1 and "Traceback" not in err
    ), err
    assert err.startswith(f"python -m {module}: error: ")
    return err


def checkpoint(folder, file="last.pt"):
    saved = torch.load(folder / file, weights_only=True)
    del saved["config"]
    return saved


def same(a, b):
    """To the bit."""
    if torch.is_tensor(a):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def log(folder):
    """The rows of a log without the columns that depend on the machine."""
    times = ("data_s", "step_s", "mem_mb")
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in times} for row in rows]


# Killed and continued -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=METHODS)
def runs(request, tmp_path_factory):
    """Five runs: whole is never stopped; killed-0 and killed-2 (the number of workers) get SIGKILL
    in the middle of an epoch; stopped gets SIGTERM, validating in its first validation."""
    method, cwd = request.param, tmp_path_factory.mktemp("runs")
    cases = {
        "whole": None,
        "killed-0": (5, signal.SIGKILL),
        "killed-2": (10, signal.SIGKILL),
        "stopped": (5, signal.SIGTERM),
        "validating": (0, signal.SIGTERM),
    }
    processes = {}
    for name, case in cases.items():
        program = f"{method}.train"
        if case:
            program = (
                (INTERRUPTED if case[0] else IN_VALIDATION)
                .replace("METHOD", method)
                .replace("STEP", str(case[0]))
                .replace("SIGNAL", str(int(case[1])))
            )
        processes[name] = start(
            program,
            f"{TINY[method]} --name {name} --device cpu --workers {2 * (name == 'killed-2')}",
            cwd,
        )
    for name, status in (("whole", 0), ("killed-0", -9), ("killed-2", -9), ("validating", 130)):
        done(processes[name], status)
    return method, cwd, cwd / "runs" / method, done(processes["stopped"], 130)[1]


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bits(runs):
    method, cwd, folder, _ = runs
    assert (
        checkpoint(folder / "killed-0")["step"] == 3
        and checkpoint(folder / "killed-2")["step"] == 9
    )
    assert not checkpoint(folder / "validating")["is_validated"]
    shutil.copytree(folder / "killed-2", folder / "altered")
    altered = torch.load(folder / "altered" / "last.pt", weights_only=True)
    ALTER[method](altered)
    torch.save(altered, folder / "altered" / "last.pt")
    for process in [
        start(
            f"{method}.train",
            f"--resume --name {name} --workers {name[-1] if name[-1] in '02' else 0}",
            cwd,
        )
        for name in ("killed-0", "killed-2", "validating", "altered")
    ]:
        done(process)
    whole = checkpoint(folder / "whole")
    assert whole["step"] == 12
    for name in ("killed-0", "killed-2", "validating"):
        for file in ("last.pt", "best.pt"):
            assert same(checkpoint(folder / name, file), checkpoint(folder / "whole", file)), (
                name,
                file,
            )
        assert log(folder / name) == log(folder / "whole")
        metrics = [read_json(folder / n / "metrics.json") for n in (name, "whole")]
        assert all(m.pop("seconds") > 0 for m in metrics) and metrics[0] == metrics[1]
    # a run without one part of its state differs, so the comparison above depends on each part
    assert not same(checkpoint(folder / "altered")["model"], whole["model"])


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint(runs):
    _, _, folder, err = runs
    assert (
        "stopped at step 5" in err and "--resume --name stopped" in err and "Traceback" not in err
    )
    stopped = checkpoint(folder / "stopped")
    assert stopped["step"] == 5 and not (folder / "stopped" / "metrics.json").exists()
    assert log(folder / "stopped") == [row for row in log(folder / "whole") if row["step"] <= 5]
    assert (
        sorted(p.name for p in (folder / "stopped").iterdir() if p.name[0] == ".") == []
    )  # no temporary file


@pytest.mark.slow
def test_the_files_of_a_run(runs):
    method, _, folder, _ = runs
    expected = {"config.json", "log.jsonl", "last.pt", "best.pt", "metrics.json", "samples.png"}
    assert expected <= {p.name for p in (folder / "whole").iterdir()}
    page = read_page(folder / "whole" / "report.html")
    assert page["tables"] and page["title"] == f"{method}, whole" and page["paper"]
    assert {"loss", "validation/score"} <= set(page["series"]) and len(page["galleries"]) > 1
    facts = dict(page["facts"])
    assert facts["steps"] == "12" and facts["command"].startswith("python ")
    for gallery in page["galleries"]:
        names = [clip["name"] for clip in gallery["samples"][0]["clips"]]
        assert len(names) >= 3 and any("silen" in name for name in names)
        assert all(s["clips"][0]["audio"] >= 0 and s["clips"][0]["gt"] for s in gallery["samples"])
        is_of_maps = method != "turn"
        assert (
            bool(gallery["curves"]) == is_of_maps == bool(gallery["samples"][0]["clips"][0]["maps"])
        )
    rows = log(folder / "whole")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    metrics = read_json(folder / "whole" / "metrics.json")
    assert {"samples", "seconds", "seed", "preset"} <= set(metrics)
    for kind in ("audio", "random", "text") if method == "turn" else ():
        assert {f"{kind}/ciou@0.5", f"{kind}/auc", f"{kind}/miou"} <= set(metrics)
    if method == "sslalign":
        assert set(SSLALIGN) <= set(metrics) and (folder / "whole" / "compositional.png").is_file()
    if method == "avkd":
        assert set(AVKD) <= set(metrics) and (folder / "whole" / "sounds.png").is_file()
        assert {"hints/own_class", "hints/nothing"} <= set(metrics)
    if method == "stmnet":
        assert set(STMNET) <= set(metrics) and (folder / "whole" / "turns.png").is_file()
        assert any(key.startswith("class/") for key in metrics)
    if method == "turn":
        assert 1 <= metrics["codebook/perplexity_0"] <= metrics["codebook/in_use_0"] <= 8
    assert all(0 <= value <= 1 for key, value in metrics.items() if "ciou" in key or "auc" in key)


# Evaluate and localize ----------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluation_in_one_process_and_in_two(runs):
    method, cwd, folder, _ = runs
    best = folder / "whole" / "best.pt"
    table = run(f"{method}.evaluate", f"--checkpoint {best} --out one --device cpu", cwd)
    assert "cIoU@0.5" in table
    run_in_two(f"{method}.evaluate", f"--checkpoint {best} --out two --device cpu", cwd)
    one, two = (
        {k: v for k, v in read_json(cwd / name / "metrics-scenes.json").items() if k != "seconds"}
        for name in ("one", "two")
    )
    assert one == pytest.approx(two, abs=1e-6) and (cwd / "one" / "samples-scenes.png").is_file()
    trained = read_json(folder / "whole" / "metrics.json")
    assert {k: v for k, v in one.items() if k in trained} == {
        k: v for k, v in trained.items() if k in one
    }


@pytest.mark.slow
def test_evaluation_on_files(runs, capsys):
    method, cwd, folder, _ = runs
    data = "audioset-instrument" if method == "stmnet" else "vggss"
    keys = {"turn": "whole/miou", "stmnet": "baseline/whole_ciou_mean"}
    key = keys.get(method, "baseline/whole_auc")
    write(Scenes(4, 64, 8000, 0.5), cwd / data, data, 5)
    flags = [
        "--checkpoint",
        str(folder / "whole" / "best.pt"),
        "--data",
        data,
        "--root",
        str(cwd / data),
        "--out",
        str(cwd / "files"),
        "--device",
        "cpu",
    ]
    importlib.import_module(f"{method}.evaluate").main(flags)
    assert ("N = 5" if method != "stmnet" else "5 videos") in capsys.readouterr().out
    metrics = read_json(cwd / "files" / f"metrics-{data}.json")
    assert metrics["samples"] == 5 and 0 < metrics[key] < 1


def localize_in_a_video(cwd, capsys, monkeypatch):
    (cwd / "film").mkdir()
    film = Scenes(3, 64, 16000).video(0, 4, 2)
    for k, frame in enumerate(film.frames):
        write_image(cwd / "film" / f"{k:04d}.png", frame)
    write_audio(cwd / "film" / "sound.wav", film.waveform, 16000)
    main = importlib.import_module("stmnet.localize").main
    main(["--video", "film", "--out", "found/a.gif", "--device", "cpu"])  # the newest run's best.pt
    assert (cwd / "found" / "a.gif").read_bytes()[
        :3
    ] == b"GIF" and "found/a.gif" in capsys.readouterr().out
    assert len(json.loads((cwd / "found" / "a.json").read_text())["frames"]) == len(film.frames)
    main(["--video", "film", "--out", "found/b.html", "--device", "cpu"])
    page = read_page(cwd / "found" / "b.html")
    sample = page["galleries"][0]["samples"][0]
    assert [clip["name"] for clip in sample["clips"]] == ["sound track", "silence", "noise"]
    assert all(
        len(x) == len(film.frames) for clip in sample["clips"] for x in clip["facts"].values()
    )
    facts = sample["clips"][0]["facts"]
    assert facts["similarity of noise"] == sample["clips"][2]["facts"]["similarity"]
    assert len(sample["frames"]) == len(sample["clips"][1]["maps"]) == len(film.frames)
    assert "trained on 12 drawn shapes" in page["note"] and (cwd / "found" / "b.gif").is_file()
    assert "gone" in bad(
        "stmnet.localize", "--video gone --out found/b.gif --device cpu", capsys, monkeypatch
    )


@pytest.mark.slow
def test_localize(runs, capsys, monkeypatch):
    method, cwd, folder, _ = runs
    monkeypatch.chdir(cwd)
    if method == "stmnet":  # takes videos; what can be wrong with them is in test_stmnet_runs.py
        return localize_in_a_video(cwd, capsys, monkeypatch)
    sample = Scenes(3, 100, 22050, 1.3).pair(0)
    write_image(cwd / "in.png", sample.image[:70])
    write_audio(cwd / "in.wav", sample.waveform, 22050)
    main = importlib.import_module(f"{method}.localize").main
    # without --checkpoint: the newest run's best.pt
    main(["--image", "in.png", "--audio", "in.wav", "--out", "found/a.png", "--device", "cpu"])
    assert (cwd / "found" / "a.png").read_bytes()[:4] == b"\x89PNG"
    found = json.loads((cwd / "found" / "a.json").read_text())
    assert found["boxes"] and "found/a.png" in capsys.readouterr().out
    for x0, y0, x1, y1 in found["boxes"]:
        assert 0 <= x0 <= x1 <= 100 and 0 <= y0 <= y1 <= 70
    main(["--image", "in.png", "--audio", "in.wav in.wav", "--out", "a.html", "--device", "cpu"])
    assert "trained on 12 drawn shapes" in read_page(cwd / "a.html")["note"]
    best = f"--checkpoint {folder / 'whole' / 'best.pt'} --device cpu"
    if method == "turn":
        ious = [clip["IoU with silence's box"] for clip in found["clips"]]
        assert len(ious) == 3 and ious[1] == pytest.approx(1) and 0 <= min(ious[0], ious[2]) < 1
        main(f"{best} --image in.png --phrase ring --out b.png".split())
        assert (cwd / "b.json").is_file()
        # neither audio nor a phrase
        bad("turn.localize", f"{best} --image in.png --out c.png", capsys, monkeypatch)
        bad(
            "turn.localize",
            f"{best} --image in.png --audio in.wav --phrase ring --out c.png",
            capsys,
            monkeypatch,
        )
    (cwd / "text.png").write_text("not an image")
    (cwd / "empty.wav").touch()
    (cwd / "cut.wav").write_bytes((cwd / "in.wav").read_bytes()[:2000])
    (cwd / "cut.png").write_bytes((cwd / "in.png").read_bytes()[:300])
    for image, audio, out, named in (
        ("text.png", "in.wav", "c.png", "text.png"),
        ("in.png", "empty.wav", "c.png", "empty.wav"),
        ("in.png", "cut.wav", "c.png", "cut.wav"),
        ("cut.png", "in.wav", "c.png", "cut.png"),
        ("gone.png", "in.wav", "c.png", "gone.png"),
        ("in.png", "gone.wav", "c.png", "gone.wav"),
        ("in.wav", "in.wav", "c.png", "in.wav"),
        ("in.png", "in.png", "c.png", "in.png"),
        ("in.png", "in.wav", "c.gif", "c.gif"),
        (".", "in.wav", "c.png", "."),
    ):
        err = bad(
            f"{method}.localize",
            f"{best} --image {image} --audio {audio} --out {out}",
            capsys,
            monkeypatch,
        )
        assert named in err and not (cwd / out).exists() and not (cwd / "c.json").exists()

    image = (cwd / "in.png").read_bytes()
    (cwd / "other.json").symlink_to("in.wav")
    for out in ("in.png", "other.png"):
        flags = f"{best} --image in.png --audio in.wav --out {out}"
        assert "which is read" in bad(f"{method}.localize", flags, capsys, monkeypatch)
    assert (cwd / "in.png").read_bytes() == image


@pytest.mark.slow
def test_results_are_written_before_words(runs, capsys, monkeypatch):
    """A disk that is full for the print, of a terminal with ASCII alone, loses no result."""
    method, cwd, folder, _ = runs
    monkeypatch.chdir(cwd)
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    stdout = io.TextIOWrapper(full, "ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", stdout)
    flags = f"--checkpoint {folder / 'whole' / 'best.pt'} --device cpu --out words"
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"{method}.evaluate").main(flags.split())
    monkeypatch.undo()
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.count("\n") == 1 and "No space left" in err
    assert {"metrics-scenes.json", "samples-scenes.png"} <= {
        p.name for p in (cwd / "words").iterdir()
    }
    assert read_json(cwd / "words" / "metrics-scenes.json")["samples"]


# Bad input ----------------------------------------------------------------------------------------


def with_weights(checkpoint, value):
    """The checkpoint, with all parameters of its model (but no counters) at `value`."""
    model = {
        name: torch.randn(x.shape) * value if x.is_floating_point() else x
        for name, x in checkpoint["model"].items()
    }
    return {**checkpoint, "model": model}


@pytest.mark.slow
def test_bad_checkpoints(runs, capsys, monkeypatch):
    method, cwd, folder, _ = runs
    monkeypatch.chdir(cwd)
    good = torch.load(folder / "whole" / "best.pt", weights_only=True)
    raw = (folder / "whole" / "best.pt").read_bytes()
    cases = {
        "empty": b"",
        "truncated": raw[: len(raw) // 2],
        "text": b"hello" * 100,
        "png": b"\x89PNG\r\n",
        "other-method": {**good, "method": "another"},
        "plain": {"a": torch.zeros(1)},
        "list": [1, 2],
        "fields": {**good, "config": {**good["config"], "unknown": 1}},
        "config": {**good, "config": 3},
        "architecture": {**good, "config": {**good["config"], **OTHER_ARCHITECTURE[method]}},
        "keys": {**good, "model": {}},
        "no-model": {k: v for k, v in good.items() if k != "model"},
        "nan": with_weights(good, math.nan),
        "inf": with_weights(good, math.inf),
    }
    for name, content in cases.items():
        path = cwd / f"{name}.pt"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        assert f"{name}.pt" in bad(
            f"{method}.evaluate", f"--checkpoint {path} --out bad", capsys, monkeypatch
        )
    bad(f"{method}.evaluate", "--checkpoint gone.pt --out bad", capsys, monkeypatch)
    best = folder / "whole" / "best.pt"
    bad(
        f"{method}.evaluate",
        f"--checkpoint {best} --data nonsense --root . --out bad",
        capsys,
        monkeypatch,
    )
    bad(
        f"{method}.evaluate",
        f"--checkpoint {best} --data vggss --root gone --out bad",
        capsys,
        monkeypatch,
    )
    bad(f"{method}.evaluate", f"--checkpoint {best} --device tpu --out bad", capsys, monkeypatch)
    torch.save(with_weights(good, 1e30), cwd / "huge.pt")
    try:
        flags = f"--checkpoint {cwd / 'huge.pt'} --out huge"
        importlib.import_module(f"{method}.evaluate").main(flags.split())
    except SystemExit as ended:  # a cosine of such features can be finite
        err = capsys.readouterr().err.strip()
        assert ended.code == 1 and err.count("\n") == 0 and ("finite" in err or "nan" in err), err
    assert not (cwd / "bad").exists()
    for name in ("truncated", "other-method", "architecture"):  # the same files as last.pt
        (folder / name).mkdir()
        shutil.copy(cwd / f"{name}.pt", folder / name / "last.pt")
        assert "last.pt" in bad(
            f"{method}.train", f"--resume --name {name} --device cpu", capsys, monkeypatch
        )
    err = bad(f"{method}.train", "--resume --name whole --lr 0.5 --device cpu", capsys, monkeypatch)
    assert "--lr" in err and "0.5" in err
    assert "--resume" in bad(
        f"{method}.train", f"{TINY[method]} --name whole --device cpu", capsys, monkeypatch
    )  # not overwritten


@pytest.mark.parametrize("method", METHODS)
def test_bad_flags(method, capsys, monkeypatch, tmp_path):
    """Each ends with status 2 and one line on stderr, and writes no result."""
    monkeypatch.chdir(tmp_path)
    method_flags = {
        "turn": [
            "--dim 30",
            "--heads 0",
            "--groups 3",
            "--codes 0",
            "--tau 0",
            "--k 0.5",
            "--mask-from 2",
            "--image-size 50",
            "--seconds 0.001",
            "--text-length 2",
            "--time-mask 0",
            "--detr big",
            "--select flickr",
            "--scenes 0",
            "--held-out 0",
            "--dropout 1",
            "--epochs 0",
            "--data nonsense",
            "--data refcocog+nonsense",
            "--data refcocog+clotho",
            "--data refcocog+clotho --root gone",
            "--seed 1000000",
            "--objects gone",
            "--scenes 8 --sounds 4 --batch-size 9 --held-out 2",
            "--scenes 8 --sounds 4 --batch-size 4 --batch-intermediate 2 --vocabulary gone.txt",
            "--scenes 8 --sounds 4 --batch-size 4 --batch-intermediate 2 --held-out 2 "
            "--detr r50 --detr-weights gone.pth",
        ],
        "sslalign": [
            "--width 0",
            "--held-out 1",
            "--tau 0",
            "--crop 2",
            "--crop 0.01",
            "--crop-scale 0",
            "--crop-scale 2",
            "--image-size 50",
            "--last-stride 3",
            "--schedule linear",
            "--sampling all",
            "--epochs 0",
            "--k 0",
            "--benchmark is3",
            "--channel right",
            "--data nonsense",
            "--data vggss --root .",
            "--data vggsound",
            "--data vggsound --root gone",
            "--seed 1000000",
            "--objects gone",
            "--vision-weights gone.pth",
            "--scenes 8 --held-out 2 --batch-size 9",
            "--scenes 8 --held-out 2 --batch-size 4 --neighbours gone",
            "--scenes 8 --held-out 2 --batch-size 4 --width 64 --blocks 2 2 2 2 "
            "--vision-weights gone.pth",
            "--blocks 1",
            "--blocks 1 0 1",
            "--scenes 8 --held-out 2 --batch-size 4 --benchmark is3 --benchmark-root gone",
        ],
        "avkd": [
            "--width 0",
            "--held-out 1",
            "--tau 0",
            "--crop 2",
            "--crop 0.01",
            "--image-size 50",
            "--last-stride 3",
            "--epochs 0",
            "--schedule linear",
            "--channels 0",
            "--chunk 0",
            "--repeats 0",
            "--visual-hint pixels",
            "--visual-norm none",
            "--audio-teacher vggish",
            "--benchmark flickr",
            "--channel right",
            "--data nonsense --hints h",
            "--data vggss --root . --hints h",
            "--data flickr-soundnet --hints h",
            "--data flickr-soundnet --root .",
            "--data flickr-soundnet --root gone --hints h",
            "--seed 1000000",
            "--objects gone",
            "--blocks 1",
            "--vision-weights gone.pth",
            "--scenes 8 --held-out 2 --batch-size 9 --no-teach-image --no-teach-audio",
            "--scenes 8 --held-out 2 --batch-size 4 --no-teach-image --no-teach-audio "
            "--width 64 --blocks 2 2 2 2 --vision-weights gone.pth",
            "--scenes 8 --held-out 2 --batch-size 4 --benchmark is3 --benchmark-root gone",
        ],
        "stmnet": [
            "--width 0",
            "--audio-width 0",
            "--C 0",
            "--T 0",
            "--heads 0",
            "--depth-v 0",
            "--depth-a 0",
            "--held-out 1",
            "--epochs 0",
            "--test-videos 1",
            "--video-seconds 1",
            "--grounded 0",
            "--memory-seconds=-1",
            "--lr-encoders=-1",
            "--memory C",
            "--audio cnn14",
            "--box-map map",
            "--segment-seconds 0.1",
            "--image-size 50",
            "--last-stride 3",
            "--schedule linear",
            "--image-size 32 --last-stride 2 --blocks 1 1 1 1",
            "--blocks 1",
            "--nms 2",
            "--confidence 2",
            "--trained-encoders vision",
            "--vision-weights gone.pth",
            "--audio-weights gone.pth",
            "--noisy 2",
            "--occluded 2",
            "--blurred 2",
            "--tau 0",
            "--similarity l2",
            "--encoder-steps 0",
            "--benchmark ave-boxes",
            "--data nonsense",
            "--data vggss --root .",
            "--data ave",
            "--data ave --root gone",
            "--data ave --root .",
            "--data audioset-instrument",
            "--seed 1000000",
            "--objects gone",
            "--instances 0",
            "--scenes 4 --held-out 2 --batch-size 5",
            "--preset paper --root .",
            "--scenes 4 --held-out 2 --batch-size 4 --blocks 3 8 36 3 --width 64 --bottleneck "
            "--vision-weights gone.pth",
            "--scenes 4 --held-out 2 --batch-size 4 --audio vggish --audio-width 64 "
            "--audio-weights gone.pth",
            "--scenes 4 --held-out 2 --batch-size 4 --proposals gone.pth",
            "--scenes 4 --held-out 2 --batch-size 4 --benchmark ave-boxes --benchmark-root gone",
            "--scenes 4 --held-out 2 --batch-size 4 --benchmark is3 --benchmark-root .",
        ],
    }
    for flags in [
        "--preset huge",
        "--nonsense 1",
        "--batch-size 0",
        "--batch-size -3",
        "--lr nan",
        "--epochs many",
        "--device tpu",
        "--resume",
        "--resume --name gone",
        *method_flags[method],
    ]:
        bad(f"{method}.train", flags, capsys, monkeypatch)
        assert not [p for p in tmp_path.rglob("*") if p.is_file()], flags
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    bad(f"{method}.evaluate", "", capsys, monkeypatch)  # no run at all
    bad(
        f"{method}.localize",
        "--video gone" if method == "stmnet" else "--image a.png --audio a.wav",
        capsys,
        monkeypatch,
    )
    bad(f"{method}.localize", "", capsys, monkeypatch)


# Copied away --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_copied_folder_runs(method, tmp_path):
    for name in (method, "common"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    env = {k: v for k, v in ENV.items() if k != "PYTHONPATH"}
    python(f"{method}.train", f"{TINY[method]} --steps 2 --name a", tmp_path, env)
    assert (tmp_path / "runs" / method / "a" / "metrics.json").is_file()


# Several processes --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_as_one(method, tmp_path):
    """The losses agree from the first step, so both runs start from the same weights, and so do
    the optimizers' means of gradients, which are those of the whole batch. Dropout is off, because
    its random numbers depend on the process. One method is started by torchrun."""
    flags = TINY[method]
    flags = flags.replace("--dropout 0.1", "--dropout 0") + " --steps 3 --device cpu --lr 1e-4"
    run(f"{method}.train", f"{flags} --name one", tmp_path)
    in_two = torchrun if method == "turn" else run_in_two
    in_two(f"{method}.train", f"{flags} --name two", tmp_path)
    one, two = (log(tmp_path / "runs" / method / name) for name in ("one", "two"))
    assert len(one) == len(two) == 4
    for row_of_one, row_of_two in zip(one, two):
        assert row_of_one == pytest.approx(row_of_two, rel=2e-3, abs=2e-3)
    means = [
        torch.cat([x["exp_avg"].flatten() for x in saved["optimizer"]["state"].values()])
        for saved in (checkpoint(tmp_path / "runs" / method / name) for name in ("one", "two"))
    ]
    assert (means[0] - means[1]).norm() < 0.1 * means[0].norm()
    metrics = [
        read_json(tmp_path / "runs" / method / name / "metrics.json") for name in ("one", "two")
    ]
    count = 4 if method == "stmnet" else 8
    assert [m["samples"] for m in metrics] == [count, count]
    assert len(checkpoint(tmp_path / "runs" / method / "two")["rng"]) == 2


@pytest.mark.parametrize("method", METHODS)
def test_a_small_network_on_a_full_disk_is_one_line(method, tmp_path):
    """It is the first large file of a training on scenes."""
    program = FULL_DISK.replace("METHOD", method)
    err = done(start(program, f"{TINY[method]} --device cpu", tmp_path), 2)[1]
    assert re.search(r"^python -m \w+\.train: error: \S+\.pt: .*File too large\n\Z", err), err
    assert not [*tmp_path.rglob("*.pt"), *tmp_path.rglob(".*.tmp")]
