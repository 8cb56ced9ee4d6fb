"""What every command does around its work: read flags, show progress, end with one line."""
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from common.io import InputError

from . import dist
from .config import (Parser, add_flags, checked, fields_free_on_resume, from_dict, given_flags,
                     resolve)
from .run import building, load_checkpoint, newest_run


@contextmanager
def cli(prog: str):
    """Around a command: an expected failure is one line on stderr and an exit status.

    2: bad input, or a file that cannot be written. 1: a loss is not finite. 130: interrupted."""
    status = 0
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal may have no letter for an α
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # who read has ended, as `| head -1` does; the results are in files
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (InputError, OSError, OverflowError) as error:  # the last: a port of 6 digits
        line, status = f"error: {error}", 2
        if getattr(error, "filename", None):
            line = f"error: {error.filename}: {error.strerror}"
    except FloatingPointError as error:
        line, status = str(error), 1
    except RuntimeError as error:
        line, status = " ".join(str(error).split()), 1
        if " by peer" in line:  # what gloo says of a connection
            line = "another process of this run has ended"
        elif not line.startswith("DataLoader worker"):  # killed, as for its memory
            raise
    except KeyboardInterrupt as error:
        line, status = str(error) or "interrupted", 130
    finally:
        dist.stop()
    if status:
        print(f"{prog}: {line}", file=sys.stderr)
        sys.exit(status)


def configure(method: str, presets: dict, about: str, argv=None):
    """Command line → configuration; with --resume the checkpoint's, which flags must not change.

    A run with a name continues if torchrun has restarted it."""
    parser = Parser(prog=f"python -m {method}.train", description=about)
    add_flags(parser, presets)
    changes = given_flags(parser.parse_args(argv))
    try:
        out, name = changes.get("out", presets["tiny"].out), changes.get("name", "")
        folder = Path(out) / method
        if not (changes.get("resume") or (name and _is_restarted(folder / name))):
            return resolve(presets, changes)
        name = name or newest_run(folder, "last.pt")
        path = folder / name / "last.pt"
        checkpoint = load_checkpoint(path, method)
        with building(path):
            config = from_dict(presets, checkpoint["config"])
        free = fields_free_on_resume(type(config))
        for key, value in changes.items():
            if key not in free and getattr(config, key) != value:
                flag = f"--{key.replace('_', '-')} {getattr(config, key)}"
                raise InputError(path, f"was trained with {flag}, not {value}")
        return checked(replace(config, **{**changes, "resume": True, "name": name, "out": out}))
    except ValueError as error:
        parser.error(str(error))


def _is_restarted(folder) -> bool:
    """Whether torchrun has restarted this process, and its call has begun the run in `folder`."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return False
    files = folder / "lock", folder / "last.pt"
    return all(f.is_file() for f in files) and files[0].read_text("utf-8") == dist.launch()


def progress_bar(iterable=None, total=None, name="", **options):
    """A progress bar, in the main process and on a terminal only."""
    is_hidden = True if dist.rank() else None  # None: hidden unless on a terminal
    return tqdm(iterable, total=total, desc=name, disable=is_hidden, leave=False,
                dynamic_ncols=True, **options)
