"""Arrays on disk that are filled in blocks and survive a kill, and the ids of their rows."""
import fcntl
import io
import math
import os
import zlib
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

import numpy as np

from common.io import InputError, atomic, decoding, read_json, read_lines, write_json

from .command import progress_bar


def write_ids(path, ids) -> None:
    """Write one id a line. Raises InputError if the file exists with other ids."""
    if path.is_file():
        return check_ids(path, ids)
    with atomic(path) as file:
        file.write("".join(f"{key}\n" for key in ids).encode())


def check_ids(path, ids) -> None:
    """Raises InputError unless the file holds these ids in this order."""
    for number, (line, key) in enumerate(zip_longest(read_lines(path), ids), 1):
        if line != key:
            line, key = ("nothing" if x is None else repr(x) for x in (line, key))
            raise InputError(path, f"line {number} is {line}, the data have {key} there: other "
                             "samples or another order; take another folder")


def open_array(path, advice="") -> np.memmap:
    """An .npy file to read, memory-mapped. Raises InputError, with `advice` if it is missing."""
    if not path.is_file():
        raise InputError(path, f"no such file: {advice}")
    with decoding(path):
        return np.lib.format.open_memmap(path, "r")  # .npy and nothing else; objects are refused


@contextmanager
def exclusive_lock(folder):
    """One process at a time: others wait for the end of the block, or of the process in it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder, "lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def file_crc32(path) -> int:
    """The CRC-32 of a file. Raises InputError."""
    with decoding(path):
        return zlib.crc32(np.memmap(path, np.uint8, "r"))


def fill_array(path, shape: tuple, dtype, fingerprint: dict, blocks, name="") -> np.memmap:
    """The array in the .npy file `path`, memory-mapped; computed first, unless it is there.

    blocks(row) yields a few rows at a time, from `row` on. They are added to `path`.part, while
    `path`.json holds `fingerprint` (plain data that tells one array from another) and the number
    of rows that are safe on disk. A second call continues where the first was killed, and begins
    again if fingerprint, shape or dtype differ. InputError if `path` exists without .json."""
    path, dtype = Path(path), np.dtype(dtype)
    part, record = (path.with_name(path.name + suffix) for suffix in (".part", ".json"))
    if path.exists() and not record.exists():
        raise InputError(path, "not made by this command: remove it, or take another folder")
    state = {**fingerprint, "shape": list(shape), "dtype": dtype.str}
    header, row_bytes = _npy_header(shape, dtype), dtype.itemsize * math.prod(shape[1:])
    rows = _recorded_rows(record, state)
    if rows == shape[0] and path.is_file() and not part.exists():
        return open_array(path)
    if rows == 0 or not part.is_file() or part.stat().st_size < len(header) + rows * row_bytes:
        rows = 0
        for old in (record, part, path):  # in this order, so that what is recorded always exists
            old.unlink(missing_ok=True)
        part.write_bytes(header)
    with open(part, "r+b") as file, progress_bar(total=shape[0], initial=rows, name=name) as bar:
        file.truncate(len(header) + rows * row_bytes)
        file.seek(0, os.SEEK_END)
        for block in blocks(rows):
            file.write(np.ascontiguousarray(block, dtype))  # a mapping's pages would stay in memory
            file.flush()
            os.fsync(file.fileno())
            rows += len(block)
            write_json(record, {**state, "rows": rows})
            bar.update(len(block))
    os.replace(part, path)
    return open_array(path)


def _npy_header(shape, dtype) -> bytes:
    file, header = io.BytesIO(), {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def _recorded_rows(record, state) -> int:
    """The number of rows that `record` lists for this array, 0 if it is of another."""
    saved = read_json(record) if record.is_file() else None
    rows = saved.get("rows") if isinstance(saved, dict) else None
    return rows if type(rows) is int and saved == {**state, "rows": rows} else 0
