"""The paper's ablations on embedded scenes: `python -m turn.ablate --table 4 --seeds 3`
(Tables 3 and 4, Figures 3 and 4).

Every row is trained with every seed, `--jobs` at a time, each in one thread; what is done already is not done again, so an
interrupted call can be repeated. Prints one markdown table, and writes it to runs/turn/ablate-TABLE.md. Flags that it does not
know go to every training.
"""
import os
import statistics
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.config import Parser
from common.io import InputError, read_json
from common.run import cli, markdown, progress

TABLES = {
    "4": {"all": [], "no adaptive sampling": ["--no-adaptive"], "no reconstruction loss": ["--lambda-recon", "0"],
          "no codebook loss": ["--beta", "0"], "no contrastive loss": ["--lambda-contra", "0"]},
    "3": {f"{source} + {sounds}": ["--data", f"{source}+{sounds}"]  # needs --preset paper --root, and --benchmark
          for sounds in ("audiocaps", "clotho") for source in ("refcoco", "refcoco+", "refcocog")},
    "fig3": {f"{groups} groups, {codes} codes": ["--groups", str(groups), "--codes", str(codes)]
             for codes in (256, 512, 1024) for groups in (1, 2, 4)},
    "fig4": {f"{source}-{intermediate}": ["--recon-source", source, "--recon-intermediate", intermediate]
             for source in ("no", "self") for intermediate in ("no", "self", "cross")},
}
COLUMNS = {"audio/ciou@0.5": "sound cIoU@0.5", "audio/auc": "sound AUC", "text/ciou@0.5": "phrase", "random/ciou@0.5": "random",
           "three/audio/ciou@0.5": "sound, 3 objects"}


def run_one(job) -> dict:
    """Train one row with one seed, unless its metrics.json is there; returns them."""
    out, name, flags = job
    folder = Path(out) / "turn" / name
    if not (folder / "metrics.json").is_file():
        command = [sys.executable, "-m", "turn.train", "--out", out, "--name", name, *flags]
        resume = ["--resume"] if (folder / "last.pt").is_file() else []
        done = subprocess.run(command + resume, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        if done.returncode:
            raise InputError(name, (done.stderr.strip().splitlines() or ["the training failed"])[-1])
    return read_json(folder / "metrics.json")


def main(argv=None):
    parser = Parser(prog="python -m turn.ablate", description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=TABLES, default="4", help="Table 3 (real data only) or 4, Figure 3 or 4 [4]")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 … n-1 [3]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at a time [one for each core]")
    parser.add_argument("--out", default="runs", help="folder that holds the runs [runs]")
    args, extra = parser.parse_known_args(argv)
    if args.table == "3" and not {"--root", "--benchmark", "--benchmark-root"} <= set(extra):
        parser.error("Table 3 is of real data: it needs --preset paper --root DIR --benchmark NAME --benchmark-root DIR")
    rows, mark = TABLES[args.table], f"-{zlib.crc32(' '.join(extra).encode()):08x}" if extra else ""  # other flags, other runs
    jobs = [(args.out, f"ablate-{args.table}-{i}-seed{seed}{mark}", [*flags, "--seed", str(seed), *extra])
            for seed in range(args.seeds) for i, flags in enumerate(rows.values())]
    if min(args.seeds, args.jobs) < 1:
        parser.error("--seeds and --jobs must be at least 1")
    with cli("python -m turn.ablate"), ThreadPoolExecutor(args.jobs) as pool:
        results = list(progress(pool.map(run_one, jobs), total=len(jobs), name="trainings"))
        columns = [column for column in COLUMNS if all(column in r for r in results)]  # real data have no scenes of three
        lines = []
        for i, name in enumerate(rows):
            own = [r for (_, run, _), r in zip(jobs, results) if run.startswith(f"ablate-{args.table}-{i}-seed")]
            cells = [[100 * r[column] for r in own] for column in columns]
            lines.append([name, *(f"{statistics.mean(c):.1f} ± {statistics.stdev(c) if len(c) > 1 else 0:.1f}" for c in cells)])
        table = markdown(lines, ["", *(COLUMNS[c] for c in columns)])
        note = f"Mean ± standard deviation over {args.seeds} seeds, %; {results[0]['samples']} samples each."
        (Path(args.out) / "turn" / f"ablate-{args.table}.md").write_text(f"{table}\n\n{note}\n")
        print(f"{table}\n\n{note}")


if __name__ == "__main__":
    main()
