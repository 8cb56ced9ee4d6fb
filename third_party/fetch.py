"""Fetch pretrained files into third_party/weights/: `python -m third_party.fetch [NAME ...]`.

A download shows its progress, is taken up again where it stopped, is checked, and only then gets its name. Without a
network, put the files there by hand: they are checked in the same way.
"""
import argparse
import hashlib
import http.client
import os
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from common.io import InputError

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "weights"
CHECKPOINTS = tomllib.loads((HERE / "checkpoints.toml").read_text(encoding="utf-8"))
LARGEST = 2 << 30  # bytes: no file here is half as large; a server that sends more is not sending it
BLOCK = 1 << 20


def fetch(entry, folder=WEIGHTS):
    """Make sure that the file of one entry of checkpoints.toml is in `folder` and is the right one.

    Returns its path and one line on what was done. Raises InputError when it cannot be had or is not the right one;
    what was downloaded of a wrong file is removed, what was downloaded of an unfinished one stays as `.part`.
    """
    file = entry["file"]
    if Path(file).name != file or file in ("", ".", ".."):
        raise InputError(file, "checkpoints.toml names files, not paths")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / file, folder / (file + ".part")
    if target.exists():
        record(folder, file, check(target, entry))
        return target, "there already, " + known(entry)
    if not (part.exists() and part.stat().st_size == entry.get("size")):
        download(entry["url"], part, entry.get("size"), target)
    try:
        digest = check(part, entry)
    except InputError as error:
        part.unlink()
        raise InputError(target, f"what {entry['url']} sent {error.reason}, and was removed") from error
    os.replace(part, target)
    record(folder, file, digest)
    return target, f"fetched, {known(entry)}: sha256 {digest}"


def download(url, part, size, target):
    """Bring `part` to its full length; `size` in bytes if known. `target` is where a person would put the file."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if response.status == 206 and not resumed:
                raise InputError(url, "the server sent another part of the file than was asked for")
            have = have if resumed else 0
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else size
            if (total != size and size is not None) or (total or 0) > LARGEST:
                raise InputError(url, f"the server offers {total} bytes, not {size or 'a file of this list'}")
            with open(part, "ab" if resumed else "wb") as out, \
                    tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=target.name) as bar:
                while block := response.read(BLOCK):
                    have += len(block)
                    if have > (total or LARGEST):
                        raise InputError(url, "the server sends more than the file's length")
                    out.write(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing beyond what is there: a complete file is kept for the check, any other begins anew
            if error.headers.get("Content-Range", "").endswith(f"/{have}"):
                return
            part.unlink()
            raise InputError(part, "did not fit the file on the server and was removed: run again") from error
        raise InputError(url, f"{error.code} {error.reason}: put the file at {target}") from error
    except (OSError, http.client.HTTPException) as error:  # no network, no such host, a connection that broke
        raise InputError(url, f"cannot be fetched ({error}): run again, or put the file at {target}") from error
    if total is not None and have != total:
        raise InputError(url, f"the connection ended after {have} of {total} bytes: run again, or put the file at {target}")


def check(path, entry):
    """The sha256 of the file at `path`. Raises InputError when size or any known digest is another."""
    if "size" in entry and path.stat().st_size != entry["size"]:
        raise InputError(path, f"has {path.stat().st_size} bytes, not {entry['size']}")
    digests = {}
    for algorithm in ("sha256", "md5") if "md5" in entry else ("sha256",):
        with open(path, "rb") as file:
            digests[algorithm] = hashlib.file_digest(file, algorithm).hexdigest()
        start = entry.get(algorithm, "")
        if not digests[algorithm].startswith(start):
            raise InputError(path, f"has {algorithm} {digests[algorithm]}, not {start}{'…' if len(start) < 32 else ''}")
    first = recorded(path.parent).get(entry["file"], digests["sha256"])
    if first != digests["sha256"]:
        raise InputError(path, f"has sha256 {digests['sha256']}, not {first} as at first (SHA256SUMS)")
    return digests["sha256"]


def known(entry):
    """What a passed check is worth, in words."""
    if len(entry.get("sha256", "")) == 64:
        return "sha256 as published"
    if "sha256" in entry:
        return f"the {len(entry['sha256'])} published digits of its sha256 agree"
    return "md5 as published" if "md5" in entry else "no published digest to check against"


def recorded(folder):
    """{file: sha256} of what was there before."""
    sums = folder / "SHA256SUMS"
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.exists() else []
    return {file: digest for digest, file in (line.split("  ", 1) for line in lines)}


def record(folder, file, digest):
    """Add one line to SHA256SUMS, in the form of `sha256sum --check`."""
    sums = recorded(folder) | {file: digest}
    fresh = folder / "SHA256SUMS.part"
    fresh.write_text("".join(f"{d}  {f}\n" for f, d in sorted(sums.items())), encoding="utf-8")
    os.replace(fresh, folder / "SHA256SUMS")


def table():
    """All entries as text, one a line."""
    rows = [("name", "file", "MB", "licence", "check", "here", "used by, for")]
    for name, e in CHECKPOINTS.items():
        digits = len(e.get("sha256", ""))
        check_ = "sha256" if digits == 64 else f"{digits} digits" if digits else "md5" if "md5" in e else "none"
        rows.append((name, e["file"], f"{e['size'] / 1e6:.1f}" if "size" in e else "?", e["licence"], check_,
                     "yes" if (WEIGHTS / e["file"]).exists() else "", f"{', '.join(e['used_by'])}: {e['for']}"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m third_party.fetch", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CHECKPOINTS)} (default: all)")
    parser.add_argument("--list", action="store_true", help="print what there is, and fetch nothing")
    args = parser.parse_args(argv)
    if args.list:
        print(table())
        return 0
    if unknown := [name for name in args.names if name not in CHECKPOINTS]:
        parser.error(f"unknown {', '.join(unknown)}: the names are {', '.join(CHECKPOINTS)}")  # status 2
    status = 0
    for name in args.names or CHECKPOINTS:
        try:
            path, done = fetch(CHECKPOINTS[name], WEIGHTS)
            print(f"{path}: {done}")
        except InputError as error:
            print(error, file=sys.stderr)
            status = 2
        except KeyboardInterrupt:
            print("stopped: run again to go on from here", file=sys.stderr)
            return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
