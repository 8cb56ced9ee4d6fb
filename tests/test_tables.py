"""The tables of the READMEs are those of the files in results/."""

import json

import pytest

from tests import tables

FILES = sorted((tables.ROOT / "results").glob("*.json"))
PAGES = tables.pages()
GOOD = {
    "title": "a table",
    "command": "make train-turn",
    "commit": "abc1234",
    "date": "2026-11-28",
    "machine": "2 CPU cores",
    "n": 500,
    "seeds": [0, 1],
    "columns": ["cIoU", "AUC", "pointing"],
    "rows": [
        {"name": "model", "values": {"cIoU": [50.0, 52.0], "AUC": {"mean": 1.25, "std": 0.5}}}
    ],
    "note": "",
}
TABLE = """\
|  | cIoU | AUC | pointing |
| --- | --- | --- | --- |
| model | 51.0 ± 1.4 | 1.2 ± 0.5 | – |

N = 500 · seeds 0, 1 · 2026-11-28 · commit abc1234 · `make train-turn`"""


@pytest.mark.parametrize("path", FILES, ids=[p.name for p in FILES])
def test_a_results_file_is_complete(path):
    assert tables.problems(json.loads(path.read_text("utf-8"))) == []
    assert path.name.partition("-")[0] in ("turn", "stmnet", "avkd", "sslalign")


@pytest.mark.parametrize("path", PAGES, ids=[str(p.relative_to(tables.ROOT)) for p in PAGES])
def test_the_tables_of_a_page_are_those_of_its_files(path):
    text = path.read_text("utf-8")
    assert tables.filled(text) == text, "make tables"
    assert text.count("<!-- table: ") == len(tables.BLOCK.findall(text)), "a block without its end"


def test_each_results_file_stands_in_one_place():
    """A file that is measured anew changes no table of an older section."""
    text = "\n".join(path.read_text("utf-8") for path in PAGES)
    for path in FILES:
        tabled = text.count(f"<!-- table: results/{path.name} -->")
        assert tabled == 1 or (tabled == 0 and f"`results/{path.name}`" in text), path.name


def test_a_table_is_written_between_its_markers(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    (tmp_path / "README.md").write_text("# A\n\n<!-- table: a.json -->\nold\n<!-- end -->\n\nb\n")
    tables.fill(tmp_path)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert text == f"# A\n\n<!-- table: a.json -->\n{TABLE}\n<!-- end -->\n\nb\n"
    assert tables.filled(text, tmp_path) == text
    assert tables.filled(text.replace("51.0", "51.1"), tmp_path) == text
    with pytest.raises(ValueError, match=r"b\.json: no such file"):
        tables.filled(text.replace("a.json", "b.json"), tmp_path)


def test_results_of_several_seeds_are_joined(tmp_path):
    rows = [{"name": "model", "values": {"cIoU": [50.0], "AUC": None}}]
    one = {**GOOD, "seeds": [0], "rows": rows}
    two = {
        **one,
        "seeds": [1],
        "rows": [{"name": "model", "values": {"cIoU": [52.0], "AUC": None}}],
    }
    for name, part in (("a", one), ("b", two)):
        (tmp_path / name).write_text(json.dumps(part))
    tables.main([str(tmp_path / name) for name in ("out", "a", "b")])
    whole = json.loads((tmp_path / "out").read_text("utf-8"))
    assert tables.problems(whole) == [] and whole["seeds"] == [0, 1]
    assert whole["rows"] == [{"name": "model", "values": {"cIoU": [50.0, 52.0], "AUC": None}}]
    for change in (
        {"n": 250},
        {"seeds": [0]},
        {"commit": "0000000"},
        {"columns": ["cIoU"]},
        {"rows": [{"name": "model", "values": {"cIoU": [52.0], "AUC": [1.0]}}]},
        {"rows": rows * 2},
        {"rows": [{**rows[0], "name": "b"}]},
    ):
        with pytest.raises(ValueError):
            tables.joined([one, {**two, **change}])


def test_long_commands_are_wrapped():
    long = {**GOOD, "command": "python -m turn.ablate " + "--flag value " * 12}
    assert max(map(len, tables.markdown(long).splitlines())) <= tables.COLUMNS


@pytest.mark.parametrize(
    "change",
    [
        {"date": "28 November"},
        {"seeds": [0]},
        {"seeds": []},
        {"n": "500"},
        {"columns": ["cIoU"]},
        {"rows": [{"name": "a", "values": {"cIoU": [float("nan"), 1.0]}}]},
        {"rows": [{"name": "a", "values": {"cIoU": {"mean": 1.0}}}]},
        {"rows": [{"name": "a", "values": {"cIoU": 1.0}}]},
    ],
    ids=str,
)
def test_what_is_wrong_with_a_file_is_found(change):
    assert tables.problems(GOOD) == []
    assert tables.problems({**GOOD, **change})


@pytest.mark.parametrize("field", tables.FIELDS)
def test_a_missing_field_is_found(field):
    assert tables.problems({k: v for k, v in GOOD.items() if k != field}) == [f"no field {field}"]


def test_a_wide_table_is_turned():
    columns = [f"a long name {k}" for k in range(9)]
    rows = [{"name": "ours", "values": {c: [1.0] for c in columns}}]
    results = {"columns": columns, "rows": rows, "seeds": [0], "n": 1, "date": "", "commit": ""}
    lines = tables.markdown(results | {"command": "c"}).splitlines()
    assert lines[:3] == ["|  | ours |", "| --- | --- |", "| a long name 0 | 1.0 |"]
    assert len(lines) == 13
