"""The rules that keep the house as it is (who may import whom, sizes, rooms, copies, maps), each held by a test."""

import ast
import dataclasses
import importlib
import os
import re
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests import copies

ROOT = Path(__file__).resolve().parents[1]
METHODS = sorted(p.parent.name for p in ROOT.glob("*/config.py") if p.parent.name != "common")
ROOMS = (
    "README.md",
    "__init__.py",
    "config.py",
    "model.py",
    "losses.py",
    "data.py",
    "train.py",
    "evaluate.py",
    "localize.py",
    "ablate.py",
)
LIBRARIES = {"torch", "numpy", "PIL", "soundfile", "tqdm"}
EQUATIONS = {
    "turn": range(1, 15),
    "sslalign": range(1, 6),
    "avkd": range(1, 4),
    "stmnet": range(1, 3),
}  # of each paper
HOUSES = ("common", "third_party", *METHODS)
SOURCES = sorted(p for house in HOUSES for p in (ROOT / house).rglob("*.py"))
TEXT = (".py", ".md", ".toml", ".yml", ".txt", ".lock", ".json", ".csv", "")
NAMES = [str(p.relative_to(ROOT)) for p in SOURCES]


def tracked():
    """The files of the project that are text: all but what .gitignore leaves out."""
    skip = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()} | {".git"}
    for folder, inner, files in os.walk(ROOT):
        inner[:] = [d for d in inner if d not in skip]
        yield from (Path(folder) / f for f in files if Path(f).suffix in TEXT)


@cache
def tree(path):
    return ast.parse(Path(path).read_text("utf-8"), str(path))


