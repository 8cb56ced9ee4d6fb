"""The rules of the layout: imports, sizes of files, files of a method, safe loading, copies."""

import ast
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
METHODS = sorted(p.parent.name for p in ROOT.glob("*/config.py"))
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
    "backbones/__init__.py",
)
# The packages of common, and which other packages of common each may import.
COMMON = {
    "io": (),
    "metrics": (),
    "training": ("io",),
    "scenes": ("io", "training"),
    "benchmarks": ("io", "metrics", "scenes", "training"),
    "evaluation": ("io", "metrics", "scenes", "benchmarks", "training"),
}
LIBRARIES = {"torch", "numpy", "PIL", "soundfile", "tqdm"}
METHOD_LINES, FILE_LINES, FUNCTION_LINES, README_LINES = 1400, 300, 60, 150
COMMON_LINES = 5800  # the aim is 3 600, which is not reached: CONTRIBUTING.md
PAGE = ROOT / "common" / "evaluation" / "page"
PAGE_LINES, PAGE_WEB_LINES = 500, 400
COLUMNS = 100
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
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            rooms = not node.module or module == "common"  # what is imported are modules themselves
            yield from [f"{module}.{alias.name}" for alias in node.names] if rooms else [module]


# Imports: a copied folder runs, and common has one direction --------------------------------------


def allowed(path, module) -> bool:
    """Whether the file at `path` (from the root) may import `module`."""
    house, room = path.parts[0], path.parts[1]
    top, _, rest = module.partition(".")
    if top in sys.stdlib_module_names or top in LIBRARIES:
        return True
    if house == "third_party":
        return module in ("common.io", "common.training")
    if house != "common":
        return top in (house, "common")
    return top == "common" and rest.split(".")[0] in (room, *COMMON.get(room, ()))


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_imports(path):
    inside = path.relative_to(ROOT)
    assert [m for m in imports(path) if not allowed(inside, m)] == []


def test_imports_within_common_have_one_direction():
    """Each package imports only packages that come before it in COMMON, so there is no cycle."""
    rooms = list(COMMON)
    assert all(rooms.index(other) < rooms.index(room) for room in rooms for other in COMMON[room])
    folders = {
        p.name for p in (ROOT / "common").iterdir() if p.is_dir() and p.name != "__pycache__"
    }
    assert folders == set(COMMON)


