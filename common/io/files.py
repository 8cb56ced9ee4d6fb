"""Files as such: the error that bad input is, atomic writes, paths that stay inside their root."""
import os
import secrets
import stat
from contextlib import contextmanager
from pathlib import Path

from PIL import UnidentifiedImageError


class InputError(Exception):
    """Bad input from outside: which file and why, `path: reason` on one line."""

    def __init__(self, path, reason=None):
        if reason is None:  # DataLoader rebuilds a worker's exception from the text of its traceback, which ends in our line
            path, _, reason = str(path).strip().rpartition("\n")[2].removeprefix(f"{__name__}.InputError: ").partition(": ")
        self.path, self.reason = (" ".join(str(part).split()) for part in (path, reason))
        super().__init__(self.path, self.reason)

    def __str__(self):
        return f"{self.path}: {self.reason}"


@contextmanager
def decoding(path):
    """Around a decoder of foreign bytes, which may raise nearly anything: refuse what is no file, report the rest."""
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
        raise InputError(path, getattr(error, "error_string", None) or f"{type(error).__name__}: {error}") from error


@contextmanager
def atomic(path, mode="wb"):
    """A new file, open under a temporary name beside `path`: takes its place when the block ends, is gone if it raises."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def inside(root, path):
    """`root`/`path` with `..` and links resolved; InputError where that is not in `root`, or `path` is absolute."""
    try:
        if Path(path).is_absolute():
            raise InputError(path, "an absolute path, where one relative to the data is wanted")
        root = Path(root).resolve()
        found = (root / path).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a loop of links
        raise InputError(path, error) from error
    if not found.is_relative_to(root):
        raise InputError(path, f"leaves {root}")
    return found
