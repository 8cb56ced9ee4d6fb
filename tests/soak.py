"""Train one method for many tiny steps, and see that its memory does not grow.

`python -m tests.soak` takes 20 000 steps of sslalign with the settings of tests/pins.py (hours on
two busy cores). It prints the resident memory and the number of open files ten times on the way,
and the time and the peak at the end. Exit status 1: after the first tenth of the steps, which is
the warm-up, memory grew by more than --growth MB, or the training failed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.pins import FLAGS, ROOT

PARTS = 10  # of the steps, after each of which memory is measured


def steps_of(log: Path) -> int:
    """The number of steps that the log of a training has; its last line may be half."""
    lines = log.read_bytes().splitlines()[-3:] if log.is_file() else []
    return max((json.loads(x)["step"] for x in lines if x.endswith(b"}")), default=0)


def resident(pid: int) -> float:
    """MB that a process has in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soak(method: str, steps: int, folder: Path) -> list:
    """Train; → MB after each part of the steps. Raises CalledProcessError."""
    command = [sys.executable, "-m", f"{method}.train", *FLAGS[method].split(), "--name", "soak"]
    command += ["--steps", str(steps), "--device", "cpu", "--out", str(folder)]
    command += ["--save-every", str(max(steps // 20, 1)), "--validate-every", str(steps)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start, found = time.monotonic(), []
    with open(folder / "output", "w") as output:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output)
    while process.poll() is None:
        step = steps_of(folder / method / "soak" / "log.jsonl")
        if step < steps and step >= (len(found) + 1) * steps // PARTS:
            found.append(resident(process.pid))
            files = len(os.listdir(f"/proc/{process.pid}/fd"))
            seconds = time.monotonic() - start
            line = f"step {step}: {found[-1]:.0f} MB, {files} open files, {seconds:.0f} s"
            print(f"{method}, {line}", flush=True)
        time.sleep(min(1, steps / 20_000))
    if process.returncode:
        print((folder / "output").read_text()[-2000:], file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, command)
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("method", nargs="?", default="sslalign", choices=FLAGS)
    parser.add_argument("--steps", type=int, default=20_000, help="at least 100 [20000]")
    parser.add_argument("--growth", type=float, default=20.0, help="MB that are allowed [20]")
    args = parser.parse_args(argv)
    if args.steps < 100:
        parser.error("--steps is at least 100")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(args.method, args.steps, Path(folder))
    growth = max(found) - found[0] if found else float("inf")
    seconds = time.monotonic() - start
    print(
        f"{args.steps} steps in {seconds:.0f} s: {found[0]:.0f} MB after the warm-up, "
        f"at most {max(found):.0f} MB"
        if found
        else "the training was too short to be measured"
    )
    sys.exit(growth > args.growth)


if __name__ == "__main__":
    main()
