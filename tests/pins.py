"""The losses of 20 CPU steps of each method at a fixed seed, which a refactoring must not change.

`python -m tests.pins` trains each method and prints how far its losses are from `pins.json` (0 on
the machine that wrote it); `--write` writes the file anew, which only a change of computation may
do, and its commit message says with what measurement. `tests/test_pins.py` holds them to 1e-4.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = Path(__file__).with_name("pins.json")
STEPS = 20
FLAGS = {  # several epochs each, so that what changes from epoch to epoch is in the losses too
    "turn": "--scenes 80 --sounds 48 --held-out 8 --batch-size 16 --batch-intermediate 8 --augment "
    "--flip --jitter --image-size 64 --dim 32 --backbone-width 8 --codes 64 "
    "--detr-steps 6",
    "sslalign": "--scenes 64 --held-out 8 --batch-size 8 --easy 1 --epochs 2 --k 3 "
    "--encoder-steps 6 --semantic-from 0 --width 8 --projection 32 --intra --symmetric",
    "avkd": "--scenes 64 --held-out 8 --batch-size 8 --epochs 4 --width 8 --channels 32 --augment "
    "--teacher-steps 6 --lr 1e-3",
    "stmnet": "--scenes 32 --held-out 8 --test-videos 4 --video-seconds 3 --batch-size 8 "
    "--epochs 5 --width 8 --audio-width 8 --C 16 --clip-seconds 2 --augment --encoder-steps 6",
}


def losses(method: str, folder: Path) -> dict:
    """Train `method` for STEPS steps in `folder`, on one thread: name of each term → its values."""
    flags = f"{FLAGS[method]} --steps {STEPS} --name pins --device cpu".split()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # numpy has kernels for each processor, and avkd's teacher makes much of how they round
    environment["OPENBLAS_CORETYPE"] = "Haswell"
    command = [sys.executable, "-m", f"{method}.train", *flags, "--out", str(folder)]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    log = (folder / method / "pins" / "log.jsonl").read_text("utf-8")
    rows = [row for row in map(json.loads, log.splitlines()) if "loss" in row]
    terms = sorted(set(rows[0]) - {"step", "lr", "data_s", "step_s", "mem_mb"})
    return {term: [row[term] for row in rows] for term in terms}


def largest_difference(ours: dict, pinned: dict) -> float:
    """Over all terms and steps; infinite where terms or steps are missing."""
    if {k: len(v) for k, v in ours.items()} != {k: len(v) for k, v in pinned.items()}:
        return float("inf")
    return max(abs(a - b) for k in pinned for a, b in zip(ours[k], pinned[k]))


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tests.pins", description=__doc__.split("\n")[0]
    )
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(FLAGS)}")
    parser.add_argument("--write", action="store_true", help="write tests/pins.json anew")
    args = parser.parse_args(argv)
    pinned = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    for method in args.methods or FLAGS:
        with tempfile.TemporaryDirectory() as folder:
            found = losses(method, Path(folder))
        difference = largest_difference(found, pinned.get(method, {}))
        print(f"{method}: largest difference of a loss {difference:g}", flush=True)
        pinned[method] = found
    if args.write:
        FILE.write_text(json.dumps(pinned, indent=0) + "\n", "utf-8")


if __name__ == "__main__":
    main()
