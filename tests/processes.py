"""Commands of the project in processes of their own that start at once.

`python -m METHOD.train` takes two seconds to import torch, and its optimizer two more. Here
a server process does that once, and each command is a fork of the server, with its own folder,
environment and output.
"""

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from pathlib import Path

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch.distributed", "torch._dynamo", "common.training", "common.evaluation"]
)


def _run(program: str, argv: list, cwd: str, env: dict, out: str, err: str) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of data loaders, as by default on Linux
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(int(env.get("OMP_NUM_THREADS", 1)))  # the server read its own value
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    sys.argv, sys.path[0] = [program, *argv], env.get("PYTHONPATH", cwd)
    if "\n" in program:
        exec(compile(program, "-c", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


class Command:
    """A running command, with the part of subprocess.Popen's interface that the tests use."""

    def __init__(self, program: str, argv: list, cwd, env: dict):
        self.args = [program, *argv]
        self.files = [tempfile.mkstemp(suffix=".txt") for _ in range(2)]
        for number, _ in self.files:
            os.close(number)
        self.process = SERVER.Process(
            target=_run, args=(program, argv, str(cwd), env, *(path for _, path in self.files))
        )
        self.process.start()
        self.pid = self.process.pid

    def communicate(self, timeout=None) -> tuple:
        """Wait for the end → what it wrote to stdout and to stderr."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return tuple(Path(path).read_text("utf-8", "replace") for _, path in self.files)

    @property
    def returncode(self):
        return self.process.exitcode


def start(program: str, argv: list, cwd, env: dict) -> Command:
    """Start a module, or a program of several lines, with the arguments `argv`."""
    return Command(program, argv, cwd, env)


def start_ranks(program: str, argv: list, cwd, env: dict, n: int = 2) -> list:
    """Start n processes that form one group, as torchrun would, but without its supervision."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start(program, argv, cwd, env | group | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(n)
    ]
