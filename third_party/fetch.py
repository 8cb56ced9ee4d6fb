"""Fetch pretrained files into third_party/weights/: `python -m third_party.fetch [NAME ...]`.

A download that was interrupted continues where it stopped. A file gets its name when its size and
digests have been checked. Files that were put there by hand are checked in the same way.
"""
import argparse
import fcntl
import hashlib
import http.client
import os
import re
import sys
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from common.io import InputError

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "weights"
CHECKPOINTS = tomllib.loads((HERE / "checkpoints.toml").read_text(encoding="utf-8"))
LARGEST = 2 << 30  # bytes; no file of the list is half as large
BLOCK = 1 << 20
SLOWEST, PATIENCE = 1000, 120  # bytes a second, seconds: a slower server is given up
# A checkpoint is a zip or, before 2020, a pickle, and larger than a page that asks for a login.
MAGIC, LEAST = (b"PK\x03\x04", b"\x80\x02"), 100_000
FAULTS = (OSError, ValueError, http.client.HTTPException)  # of a network, a server, a disk


def fetch(entry, folder=WEIGHTS):
    """Put the file of one entry of checkpoints.toml into `folder`, unless it is there; check it.

    Returns its path and one line on what was done. Raises InputError if it cannot be fetched or
    fails the check. A download that fails the check is removed; an incomplete one stays as `.part`.
    """
    file = entry["file"]
    if Path(file).name != file or file in ("", ".", ".."):
        raise InputError(file, "checkpoints.toml names files, not paths")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (file, f"{file}.part", "SHA256SUMS", "SHA256SUMS.part", "lock"):
        if (folder / name).is_symlink():  # what is written stays in the folder
            raise InputError(folder / name, "is a link: remove it")
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(folder, "another fetch is at work here: run again later") from None
        return _fetch(entry, file, folder)


def _fetch(entry, file, folder):
    target, part = folder / file, folder / (file + ".part")
    if target.exists():
        record(folder, file, check(target, entry))
        return target, f"there already, {kind_of_check(entry)}"
    if not (part.exists() and part.stat().st_size == entry.get("size")):
        download(entry["url"], part, entry.get("size"), target)
    try:
        digest = check(part, entry)
    except InputError as error:
        part.unlink()
        reason = f"what {entry['url']} sent {error.reason}, and was removed"
        raise InputError(target, reason) from error
    os.replace(part, target)
    record(folder, file, digest)
    is_first = not {"sha256", "md5"} & set(entry)
    pinned = ", which later files must have (SHA256SUMS)" if is_first else ""
    return target, f"fetched, {kind_of_check(entry)}: sha256 {digest}{pinned}"


