"""JSON, JSON Lines, CSV and plain lists, in and out."""
import csv
import io
import json
import math
from pathlib import Path

from .files import InputError, atomic, decoding, limited_memory, read_bytes

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
    with atomic(path) as file:
        file.write(json.dumps(_plain(value), indent=2, allow_nan=False).encode() + b"\n")


def append_jsonl(file, value):
    """Add `value` as one line to a file open for text; readers see it at once."""
    file.write(json.dumps(_plain(value), allow_nan=False) + "\n")
    file.flush()


def read_json(path, kind=object):
    """The value in a JSON file. Raises InputError if it is not JSON (NaN is not) or too long, or
    not a `kind`, as dict."""
    def refuse(name):
        raise ValueError(f"{name} is not JSON")
    with decoding(path), limited_memory(path):
        value = json.loads(_read_text(path), parse_constant=refuse)
        if not isinstance(value, kind):
            raise InputError(path, f"holds a {type(value).__name__}, not a {kind.__name__}")
        return value


def read_lines(path) -> list[str]:
    """The lines of a UTF-8 file that are not blank, stripped. Raises InputError."""
    with decoding(path), limited_memory(path):
        lines = io.StringIO(_read_text(path), newline=None)  # splitlines() also splits at U+2028
        return [line.strip() for line in lines if line.strip()]


def _read_text(path):
    return read_bytes(path, MAX_TEXT).decode("utf-8-sig")


def read_csv(path, columns=()):
    """The rows of a CSV file with a header, as dicts.

    Raises InputError if one of `columns` is not in the header, or names the first row that is
    shorter or longer than the header, or has a line break in a field, as after a stray quote."""
    with decoding(path), limited_memory(path):
        reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
        if absent := [name for name in columns if name not in (reader.fieldnames or ())]:
            raise InputError(path, f"no column {', '.join(absent)}")
        rows = []
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise csv.Error(f"not {len(reader.fieldnames)} fields")
                if "\n" in "".join(row.values()):
                    raise csv.Error("a quote spans several lines")
                rows.append(row)
        except csv.Error as error:
            raise InputError(path, f"line {reader.reader.line_num}: {error}") from error
        return rows
