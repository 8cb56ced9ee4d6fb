"""What all readers and writers use: the error for bad input, atomic writes, safe paths."""
import os
import resource
import secrets
import stat
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import UnidentifiedImageError

MAX_MEMORY = 2**30  # bytes that the value in a file may take


class InputError(Exception):
    """Bad input from outside: which file and why, `path: reason` on one line."""

    def __init__(self, path, reason=None):
        if reason is None:  # DataLoader rebuilds it from a traceback, whose last line is ours
            last = str(path).strip().rpartition("\n")[2]
            path, _, reason = last.removeprefix(f"{__name__}.InputError: ").partition(": ")
        self.path, self.reason = (" ".join(str(part).split()) for part in (path, reason))
        super().__init__(f"{self.path}: {self.reason}")


@contextmanager
def decoding(path):
    """Around what decodes a file or builds on its content: any error becomes an InputError. Only
    regular files are decoded."""
    try:
        info = os.stat(path)
        if not stat.S_ISREG(info.st_mode):
            raise InputError(path, "not a regular file")
        if info.st_size == 0:
            raise InputError(path, "empty file")
        yield
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(path, "not an image in a known format") from error
    except OSError as error:
        raise InputError(path, error.strerror or error) from error
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        reason = getattr(error, "error_string", None) or f"{kind}{error}"
        raise InputError(path, reason[:400]) from error


@contextmanager
def limited_memory(path, extra=None):
    """Around a parser, as a small file can unpack to a large value: it may take `extra` bytes (if
    None, MAX_MEMORY) more than are in use, or it is an InputError. The limit is one of addresses,
    of the whole process, and only on Linux. Torch works in one thread meanwhile, since each thread
    that it starts reserves up to 72 MB of them."""
    extra, threads = extra or MAX_MEMORY, torch.get_num_threads()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    torch.set_num_threads(1)
    if Path("/proc/self/statm").exists():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        if soft == resource.RLIM_INFINITY or used + extra < soft:
            resource.setrlimit(resource.RLIMIT_AS, (used + extra, hard))
    try:
        yield
    except MemoryError as error:
        raise InputError(path, f"takes more than {extra >> 20} MB of memory") from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        torch.set_num_threads(threads)


@contextmanager
def atomic(path):
    """A binary file under a temporary name, which replaces `path` at the end unless it raises."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.filename in (None, str(part)):  # None: of write() and close(), as on a full disk
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def keep_inputs(outputs, inputs) -> None:
    """Raises InputError if a file to write is one of those that are read, under any name."""
    for out in filter(os.path.exists, outputs):
        for path in filter(os.path.exists, inputs):
            if os.path.samefile(out, path):
                raise InputError(out, f"would be written over {path}, which is read")


def read_bytes(path, limit: int) -> bytes:
    """The content of a file. Raises InputError if it has more than `limit` bytes."""
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError(path, f"more than {limit} bytes")
    return data


def inside(root, path, is_trusted=False):
    """`root`/`path` with `..` and links resolved. Raises InputError if that is not in `root`.

    is_trusted: links in `root` are its owner's and may lead out, as to another disk."""
    try:
        if Path(path).is_absolute():
            raise InputError(path, "is absolute, not relative to the data")
        resolve = (lambda p: Path(os.path.abspath(p))) if is_trusted else Path.resolve
        root = resolve(Path(root))
        resolved = resolve(root / path)
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a loop of links
        raise InputError(path, error) from error
    if not resolved.is_relative_to(root):
        raise InputError(path, f"leaves {root}")
    return resolved


def to_numpy(x):
    """A tensor on any device, or whatever numpy accepts, as a numpy array."""
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
