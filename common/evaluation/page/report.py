"""The page as one HTML file that needs nothing else: data as JSON, drawn by page.js.

Whatever comes from outside (names of files and classes, a log) is in the JSON alone, and page.js
writes it as text, never as HTML. The page's policy forbids all other scripts and all loads.
"""
import base64
import hashlib
import html
import json
import math
import os
import re
import string
import time
from contextlib import suppress
from pathlib import Path

import torch

from common.io import atomic, read_json
from common.io.drawing import COLOURS
from common.io.files import decoding, read_bytes

from .clips import pack

HERE = Path(__file__).parent
MAX_BYTES, MAX_LOG = 8_000_000, 2**28  # of a page, of a log that is read
MAX_POINTS, MAX_SERIES = 300, 24  # of the curves of a log
FIRST, TIMES = ("loss", "validation/score"), ("step", "data_s", "step_s")  # TIMES are no curves
FACTS = ("preset", "command", "data", "objects", "seed", "commit")  # in config.json
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.S)


def write_page(path, title: str, galleries: list, **parts) -> None:
    """Write the page `path`; parts: note, facts [[name, text]], paper, tables, series {name:
    [[step, value]]}. While it has more than MAX_BYTES, every second sample is left out."""
    while True:
        audio = {}
        packed = [pack(gallery, audio) for gallery in galleries]
        text = render({"title": title, "galleries": packed, **parts, "audio": [*audio.values()]})
        if len(text) <= MAX_BYTES or not any(gallery.samples for gallery in galleries):
            break
        for gallery in galleries:
            gallery.samples = gallery.samples[::2] if len(gallery.samples) > 1 else []
    with atomic(path) as file:
        file.write(text)


def render(data: dict, scripts=("page.js",), connect="'none'") -> bytes:
    """The page with this data. connect: what scripts may load from, in the policy's words."""
    css, *js = ((HERE / name).read_text("utf-8") for name in ("page.css", *scripts))
    js = "\n".join(js)
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                     for text in (css, js))
    policy = (f"default-src 'none'; img-src data: blob:; media-src data: blob:; style-src "
              f"'sha256-{style}'; script-src 'sha256-{script}'; connect-src {connect}; "
              "base-uri 'none'; form-action 'none'")
    text = json.dumps({**data, "colours": COLOURS.tolist()}, allow_nan=False)
    page = string.Template((HERE / "page.html").read_text("utf-8"))
    return page.substitute(title=html.escape(data["title"]), policy=policy, css=css, js=js,
                           data=text.replace("<", "\\u003c")).encode()


def write_report(folder: Path, name: str, tables: list, galleries: list) -> None:
    """The page `name` of a run's folder, with tables of `Evaluation` and galleries."""
    tables = [{"title": t.title, "columns": t.columns, "rows": t.cells()} for t in tables]
    write_page(folder / name, galleries=galleries, tables=tables, **about(folder))


def rebuild(folder: Path) -> Path:
    """Write report.html of a run anew: samples and tables as they were, facts and curves as they
    are. A run that is still going has no samples. Raises InputError."""
    path, data = folder / "report.html", {"galleries": [], "tables": []}
    if path.exists():
        with decoding(path):
            data = json.loads(DATA.search(read_bytes(path, 2 * MAX_BYTES).decode())[1])
    elif (folder / "metrics.json").is_file():
        rows = [[key, str(value)] for key, value in read_json(folder / "metrics.json").items()]
        data["tables"] = [{"title": "metrics.json", "columns": ["value"], "rows": rows}]
    with atomic(path) as file:
        file.write(render({**data, **about(folder)}))
    return path


def about(folder: Path) -> dict:
    """What was run: facts, the paper, the curves of the log. Raises InputError."""
    path, method = folder / "config.json", folder.resolve().parent.name
    config, metrics = (read_json(file, dict) if file.is_file() else {}
                       for file in (path, folder / "metrics.json"))
    series, steps = read_log(folder / "log.jsonl")
    seconds = metrics.get("seconds") or (time.time() - path.stat().st_mtime if config else 0)
    is_gpu = torch.cuda.is_available() and config.get("device") != "cpu"
    facts = {"method": method, **{key: config.get(key) for key in FACTS}, "steps": steps,
             "time": f"{int(seconds) // 60} min {int(seconds) % 60} s",
             "device": torch.cuda.get_device_name() if is_gpu else f"CPU, {os.cpu_count()} cores",
             "page of": time.strftime("%Y-%m-%d %H:%M")}
    return {"title": f"{method}, {folder.resolve().name}", "paper": paper(method), "series": series,
            "facts": [[key, str(x)] for key, x in facts.items() if x not in (None, "")]}


def paper(method: str) -> dict | None:
    """Title and address of a method's paper, which its README names first."""
    readme = HERE.parents[2] / method / "README.md"
    text = readme.read_text("utf-8") if method and readme.is_file() else ""
    found = re.search(r"^- Paper: .*?\*(.+?)\*.*?<(https://[^>\s]+)>", text, re.S | re.M)
    return found and {"title": " ".join(found[1].split()), "url": found[2]}


def read_log(path) -> tuple:
    """log.jsonl → {name: [[step, value]]}, means of neighbours if they are more than MAX_POINTS,
    and the last step. A line that is not complete yet is left out. Raises InputError."""
    series, rows = {}, []
    for line in read_bytes(path, MAX_LOG).splitlines() if path.is_file() else ():
        with suppress(TypeError, ValueError):
            rows.append({"step": 0, **json.loads(line)})
    for row in rows:
        for name in row.keys() - TIMES:
            if isinstance(row[name], (int, float)) and math.isfinite(row[name]):
                series.setdefault(name, []).append((row["step"], row[name]))
    names = sorted(series, key=lambda name: (name not in FIRST, name))[:MAX_SERIES]
    for name, points in series.items():
        size = -(-len(points) // MAX_POINTS)
        blocks = [points[i:i + size] for i in range(0, len(points), size)]
        series[name] = [[b[-1][0], float(f"{sum(y for _, y in b) / len(b):.5g}")] for b in blocks]
    return {name: series[name] for name in names}, max((row["step"] for row in rows), default=0)
