"""A run: what it writes, how it stops, how it goes on, and what it refuses."""

import io
import json
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from common.io import InputError, read_json
from common.training import (
    Run,
    RunConfig,
    check_batch_size,
    cli,
    configure,
    cosine_schedule,
    dist,
    git_commit,
    select_device,
    load_checkpoint,
    markdown_table,
    newest_run,
    step_loader,
    write_results,
)
from common.training import flag as field
from common.training.run import LOG_EVERY, SIGNALS
from tests import processes

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Config(RunConfig):
    width: int = field(4, "hidden units")

    def rules(self) -> dict:
        return {"--width must be at most 100": self.width <= 100}


PRESETS = {"tiny": Config(), "paper": Config(preset="paper", width=64)}


@pytest.fixture(autouse=True)
def own_signals():
    """Put the signals' handlers back that a Run takes; it takes none that nohup made ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def start(tmp_path, **changes):
    return Run(
        "toy",
        replace(
            Config(),
            **{"out": str(tmp_path), "name": "a", "save_every": 7, "device": "cpu", **changes},
        ),
    )


def train(run, steps, epoch=25, stop_at=None, bad_at=None, validate=None):
    """A small training; its random numbers follow from (seed, step) and torch's generator."""
    model = nn.Sequential(
        nn.Linear(3, run.config.width), nn.Dropout(0.5), nn.Linear(run.config.width, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    run.start({"model": model, "optimizer": optimizer}, {"words": ["a", "b"]})
    if not run.is_validated:
        run.keep_best(validate(run))
        run.end_step(True)
    while run.step < steps:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(run.step))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean() * (
            math.nan if run.step == bad_at else 1
        )
        optimizer.zero_grad()
        loss.backward()
        dist.sum_gradients(model.parameters())
        optimizer.step()
        run.step += 1
        run.log({"loss": loss, "half": loss / 2}, lr=0.05)
        if validate and run.step % epoch == 0:
            run.start_validation()
            run.keep_best(validate(run))
        elif run.step % epoch == 0:
            run.best = max(run.best, -loss.item())
        if run.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        run.end_step(run.step % epoch == 0 or run.step == steps)
    return run


def log_of(run):
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


# What it writes


def test_a_run_writes_its_folder(tmp_path):
    run = train(start(tmp_path), 30)
    run.save("best.pt")
    written = run.write_metrics({"audio/ciou@0.5": 0.25})
    assert run.folder == tmp_path / "toy" / "a"
    assert {p.name for p in run.folder.iterdir()} == {
        "config.json",
        "log.jsonl",
        "last.pt",
        "best.pt",
        "metrics.json",
        "lock",
    }
    config = json.loads((run.folder / "config.json").read_text())
    assert config.pop("command").startswith("python ")
    assert config == {
        **asdict(run.config),
        "commit": git_commit(),
    }
    assert json.loads((run.folder / "metrics.json").read_text()) == written
    assert (
        written["audio/ciou@0.5"] == 0.25
        and written["seed"] == 0
        and written["preset"] == "tiny"
        and written["seconds"] >= 0
    )


def test_a_run_without_a_name_is_called_by_the_time(tmp_path):
    run = start(tmp_path, name="")
    run.start({}, {})
    assert len(run.config.name) == 15 and run.folder.name == run.config.name
    assert json.loads((run.folder / "config.json").read_text())["name"] == run.config.name


def test_the_log_holds_every_step_as_it_was(tmp_path):
    run, values = start(tmp_path, save_every=1000), []
    run.start({}, {})
    for step in range(1, 24):
        run.step = step
        values.append({"loss": torch.tensor(1 / step), "reg": torch.tensor(float(step))})
        run.log(values[-1], lr=step / 10)
        written = len(log_of(run)) if (run.folder / "log.jsonl").exists() else 0
        assert written == (step - 1) // LOG_EVERY * LOG_EVERY  # none is waited for
        run.end_step(False)
    run.start_validation()
    run.keep_best({"validation/score": 0.5})
    rows = log_of(run)
    assert rows[:-1] == [
        {"step": s, "loss": float(v["loss"]), "reg": float(s), "lr": s / 10}
        for s, v in enumerate(values, 1)
    ]
    assert rows[-1] == {"step": 23, "validation/score": 0.5}


def test_of_equal_scores_the_first_is_kept(tmp_path):
    run = start(tmp_path)
    run.start({}, {})
    for run.step in (1, 2):
        run.keep_best({"validation/score": 0.5})
    assert load_checkpoint(run.folder / "best.pt", "toy")["step"] == 1


@pytest.mark.parametrize("save_every,steps", [(7, (7, 10, 14, 20, 21, 28)), (0, (10, 20))])
def test_last_pt_is_written_when_due(tmp_path, monkeypatch, save_every, steps):
    run, due = start(tmp_path, save_every=save_every), []
    monkeypatch.setattr(run, "save", lambda file: due.append((run.step, file)))
    for step in range(1, 30):
        run.step = step
        run.end_step(step % 10 == 0)
    assert due == [(s, "last.pt") for s in steps]


def test_a_checkpoint_is_plain_data_and_whole_or_not_there(tmp_path, monkeypatch):
    run = train(start(tmp_path), 10)
    checkpoint = torch.load(run.folder / "last.pt", weights_only=True)
    assert set(checkpoint) == {
        "method",
        "config",
        "step",
        "best",
        "is_validated",
        "rng",
        "words",
        "model",
        "optimizer",
    }
    assert (
        checkpoint["method"] == "toy"
        and checkpoint["step"] == 10
        and checkpoint["config"] == asdict(run.config)
    )
    before = (run.folder / "last.pt").read_bytes()

    def half(checkpoint, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError):
        run.save("last.pt")
    assert (run.folder / "last.pt").read_bytes() == before and not list(run.folder.glob(".*"))


def test_what_is_not_finite_is_said_before_a_validation(tmp_path):
    run = train(start(tmp_path), 3)
    run.start_validation()
    with pytest.raises(FloatingPointError, match="the validation of step 3 is not"):
        run.keep_best({"validation/score": math.nan})
    run.state["model"][2].bias.data.fill_(math.inf)
    with pytest.raises(FloatingPointError, match=r"model\.2\.bias of step 3 is not finite"):
        run.start_validation()
    assert not (run.folder / "best.pt").exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_spares_last_pt(tmp_path):
    run = start(tmp_path)
    with pytest.raises(FloatingPointError, match=r'"step": 18, "loss": NaN, "half": NaN'):
        train(run, 30, bad_at=17)
    assert (
        log_of(run)[17]["loss"] is None and log_of(run)[16]["loss"] > 0
    )  # the terms are in the log too
    checkpoint = load_checkpoint(run.folder / "last.pt", "toy")
    assert checkpoint["step"] == 14 and all(
        v.isfinite().all() for v in checkpoint["model"].values()
    )


# How it goes on


def resumed(tmp_path, *argv):
    return configure("toy", PRESETS, "", ["--resume", "--out", str(tmp_path), *argv])


def test_resume_is_as_if_it_had_never_stopped(tmp_path):
    whole = train(start(tmp_path / "whole", save_every=1000), 60)
    first = start(tmp_path / "two", save_every=1000)
    with pytest.raises(KeyboardInterrupt, match="--resume --name a"):
        train(first, 60, stop_at=33)
    saved = load_checkpoint(first.folder / "last.pt", "toy")
    assert saved["step"] == 33 and len(log_of(first)) == 33  # at once
    torch.manual_seed(999)  # another process has another state
    second = train(Run("toy", resumed(tmp_path / "two", "--device", "cpu")), 60)
    assert second.best == whole.best and second.step == 60
    assert log_of(second) == log_of(whole)
    one, other = (load_checkpoint(run.folder / "last.pt", "toy") for run in (whole, second))
    for key in ("model", "optimizer", "rng", "step", "best", "words"):
        assert same(one[key], other[key]), key


def score(run):
    return {"validation/score": -run.state["model"][0].weight.norm().item()}


@pytest.mark.parametrize("at, is_killed", [(50, False), (50, True), (60, False)])
def test_a_validation_that_was_stopped_is_repeated(tmp_path, at, is_killed):
    """A signal ends it at once. A kill can leave its line of the log and its best.pt."""
    whole = train(start(tmp_path / "whole", save_every=1000), 60, epoch=10, validate=score)
    first = start(tmp_path / "two", save_every=1000)

    def stop(run):
        if run.step < at:
            return score(run)
        if is_killed:
            run.keep_best(score(run))
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # ten seconds
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt, match=None if is_killed else "stopped at step"):
        train(first, 60, epoch=10, validate=stop)
    saved = load_checkpoint(first.folder / "last.pt", "toy")
    assert saved["step"] == at and not saved["is_validated"]
    second = train(
        Run("toy", resumed(tmp_path / "two", "--device", "cpu")), 60, epoch=10, validate=score
    )
    assert second.best == whole.best and log_of(second) == log_of(whole)
    for file in ("last.pt", "best.pt"):
        one, other = (load_checkpoint(run.folder / file, "toy") for run in (whole, second))
        assert all(same(one[key], other[key]) for key in set(one) - {"config"})


