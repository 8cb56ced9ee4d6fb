"""The code can be read next to the papers: docstrings and the READMEs' maps have every equation,
every name in a README exists, and papers and authors' code are linked."""

import ast
import dataclasses
import importlib
import re

import pytest

from tests.test_layout import METHODS, ROOT, imports, tree

EQUATIONS = {  # of each paper
    "turn": range(1, 15),
    "sslalign": range(1, 7),
    "avkd": range(1, 4),
    "stmnet": range(1, 3),
}
PAPER_FILES = {  # the files that are the paper, or its transformer; each begins with a doctest
    "turn": ("model", "losses", "codebook", "transformer"),
    "sslalign": ("model", "losses"),
    "avkd": ("model", "losses", "guidance"),
    "stmnet": ("model", "losses", "memory"),
}


@pytest.mark.parametrize("method", METHODS)
def test_the_paper_and_the_authors_code_are_linked(method):
    for path in (ROOT / method / "README.md", ROOT / method / "model.py"):
        text = path.read_text("utf-8")
        assert re.search(
            r"https://(arxiv\.org|doi\.org|proceedings|openreview\.net|ieeexplore)", text
        ), path
        assert "github.com/" in text, path


@pytest.mark.parametrize("method", METHODS)
def test_paper_files_show_themselves_in_use(method):
    missing = [
        name
        for name in PAPER_FILES[method]
        for path in (ROOT / method).rglob(f"{name}.py")
        if ">>> " not in path.read_text("utf-8")
    ]
    assert missing == []


@pytest.mark.parametrize("method", METHODS)
def test_losses_know_nothing_of_processes(method):
    text = (ROOT / method / "losses.py").read_text("utf-8")
    assert "dist" not in {m.rpartition(".")[2] for m in imports(ROOT / method / "losses.py")}
    assert not re.search(r"\bdist\b|process", text)


def equations_in_docstrings(paths) -> set:
    """The numbers of equations that docstrings of functions and classes cite and write out."""
    numbers = set()
    for path in paths:
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                text = ast.get_docstring(node) or ""
                if any("=" in line or "←" in line or "∝" in line for line in text.splitlines()):
                    for part in re.findall(r"Eqs?\. ([^\n]*)", text):
                        numbers |= set(_numbers(part))
    return numbers


@pytest.mark.parametrize("method", METHODS)
def test_every_equation_is_in_a_docstring(method):
    paths = [p for house in (method, "common") for p in (ROOT / house).rglob("*.py")]
    assert set(EQUATIONS[method]) - equations_in_docstrings(paths) == set()


def resolves(path, name):
    """Whether the file defines `name`: a function, class, constant, method or field, dotted."""
    return (
        ROOT in path.parents
        and path.is_file()
        and (not name or _within(tree(path).body, name.split(".")))
    )


def _within(body, names):
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.name == names[0] and (len(names) == 1 or _within(node.body, names[1:])):
                return True
            if (
                node.name == names[0] and len(names) == 2 and isinstance(node, ast.ClassDef)
            ):  # set in __init__
                return any(
                    isinstance(n, ast.Attribute)
                    and n.attr == names[1]
                    and isinstance(n.ctx, ast.Store)
                    and isinstance(n.value, ast.Name)
                    and n.value.id == "self"
                    for n in ast.walk(node)
                )
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if len(names) == 1 and any(
                isinstance(n, ast.Name) and n.id == names[0] for t in targets for n in ast.walk(t)
            ):
                return True
        elif isinstance(node, (ast.If, ast.With, ast.Try)) and _within(node.body, names):
            return True
    return False


def references(text):
    """The `path.py: name` and `path.py` in backticks of a text → (path, name)."""
    pattern = r"`([\w/]+\.py)(?:(?:: ?|` → `)([A-Za-z_][\w.]*)(?:\(\))?)?`"
    return [(m[1], m[2] or "") for m in re.finditer(pattern, text)]


def inherited(path, name):
    """Whether `Class.name` is a dataclass field that the class has from its base."""
    outer, _, field = name.partition(".")
    if not field or not path.is_file():
        return False
    cls = getattr(
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)), outer, None
    )
    return dataclasses.is_dataclass(cls) and field in {f.name for f in dataclasses.fields(cls)}


def lost(folder, text):
    """The references in a README of `folder` that name nothing.

    A path is of the folder or its backbones, else of a room of common, else from the root.
    """
    found = []
    for file, name in references(text):
        places = [*folder.rglob(file), *(ROOT / "common").rglob(file), ROOT / file]
        paths = [p for p in places if p.is_file()]
        if not any(resolves(p, name) or inherited(p, name) for p in paths):
            found.append(f"{file}: {name}")
    return found


def section(text, heading):
    """The lines under `## heading`."""
    return re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], flags=re.M)[0]


@pytest.mark.parametrize("method", METHODS)
def test_every_name_in_the_readme_exists(method):
    text = (ROOT / method / "README.md").read_text("utf-8")
    assert lost(ROOT / method, text) == []
    assert len(references(section(text, "Map"))) >= 20


@pytest.mark.parametrize("method", METHODS)
def test_the_map_has_every_equation_and_where_it_is(method):
    rows = [
        row
        for row in section((ROOT / method / "README.md").read_text("utf-8"), "Map").splitlines()
        if row.startswith("|")
    ]
    equations = set()
    for row in rows:
        numbers = [
            n
            for part in re.findall(r"Eqs?\. ((?:\(\d+\)(?:[–-]\(\d+\))?(?:, | and )?)+)", row)
            for n in _numbers(part)
        ]
        assert not numbers or references(row.rstrip("| ").rpartition("|")[2]), (
            f"the last column says where: {row}"
        )
        equations |= set(numbers)
    assert equations == set(EQUATIONS[method])


def _numbers(text):
    for first, last in re.findall(r"\((\d+)\)(?:[–-]\((\d+)\))?", text):
        yield from range(int(first), int(last or first) + 1)


def test_the_map_rule_can_fail():
    folder = ROOT / "turn"
    good = (
        "`config.py: Config.tau`, `config.py: Config.seed`, `common/training/run.py: Run.log`, "
        "`model.py: Turn.forward()`, `config.py`, `composition.py: PLACES`, `run.py` → `Run.step`"
    )
    assert len(references(good)) == 7 and lost(folder, good) == []
    bad = (
        "`config.py: Config.tauu`, `nowhere.py: f`, `model.py: Turn.nothing`, `run.py: Runner`, "
        "`model.py` → `None_`, `nothing.py`"
    )
    assert len(references(bad)) == len(lost(folder, bad)) == 6
    assert list(_numbers("(6)–(8), (10)")) == [6, 7, 8, 10]
    assert section("# A\n## Map\nrow\n## Next\nother", "Map") == "row\n"
