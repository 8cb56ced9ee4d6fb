"""What an evaluation prints and writes: tables, metrics.json, contact sheets; its flags."""
import shlex
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import metrics
from common.io import InputError, contact_sheet, keep_inputs, write_image, write_json
from common.training import Parser, dist, markdown_table, write_results

from .page import write_report
from .scoring import aggregate, lit_areas
from .test_sets import PROTOCOL

HEADINGS = {"control/shuffled_": "shuffled audio", "control/silent_": "silent audio",
            "control/noise_": "noise",
            "baseline/centre_": "baseline: centre", "baseline/whole_": "baseline: whole image",
            "baseline/upper_bound_": "upper bound"}  # of columns
SPELLING = {"iiou": "IIoU", "ciou": "cIoU", "miou": "mIoU", "iauc": "IAUC", "auc": "AUC",
            "ap": "AP", "f1": "F1", "f": "F"}


class Table(NamedTuple):
    """The metrics of a test set, in %, as `write_results` takes them."""
    title: str
    columns: list  # headings
    rows: list  # {"name": metric, "values": {heading: [value]}}
    n: int  # samples

    def cells(self) -> list:
        """The rows as texts: [name, value of each column]."""
        return [[row["name"], *(f"{row['values'][c][0]:.1f}" if c in row["values"] else "–"
                                for c in self.columns)] for row in self.rows]

    def __str__(self):
        return f"\n{self.title}\n{markdown_table(self.cells(), ['', *self.columns])}"


class Evaluation:
    """The results of several test sets; sheets and samples, the scores of single samples for
    samples.json, are of the main process alone."""

    def __init__(self):
        self.metrics, self.sheets, self.samples = {}, {}, {}
        self.tables, self.texts, self.galleries = [], [], []  # texts: to print; of the page

    def add(self, test_set, scores: dict, headings: dict, *notes: str) -> None:
        """Aggregate scores {column: {name: (N, …)}} to a table, with notes below it.

        headings: of the model's own columns, of which the first is scored by exact rules too."""
        results = {column: aggregate(x, test_set.metric_groups, test_set.groups,
                                     test_set.has_source, test_set.is_complete)
                   for column, x in scores.items()}
        for column, area in lit_areas(scores, test_set.has_source).items():
            results[column]["negatives/lit_area"] = area
        ciou = next(iter(scores.values()))["ciou"][test_set.has_source]
        table = results_table(test_set, results, headings, int(np.isnan(ciou).sum()))
        own = {"samples": table.n, **metric_keys(results), "protocol": test_set.protocol}
        self.metrics = {"samples": table.n, **self.metrics,
                        **{f"{test_set.prefix}{key}": x for key, x in own.items()}}
        self.tables.append(table)
        self.texts.append("\n".join([str(table), *filter(None, notes)]))

    def finish(self, run, report: dict) -> dict:
        """At the end of a training: metrics.json, pictures, page, and then the tables in print."""
        values = run.write_metrics({**self.metrics, **report})
        self.write_sheets(run.folder)
        self.print_tables()
        return values

    def print_tables(self) -> None:
        """Last, since a reader of the print may end, or its encoding lack a letter."""
        if dist.rank() == 0:
            print("\n".join(self.texts))

    def write(self, folder: Path, args, config, report: dict) -> None:
        """Write metrics-DATA.json, contact sheets, the first table (--out-results); print all.
        args: of `parse_flags`; report: of the checkpoint's validation."""
        self.metrics |= {**report, "seconds": round(time.time() - args.start, 1)}
        if dist.rank():
            return
        name = args.data
        if args.objects is not None:
            name += f"-{Path(args.objects or 'procedural').name}"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"metrics-{name}.json",
                   {**self.metrics, "seed": config.seed, "preset": config.preset})
        self.write_sheets(folder, f"-{name}")
        if args.out_results:
            write_results(args.out_results, command=args.command, seeds=[config.seed],
                          **self.tables[0]._asdict())
        self.print_tables()

    def write_sheets(self, folder: Path, suffix="") -> None:
        if self.samples:
            write_json(folder / f"samples{suffix}.json", self.samples)
        for name, sheet in self.sheets.items():
            write_image(folder / f"{name}{suffix}.png", contact_sheet(**sheet))
        if dist.rank() == 0:
            write_report(folder, f"report{suffix}.html", self.tables, self.galleries)