def download(url, part, size, target):
    """Add to `part` the bytes of the file at `url` that it lacks. Raises InputError.

    size: the file's length in bytes, None if unknown. target: where to put the file by hand."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    by_hand = f"put the file at {target}"
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            length, total = receive(response, url, part, start, size)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise InputError(url, f"{error.code} {error.reason}: {by_hand}") from error
        if start and error.headers.get("Content-Range", "").endswith(f"/{start}"):
            return  # `part` is complete
        part.unlink(missing_ok=True)
        reason = "did not fit the file on the server and was removed: run again"
        raise InputError(part, reason) from error
    except InputError:
        raise
    except FAULTS as error:
        raise InputError(url, f"cannot be fetched ({error}): run again, or {by_hand}") from error
    if total is not None and length != total:
        raise InputError(url, f"the connection ended after {length} of {total} bytes: run again, "
                         f"or {by_hand}")


def receive(response, url, part, start, size):
    """Write the response to `part`; returns the length of `part` and of the file, None if unknown.

    A server that knows no ranges sends the whole file again. Raises InputError if it sends another
    range, or a file of another size."""
    is_range = response.status == 206
    if is_range and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise InputError(url, "the server sent another part of the file than was asked for")
    length = start if is_range else 0
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise InputError(url, "the server sends the file in another coding than was asked for")
    remaining = response.headers.get("Content-Length", "")
    if remaining and not (remaining.isascii() and remaining.isdigit() and len(remaining) < 16):
        raise InputError(url, f"the server sends a length of {remaining[:40]!r}")
    total = length + int(remaining) if remaining else size
    if (total != size and size is not None) or (total or 0) > LARGEST:
        reason = f"the server offers {total} bytes, not {size or 'a file of this list'}"
        raise InputError(url, reason)
    name = part.name.removesuffix(".part")
    with open(part, "ab" if is_range else "wb") as out, \
            tqdm(total=total, initial=length, unit="B", unit_scale=True, desc=name) as bar:
        began, first = time.monotonic(), length
        while block := response.read1(BLOCK):
            length += len(block)
            seconds = time.monotonic() - began
            if seconds > PATIENCE and length - first < SLOWEST * seconds:
                raise InputError(url, f"less than {SLOWEST} bytes a second: run again to go on")
            if length > (total or LARGEST):
                raise InputError(url, "the server sends more than the file's length")
            out.write(block)
            bar.update(len(block))
    return length, total


def check(path, entry):
    """The sha256 of the file at `path`. Raises InputError if its size or a digest is another."""
    if "size" in entry and path.stat().st_size != entry["size"]:
        raise InputError(path, f"has {path.stat().st_size} bytes, not {entry['size']}")
    if not {"sha256", "md5"} & set(entry):
        with open(path, "rb") as file:
            if not file.read(4).startswith(MAGIC) or path.stat().st_size < LEAST:
                raise InputError(path, "is no checkpoint: no zip, no pickle, or too small")
    digests = {}
    for algorithm in ("sha256", "md5") if "md5" in entry else ("sha256",):
        with open(path, "rb") as file:
            digest = digests[algorithm] = hashlib.file_digest(file, algorithm).hexdigest()
        start = entry.get(algorithm, "")
        if not digest.startswith(start):
            rest = "…" if len(start) < 32 else ""
            raise InputError(path, f"has {algorithm} {digest}, not {start}{rest}")
    sha256 = digests["sha256"]
    first = recorded(path.parent).get(entry["file"], sha256)
    if first != sha256:
        raise InputError(path, f"has sha256 {sha256}, not {first} as at first (SHA256SUMS)")
    return sha256


def kind_of_check(entry):
    """What a file that passes the check has been compared with, in words."""
    if len(entry.get("sha256", "")) == 64:
        return "sha256 as published"
    if "sha256" in entry:
        return f"the {len(entry['sha256'])} published digits of its sha256 agree"
    return "md5 as published" if "md5" in entry else "no published digest to check against"


def recorded(folder):
    """{file: sha256} from SHA256SUMS: the files that have been in `folder`."""
    sums = folder / "SHA256SUMS"
    lines = sums.read_text("utf-8", "replace").splitlines() if sums.exists() else []
    found = (re.fullmatch(r"\\?([0-9a-fA-F]{64}) [ *](.+)", line) for line in lines)
    return {match[2]: match[1].lower() for match in found if match}  # other lines are not ours


def record(folder, file, digest):
    """Add one line to SHA256SUMS, in the form of `sha256sum --check`."""
    sums = recorded(folder) | {file: digest}
    part = folder / "SHA256SUMS.part"
    part.write_text("".join(f"{d}  {f}\n" for f, d in sorted(sums.items())), encoding="utf-8")
    os.replace(part, folder / "SHA256SUMS")


def table():
    """All entries as text, one a line."""
    rows = [("name", "file", "MB", "licence", "check", "here", "used by, for")]
    for name, entry in CHECKPOINTS.items():
        digits = len(entry.get("sha256", ""))
        digest = "md5" if "md5" in entry else "none"
        if digits:
            digest = "sha256" if digits == 64 else f"{digits} digits"
        rows.append((name, entry["file"], f"{entry['size'] / 1e6:.1f}" if "size" in entry else "?",
                     entry["licence"], digest, "yes" if (WEIGHTS / entry["file"]).exists() else "",
                     f"{', '.join(entry['used_by'])}: {entry['for']}"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip()
                     for row in rows)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m third_party.fetch",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"of {', '.join(CHECKPOINTS)} (default: all)")
    parser.add_argument("--list", action="store_true",
                        help="print the table of files, and fetch nothing")
    args = parser.parse_args(argv)
    if args.list:
        print(table())
        return 0
    if unknown := [name for name in args.names if name not in CHECKPOINTS]:
        parser.error(f"unknown {', '.join(unknown)}: the names are {', '.join(CHECKPOINTS)}")
    status = 0
    for name in args.names or CHECKPOINTS:
        try:
            path, done = fetch(CHECKPOINTS[name], WEIGHTS)
            print(f"{path}: {done}")
        except (InputError, OSError) as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            status = 2
        except KeyboardInterrupt:
            print("stopped: run again to go on from here", file=sys.stderr)
            return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