def test_a_signal_before_a_validation_ends_it_too(tmp_path):
    run = start(tmp_path)
    run.start({}, {})
    os.kill(os.getpid(), signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 0"):
        run.start_validation()


@pytest.mark.parametrize(
    "tail",
    [
        "",
        '{"step": 29, "lo',
        '{"step": 29, "lo\n',
        '{"step": 40, "loss": 1.0}\n',
        "\n\n",
        "\0" * 100,
        "\ud800\n[]\n7\n" + "[" * 10**5,
    ],
)
def test_the_log_is_cut_back_to_the_checkpoint(tmp_path, tail):
    run = train(start(tmp_path), 28)
    run.step = 29
    run.log({"loss": torch.tensor(5.0)})
    run._flush()
    with open(run.folder / "log.jsonl", "a", errors="surrogatepass") as f:
        f.write(tail)
    again = Run("toy", resumed(tmp_path))
    again.start({"model": run.state["model"]}, {})
    assert [row["step"] for row in log_of(again)] == list(range(1, 29)) and again.step == 28


def test_a_run_that_exists_is_not_written_over(tmp_path):
    run = train(start(tmp_path), 10)
    before = {p.name: p.read_bytes() for p in run.folder.iterdir()}
    with pytest.raises(InputError, match="--resume continues it"):
        start(tmp_path)
    assert {p.name: p.read_bytes() for p in run.folder.iterdir()} == before
    start(tmp_path, name="b")


def test_what_died_before_its_first_checkpoint_leaves_no_rows(tmp_path):
    run = start(tmp_path)
    run.start({}, {})
    run.log({"loss": torch.tensor(1.0)})
    run._flush()
    assert log_of(train(start(tmp_path), 10))[0]["step"] == 1 and len(log_of(run)) == 10


def test_resume_takes_the_newest_run_and_the_checkpoints_configuration(tmp_path):
    for name, date in (("new", 2000), ("old", 1000)):
        run = train(start(tmp_path, name=name, width=9, lr=0.5), 3)
        os.utime(run.folder / "last.pt", (date, date))
    assert newest_run(tmp_path / "toy", "last.pt") == "new"
    config = resumed(tmp_path)
    assert (config.name, config.width, config.lr, config.resume) == ("new", 9, 0.5, True)
    assert resumed(tmp_path, "--name", "old", "--workers", "3").workers == 3
    assert resumed(tmp_path, "--name", "old", "--lr", "0.5").name == "old"
    with pytest.raises(InputError, match="trained with --width 9, not 5"):
        resumed(tmp_path, "--width", "5")
    with pytest.raises(InputError, match=r"no run with a best\.pt"):
        newest_run(tmp_path / "toy", "best.pt")
    with pytest.raises(InputError, match="no such file"):
        resumed(tmp_path, "--name", "missing")


def test_a_folder_that_was_moved_is_continued_where_it_is(tmp_path, monkeypatch):
    train(start(tmp_path / "elsewhere"), 3)
    (tmp_path / "elsewhere").rename(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    assert configure("toy", PRESETS, "", ["--resume"]).out == "runs"


def test_a_restart_by_torchrun_goes_on_only_where_it_knows_the_run(tmp_path, monkeypatch):
    train(start(tmp_path, name="another"), 3)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    nameless = configure("toy", PRESETS, "", ["--out", str(tmp_path)])
    assert not nameless.resume and not nameless.name
    assert not configure("toy", PRESETS, "", ["--out", str(tmp_path), "--name", "b"]).resume
    flags = ["--out", str(tmp_path), "--name", "another"]
    assert configure("toy", PRESETS, "", flags).resume
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a later call of torchrun")
    assert not configure("toy", PRESETS, "", flags).resume


PROGRAM = f"""
import os, signal, sys, threading, time
main = threading.main_thread()
sys.path[:0] = [{str(ROOT)!r}]
from common.training import cli, configure, dist
from tests import test_run as t
with cli("prog"):
    run = t.Run("toy", configure("toy", t.PRESETS, "", sys.argv[1:]))
    log = run.log
    def slow_log(*args, **numbers):
        log(*args, **numbers)
        time.sleep(0.002)
        if run.step == 1:
            print(run.config.name, flush=True)
        LINE
    run.log = slow_log
    def validate(run):
        dist.gather_objects(None)
        VALIDATION
        dist.gather_objects(None)
        return t.score(run)
    t.train(run, STEPS, EPOCH, validate=validate)
if os.environ.get("TORCHELASTIC_RUN_ID"):
    threads = len(os.listdir("/proc/self/task"))
    os.write(1, b"threads: %d\\n" % threads)  # at once: two processes write into one pipe
"""


def programmed(steps=10**6, epoch=10**6, line="", validation=""):
    """PROGRAM. line: of the program, after each step; validation: likewise, in each validation."""
    program = PROGRAM.replace("STEPS", str(steps)).replace("EPOCH", str(epoch))
    return program.replace("LINE", line).replace("VALIDATION", validation)


def launched(tmp_path, *flags, launcher=(), **options):
    """The training above in another process, with the command line's errors and signals."""
    (tmp_path / "program.py").write_text(programmed(**options))
    argv = [sys.executable, *launcher, str(tmp_path / "program.py"), "--out", str(tmp_path), *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*argv, "--device", "cpu"], **pipes)


def trained_at_once(tmp_path, name, barrier, ends, seed):
    torch.set_num_threads(1)
    barrier.wait()
    try:
        ends.put((seed, train(start(tmp_path, name=name, seed=seed), 12).config.name, ""))
    except InputError as error:
        ends.put((seed, "", str(error)))
    barrier.wait()  # as long as all run


@pytest.mark.parametrize("name", ["a", ""])
def test_runs_that_start_at_once_share_no_folder(tmp_path, name):
    """Of eight with one name one is trained; eight without a name have folders of their own."""
    fork = multiprocessing.get_context("fork")
    barrier, queue = fork.Barrier(8), fork.Queue()
    processes = [
        fork.Process(target=trained_at_once, args=(tmp_path, name, barrier, queue, seed))
        for seed in range(8)
    ]
    for process in processes:
        process.start()
    ends = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    names = [name for _, name, error in ends if not error]
    assert len(names) == len(set(names)) == (1 if name else 8)
    for seed, name, error in ends:
        if error:
            assert "take another --name" in error
            continue
        folder = tmp_path / "toy" / name
        rows = [
            json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()
        ]
        assert load_checkpoint(folder / "last.pt", "toy")["config"]["seed"] == seed
        assert rows == list(range(1, 13)) and not list(folder.glob(".*"))


@pytest.mark.slow
def test_a_run_whose_process_is_killed_continues_in_new_processes(tmp_path):
    """tests/restarts.py does that with the four methods. At the end no thread of the group is left,
    which would abort the interpreter now and then, and torchrun would report a failure."""
    flags = "--standalone --nproc-per-node=2 --max-restarts=1"
    torchrun = ["-m", "torch.distributed.run", *flags.split()]
    first = 'os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"'
    line = f"if run.step == 9 and dist.rank() == 1 and {first}: os.kill(os.getpid(), 9)"
    flags = {"steps": 20, "line": line, "launcher": torchrun}
    process = launched(tmp_path, "--name", "a", "--save-every", "4", **flags)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and "resume" not in err, err[-3000:]
    assert out.count("threads: 1\n") == 2, out
    rows = [json.loads(x) for x in (tmp_path / "toy" / "a" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 21))


def in_two(tmp_path, name, validation="", flag="--no-resume"):
    """The training in two processes → what each wrote to stderr, their exit statuses."""
    program = programmed(steps=30, epoch=10, validation=validation)
    argv = ["--out", str(tmp_path), "--name", name, "--device", "cpu", flag]
    ranks = processes.start_ranks(program, argv, tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)})
    return [rank.communicate(280)[1] for rank in ranks], [rank.returncode for rank in ranks]