def results_table(test_set, results: dict, headings: dict, num_undefined: int) -> Table:
    """results: {column: {"GROUP/METRIC": fraction}}, the model's own column first. A metric by an
    exact rule is a row if it differs from the one by the published rule."""
    groups, model = test_set.metric_groups, next(iter(results.values()))
    title = [f"{test_set.name}, N = {len(test_set.ids)}",
             test_set.num_listed and f"{len(test_set.ids)} found / {test_set.num_listed} listed",
             "interactive" in groups and images_line(test_set),
             "extended" in groups and f"{test_set.has_source.sum()} with a visible source",
             num_undefined and f"{num_undefined} with neither ground truth nor prediction",
             f"protocol {test_set.protocol}, %"]
    names = [name for name, x in model.items() if "_exact" not in name
             or f"{100 * x:.1f}" != f"{100 * model[name.replace('_exact', '')]:.1f}"]
    columns = {heading: results[column] for column, heading in {**headings, **HEADINGS}.items()
               if column in results}
    rows = [{"name": spell(name), "values": {heading: [100 * x[name]]
                                             for heading, x in columns.items() if name in x}}
            for name in names]
    return Table(", ".join(filter(None, title)), list(columns), rows, len(test_set.ids))


def images_line(test_set) -> str:
    """How many images an interactive set has, of one source, and of which one is not here."""
    sizes = Counter(test_set.groups)
    left_out = {g for g, is_here in zip(test_set.groups, test_set.is_complete) if not is_here}
    one = sum(size == 1 for group, size in sizes.items() if group not in left_out)
    return ", ".join(filter(None, [f"{len(sizes)} images", one and f"{one} of them with one source",
                                   left_out and f"{len(left_out)} left out that lack a source"]))


def spell(metric: str) -> str:
    """pairs/ciou_adaptive@0.5 → pairs: cIoU@0.5 adaptive."""
    group, words = metric.removesuffix("@0.5").split("/")
    first, *rest = [SPELLING.get(word, word) for word in words.split("_")]
    return " ".join([f"{group}: {first}{'@0.5' * metric.endswith('@0.5')}", *rest])


def metric_keys(results: dict) -> dict:
    """{column: {"GROUP/METRIC": x}} → {key of metrics.json: x}.

    After a column's name the group pairs is left out, and interactive before iiou and iauc.

    >>> metric_keys({"avc/": {"pairs/auc": 0.6}, "control/silent_": {"masks/auc": 0.1}})
    {'avc/auc': 0.6, 'control/silent_masks_auc': 0.1}
    """
    keys = {}
    for column, values in results.items():
        for metric, x in values.items():
            group, name = metric.split("/")
            short = name if metric.startswith(("pairs/", "interactive/i")) else f"{group}_{name}"
            keys[f"{column}{short}" if column else metric] = x
    return keys


def evaluation_parser(method: str, about: str, protocol: str | None = PROTOCOL) -> Parser:
    """The flags that every method's `evaluate` has. protocol: the default; None: no such flag."""
    parser = Parser(prog=f"python -m {method}.evaluate", description=about)
    for name, default, text in (
            ("checkpoint", "", "default: best.pt of the newest run"),
            ("data", "scenes", "scenes, or a benchmark, as vggss (stmnet: ave-stm)"),
            ("root", "", "folder of the benchmark"),
            ("ids", "", "file with the ids to evaluate on [the published list]"),
            ("objects", None, "folder of which scenes are composed, or procedural for the built-in "
             "objects [those of the training]"),
            ("out", "", "folder for metrics-DATA.json and contact sheets [the checkpoint's]"),
            ("out-results", "", "JSON file for the table of the first test set"),
            ("device", "auto", "cpu, cuda, cuda:1 or auto")):
        parser.add_argument(f"--{name}", default=default, help=text)
    if protocol:
        parser.add_argument("--protocol", default=protocol, choices=metrics.PROTOCOLS,
                            help=f"how heatmaps are resized and cut, by which paper [{protocol}]")
    return parser


def parse_flags(parser, argv):
    """The flags, as `command` what was typed, and as `start` the time."""
    args = parser.parse_args(argv)
    args.start = time.time()
    if not args.data:
        parser.error("--data must name scenes or a benchmark")
    if args.data == "scenes" and (args.root or args.ids) and not getattr(args, "training_pairs", 0):
        parser.error("--root and --ids are of a benchmark: name it with --data")
    if args.data != "scenes" and args.objects is not None:
        parser.error("--objects is of scenes, not of --data")
    try:
        keep_inputs(filter(None, [args.out_results]), [args.checkpoint])
    except InputError as error:
        parser.error(str(error))
    args.command = f"{parser.prog} {shlex.join(sys.argv[1:] if argv is None else argv)}"
    return args


def with_objects(config, args):
    """The configuration, with scenes of the objects that --objects names. Raises InputError if a
    model of files is to be evaluated on scenes."""
    if args.data == "scenes" and config.data != "scenes" and not getattr(args, "training_pairs", 0):
        raise InputError("--data", f"this model is of {config.data}: name a benchmark")
    if args.objects is None:
        return config
    return replace(config, objects="" if args.objects == "procedural" else args.objects)
