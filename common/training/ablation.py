"""The ablations of a paper, over seeds, into one markdown table. The methods' ablate.py say what the rows are.

Every row is trained with every seed, `--jobs` at a time, each in one thread. Runs are named after their flags, so rows that
several tables share are trained once, and an interrupted call can be repeated: what is done already is not done again.
"""
import os
import statistics
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .config import Parser
from common.io import InputError, atomic, read_json
from .run import cli, markdown_table, progress_bar


def run_one(job) -> dict:
    """(method, out, name, flags): train, unless its metrics.json is there; returns them. Raises InputError."""
    method, out, name, flags = job
    folder = Path(out) / method / name
    if not (folder / "metrics.json").is_file():
        command = [sys.executable, "-m", f"{method}.train", "--out", out, "--name", name, *flags]
        resume = ["--resume"] if (folder / "last.pt").is_file() else []
        done = subprocess.run(command + resume, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        if done.returncode:
            raise InputError(name, (done.stderr.strip().splitlines() or ["the training failed"])[-1])
    return read_json(folder / "metrics.json")


def ablate(method: str, about: str, tables: dict, columns: dict, argv=None, needs=None) -> None:
    """tables: name → {row: flags of the training}; columns: key of metrics.json → heading; needs: table → flags that must be given.

    The first table is the default. Prints the rows of the chosen tables, mean ± standard deviation in %, and writes them to
    OUT/METHOD/ablate-TABLES.md. Flags that are not its own go to every training.
    """
    parser = Parser(prog=f"python -m {method}.ablate", description=about)
    parser.add_argument("--table", choices=tables, nargs="+", default=[next(iter(tables))], help="the paper's table or figure")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 … n-1 [3]")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="trainings at a time [one for each core]")
    parser.add_argument("--out", default="runs", help="folder that holds the runs [runs]")
    args, extra = parser.parse_known_args(argv)
    for table in args.table:
        if missing := sorted(set((needs or {}).get(table, ())) - set(extra)):
            parser.error(f"table {table} is of real data: it needs {' '.join(missing)}")
    if min(args.seeds, args.jobs) < 1:
        parser.error("--seeds and --jobs must be at least 1")
    rows = [(table, row, flags) for table in args.table for row, flags in tables[table].items()]
    jobs = {}
    for seed in range(args.seeds):
        for _, _, flags in rows:
            name = f"ablate-{zlib.crc32(' '.join([*flags, *extra]).encode()):08x}-seed{seed}"
            jobs[name] = (method, args.out, name, [*flags, "--seed", str(seed), *extra])
    with cli(parser.prog), ThreadPoolExecutor(args.jobs) as pool:
        results = dict(zip(jobs, progress_bar(pool.map(run_one, jobs.values()), total=len(jobs), name="trainings")))
        shown = [column for column in columns if all(column in r for r in results.values())]  # other data, other metrics
        if not shown:
            raise InputError(args.out, f"these trainings measured none of {', '.join(columns)}: name a --benchmark")
        lines = []
        for table, row, flags in rows:
            mark = zlib.crc32(" ".join([*flags, *extra]).encode())
            own = [results[f"ablate-{mark:08x}-seed{seed}"] for seed in range(args.seeds)]
            cells = [[100 * r[column] for r in own] for column in shown]
            lines.append([f"{table}: {row}" if len(args.table) > 1 else row,
                          *(f"{statistics.mean(c):.1f} ± {statistics.stdev(c) if len(c) > 1 else 0:.1f}" for c in cells)])
        samples = next(iter(results.values()))["samples"]
        text = (f"{markdown_table(lines, ['', *(columns[c] for c in shown)])}\n\n"
                f"Mean ± standard deviation over {args.seeds} seeds, %; {samples} samples each.")
        with atomic(Path(args.out) / method / f"ablate-{'-'.join(args.table)}.md") as file:
            file.write(f"{text}\n".encode())
        print(text)
