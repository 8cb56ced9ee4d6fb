"""Measured tables, as Markdown and as JSON files from which they can be measured again."""
import os
import platform
import subprocess
import time
from pathlib import Path

import torch

from common.io import write_json


def markdown_table(rows: list, columns: list) -> str:
    """An aligned Markdown table.

    >>> print(markdown_table([["centre", 0.5]], ["", "cIoU"]))
    |        | cIoU |
    |--------|------|
    | centre | 0.5  |
    """
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def git_commit() -> str:
    """The short hash of this code's commit, with "-dirty" if it was changed; "" outside of git."""
    try:
        git = subprocess.run(["git", "describe", "--always", "--dirty", "--exclude", "*"],
                             cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return ""
    return git.stdout.strip()


def write_results(path, *, title: str, command: str, columns: list, rows: list,
                  n: int | None = None, seeds=(0,), note: str = "") -> None:
    """Write a table to the JSON file `path`, with the commit, the date and the machine.

    rows: [{"name": str, "values": {column: [value of each seed]}}], in the unit that the table
    shows; a row may lack a column. n: the number of test samples. command: what to type to measure
    the table again."""
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    write_json(path, {"title": title, "command": command, "commit": git_commit(),
                      "date": time.strftime("%Y-%m-%d"), "machine": machine, "n": n,
                      "seeds": list(seeds), "columns": list(columns), "rows": rows, "note": note})
