"""Kill a process of torchrun, and see that the run ends as the one that was never killed.

`python -m tests.restarts` trains each method in two processes, once whole and five times with a
SIGKILL to one process, at a step and a place that follow from --seed, under --max-restarts=1. That
are 20 kills. It prints what became of each, and at the end the time and the largest memory of a
process. Exit status 1: a run did not end with the weights of the one that was never killed.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.test_lifecycle import METHODS, ROOT, TINY, checkpoint, same

STEPS = 12  # of TINY
KILLED = """
import os, sys
from common.training import Run
end_step, when = Run.end_step, "WHEN"
def kill(run):
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and run.step == STEP_ and os.environ["RANK"] == "RANK_":
        os.kill(os.getpid(), SIGNAL)
def end_step_or_die(run, ended):
    if when == "before":
        kill(run)
    end_step(run, ended)
    kill(run)
Run.end_step = end_step_or_die
from METHOD.train import main
main(sys.argv[1:])
"""


def train(method, name, folder, flags="", kill=None):
    """Train in two processes; kill: (rank, step, "before" or "after" end_step). → folder, stderr"""
    program = folder / f"{name}.py"
    text = KILLED.replace("METHOD", method).replace("SIGNAL", str(int(signal.SIGKILL)))
    rank, step, when = kill or (-1, -1, "after")
    text = text.replace("STEP_", str(step)).replace("RANK_", str(rank)).replace("WHEN", when)
    program.write_text(text)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["--max-restarts=1", str(program), *(flags or TINY[method]).split()]
    command += ["--name", name, "--out", str(folder), "--device", "cpu"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / method / name, done.stderr


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m tests.restarts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("methods", nargs="*", default=METHODS, help="of " + ", ".join(METHODS))
    parser.add_argument("--kills", type=int, default=5, help="of each method [5]")
    parser.add_argument("--seed", type=int, default=0, help="of the steps and places [0]")
    args = parser.parse_args(argv)
    rng, failures, start = random.Random(args.seed), 0, time.monotonic()
    for method in args.methods:
        folder = Path(tempfile.mkdtemp())
        whole = checkpoint(train(method, "whole", folder)[0])
        for number in range(args.kills):
            kill = rng.randrange(2), rng.randint(1, STEPS), rng.choice(["before", "after"])
            try:
                found = checkpoint(train(method, f"killed{number}", folder, kill=kill)[0])
                is_good, error = same(found, whole), ""
            except (AssertionError, subprocess.TimeoutExpired) as problem:
                is_good, error = False, f"\n{problem}"
            failures += not is_good
            verdict = "the same weights" if is_good else f"NOT the same{error}"
            print(f"{method}: rank {kill[0]} {kill[2]} step {kill[1]}: {verdict}", flush=True)
        shutil.rmtree(folder)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(
        f"{len(args.methods) * args.kills} kills, {failures} failures, "
        f"{time.monotonic() - start:.0f} s, at most {peak} MB in a process"
    )
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
