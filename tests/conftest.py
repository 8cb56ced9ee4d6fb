"""How the tests are spread over processes, and the line that is printed before they run.

`make test` starts one process for each core, with one torch thread in each. Tests that share an
expensive fixture stay in one process. Slow tests run first, so that no core idles at the end.
"""

import time

import pytest
import torch

from tests.browser import CHROMIUM

torch.set_num_threads(1)


def shared_fixture(item) -> str:
    """The name of the group of tests that share a module's fixture and its parameter, or ""."""
    definitions = getattr(item, "_fixtureinfo", None)
    names = (
        []
        if definitions is None
        else [
            name
            for name, found in definitions.name2fixturedefs.items()
            if found[-1].scope == "module" and found[-1].baseid
        ]
    )
    parameters = getattr(item, "callspec", None)
    values = [
        str(parameters.params[name])
        for name in names
        if parameters is not None and name in parameters.params
    ]
    return "-".join([item.nodeid.partition("::")[0], *values]) if names else ""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config, items):
    for item in items:
        if group := shared_fixture(item):
            item.add_marker(pytest.mark.xdist_group(group))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)  # a stable sort


def pytest_sessionstart(session):
    """Print which tests will run and how long they took last time (controlling process only)."""
    config = session.config
    config.started = time.time()
    if not hasattr(config, "workerinput") and not config.option.collectonly:
        marks = config.option.markexpr
        tests = f"tests that are {marks}" if marks else "all tests"
        last = config.cache.get(f"seconds/{marks or 'all'}", None)
        when = f"last time: {last // 60} min {last % 60} s" if last else "no complete run yet"
        processes = getattr(config.option, "numprocesses", None) or 1  # none without pytest-xdist
        print(f"{tests}, in {processes} processes; {when}", flush=True)
        if not CHROMIUM:
            print("no browser: the report page is not tested in one (Debian's package: chromium)")


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    option = config.option
    whole = set(config.args) == set(config.getini("testpaths")) and not option.collectonly
    whole = whole and not option.keyword and not hasattr(config, "workerinput")
    if whole and exitstatus in (0, 1):
        config.cache.set(
            f"seconds/{config.option.markexpr or 'all'}", round(time.time() - config.started)
        )
