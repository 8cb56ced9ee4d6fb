"""A run: its folder, its log, its checkpoints. The training loops are in the methods' train.py."""
import json
import math
import signal
import time
from dataclasses import replace
from pathlib import Path

import torch

from common.io import InputError, append_jsonl, atomic, read_checkpoint, write_json

from . import dist
from .config import as_dict
from .results import git_commit

LOG_EVERY = 10  # steps between two writings of the log, when losses and signals are looked at


class Interrupted(Exception):
    """SIGTERM or SIGINT came; last.pt is written."""


class Run:
    """The folder OUT/METHOD/NAME/ with config.json, log.jsonl, last.pt, best.pt and metrics.json.

    A checkpoint holds what `start` is given, the step, the best score and the states of torch's
    generators. Data order and augmentation are functions of (seed, epoch, index), so the step is
    also the position in the data.
    """

    def __init__(self, method: str, config):
        self.method, self.device = method, dist.select_device(config.device)
        dist.start(self.device)
        self.is_main = dist.rank() == 0
        name = dist.gather_objects(config.name or time.strftime("%Y%m%d-%H%M%S"))[0]
        self.config = replace(config, name=name)
        self.folder = Path(config.out) / method / name
        if (self.folder / "last.pt").exists() and not config.resume:
            raise InputError(self.folder, "exists: --resume continues it; or take another --name")
        torch.manual_seed(config.seed)  # every process makes the same model
        self.step, self.best, self.state, self.extra = 0, float("-inf"), {}, {}
        self.started = time.time()
        self._pending, self._has_signal, self._handlers = [], False, {}

    def start(self, state: dict, extra: dict) -> None:
        """Make the folder, or with --resume continue from last.pt.

        state: the parts of a checkpoint that have a state_dict (model, optimizer, …), by name.
        extra: plain data, which must be the same when the run is continued.
        Until `end_training`, `end_step` handles SIGTERM and SIGINT.
        """
        self.state, self.extra = state, extra
        torch.manual_seed(self.config.seed + 1000003 * dist.rank())  # dropout differs by process
        if self.config.resume:
            self._resume()
        if self.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            config = {**as_dict(self.config), "commit": git_commit()}
            write_json(self.folder / "config.json", config)
            if not self.config.resume:  # of a run that ended before it wrote last.pt
                (self.folder / "log.jsonl").unlink(missing_ok=True)
        self._handlers = {number: signal.signal(number, self._interrupt)
                          for number in (signal.SIGTERM, signal.SIGINT)}

    def end_training(self) -> None:
        """After the loop: signals end the process at once again."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _interrupt(self, number, frame):
        if self._has_signal:  # the second one
            raise KeyboardInterrupt
        self._has_signal = True

    def end_step(self, epoch_ended: bool) -> None:
        """Write last.pt at the end of an epoch, every save_every steps, and on a signal.

        After a signal it raises Interrupted. All processes look for signals at the same steps.
        """
        is_checked = epoch_ended or self.step % LOG_EVERY == 0
        is_stopped = is_checked and any(dist.gather_objects(self._has_signal))
        is_saved = is_stopped or epoch_ended or self.step % max(self.config.save_every, 1) == 0
        if is_checked or is_saved:
            self._flush()
        if is_saved:
            self.save("last.pt")
        if is_stopped:
            raise Interrupted(f"stopped at step {self.step}; --resume --name {self.config.name} "
                              f"continues {self.folder}")

    # The log. Losses stay on the device until _flush, so that the loop does not wait for them.

    def log(self, losses: dict, **numbers) -> None:
        """The losses of a step (scalars, this process's part: `dist.mean`) and plain numbers."""
        self._pending.append((self.step, losses, numbers))

    def log_metrics(self, values: dict) -> None:
        """A line of the log that is not a step's."""
        self._flush()
        self._write([{"step": self.step, **values}])

    def keep_best(self, report: dict) -> None:
        """Log a validation, and write best.pt with its report if its score is the best so far."""
        self.log_metrics(report)
        if report["validation/score"] > self.best:
            self.best, self.extra["report"] = report["validation/score"], report
            self.save("best.pt")
            del self.extra["report"]  # last.pt is the same whether the run was continued or not

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

    def save(self, file: str) -> None:
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        rngs = dist.gather_objects(rng)
        if self.is_main:
            checkpoint = {"method": self.method, "config": as_dict(self.config), "step": self.step,
                          "best": self.best, "rng": rngs, **self.extra,
                          **{name: part.state_dict() for name, part in self.state.items()}}
            with atomic(self.folder / file) as f:
                torch.save(checkpoint, f)

    def _resume(self) -> None:
        """Continue from last.pt, to the bit, and cut the log to its step. Raises InputError."""
        path = self.folder / "last.pt"
        checkpoint = load_checkpoint(path, self.method)
        try:
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
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]  # foreign data fails in many ways
            raise InputError(path, f"does not fit: {type(error).__name__}: {reason}") from None
        log = self.folder / "log.jsonl"
        if self.is_main and log.exists():
            lines = log.read_text("utf-8").split("\n")[:-1]  # without one that a kill has torn
            lines = [line for line in lines if json.loads(line)["step"] <= self.step]
            with atomic(log) as file:
                file.write("".join(f"{line}\n" for line in lines).encode())

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