def imports(path):
    """The modules a file imports, as absolute dotted names."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else ()
            yield from (
                [".".join((*base, node.module))]
                if node.module
                else [".".join((*base, a.name)) for a in node.names]
            )


# Rule 1: who imports whom; rule 2 follows from it -----------------------------------------------------------------------------


def allowed(house, module):
    top = module.split(".")[0]
    return (
        top in sys.stdlib_module_names
        or top in LIBRARIES
        or top == house
        or (top == "common" and house != "third_party")
    )


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_imports(path):
    house = path.relative_to(ROOT).parts[0]
    assert [
        m
        for m in imports(path)
        if not allowed(house, m) and (house, m) != ("third_party", "common.io")
    ] == []


def test_the_import_rule_can_fail():
    for house, module in (
        ("turn", "torch.nn"),
        ("turn", "common.io"),
        ("turn", "turn.model"),
        ("common", "json"),
    ):
        assert allowed(house, module)
    for house, module in (
        ("turn", "stmnet.model"),
        ("common", "turn.model"),
        ("common", "scipy.signal"),
    ):
        assert not allowed(house, module)
    assert {"common", "common.run", "turn.config", "torch"} <= set(
        imports(ROOT / "turn" / "train.py")
    )  # relative ones too


# Sizes, rooms, safety ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_file_fits_in_the_head(path):
    assert len(path.read_text("utf-8").splitlines()) <= 350
    assert path.name == "__init__.py" or ast.get_docstring(tree(path)), "says what it is"


@pytest.mark.parametrize("method", METHODS)
def test_every_house_has_the_same_rooms(method):
    assert [room for room in ROOMS if not (ROOT / method / room).is_file()] == []


def test_the_makefile_knows_every_method():
    assert (
        sorted(re.search(r"^METHODS *= *(.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split())
        == METHODS
    )


CODE = (
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.loads",
    "yaml.load",
    "os.system",
    "torch.hub.load",
)


def unsafe(code):
    """The lines that load what could run code."""
    found = []
    for node in ast.walk(code):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, keywords = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
            if name == "torch.load":
                only = keywords.get("weights_only")
                found += (
                    [] if isinstance(only, ast.Constant) and only.value is True else [node.lineno]
                )
            elif name in ("np.load", "numpy.load"):
                found += (
                    [node.lineno]
                    if ast.unparse(keywords.get("allow_pickle", ast.Constant(False))) != "False"
                    else []
                )
            elif name in CODE:
                found.append(node.lineno)
        elif (isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec")) or (
            isinstance(node, ast.ImportFrom) and node.module in ("pickle", "marshal", "shelve")
        ):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_nothing_from_outside_can_run_code(path):
    assert unsafe(tree(path)) == []


@pytest.mark.parametrize(
    "line, bad",
    [
        ("torch.load(f)", 1),
        ("torch.load(f, weights_only=False)", 1),
        ("torch.load(f, weights_only=x)", 1),
        ("pickle.load(f)", 1),
        ("torch.load(f, weights_only=True)", 0),
        ("from pickle import load", 1),
        ("np.load(f, allow_pickle=True)", 1),
        ("eval(x)", 1),
        ("np.load(f, allow_pickle=False)", 0),
        ("model.eval()", 0),
    ],
)
def test_the_safety_rule_can_fail(line, bad):
    assert len(unsafe(ast.parse(line))) == bad


def machine_words():
    """What only this machine would say: where the tree and the interpreter lie, the home folder, the host."""
    everywhere = {"/", "/tmp", "/home", "/opt", "/srv", "/mnt", "/var", "localhost"}
    places = {
        ROOT,
        ROOT.parent,
        Path.home(),
        Path(sys.prefix),
        Path(sys.prefix).parent,
        Path("..", "shared"),
    }
    words = {str(p) for p in places if not str(p).startswith("/usr")} | {socket.gethostname()}
    return {w for w in words - everywhere if len(w) > 4}


def test_no_names_of_this_machine():
    words = "|".join(map(re.escape, sorted(machine_words())))
    pattern = re.compile(rf"(?<![\w.])(?:{words})(?![\w-])|/(?:home|Users)/[a-z]")
    found = [f"{p.relative_to(ROOT)}: {m[0]}" for p in tracked() if p.stat().st_size < 2**21
             for m in pattern.finditer(p.read_text("utf-8", "replace"))]
    assert found == []
    assert pattern.search(f"see {ROOT}/turn") and any(p.name == "Makefile" for p in tracked())


# Copies -----------------------------------------------------------------------------------------------------------------------


def test_copies_have_not_drifted():
    assert copies.drifted() == [], "python -m tests.copies carries the newest edit to all"


def test_identical_parts_are_listed_as_copies():
    """Whatever has the same name and content in two houses is a copy, and in the list."""
    listed = {path for paths in copies.COPIES for path in paths}
    parts = {}
    for path, name in zip(SOURCES, NAMES):
        if path.parent.name in METHODS and path.name not in ROOMS:
            parts.setdefault((path.name, path.read_bytes()), []).append(name)
    assert [names for names in parts.values() if len(names) > 1 and not set(names) <= listed] == []


def test_the_newest_edit_is_carried_to_all(tmp_path):
    listed = [("a/part.py", "b/part.py", "c/part.py"), ("a/other.py", "b/other.py")]
    for time, (path, text) in enumerate(
        {"a/part.py": "old", "b/part.py": "new", "a/other.py": "x", "b/other.py": "x"}.items()
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
        os.utime(tmp_path / path, (1000 + time, 1000 + time))
    assert copies.drifted(tmp_path, listed) == listed[:1]
    assert copies.sync(tmp_path, listed) == [("b/part.py", "a/part.py"), ("b/part.py", "c/part.py")]
    assert [(tmp_path / p).read_text() for p in listed[0]] == ["new"] * 3
    assert copies.drifted(tmp_path, listed) == copies.sync(tmp_path, listed) == []
    (tmp_path / "c" / "part.py").write_text("newer still")
    assert copies.sync(tmp_path, listed) == [("c/part.py", "a/part.py"), ("c/part.py", "b/part.py")]


# make help --------------------------------------------------------------------------------------------------------------------


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = {
        t for line in re.findall(r"^([a-zA-Z][\w% -]*):(?!=)", text, re.M) for t in line.split()
    }
    assert {"setup", "test", "train-%"} <= targets
    outer = {
        k: v for k, v in os.environ.items() if not k.startswith("MAKE")
    }  # this may run under make test
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, env=outer
    ).stdout
    listed = {line.split()[1] for line in shown.splitlines() if line.startswith("  make ")}
    assert {t.replace("%", "M") for t in targets} == listed
    for method in METHODS:
        assert method in shown


# The maps ---------------------------------------------------------------------------------------------------------------------


def resolves(path, name):
    """Whether `name` (a dotted name: a function, class, constant, method, field) is defined in the file."""
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
    """The references in a README of `folder` that name nothing. Paths are from the folder, from common, or from the root."""
    found = []
    for file, name in references(text):
        paths = [p for p in (folder / file, ROOT / "common" / file, ROOT / file) if p.is_file()][:1]
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
    seen = set()
    for row in rows:
        numbers = [
            n
            for part in re.findall(r"Eqs?\. ((?:\(\d+\)(?:[–-]\(\d+\))?(?:, | and )?)+)", row)
            for n in _numbers(part)
        ]
        assert not numbers or references(row.rstrip("| ").rpartition("|")[2]), (
            f"the last column says where: {row}"
        )
        seen |= set(numbers)
    assert seen == set(EQUATIONS[method])
    code = "\n".join(
        p.read_text("utf-8") for house in (method, "common") for p in (ROOT / house).glob("*.py")
    )
    cited = {
        int(n)
        for part in re.findall(r"Eqs?\. ([^\n]*)", code)
        for n in re.findall(r"\((\d+)\)", part)
    }
    assert seen <= cited  # the line that implements an equation says so


def _numbers(text):
    for first, last in re.findall(r"\((\d+)\)(?:[–-]\((\d+)\))?", text):
        yield from range(int(first), int(last or first) + 1)


def test_the_map_rule_can_fail():
    folder = ROOT / "turn"
    good = (
        "`config.py: Config.tau`, `config.py: Config.seed`, `common/run.py: Run.log`, `model.py: Turn.forward()`, "
        "`config.py`, `common/scenes.py: TICK`, `run.py` → `Run.step`"
    )
    assert len(references(good)) == 7 and lost(folder, good) == []
    bad = (
        "`config.py: Config.tauu`, `nowhere.py: f`, `model.py: Turn.nothing`, `common/run.py: Runner`, `model.py` → `None_`, "
        "`nothing.py`"
    )
    assert len(references(bad)) == len(lost(folder, bad)) == 6
    assert list(_numbers("(6)–(8), (10)")) == [6, 7, 8, 10]
    assert section("# A\n## Map\nrow\n## Next\nother", "Map") == "row\n"