@pytest.mark.slow
def test_two_processes_leave_a_validation_in_time(tmp_path):
    """The signal, as of torchrun, finds one in its part of the validation, the other waiting."""
    line = "if run.step == 20: threading.Timer(1, signal.pthread_kill, (main.ident, 15)).start(); "
    start = time.time()
    errors, statuses = in_two(tmp_path, "a", f"{line} time.sleep(300 * (dist.rank() == 0))")
    assert all(err.startswith("prog: stopped at step 20; --resume") for err in errors), errors
    assert statuses == [130, 130] and time.time() - start < 250
    for name, flag in (("a", "--resume"), ("whole", "--no-resume")):
        assert in_two(tmp_path, name, flag=flag) == (["", ""], [0, 0])
    a, whole = (load_checkpoint(tmp_path / "toy" / x / "last.pt", "toy") for x in ("a", "whole"))
    assert all(same(a[key], whole[key]) for key in set(whole) - {"config"})
    logs = [(tmp_path / "toy" / name / "log.jsonl").read_text() for name in ("a", "whole")]
    assert logs[0] == logs[1] and logs[0].count("validation/score") == 3


@pytest.mark.slow
def test_a_process_whose_other_one_has_ended_says_so(tmp_path):
    errors, statuses = in_two(tmp_path, "a", "if dist.rank() == 1: os._exit(3)")
    assert errors[0] == "prog: another process of this run has ended\n" and statuses == [1, 3]


