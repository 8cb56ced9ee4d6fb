"""A run: its folder, its log, its checkpoints, its end. The training loops themselves are in the methods' train.py."""
import json
import math
import os
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from . import dist
from .config import as_dict, fields_free_on_resume, from_dict, given_flags, parser, resolve
from common.io import InputError, append_jsonl, atomic, write_json

LOG_EVERY = 10  # steps between looks at the device: losses, signals
TIMES = ("data_s", "step_s", "mem_mb")  # what a log says of the machine, not of the run


@contextmanager
def cli(prog: str):
    """Around a command: bad input, and a file that cannot be written, become one line on stderr and exit status 2, a loss that
    is not finite one with 1, an interruption one with 130."""
    try:
        yield
    except InputError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"{prog}: error: {f'{error.filename}: {error.strerror}' if error.filename else error}", file=sys.stderr)
        sys.exit(2)
    except FloatingPointError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        sys.exit(1)
    except (Interrupted, KeyboardInterrupt) as error:
        print(f"{prog}: {str(error) or 'interrupted'}", file=sys.stderr)
        sys.exit(130)
    finally:
        dist.stop()


class Interrupted(Exception):
    """SIGTERM or SIGINT came; last.pt is written."""


def configure(method: str, presets: dict, about: str, argv=None):
    """Command line → configuration. With --resume it is the checkpoint's, and flags that contradict it are errors."""
    prog = f"python -m {method}.train"
    args_parser = parser(presets, prog, about)
    changes = given_flags(type(presets["tiny"]), args_parser.parse_args(argv))
    try:
        out, name = changes.get("out", presets["tiny"].out), changes.get("name", "")
        folder = Path(out) / method
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))  # by torchrun, which says nothing of --resume
        if not (changes.get("resume") or (restarted and name and (folder / name / "last.pt").is_file())):
            return resolve(presets, changes)
        name = name or newest_run(folder, "last.pt")
        path = folder / name / "last.pt"
        values = load_checkpoint(path, method)["config"]
        try:
            config = from_dict(presets, values)
        except ValueError as error:
            raise InputError(path, error) from None
        free = fields_free_on_resume(type(config))
        for key, value in changes.items():
            if key not in free and getattr(config, key) != value:
                raise InputError(path, f"was trained with --{key.replace('_', '-')} {getattr(config, key)}, not {value}")
        changes = {k: v for k, v in changes.items() if k in free}
        return resolve({"tiny": config}, {**changes, "resume": True, "name": name, "out": out})  # the checkpoint's, checked anew
    except ValueError as error:
        args_parser.error(str(error))


