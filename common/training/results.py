"""Measured tables as JSON files, with all that a reader needs to measure them again."""
import os
import platform
import subprocess
import time
from pathlib import Path

import torch

from common.io import write_json


def git_commit() -> str:
    """The short hash of the commit that this code was checked out at, "" outside of a repository."""
    try:
        git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent,
                             capture_output=True, text=True)
    except OSError:  # no git on this machine
        return ""
    return git.stdout.strip()


def write_results(path, *, title: str, command: str, columns: list, rows: list, n: int | None = None,
                  seeds=(0,), note: str = "") -> None:
    """Write a table to the JSON file `path`, with the commit, the date and the machine.

    rows: [{"name": str, "values": {column: [value of each seed]}}], in the unit that the column's
    heading names; a row may lack a column. n: the number of test samples. command: what to type to
    measure the table again. Raises ValueError if a row has a column that is not in `columns`.
    """
    for row in rows:
        if unlisted := sorted(set(row["values"]) - set(columns)):
            raise ValueError(f"row {row['name']!r} has values for {', '.join(unlisted)}, no columns")
    machine = [platform.machine(), f"{os.cpu_count()} CPU cores"]
    if torch.cuda.is_available():
        machine.append(torch.cuda.get_device_name())
    write_json(path, {"title": title, "command": command, "commit": git_commit(),
                      "date": time.strftime("%Y-%m-%d"), "machine": ", ".join(machine), "n": n,
                      "seeds": list(seeds), "columns": list(columns), "rows": rows, "note": note})