@pytest.mark.slow
def test_a_signal_that_nohup_made_ignored_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = start(tmp_path)
        run.start({}, {})
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL)
        run.end_training()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    line = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    err = launched(tmp_path, "--name", "a", line=line, steps=9).communicate(timeout=100)[1]
    assert err.count("\n") == 1 and "last.pt: cannot be written: File too large" in err
    assert not list((tmp_path / "toy" / "a").glob(".*"))


def test_the_parts_of_a_killed_save_are_removed(tmp_path):
    run = train(start(tmp_path), 7)
    (run.folder / ".last.pt.0123.tmp").write_bytes(b"half")
    Run("toy", resumed(tmp_path)).start({}, {})
    assert not list(run.folder.glob(".*"))


# What it refuses


class Malicious:
    def __reduce__(self):
        return os.system, ("echo harm > harm.txt",)


def damage(path, kind):
    good = path.read_bytes()
    checkpoint = torch.load(path, weights_only=True)
    if kind == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello\nworld\n")
    elif kind == "bytes flipped":
        path.write_bytes(good[:300] + bytes(255 - b for b in good[300:700]) + good[700:])
    elif kind == "a pickle":
        path.write_bytes(pickle.dumps(Malicious(), 2))
    elif kind == "a pickle in a checkpoint":
        with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(path, "w") as new:
            for item in old.infolist():
                new.writestr(
                    item,
                    pickle.dumps(Malicious(), 2)
                    if item.filename.endswith("data.pkl")
                    else old.read(item),
                )
    elif kind == "a list":
        torch.save([1, 2], path)
    elif kind == "no configuration":
        torch.save({"method": "toy", "config": 5}, path)
    elif kind == "another method":
        torch.save({**checkpoint, "method": "turn"}, path)
    elif kind == "other fields":
        torch.save({**checkpoint, "config": {"depth": 3}}, path)
    elif kind == "wrong types":
        torch.save({**checkpoint, "config": {**checkpoint["config"], "width": "wide"}}, path)
    elif kind == "impossible":
        torch.save({**checkpoint, "config": {**checkpoint["config"], "width": 101}}, path)


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "empty",
        "text",
        "bytes flipped",
        "a pickle",
        "a pickle in a checkpoint",
        "a list",
        "no configuration",
        "another method",
        "other fields",
        "wrong types",
        "impossible",
    ],
)
def test_a_bad_checkpoint_is_one_line(tmp_path, kind, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = train(start(tmp_path), 3).folder / "last.pt"
    damage(path, kind)
    with pytest.raises(SystemExit) as error, cli("prog"):
        resumed(tmp_path)
    err = capsys.readouterr().err
    assert (
        error.value.code == 2 and err.count("\n") == 1 and err.startswith(f"prog: error: {path}: ")
    )
    assert not (tmp_path / "harm.txt").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"model": None},
        {"model": {}},
        {"model": 5},
        {"model": {"0.weight": torch.zeros(2, 2)}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"optimizer": 3},
        {"optimizer": None},
        {"rng": None},
        {"rng": [1]},
        {"rng": [{"cpu": torch.zeros(3)}]},
        {"step": None},
        {"step": "x"},
        {"step": -5},
        {"best": math.nan},
        {"is_validated": torch.zeros(2)},
        {"best": None},
    ],
)
def test_a_checkpoint_with_wrong_parts_is_an_input_error(tmp_path, change):
    run = train(start(tmp_path), 3)
    checkpoint = {**load_checkpoint(run.folder / "last.pt", "toy"), **change}
    torch.save({k: v for k, v in checkpoint.items() if v is not None}, run.folder / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt: ") as error:
        train(Run("toy", resumed(tmp_path)), 6)
    assert "\n" not in str(error.value)


def test_another_number_of_processes(tmp_path):
    run = train(start(tmp_path), 3)
    checkpoint = load_checkpoint(run.folder / "last.pt", "toy")
    torch.save({**checkpoint, "rng": 2 * checkpoint["rng"]}, run.folder / "last.pt")
    with pytest.raises(InputError, match="2 processes"):
        train(Run("toy", resumed(tmp_path)), 6)


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "cuda:x", ""])
def test_devices_that_are_not_there(name):
    with pytest.raises(InputError, match="--device: "):
        select_device(name)


