"""A run: its folder, its log, its checkpoints. The training loops are in the methods' train.py."""
import fcntl
import json
import math
import shlex
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from common.io import (InputError, append_jsonl, atomic, decoding, limited_memory,
                       read_checkpoint, write_checkpoint, write_json)

from . import dist
from .results import git_commit

LOG_EVERY = 10  # steps between two writings of the log, when losses are looked at
SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


class Run:
    """The folder OUT/METHOD/NAME/ with config.json, log.jsonl, last.pt, best.pt and metrics.json.

    A checkpoint holds what `start` is given, the step, the best score and the states of torch's
    generators. Data order and augmentation are functions of (seed, epoch, index), so the step is
    also the position in the data."""

    def __init__(self, method: str, config):
        self.method, self.device = method, dist.select_device(config.device)
        dist.start(self.device)
        self.is_main = dist.rank() == 0
        self.config = config
        if config.name:
            dist.from_main(lambda: self._refuse_existing(self._folder(config.name)))
        torch.manual_seed(config.seed)  # every process makes the same model
        self.step, self.best, self.state, self.extra = 0, float("-inf"), {}, {}
        self.is_validated = True  # False: in a validation, or continued from within one
        self.started = time.time()
        self.logged = self.fetched = None  # when the last step was logged, and this batch read
        self._pending, self._has_signal, self._handlers = [], False, {}

    def start(self, state: dict, extra: dict) -> None:
        """Make and lock the folder, or with --resume continue from last.pt.

        One process at a time has a folder: a name that another process holds is an InputError, and
        a run without a name takes another one.
        state: the parts of a checkpoint that have a state_dict (model, optimizer, …), by name.
        extra: plain data, which must be the same when the run is continued.
        Until `end_training`, `end_step` handles SIGNALS, but not those that nohup made ignored."""
        self.config = replace(self.config, name=dist.from_main(self._take_folder))
        self.folder = self._folder(self.config.name)
        self.state, self.extra = state, extra
        torch.manual_seed(self.config.seed + 1000003 * dist.rank())  # dropout differs by process
        if self.config.resume:
            self._resume()
        if self.is_main:
            config = {**asdict(self.config), "commit": git_commit(),
                      "command": shlex.join(["python", *sys.orig_argv[1:]])}
            write_json(self.folder / "config.json", config)
            print(f"{self.folder}: {self.method} is trained here, on {self.device}")
            if not self.config.resume:  # of a run that ended before it wrote last.pt
                (self.folder / "log.jsonl").unlink(missing_ok=True)
        handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._handlers = {number: signal.signal(number, self._interrupt) for number in handled}

    def _folder(self, name: str) -> Path:
        return Path(self.config.out) / self.method / name

    def _refuse_existing(self, folder: Path) -> None:
        if (folder / "last.pt").exists() and not self.config.resume:
            raise InputError(folder, "exists: --resume continues it; or take another --name")

    def _take_folder(self) -> str:
        """Lock the folder of the run, which ends with this process; returns the run's name.

        A lock of POSIX is of one process: it is not passed on to those that load data."""
        stem, number = self.config.name or time.strftime("%Y%m%d-%H%M%S"), 1
        while True:
            name = stem if number == 1 else f"{stem}-{number}"
            folder, number = self._folder(name), number + 1
            try:
                folder.mkdir(parents=True, exist_ok=bool(self.config.name))
                self._lock = open(folder / "lock", "a", encoding="utf-8")  # noqa: SIM115
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (FileExistsError, BlockingIOError) as error:
                if self.config.name:
                    is_held = isinstance(error, BlockingIOError)
                    reason = "another process trains it" if is_held else "is a file"
                    raise InputError(folder, f"{reason}: take another --name") from None
        self._refuse_existing(folder)
        self._lock.truncate(0)
        self._lock.write(dist.launch())
        self._lock.flush()
        for part in folder.glob(".*.tmp"):  # of a run that was killed while it wrote
            part.unlink()
        return name

    def end_training(self) -> None:
        """After the loop: signals end the process at once again, and what follows is said."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.is_main:
            print(f"{self.folder}: trained up to step {self.step}; best.pt is its result")

    def _interrupt(self, number, frame):
        if self._has_signal:  # the second one
            raise KeyboardInterrupt
        self._has_signal = True
        if not self.is_validated:
            self._stop()

    def _stop(self):
        raise KeyboardInterrupt(f"stopped at step {self.step}; --resume --name {self.config.name} "
                                f"continues {self.folder}")

    def end_step(self, epoch_ended: bool) -> None:
        """Write last.pt at the end of an epoch, every save_every steps, and on a signal.

        After a signal, to this process or another, it raises KeyboardInterrupt."""
        is_stopped = dist.is_any(self._has_signal)
        is_due = self.config.save_every and self.step % self.config.save_every == 0
        is_saved = is_stopped or epoch_ended or is_due
        if is_saved or self.step % LOG_EVERY == 0:
            self._flush()
        if is_saved:
            self.save("last.pt")
        if is_stopped:
            self._stop()

    # The log. Losses stay on the device until _flush, so that the loop does not wait for them.

    def log(self, losses: dict, **numbers) -> None:
        """The losses of a step (scalars, this process's part: `dist.mean`) and plain numbers.
        Of `training_steps` also the seconds in which the batch was read, and those of its use."""
        now = time.perf_counter()
        if self.fetched:
            numbers |= {"data_s": round(self.fetched - self.logged, 4),
                        "step_s": round(now - self.fetched, 4)}
        self.logged = now
        self._pending.append((self.step, losses, numbers))

    def start_validation(self) -> None:
        """Write last.pt. A signal then ends the process at once, and --resume validates first.
        Raises FloatingPointError if a loss or a weight is not finite."""
        self._flush()
        for part, module in self.state.items():
            for name, x in module.state_dict().items() if isinstance(module, nn.Module) else ():
                if not x.isfinite().all():
                    raise FloatingPointError(f"{part}.{name} of step {self.step} is not finite")
        self.save("last.pt", is_validated=False)
        self.is_validated = False
        if dist.is_any(self._has_signal):
            self._stop()

    def keep_best(self, report: dict) -> None:
        """Log a validation, and write best.pt with its report if its score is the best so far."""
        self._write([{"step": self.step, **report}])
        if not math.isfinite(report["validation/score"]):
            raise FloatingPointError(f"the validation of step {self.step} is not finite")
        if report["validation/score"] > self.best:
            self.best = report["validation/score"]
            self.save("best.pt", report=report)
        self.is_validated = True

    def _flush(self) -> None:
        """Write pending losses. Raises FloatingPointError, with all terms, if one is not finite."""
        if not self._pending:
            return
        names = list(self._pending[0][1])
        table = torch.stack([torch.stack([losses[name].detach().float() for name in names])
                             for _, losses, _ in self._pending])
        table = dist.all_sum(table).tolist()  # (steps, terms)
        rows = [{"step": step, **dict(zip(names, values)), **numbers}
                for (step, _, numbers), values in zip(self._pending, table)]
        self._pending = []
        self._write(rows)
        for row in rows:
            if not all(math.isfinite(row[name]) for name in names):
                raise FloatingPointError(f"a loss is not finite: {json.dumps(row)}")

    def _write(self, rows: list) -> None:
        if self.is_main:
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
                for row in rows:
                    append_jsonl(file, row)

    # Checkpoints. They hold tensors, numbers and strings, and are written whole or not at all.

    def save(self, file: str, **more) -> None:
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        rngs = dist.gather_objects(rng)
        if self.is_main:
            checkpoint = {"method": self.method, "config": asdict(self.config), "rng": rngs,
                          "step": self.step, "best": self.best, "is_validated": True,
                          **{name: part.state_dict() for name, part in self.state.items()},
                          **self.extra, **more}
            write_checkpoint(self.folder / file, checkpoint)

    def _resume(self) -> None:
        """Continue from last.pt, to the bit, and cut the log to its step. Raises InputError."""
        path = self.folder / "last.pt"
        checkpoint = load_checkpoint(path, self.method)
        with decoding(path):
            if (count := len(checkpoint["rng"])) != dist.world_size():
                raise InputError(path, f"is of {count} processes; continue it with as many")
            for key, value in self.extra.items():
                if checkpoint[key] != value:
                    raise InputError(path, f"its {key} are not those of this data")
            for key, part in self.state.items():
                part.load_state_dict(checkpoint[key])
            rng = checkpoint["rng"][dist.rank()]
            torch.set_rng_state(rng["cpu"])
            if "cuda" in rng and self.device.type == "cuda":
                torch.cuda.set_rng_state(rng["cuda"], self.device)
            self.step, self.best = int(checkpoint["step"]), float(checkpoint["best"])
            self.is_validated = bool(checkpoint.get("is_validated", True))
            if self.step < 0 or math.isnan(self.best):
                raise InputError(path, f"step {self.step} with score {self.best}")
        log = self.folder / "log.jsonl"
        if self.is_main and log.exists():
            lines = [line for line in log.read_bytes().split(b"\n") if self._is_done(line)]
            with atomic(log) as file:
                file.writelines(line + b"\n" for line in lines)

    def _is_done(self, line: bytes) -> bool:
        """Whether a line of the log is of a step up to this one, or of a validation that ended; a
        kill or a full disk can have torn it, or left zeros or nothing."""
        try:
            row = json.loads(line)
            return row["step"] + ("validation/score" in row and not self.is_validated) <= self.step
        except (KeyError, RecursionError, TypeError, ValueError):
            return False

    def write_metrics(self, metrics: dict) -> dict:
        """Write metrics.json, with the seconds, seed and preset added; returns what it holds."""
        metrics = {**metrics, "seconds": round(time.time() - self.started, 1),
                   "seed": self.config.seed, "preset": self.config.preset}
        if self.is_main:
            write_json(self.folder / "metrics.json", metrics)
        return metrics


def load_checkpoint(path, method: str) -> dict:
    """A checkpoint of this method, on the CPU. Raises InputError for any other file."""
    checkpoint = read_checkpoint(path)
    if not (isinstance(checkpoint, dict) and isinstance(checkpoint.get("config"), dict)):
        raise InputError(path, "not a checkpoint of this project")
    if checkpoint.get("method") != method:
        raise InputError(path, f"a checkpoint of {checkpoint.get('method')}, not of {method}")
    return checkpoint


@contextmanager
def building(path):
    """Around the making of a model from the checkpoint at `path`, whose settings may ask for any
    size: what fails, or takes more than files.MAX_MEMORY, is an InputError."""
    with decoding(path), limited_memory(path):
        yield


def newest_run(folder: Path, file: str) -> str:
    """The name of the newest run in `folder` that has `file`. Raises InputError."""
    files = sorted(folder.glob(f"*/{file}"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise InputError(folder, f"no run with a {file} here: train one, or name another")
    return files[-1].parent.name


def best_checkpoint(method: str, checkpoint: str = "") -> Path:
    """The checkpoint that is named, or best.pt of the newest run in runs/. Raises InputError."""
    folder = Path("runs") / method
    return Path(checkpoint) if checkpoint else folder / newest_run(folder, "best.pt") / "best.pt"
