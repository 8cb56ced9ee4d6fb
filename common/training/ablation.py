"""The ablations of a paper, over seeds, as one table; a method's ablate.py lists the rows.

Every row is trained with every seed, `--jobs` at a time, each in one thread. A run is named after
the commit and its flags: rows that several tables share are trained once, and an interrupted call
can be repeated without training anything twice.
"""
import os
import shlex
import signal
import statistics
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from common.io import InputError, atomic, read_json

from .command import cli, progress_bar
from .config import Parser
from .results import markdown_table, write_results

TRAININGS = []  # the processes that were started


def run_one(method: str, out: str, name: str, flags: list) -> dict:
    """The metrics.json of a training, which is done first if there is none. Raises InputError."""
    folder = Path(out) / method / name
    if not (folder / "metrics.json").is_file():
        command = [sys.executable, "-m", f"{method}.train", "--out", out, "--name", name, *flags]
        if (folder / "last.pt").is_file():
            command.append("--resume")
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        training = subprocess.Popen(command, env=one_thread, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.PIPE, text=True)
        TRAININGS.append(training)
        _, err = training.communicate()
        if training.returncode:
            raise InputError(name, (err.strip() or "the training failed").splitlines()[-1])
    return read_json(folder / "metrics.json")


def ablate(method: str, about: str, tables: dict, columns: dict, argv=None, real=(),
           on_scenes=None) -> None:
    """Train the rows of the chosen tables with all seeds; print and write the table.

    tables: name → {row: flags of the training}, the first is the default. columns: key of
    metrics.json → heading. real: tables of real data alone. on_scenes: table → flags that its
    trainings on scenes have besides. Unknown flags go to every training. Writes
    OUT/METHOD/ablate-TABLES.md, and with --out-results a JSON file too."""
    argv = sys.argv[1:] if argv is None else argv
    parser, args, extra = _arguments(method, about, tables, argv)
    given = {flag.partition("=")[0] for flag in extra}
    if owned := sorted(given & {"--name", "--seed", "--resume"}):
        parser.error(f"{', '.join(owned)}: each training has its own")
    if set(args.table) & set(real) and "--root" not in given:
        parser.error(f"table {', '.join(real)} is of real data: it needs --root")
    if "--root" in given and "--benchmark" not in given:
        parser.error("a model of real data is measured on a --benchmark: name one")
    runs, jobs = {}, {}  # row → names of runs, name → flags of its training
    folders = (Path(__file__).parents[2] / folder for folder in ("common", method))
    code = "".join(p.read_text("utf-8") for f in folders for p in sorted(f.rglob("*.py")))
    for table in args.table:
        for row, flags in tables[table].items():
            first = () if "--root" in given else (on_scenes or {}).get(table, ())
            flags = [*first, *flags, *extra]
            name = f"ablate-{zlib.crc32(' '.join([code, *flags]).encode()):08x}-seed"
            row = f"{table}: {row}" if len(args.table) > 1 else row
            runs[row] = [f"{name}{seed}" for seed in range(args.seeds)]
            jobs |= {f"{name}{seed}": [*flags, "--seed", str(seed)] for seed in range(args.seeds)}
    with cli(parser.prog), ThreadPoolExecutor(args.jobs) as pool:
        signal.signal(signal.SIGTERM, partial(_stop, pool))
        trainings = pool.map(partial(run_one, method, args.out), jobs, jobs.values())
        metrics = dict(zip(jobs, progress_bar(trainings, total=len(jobs), name="trainings")))
        keys = [key for key in columns if all(m.get(key) is not None for m in metrics.values())]
        if not keys:  # other data have other metrics
            raise InputError(args.out, f"these trainings measured none of {', '.join(columns)}")
        rows = [{"name": row, "values": {columns[key]: [100 * metrics[name][key] for name in names]
                                         for key in keys}} for row, names in runs.items()]
        n = next(iter(metrics.values()))["samples"]
        of = f"Mean ± standard deviation over {args.seeds} seeds" if args.seeds > 1 else "One seed"
        note = f"{of}, %; {n} samples each."
        text = f"{_markdown(rows, [columns[key] for key in keys])}\n\n{note}"
        with atomic(Path(args.out) / method / f"ablate-{'-'.join(args.table)}.md") as file:
            file.write(f"{text}\n".encode())
        if args.out_results:
            write_results(args.out_results, title=f"Ablation of {method}: {', '.join(args.table)}",
                          command=shlex.join(["python", "-m", f"{method}.ablate", *argv]),
                          columns=[columns[key] for key in keys], rows=rows, n=n,
                          seeds=range(args.seeds), note=note)
        print(text)


def _stop(pool, *_):
    """On SIGTERM no other training begins, and those that run end."""
    pool.shutdown(wait=False, cancel_futures=True)
    for training in TRAININGS:
        training.terminate()


def _arguments(method, about, tables, argv):
    parser = Parser(prog=f"python -m {method}.ablate",
                    description=f"{about.strip()} All other flags go to every training.")
    parser.add_argument("--table", choices=tables, nargs="+", default=[next(iter(tables))],
                        help=f"the paper's table or figure [{next(iter(tables))}]")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 … n-1 [3]")
    parser.add_argument("--jobs", type=int,
                        default=1 if torch.cuda.is_available() else os.cpu_count(),
                        help="trainings at a time [one for each core, 1 on a GPU]")
    parser.add_argument("--out", default="runs", help="folder that holds the runs [runs]")
    parser.add_argument("--out-results", default="", metavar="FILE",
                        help="also write the table, with the values of all seeds, as JSON")
    args, extra = parser.parse_known_args(argv)
    if min(args.seeds, args.jobs) < 1:
        parser.error("--seeds and --jobs must be at least 1")
    return parser, args, extra


def _markdown(rows, columns) -> str:
    """The mean ± standard deviation of each cell's values."""
    def cell(values):
        deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{deviation}"
    return markdown_table([[row["name"], *(cell(row["values"][column]) for column in columns)]
                           for row in rows], ["", *columns])