def test_command_line_errors_of_a_training(tmp_path, capsys):
    for argv, word in (
        (["--width=101"], "--width must"),
        (["--batch-size=0"], "--batch-size"),
        (["--depth=1"], "--depth"),
    ):
        with pytest.raises(SystemExit) as error, cli("prog"):
            configure("toy", PRESETS, "", ["--out", str(tmp_path), *argv])
        err = capsys.readouterr().err
        assert error.value.code == 2 and err.count("\n") == 1 and word in err and "toy.train" in err
    assert not list(tmp_path.iterdir())


# How it stops


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_signals_write_last_pt_and_exit_130(tmp_path, number):
    process = launched(tmp_path, "--name", "a")
    while process.stdout.readline() != "a\n":  # before it, the line about the folder
        pass
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert (
        process.returncode == 130
        and err.count("\n") == 1
        and err.startswith("prog: stopped at step ")
    )
    step = load_checkpoint(tmp_path / "toy" / "a" / "last.pt", "toy")["step"]
    rows = [
        json.loads(line)["step"]
        for line in (tmp_path / "toy" / "a" / "log.jsonl").read_text().splitlines()
    ]
    assert f"step {step};" in err and rows == list(range(1, step + 1))


def test_a_second_signal_is_meant(tmp_path):
    run = start(tmp_path)
    run.start({}, {})
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        run.step += 1  # a signal is handled between two instructions


