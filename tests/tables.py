"""The tables in the READMEs, made from the files in results/.

`python -m tests.tables` rewrites what stands between the two lines

    <!-- table: results/NAME.json -->
    <!-- end -->

of every README and of docs/*.md: a Markdown table with one decimal, mean ± standard deviation where
there are several seeds, and under it N, seeds, date, commit and command. `common.training` has
`write_results`, which writes such a file; `evaluate` and `ablate` call it for --out-results.

`python -m tests.tables RESULTS.json SEED0.json SEED1.json …` joins the files that `evaluate` wrote
of trainings with several seeds.
"""

import argparse
import json
import math
import re
import statistics
import textwrap
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIELDS = {  # of a results file
    **dict.fromkeys(("title", "command", "commit", "date", "machine", "note"), str),
    **dict.fromkeys(("seeds", "columns", "rows"), list),
    "n": (int, type(None)),
}
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.S)
COLUMNS = 100


def pages(root=ROOT) -> list:
    """The Markdown files that may hold tables."""
    return sorted([*root.glob("README.md"), *root.glob("*/README.md"), *root.glob("docs/*.md")])


def is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def is_cell(value, num_seeds: int) -> bool:
    """Whether a value of a row is null, a number for each seed, or a mean with its deviation."""
    if isinstance(value, dict):
        return set(value) == {"mean", "std"} and all(map(is_number, value.values()))
    if isinstance(value, list):
        return len(value) == num_seeds and all(map(is_number, value))
    return value is None


def problems(results: dict) -> list:
    """What is wrong with the contents of a results file, a line each; empty if it is right."""
    found = [f"no field {name}" for name in FIELDS if name not in results]
    if found:
        return found
    found += [f"{k} is of another type" for k, t in FIELDS.items() if not isinstance(results[k], t)]
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", str(results["date"])):
        found.append("date is not YYYY-MM-DD")
    if not results["command"] or not results["seeds"] or not results["rows"]:
        found.append("command, seeds and rows must not be empty")
    for row in results["rows"]:
        for column, value in row["values"].items():
            if column not in results["columns"]:
                found.append(f"{row['name']}: {column} is not among the columns")
            if not is_cell(value, len(results["seeds"])):
                found.append(f"{row['name']}: {column}: {value}")
    return found


def cell(value) -> str:
    """One decimal; mean ± standard deviation of seeds that differ; – where nothing was measured."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return f"{value['mean']:.1f} ± {value['std']:.1f}"
    deviation = f" ± {statistics.stdev(value):.1f}" if len(set(value)) > 1 else ""
    return f"{statistics.mean(value):.1f}{deviation}"


def grid(rows, columns, cells) -> list:
    """The lines of a Markdown table."""
    body = [[name, *values] for name, values in zip(rows, cells)]
    lines = ["| " + " | ".join(line) + " |" for line in [["", *columns], *body]]
    return [lines[0], "| --- " * (len(columns) + 1) + "|", *lines[1:]]


def markdown(results: dict) -> str:
    """The table of a results file, and the line that says what it is. Rows and columns change
    places if the table is wider than a page and only the turned one is not."""
    columns, seeds = results["columns"], [str(seed) for seed in results["seeds"]]
    rows = [row["name"] for row in results["rows"]]
    cells = [[cell(row["values"].get(column)) for column in columns] for row in results["rows"]]
    lines, turned = grid(rows, columns, cells), grid(columns, rows, zip(*cells))
    if max(map(len, lines)) > COLUMNS >= max(map(len, turned)):
        lines = turned
    facts = [] if results["n"] is None else [f"N = {results['n']}"]
    facts += [f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}", results["date"]]
    facts += [f"commit {results['commit']}", f"`{results['command']}`"]
    wrap = textwrap.TextWrapper(COLUMNS, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, "", *wrap.wrap(" · ".join(facts))])


def filled(text: str, root=ROOT) -> str:
    """`text` with all its tables made anew. Raises ValueError if a file is missing or wrong."""

    def table(match):
        path = root / match[2]
        if not path.is_file():
            raise ValueError(f"{match[2]}: no such file")
        results = json.loads(path.read_text("utf-8"))
        if found := problems(results):
            raise ValueError(f"{match[2]}: {'; '.join(found)}")
        return f"{match[1]}{markdown(results)}\n{match[3]}"

    return BLOCK.sub(table, text)


def joined(parts: list) -> dict:
    """One results file of several of other seeds. Raises ValueError if they differ in more, but
    for the command, of which the last is kept."""
    last, rows, seeds = parts[-1], [], list(chain(*(part["seeds"] for part in parts)))
    for part in parts:
        if odd := [key for key in ("title", "columns", "n", "commit") if part[key] != last[key]]:
            raise ValueError(f"{', '.join(odd)} of {part['seeds']} and {last['seeds']} differ")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed is there twice: {seeds}")
    for same in zip(*(part["rows"] for part in parts), strict=True):
        if len({(row["name"], *row["values"]) for row in same}) > 1:
            raise ValueError(f"rows differ: {', '.join(row['name'] for row in same)}")
        values = {}
        for column in same[0]["values"]:
            cells = [row["values"][column] for row in same]
            if len({type(cell) for cell in cells}) > 1 or isinstance(cells[0], dict):
                raise ValueError(f"{same[0]['name']}: {column} is not measured in all")
            values[column] = None if cells[0] is None else list(chain(*cells))
        rows.append({"name": same[0]["name"], "values": values})
    return {**last, "seeds": seeds, "rows": rows}


def join(out, files) -> None:
    results = joined([json.loads(Path(file).read_text("utf-8")) for file in files])
    Path(out).write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")


def fill(root=ROOT) -> None:
    for path in pages(root):
        text = path.read_text("utf-8")
        if (new := filled(text, root)) != text:
            path.write_text(new, "utf-8")
            print(f"{path.relative_to(root)}: tables written")


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tables",
        description="Without files: put the tables of results/ into the READMEs and the log.",
    )
    parser.add_argument("out", nargs="?", help="or: the results file to write")
    parser.add_argument("seeds", nargs="*", help="of these, one for each seed, from evaluate")
    args = parser.parse_args(argv)
    if args.out and not args.seeds:
        parser.error(f"of which files is {args.out} to be made?")
    try:
        join(args.out, args.seeds) if args.out else fill()
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