def cycle(graph) -> list:
    """Modules that import each other in a cycle; empty if there is none."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return path[path.index(node) :]
        if node not in done:
            path.append(node)
            for other in sorted(graph.get(node, ())):
                if found := visit(other):
                    return found
            path.pop()
            done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := visit(node))), [])


def test_no_cycle_of_modules():
    names = {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in SOURCES
    }
    graph = {
        name: {m for m in imports(path) if m in names and m != name} for name, path in names.items()
    }
    assert cycle(graph) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) and not cycle({"a": {"b"}, "b": set()})


def test_the_import_rule_can_fail():
    for path, module in (
        ("turn/train.py", "torch.nn"),
        ("turn/train.py", "common.io"),
        ("turn/train.py", "turn.model"),
        ("common/io/text.py", "json"),
        ("common/scenes/videos.py", "common.io"),
        ("common/evaluation/tables.py", "common.metrics"),
    ):
        assert allowed(Path(path), module)
    for path, module in (
        ("turn/train.py", "stmnet.model"),
        ("common/io/text.py", "turn.model"),
        ("common/io/text.py", "scipy.signal"),
        ("common/io/text.py", "common.metrics"),
        ("common/metrics/retrieval.py", "common.io"),
        ("common/scenes/objects.py", "common.benchmarks"),
    ):
        assert not allowed(Path(path), module)
    assert {"common.training", "turn.config", "torch"} <= set(imports(ROOT / "turn" / "train.py"))


# Sizes and files ----------------------------------------------------------------------------------


def lines_of(paths) -> int:
    return sum(len(p.read_text("utf-8").splitlines()) for p in paths)


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_the_length_of_files_and_functions(path):
    assert lines_of([path]) <= FILE_LINES
    assert ast.get_docstring(tree(path)), "no module docstring"
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert [
        node.name
        for node in ast.walk(tree(path))
        if isinstance(node, functions) and node.end_lineno - node.lineno >= FUNCTION_LINES
    ] == [], "longer than FUNCTION_LINES"


@pytest.mark.parametrize("method", METHODS)
def test_the_length_of_a_method(method):
    files = [p for p in (ROOT / method).rglob("*.py") if "backbones" not in p.parts]
    assert lines_of(files) <= METHOD_LINES
    assert lines_of([ROOT / method / "README.md"]) <= README_LINES


def test_common_is_small():
    files = [p for p in (ROOT / "common").rglob("*.py") if p.parent != PAGE]
    assert lines_of(files) <= COMMON_LINES


def test_the_page_is_small():
    """Python, and what a browser reads, in files of their own."""
    assert lines_of(PAGE.glob("*.py")) <= PAGE_LINES
    web = [p for p in PAGE.iterdir() if p.suffix in (".html", ".css", ".js")]
    assert lines_of(web) <= PAGE_WEB_LINES
    assert all(len(line) <= COLUMNS for p in web for line in p.read_text("utf-8").splitlines())


def test_the_width_of_lines():
    """No line of code or Markdown is wider than COLUMNS; rows of tables and links may be."""
    wide = []
    for path in tracked():
        if path.suffix in (".py", ".md") and "third_party/licences" not in str(path):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                if len(line) > COLUMNS and not (
                    path.suffix == ".md" and (line.startswith(("|", "![")) or "](http" in line)
                ):
                    wide.append(f"{path.relative_to(ROOT)}:{number}")
    assert wide == []


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_same_files(method):
    assert [room for room in ROOMS if not (ROOT / method / room).is_file()] == []


def test_the_makefile_knows_every_method():
    makefile = (ROOT / "Makefile").read_text()
    assert sorted(re.search(r"^METHODS *= *(.*)$", makefile, re.M)[1].split()) == METHODS


# Safety -------------------------------------------------------------------------------------------


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
    """The numbers of lines that load files in a way that could run code from them."""
    found = []
    for node in ast.walk(code):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, keywords = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
            if name == "torch.load":
                only = keywords.get("weights_only")
                safe = isinstance(only, ast.Constant) and only.value is True
                found += [] if safe else [node.lineno]
            elif name in ("np.load", "numpy.load"):
                pickles = ast.unparse(keywords.get("allow_pickle", ast.Constant(False)))
                found += [node.lineno] if pickles != "False" else []
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
    """Words that occur on this machine only: paths of the project and of Python, home, host."""
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
    found = [
        f"{p.relative_to(ROOT)}: {m[0]}"
        for p in tracked()
        if p.stat().st_size < 2**21
        for m in pattern.finditer(p.read_text("utf-8", "replace"))
    ]
    assert found == []
    assert pattern.search(f"see {ROOT}/turn") and any(p.name == "Makefile" for p in tracked())


# Copies -------------------------------------------------------------------------------------------


def test_copies_have_not_drifted():
    assert copies.drifted() == [], "python -m tests.copies carries the newest edit to all"


def test_identical_parts_are_listed_as_copies():
    """A file with the same name and content in two methods is in the list of copies."""
    listed = {path for paths in copies.COPIES for path in paths}
    parts = {}
    for path, name in zip(SOURCES, NAMES):
        if path.relative_to(ROOT).parts[0] in METHODS and path.name != "__init__.py":
            parts.setdefault((path.name, path.read_bytes()), []).append(name)
    assert [names for names in parts.values() if len(names) > 1 and not set(names) <= listed] == []
    assert [path for path in listed if Path(path).parent.name != "backbones"] == []


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


# make help ----------------------------------------------------------------------------------------


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = {
        t for line in re.findall(r"^([a-zA-Z][\w% -]*):(?!=)", text, re.M) for t in line.split()
    }
    assert {"setup", "test", "train-%"} <= targets
    # without the variables of an outer make: this test may run under `make test`
    outer = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    help_text = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, env=outer
    ).stdout
    listed = {line.split()[1] for line in help_text.splitlines() if line.startswith("  make ")}
    assert {t.replace("%", "M") for t in targets} == listed
    for method in METHODS:
        assert method in help_text