def test_before_and_after_the_loop_one_signal_is_enough(tmp_path):
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # where the tests run in the background it is ignored
    run = start(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        run.step += 1
    run.start({}, {})
    run.end_training()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        run.step += 1


def test_cli_reports_and_lets_through(capsys):
    for error, code in (
        (InputError("a.wav", "is\nbroken"), 2),
        (KeyboardInterrupt("stopped"), 130),
    ):
        with pytest.raises(SystemExit) as end, cli("prog"):
            raise error
        assert end.value.code == code and capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit) as end, cli("prog"):
        Path("/dev/null/out.json").touch()
    assert (
        end.value.code == 2
        and capsys.readouterr().err == "prog: error: /dev/null/out.json: Not a directory\n"
    )
    with pytest.raises(ZeroDivisionError), cli("prog"):
        1 / 0  # noqa: B018  (a mistake of ours keeps its traceback)


class Killed(torch.utils.data.Dataset):
    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)

    def __len__(self):
        return 1


@pytest.mark.slow
def test_a_killed_loader_is_one_line(capsys):
    with pytest.raises(SystemExit) as ended, cli("prog"):
        list(step_loader(Killed(), 0, 1, workers=1))
    err = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 1 and err.startswith("prog: DataLoader worker")


def test_a_reader_of_the_print_may_end():
    """As `| head -1` does. A letter that the terminal does not have is a question mark."""
    program = "from common.training import cli\nwith cli('prog'):\n    print('\u03b1\\n' * 10**6)"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": env}
    process = subprocess.Popen([sys.executable, "-c", program], **pipes)
    assert process.stdout.readline() == b"?\n"
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 0


