"""Table 1's "10 training and testing runs": `python -m avkd.train --repeats 10`.

Each training is a run of its own, NAME-SEED. One that has ended is not run again, one that was
killed is continued.
"""
import json
import re
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from common.io import InputError, read_json, write_json
from common.training import dist, fields_free_on_resume, markdown_table


def train_repeatedly(train, config) -> None:
    """train(config) with config.repeats seeds from config.seed on; prints means and deviations.

    They are also written to NAME.json. Raises InputError if a run has another configuration."""
    if config.resume:
        raise InputError("--resume", "not with --repeats: the same command, with its --name, "
                         "continues what was interrupted")
    name, runs = config.name or time.strftime("%Y%m%d-%H%M%S"), []
    for seed in range(config.seed, config.seed + config.repeats):
        one = replace(config, seed=seed, name=f"{name}-{seed}", repeats=1)
        folder = Path(config.out) / "avkd" / one.name
        check_same_config(folder, one)
        if (folder / "metrics.json").is_file():
            runs.append(read_json(folder / "metrics.json", dict))
        else:
            runs.append(train(replace(one, resume=(folder / "last.pt").is_file())))
    if dist.rank() == 0:
        report(runs, Path(config.out) / "avkd" / f"{name}.json")


def check_same_config(folder: Path, config) -> None:
    if not (folder / "config.json").is_file():
        return
    saved, ours = read_json(folder / "config.json", dict), json.loads(json.dumps(asdict(config)))
    names = set(ours) - fields_free_on_resume(type(config))
    if odd := sorted(name for name in names if saved.get(name) != ours[name]):
        raise InputError(folder, f"is of another configuration ({', '.join(odd[:6])}): take "
                         "another --name")


def report(runs: list, path: Path) -> None:
    """Mean and standard deviation of each metric, to `path`; of the heatmaps' also printed."""
    keys = [key for key in runs[0] if all(type(run.get(key)) in (int, float) for run in runs)]
    results = {}
    for key in keys:
        values = [run[key] for run in runs]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        results[key] = {"mean": float(np.mean(values)), "std": deviation}
    write_json(path, {"repeats": len(runs), **results})
    rows = [[key, f"{100 * x['mean']:.1f} ± {100 * x['std']:.1f}"] for key, x in results.items()
            if re.search("(^|/)(avc|og|og_detr)/", key)]
    print(markdown_table(rows, ["", f"mean ± std of {len(runs)} trainings, %"]))
