"""Parts that several method folders need are copied, not shared, so that each folder stays whole.

The copies are byte-identical: `python -m tests.copies` carries the newest edit of each part to its
other places, and a test fails while they differ.
"""

from pathlib import Path

from common.training import Parser
from common.io import atomic

ROOT = Path(__file__).resolve().parents[1]
COPIES = [  # paths from the repository's root
    tuple(f"{house}/backbones/resnet.py" for house in ("turn", "sslalign", "avkd", "stmnet")),
    tuple(f"{house}/backbones/views.py" for house in ("sslalign", "avkd", "stmnet")),
    tuple(f"{house}/backbones/frontend.py" for house in ("sslalign", "avkd")),
]


def drifted(root: Path = ROOT, copies=None) -> list:
    """The tuples whose files are not all there and all the same."""

    def differ(paths):
        contents = [
            (root / path).read_bytes() if (root / path).is_file() else None for path in paths
        ]
        return None in contents or len(set(contents)) > 1

    return [paths for paths in (COPIES if copies is None else copies) if differ(paths)]


def sync(root: Path = ROOT, copies=None) -> list:
    """Carry the newest of each tuple's files to the others. Returns (from, to) of each write."""
    written = []
    for paths in drifted(root, copies):
        newest = max(
            (p for p in paths if (root / p).is_file()), key=lambda p: (root / p).stat().st_mtime_ns
        )
        part = (root / newest).read_bytes()
        for path in paths:
            if not (root / path).is_file() or (root / path).read_bytes() != part:
                with atomic(root / path) as file:
                    file.write(part)
                written.append((newest, path))
    return written


if __name__ == "__main__":
    Parser(prog="python -m tests.copies", description=__doc__.splitlines()[0]).parse_args()
    for source, target in sync():
        print(f"{source} -> {target}")