# Small things


def test_cosine():
    assert [round(cosine_schedule(s, 10, 2), 4) for s in (0, 1, 2, 6, 10)] == [
        0.5,
        1,
        1,
        0.5,
        0,
    ] and cosine_schedule(9, 10, 2) > 0
    assert cosine_schedule(0, 10, 0) == 1 and cosine_schedule(0, 1, 1) == 1


def test_batch_sizes(monkeypatch):
    check_batch_size(4, 4, "pairs")
    with pytest.raises(InputError, match="--batch-size: 5 pairs a step are more than all 4"):
        check_batch_size(5, 4, "pairs")
    monkeypatch.setattr("common.training.dist.world_size", lambda: 3)
    check_batch_size(3, 4, "pairs")
    with pytest.raises(InputError, match="2 pairs a step are too few for 3 processes"):
        check_batch_size(2, 4, "pairs")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_gives_the_batches_of_its_steps(workers):
    state = torch.get_rng_state()
    batches = [{"x": torch.full((2,), float(step))} for step in range(9)]
    assert [b["x"].tolist() for b in step_loader(batches, 3, 7, workers)] == [
        [s, s] for s in (3, 4, 5, 6)
    ]
    assert torch.equal(torch.get_rng_state(), state)  # a continued run draws the same numbers


def test_results_are_written_with_all_that_repeats_them(tmp_path):
    rows = [{"name": "ours", "values": {"cIoU": [50.0, math.nan]}}, {"name": "none", "values": {}}]
    write_results(
        tmp_path / "a/b.json", title="t", command="c", columns=["cIoU"], rows=rows, seeds=range(2)
    )
    written = read_json(tmp_path / "a/b.json")
    keys = "title command commit date machine n seeds columns rows note"
    assert list(written) == keys.split() and written["commit"] == git_commit()
    assert written["rows"][0]["values"] == {"cIoU": [50, None]} and written["n"] is None
    assert written["seeds"] == [0, 1] and len(written["date"]) == 10 and "CPU" in written["machine"]


def test_the_commit_is_of_the_code_and_empty_without_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # wherever the command runs
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    commit = git_commit()
    assert head.stdout.startswith(commit.removesuffix("-dirty"))
    assert bool(commit) == bool(head.stdout)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "none"))
    assert git_commit() == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() == ""


def test_markdown():
    assert (
        markdown_table([["a", 1], ["long", 22]], ["", "n"])
        == "|      | n  |\n|------|----|\n| a    | 1  |\n| long | 22 |"
    )
