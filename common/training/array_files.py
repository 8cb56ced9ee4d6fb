"""Arrays on disk that grow by blocks and survive a kill, and the ids of their rows."""
import fcntl
import io
import math
import os
import zlib
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from common.io import InputError, atomic, read_json, read_lines, write_json
from .run import progress_bar


def write_ids(path, ids) -> None:
    """One id a line. InputError where the file is there and holds others: its folder belongs to other samples."""
    text = "".join(f"{key}\n" for key in ids).encode()
    if not path.is_file():
        with atomic(path) as file:
            file.write(text)
    elif path.read_bytes() != text:
        raise InputError(path, "is of other samples than these: take another folder, or empty this one")


def check_ids(path, ids) -> None:
    """InputError where a file of write_ids does not hold just these ids, in this order."""
    there = read_lines(path)
    if there != ids:
        i = next((i for i, pair in enumerate(zip(there, ids)) if pair[0] != pair[1]), min(len(there), len(ids)))
        ours, theirs = (repr(keys[i]) if i < len(keys) else "nothing" for keys in (ids, there))
        raise InputError(path, f"line {i + 1} is {theirs}, the data have {ours} there: other samples, or in another order")


def open_array(path, advice="") -> np.memmap:
    """An .npy file, memory-mapped, to read. Raises InputError, with `advice` where there is none."""
    if not path.is_file():
        raise InputError(path, f"no such file: {advice}")
    try:
        return np.lib.format.open_memmap(path, "r")  # .npy and nothing else; objects are refused
    except Exception as error:  # a damaged header can fail in any way
        raise InputError(path, f"not a .npy file ({error})") from error


@contextmanager
def exclusive_lock(folder):
    """Around what only one process at a time may do in a folder, which is made: others wait. A killed one holds nobody up."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def file_crc32(path) -> int:
    """Of a file. Raises InputError."""
    try:
        with open(path, "rb") as file:
            crc = 0
            for block in iter(partial(file.read, 2**22), b""):
                crc = zlib.crc32(block, crc)
            return crc
    except OSError as error:
        raise InputError(path, error.strerror) from error


def fill_array(path, shape: tuple, dtype, made_of: dict, blocks, name="") -> np.memmap:
    """A file `path`, .npy, with an array of this shape and dtype that `blocks(row)` gives from `row` on, a few rows at a time.

    It grows as `path`.part, while `path`.json holds `made_of` (plain data that tells one array from another) and the number of
    rows that are safe on disk. So a second call goes on where the first was killed, returns at once if it was not, and begins
    again if it is made of something else. Returns the array, memory-mapped.
    Raises InputError where `path` is there without its .json: somebody else's file is not overwritten.
    """
    path = Path(path)
    part, record = (path.with_name(path.name + suffix) for suffix in (".part", ".json"))
    state = {**made_of, "shape": list(shape), "dtype": np.dtype(dtype).str}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": state["dtype"], "fortran_order": False, "shape": tuple(shape)})
    header, row = header.getvalue(), np.dtype(dtype).itemsize * math.prod(shape[1:])
    if path.exists() and not record.exists():
        raise InputError(path, "is there already, and was not made by this command: remove it, or take another folder")
    rows = _rows(record, state)
    if rows == shape[0] and path.is_file() and not part.exists():
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if not (part.is_file() and part.stat().st_size >= len(header) + rows * row):
        rows = 0
    if not rows:
        for old in (record, part, path):  # in this order: what is recorded is there, at any time
            old.unlink(missing_ok=True)
        part.write_bytes(header)
    with open(part, "r+b") as file, progress_bar(total=shape[0], initial=rows, name=name) as bar:
        file.truncate(len(header) + rows * row)
        file.seek(0, os.SEEK_END)
        for block in blocks(rows):
            file.write(np.ascontiguousarray(block, dtype))  # not through a mapping, whose pages would count as ours
            file.flush()
            os.fsync(file.fileno())
            rows += len(block)
            write_json(record, {**state, "rows": rows})
            bar.update(len(block))
    os.replace(part, path)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _rows(record, state) -> int:
    """How many rows are recorded of this very array."""
    saved = read_json(record) if record.is_file() else None
    if not isinstance(saved, dict) or type(saved.get("rows")) is not int or saved != {**state, "rows": saved["rows"]}:
        return 0
    return saved["rows"]