def newest_run(folder: Path, file: str) -> str:
    """The name of the newest run in `folder` that has `file`. Raises InputError."""
    found = sorted(folder.glob(f"*/{file}"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise InputError(folder, f"no run with a {file} here: train one, or name another")
    return found[-1].parent.name


def best_checkpoint(method: str, checkpoint: str = "") -> Path:
    """The checkpoint that is named, or best.pt of the newest run in runs/. Raises InputError."""
    folder = Path("runs") / method
    return Path(checkpoint) if checkpoint else folder / newest_run(folder, "best.pt") / "best.pt"


def select_device(name: str) -> torch.device:
    """The device that --device names; under torchrun every process takes its own GPU. Raises InputError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError("--device", f"{name!r} is no device (cpu, cuda, cuda:1)") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError("--device", f"{name}: this machine has no usable GPU")
        index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", 0))
        if index >= torch.cuda.device_count():
            raise InputError("--device", f"{name}: there are {torch.cuda.device_count()} GPUs")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    elif device.type != "cpu":
        raise InputError("--device", f"{name}: cpu and cuda are supported")
    return device


class Run:
    """The folder runs/<method>/<name>/ with config.json, log.jsonl, last.pt, best.pt, metrics.json and samples.png.

    `state` maps names to what has a state_dict (the model with its codebook counters, the optimizer), `extra` to plain data:
    that is all that a checkpoint holds besides the torch generators' states, the step and the best score. Data order and
    augmentation are functions of (seed, epoch, index), so the step is the position in the data too.
    """

    def __init__(self, method: str, config):
        self.method, self.device = method, select_device(config.device)
        dist.start(self.device)
        self.is_main = dist.rank() == 0
        name = dist.gather_objects(config.name or time.strftime("%Y%m%d-%H%M%S"))[0]
        self.config = replace(config, name=name)
        self.folder = Path(config.out) / method / name
        if (self.folder / "last.pt").exists() and not config.resume:
            raise InputError(self.folder, "this run exists: --resume continues it, another --name starts a new one")
        torch.manual_seed(config.seed)  # the same everywhere: every process makes the same model
        self.step, self.best, self.state, self.extra = 0, float("-inf"), {}, {}
        self.started, self._pending, self._stop, self._handlers = time.time(), [], False, {}

    def _interrupt(self, number, frame):
        if self._stop:  # the second time is meant
            raise KeyboardInterrupt
        self._stop = True

    # The log: values stay on the device until LOG_EVERY of them are there, so that the loop never waits for one ------------

    def log(self, losses: dict, **numbers) -> None:
        """The losses of this step (0-d tensors, each this process's share of a global mean) and plain numbers."""
        self._pending.append((self.step, losses, numbers))

    def flush(self) -> None:
        """Write what is pending. Raises FloatingPointError with all terms where a loss is not finite."""
        if not self._pending:
            return
        names = list(self._pending[0][1])
        table = torch.stack([torch.stack([losses[n].detach().float() for n in names]) for _, losses, _ in self._pending])
        table = dist.all_sum(table).tolist()  # (steps, terms)
        rows = [{"step": step, **dict(zip(names, row)), **numbers} for (step, _, numbers), row in zip(self._pending, table)]
        self._pending = []
        self._write(rows)
        for row in rows:
            if not all(math.isfinite(row[n]) for n in names):
                raise FloatingPointError(f"a loss is not finite: {json.dumps(row)}")

    def log_metrics(self, values: dict) -> None:
        """A line of the log that is not a step's: a validation."""
        self.flush()
        self._write([{"step": self.step, **values}])

    def keep_best(self, report: dict) -> None:
        """Log a validation; write best.pt, with the report in it, where its score is the best so far."""
        self.log_metrics(report)
        if report["validation/score"] > self.best:
            self.best, self.extra["report"] = report["validation/score"], report
            self.save("best.pt")
            del self.extra["report"]  # last.pt is the same whether the run was continued or not

    def _write(self, rows: list) -> None:
        if self.is_main:
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as f:
                for row in rows:
                    append_jsonl(f, row)

    def end_step(self, ended: bool) -> None:
        """At the end of every step: write last.pt when an epoch has ended, every save_every steps, and on a signal, after
        which it raises Interrupted. All processes look for signals at the same steps."""
        look = ended or self.step % LOG_EVERY == 0
        stop = look and any(dist.gather_objects(self._stop))
        if stop or ended or self.step % max(self.config.save_every, 1) == 0:
            self.flush()
            self.save("last.pt")
        elif look:
            self.flush()
        if stop:
            raise Interrupted(f"stopped at step {self.step}; --resume --name {self.config.name} continues {self.folder}")

    def start(self, state: dict, extra: dict) -> None:
        """What checkpoints hold from now on; all input is there, so the folder is made. With --resume, continue from last.pt.
        Until `end_training`, SIGTERM and SIGINT are answered by `end_step`.
        Processes, which have made the same model from the same seed, draw different numbers from here on (dropout)."""
        self.state, self.extra = state, extra
        torch.manual_seed(self.config.seed + 1000003 * dist.rank())
        if self.config.resume:
            self.resume()
        if self.is_main:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "config.json", as_dict(self.config))
            if not self.config.resume:
                (self.folder / "log.jsonl").unlink(missing_ok=True)  # of a run that ended before it wrote last.pt
        self._handlers = {number: signal.signal(number, self._interrupt) for number in (signal.SIGTERM, signal.SIGINT)}

    def end_training(self) -> None:
        """The loop is over and last.pt is there: from now on signals end the process at once."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    # Checkpoints: tensors, numbers and strings only, written whole or not at all -----------------------------------------

    def save(self, file: str) -> None:
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        rngs = dist.gather_objects(rng)
        if self.is_main:
            checkpoint = {"method": self.method, "config": as_dict(self.config), "step": self.step, "best": self.best,
                          "rng": rngs, **self.extra, **{k: v.state_dict() for k, v in self.state.items()}}
            with atomic(self.folder / file) as f:
                torch.save(checkpoint, f)

    def resume(self) -> None:
        """Continue from last.pt, exactly; the log is cut back to its step. Raises InputError."""
        path = self.folder / "last.pt"
        checkpoint = load_checkpoint(path, self.method)
        try:
            if len(checkpoint["rng"]) != dist.world_size():
                raise InputError(path, f"was written by {len(checkpoint['rng'])} processes; continue it with as many")
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
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:  # what foreign data does to torch
            raise InputError(path, f"does not fit: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from None
        if self.is_main and (self.folder / "log.jsonl").exists():
            lines = (self.folder / "log.jsonl").read_text("utf-8").split("\n")[:-1]  # without the one that a kill has torn
            with atomic(self.folder / "log.jsonl") as f:
                f.write("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= self.step).encode())

    def write_metrics(self, metrics: dict) -> dict:
        """metrics.json, with how long it took and what it was; returns what was written."""
        metrics = {**metrics, "seconds": round(time.time() - self.started, 1), "seed": self.config.seed,
                   "preset": self.config.preset}
        if self.is_main:
            write_json(self.folder / "metrics.json", metrics)
        return metrics


def load_checkpoint(path, method: str) -> dict:
    """A checkpoint of this method, on the CPU. Raises InputError: missing, damaged, of another method, or not plain data."""
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files; each is the same to the user
        raise InputError(path, f"not a readable checkpoint ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(checkpoint, dict) or "method" not in checkpoint or not isinstance(checkpoint.get("config"), dict):
        raise InputError(path, "not a checkpoint of this project")
    if checkpoint["method"] != method:
        raise InputError(path, f"a checkpoint of {checkpoint['method']}, not of {method}")
    return checkpoint


def progress_bar(iterable=None, total=None, name="", **options):
    """A progress bar, in the main process and on a terminal only."""
    hidden = True if dist.rank() else None
    return tqdm(iterable, total=total, desc=name, disable=hidden, leave=False, dynamic_ncols=True, **options)


def markdown_table(rows: list, columns: list) -> str:
    """Rows of strings as an aligned markdown table."""
    cells = [[str(c) for c in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def autocast(run: Run):
    """bfloat16 autocast on a GPU, nothing elsewhere. bfloat16 has float32's range, so there is no scaler."""
    return torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.amp and run.device.type == "cuda")


def cosine_schedule(step: int, total: int, warmup: int) -> float:
    """Share of the maximal learning rate at a step: linear warm-up, then half a cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
