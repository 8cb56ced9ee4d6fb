"""JSON, JSON Lines, CSV manifests and plain lists, in and out."""
import csv
import io
import json
import math
import os
from pathlib import Path

from .files import InputError, atomic, decoding, inside

MAX_TEXT = 2**28  # bytes of a JSON, JSONL, CSV or text file


def _plain(value):
    """As JSON has it: arrays and tensors → lists, paths → strings, NaN and infinities → null."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def write_json(path, value):
    """Write `value` as JSON; floats come back exactly, NaN and infinities as null."""
    text = json.dumps(_plain(value), indent=2, allow_nan=False)
    with atomic(path) as file:
        file.write(text.encode() + b"\n")


def append_jsonl(file, value):
    """Add `value` as one line to a path, or to a file open for text, in one write."""
    line = json.dumps(_plain(value), allow_nan=False) + "\n"
    if hasattr(file, "write"):
        file.write(line)
        file.flush()
    else:
        with open(file, "ab", buffering=0) as opened:
            opened.write(line.encode())


def read_json(path, max_bytes=MAX_TEXT):
    """The value in a JSON file. Raises InputError if it is not JSON (NaN is not) or too long."""
    with decoding(path):
        return _parse(_read_text(path, max_bytes))


def read_jsonl(path, max_bytes=MAX_TEXT):
    """The values of a file with one JSON value a line. InputError names the line that is not."""
    values = []
    with decoding(path):
        for number, line in enumerate(_read_text(path, max_bytes).rstrip("\n").split("\n"), 1):
            try:
                values.append(_parse(line))
            except (ValueError, RecursionError) as error:
                raise InputError(path, f"line {number}: {error}") from error
    return values


def read_lines(path) -> list[str]:
    """The lines of a UTF-8 file that are not blank, stripped. Raises InputError."""
    try:
        return [line.strip() for line in _read_text(path).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, error) from error


def _read_text(path, max_bytes=MAX_TEXT):
    with open(path, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise InputError(path, f"more than {max_bytes} bytes")
    return data.decode("utf-8-sig")


def _parse(text):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")
    return json.loads(text, parse_constant=refuse)


def read_manifest(path, root, columns, missing="error"):
    """The rows of a CSV file with a header, as dicts.

    `columns` hold paths of files, which are resolved inside `root`. A file that does not exist is
    an InputError; with `missing="skip"` its row is left out, and the result is (rows, rows left
    out). A path that leaves `root`, or a row shorter or longer than the header, is an InputError.
    """
    rows, skipped = [], []
    with decoding(path):
        reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
        if absent := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise InputError(path, f"no column {', '.join(absent)}")
        for row in reader:
            line = f"line {reader.line_num}"
            if None in row or None in row.values():
                raise InputError(path, f"{line}: not {len(reader.fieldnames)} fields")
            files = {name: inside(root, row[name]) for name in columns}
            lost = [row[name] for name in columns if not os.path.isfile(files[name])]
            if lost and missing != "skip":
                raise InputError(path, f"{line}: no file {lost[0]} in {root}")
            (skipped if lost else rows).append({**row, **files})
    return (rows, skipped) if missing == "skip" else rows
