"""Nearest neighbours: exact, itself excluded, bounded, restartable; and what is refused."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.io import InputError
from common.training import array_files
from common.training import nearest as s
from sslalign import neighbors as n

ROOT = Path(__file__).resolve().parents[1]


def cosines(x):
    """(N, N) in float64, itself -inf; row by row, as one would on paper."""
    x = np.asarray(x, np.float64)
    length = np.linalg.norm(x, axis=1)
    s = np.array(
        [
            [a @ b / (la * lb) if la * lb else 0.0 for b, lb in zip(x, length)]
            for a, la in zip(x, length)
        ]
    )
    np.fill_diagonal(s, -np.inf)
    return s


def is_top_k(found, x, tolerance=1e-5):
    """Row i of `found` holds k different rows, as similar as the k most similar, in that order."""
    s, found = cosines(x), np.asarray(found)
    best = -np.sort(-s, 1)
    chosen = np.take_along_axis(s, found, 1)
    assert found.dtype == np.int32 and all(len(set(row)) == len(row) for row in found.tolist())
    np.testing.assert_allclose(chosen, best[:, : found.shape[1]], atol=tolerance)
    order = np.argsort(-s, 1, kind="stable")
    gaps = np.concatenate(
        [np.full((len(s), 1), np.inf), best[:, :-1] - best[:, 1:]], 1
    )  # gap to the one before
    alone = (np.minimum(gaps, np.roll(gaps, -1, 1)) > 4 * tolerance)[:, : found.shape[1]]
    np.testing.assert_array_equal(found[alone], order[:, : found.shape[1]][alone])


# The search ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    count=st.integers(2, 60),
    width=st.integers(1, 24),
    seed=st.integers(0, 999),
    half=st.booleans(),
)
def test_exact(data, count, width, seed, half, tmp_path_factory):
    k, block = data.draw(st.integers(1, count - 1)), data.draw(st.integers(0, count + 3))
    x = (
        np.random.default_rng(seed)
        .standard_normal((count, width))
        .astype(np.float16 if half else np.float32)
    )
    x *= (
        np.random.default_rng(seed).uniform(0.1, 30, (count, 1)).astype(x.dtype)
    )  # cosine, not the product
    with mock.patch.object(s, "MAX_SIMILARITIES", block * count):
        found = s.search(x, k, tmp_path_factory.mktemp("exact") / "found.npy")
    assert found.shape == (count, k) and isinstance(found, np.memmap)
    is_top_k(found, x)
    is_top_k(s.nearest(torch.from_numpy(x), k), x)


def test_duplicates_and_zeros(tmp_path, monkeypatch):
    """A row is not its own neighbour, though others are as similar; zeros have cosine 0."""
    x = np.repeat(np.random.default_rng(0).standard_normal((5, 8), dtype=np.float32), 6, axis=0)
    x[[3, 11]] = 0
    monkeypatch.setattr(s, "MAX_SIMILARITIES", 7 * len(x))
    found = s.search(x, 29, tmp_path / "a.npy")
    is_top_k(found, x)
    assert (np.sort(found, 1) == [[j for j in range(30) if j != i] for i in range(30)]).all()
    is_top_k(s.nearest(torch.from_numpy(x), 4), x)


def test_scales_of_float32(tmp_path):
    """Squares of these lengths are infinite or nothing."""
    x = np.random.default_rng(1).standard_normal((20, 6), dtype=np.float32)
    scale = np.resize(np.float32([1e-30, 1e30, 1]), (20, 1))
    assert (
        s.search(x * scale, 5, tmp_path / "a.npy") == s.search(x, 5, tmp_path / "b.npy")
    ).mean() > 0.98
    is_top_k(s.search(x * scale, 5, tmp_path / "a.npy"), x)


def test_full_precision_within_mixed_training():
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = s.nearest(x.requires_grad_(), 10)
    assert not found.requires_grad
    is_top_k(found, x.detach())
    is_top_k(s.nearest(x.detach().bfloat16(), 10), x.detach().bfloat16().float())


@pytest.mark.parametrize("k", [0, -1, 5, 1000])
def test_k_out_of_range(k, tmp_path):
    for search in (lambda x: s.search(x.numpy(), k, tmp_path / "a.npy"), lambda x: s.nearest(x, k)):
        with pytest.raises(InputError, match=f"--k: {k}: each of 5 samples has 4"):
            search(torch.eye(5))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(bad, tmp_path, monkeypatch):
    x = np.ones((50, 4), np.float16)
    x[37, 2] = bad
    np.save(tmp_path / "image_features.npy", x)
    monkeypatch.setattr(s, "ROWS", 16)
    with pytest.raises(InputError, match=r"image_features\.npy: row 37 is not finite"):
        s.search(
            np.load(tmp_path / "image_features.npy", mmap_mode="r", allow_pickle=False),
            3,
            tmp_path / "a.npy",
        )
    assert [p.name for p in tmp_path.iterdir()] == ["image_features.npy"]
    with pytest.raises(FloatingPointError):
        s.nearest(torch.from_numpy(x), 3)


# Files that grow ----------------------------------------------------------------------------------


class Stopped(Exception):
    pass


BLOCKS = s.topk_blocks


def stops(after, begun):
    """`topk_blocks` that dies after some blocks, and notes where each call began."""

    def topk_blocks(x, k, first=0):
        begun.append(first)
        for i, found in enumerate(BLOCKS(x, k, first)):
            if i == after:
                raise Stopped
            yield found

    return topk_blocks


def test_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(s, "MAX_SIMILARITIES", 4 * 50)  # blocks of four rows
    x = np.random.default_rng(2).standard_normal((50, 8), dtype=np.float32)
    whole = s.search(x, 9, tmp_path / "whole.npy")
    path, begun = tmp_path / "found.npy", []
    monkeypatch.setattr(s, "topk_blocks", stops(5, begun))
    for _ in range(2):
        with pytest.raises(Stopped):
            s.search(x, 9, path)
        assert not path.exists()
    with open(path.with_name("found.npy.part"), "ab") as part:
        part.write(b"a torn block")
    np.testing.assert_array_equal(s.search(x, 9, path), whole)
    assert begun == [0, 20, 40]
    assert path.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    s.search(x, 9, path)  # finished: nothing is computed
    assert begun == [0, 20, 40] and not path.with_name("found.npy.part").exists()


@pytest.mark.parametrize(
    "change", ["features", "dtype", "width", "k", "part lost", "part short", "record torn"]
)
def test_begins_again(change, tmp_path, monkeypatch):
    monkeypatch.setattr(s, "MAX_SIMILARITIES", 4 * 30)  # blocks of four rows
    x = np.random.default_rng(3).standard_normal((30, 8), dtype=np.float32)
    k, path, begun = 6, tmp_path / "found.npy", []
    monkeypatch.setattr(s, "topk_blocks", stops(3, begun))
    with pytest.raises(Stopped):
        s.search(x, k, path)
    part, record = path.with_name("found.npy.part"), path.with_name("found.npy.json")
    if change == "features":
        x = x.copy()
        x[29, 7] += 1
    elif change == "dtype":
        x = x.astype(np.float16)
    elif change == "width":
        x = x.reshape(30, 4, 2)[:, :, 0].copy()
    elif change == "k":
        k = 5
    elif change == "part lost":
        part.unlink()
    elif change == "part short":
        os.truncate(part, part.stat().st_size - 1)
    else:
        record.write_text(json.dumps([1]))
    monkeypatch.setattr(s, "topk_blocks", stops(None, begun))
    is_top_k(s.search(x, k, path), x)
    assert begun == [0, 0]


def test_rows_are_on_disk_before_they_are_counted(tmp_path, monkeypatch):
    """A header of 128 bytes, and two rows of 8 bytes at a time."""
    events, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.fstat(fd).st_size), fsync(fd)))
    monkeypatch.setattr(array_files, "write_json", lambda path, x: events.append(x["rows"]))
    blocks = [np.ones((2, 2))] * 2
    array_files.fill_array(tmp_path / "a.npy", (4, 2), np.int32, {}, lambda first: blocks)
    assert events == [128 + 16, 2, 128 + 32, 4]


def test_a_lock_is_of_one_process(tmp_path):
    """Of one open file: another one can lock it after the block."""

    def lock(file):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with array_files.exclusive_lock(tmp_path), open(tmp_path / "lock") as other:
        with pytest.raises(BlockingIOError):
            lock(other)
    with open(tmp_path / "lock") as other:
        lock(other)


def test_a_finished_file_of_other_features_is_replaced(tmp_path):
    x = np.random.default_rng(4).standard_normal((2, 20, 4), dtype=np.float32)
    for part in x:
        is_top_k(s.search(part, 3, tmp_path / "a.npy"), part)


def test_a_file_of_somebody_else_stays(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(InputError, match="not made by this command"):
        s.search(np.eye(5, dtype=np.float32), 2, tmp_path / "a.npy")
    assert np.load(tmp_path / "a.npy").shape == (3,)


KILLED = """
    import sys
    import numpy as np, torch
    from common.training import nearest as neighbors
    torch.set_num_threads(1)
    begin = neighbors.topk_blocks
    def slowly(x, k, first=0):
        print("from", first, flush=True)
        for i, found in enumerate(begin(x, k, first)):
            yield found
            print("block", i, flush=True)
            if i == 3 and sys.argv[2] == "hang":
                sys.stdin.read()
    neighbors.topk_blocks = slowly
    neighbors.MAX_SIMILARITIES = 32 * 400
    x = np.random.default_rng(5).standard_normal((400, 16), dtype=np.float32)
    neighbors.search(x, 20, sys.argv[1])
"""


def start(*args):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_killed(tmp_path):
    first = start(tmp_path / "a.npy", "hang")
    try:
        lines = [first.stdout.readline().strip() for _ in range(5)]
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (
        lines == ["from 0", *(f"block {i}" for i in range(4))] and not (tmp_path / "a.npy").exists()
    )
    assert start(tmp_path / "a.npy", "").communicate()[0].split("\n")[0] == "from 128"
    assert start(tmp_path / "b.npy", "").communicate()[0].split("\n")[0] == "from 0"
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


MEMORY = """
    import resource, sys
    import numpy as np, torch
    from common.training.nearest import search
    torch.set_num_threads(1)
    x = np.load(sys.argv[1], mmap_mode="r", allow_pickle=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    search(x, 100, sys.argv[2])
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_memory(tmp_path):
    """16 000 rows have 1024 MB of similarities, of which 134 MB are in memory at a time."""
    np.save(
        tmp_path / "x.npy", np.random.default_rng(6).standard_normal((16000, 128), dtype=np.float32)
    )
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), tmp_path / "x.npy", tmp_path / "found.npy"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 400


# What training reads ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Features of somebody's encoders, with their neighbours."""
    ids = [f"clip{i}" for i in range(12)]
    (tmp_path / "ids.txt").write_text("".join(f"{i}\n" for i in ids))
    rng = np.random.default_rng(7)
    np.save(tmp_path / "image_features.npy", rng.standard_normal((12, 6)).astype(np.float16))
    np.save(tmp_path / "audio_features.npy", rng.standard_normal((12, 9), dtype=np.float32))
    n.main([str(tmp_path), "--k", "4", "--device", "cpu"])
    return tmp_path, ids


def test_loads(folder, capsys):
    folder, ids = folder
    for modality, found in zip(n.MODALITIES, n.load_neighbours(folder, ids)):
        assert isinstance(found, np.memmap) and not found.flags.writeable and found.shape == (12, 4)
        is_top_k(found, np.load(folder / f"{modality}_features.npy", allow_pickle=False))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda ids: ids[:5] + ["other"] + ids[6:],
            r"ids\.txt: line 6 is 'clip5', the data have 'other' there",
        ),
        (lambda ids: ids[:-1], "line 12 is 'clip11', the data have nothing there"),
        (lambda ids: [*ids, "more"], "line 13 is nothing, the data have 'more' there"),
        (lambda ids: ids[::-1], "line 1 is 'clip0', the data have 'clip11' there"),
    ],
)
def test_ids_of_others(folder, change, message):
    with pytest.raises(InputError, match=message):
        n.load_neighbours(folder[0], change(folder[1]))


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((12, 4), np.int64), r"int64 \(12, 4\): not"),
        (np.zeros((11, 4), np.int32), "with N = 12"),
        (np.zeros((12, 0), np.int32), "with N = 12"),
        (np.zeros(12, np.int32), "with N = 12"),
        (np.full((12, 4), 12, np.int32), "not the rows of other samples, from 0 to 11"),
        (np.full((12, 4), -1, np.int32), "not the rows of other"),
        (np.full((12, 4), 3, np.int32), "not the rows of other"),
        (np.array([{}] * 12), "can't be memory-mapped"),
    ],
)
def test_files_that_are_not_neighbours(folder, array, message):
    np.save(folder[0] / "audio_neighbours.npy", array)
    with pytest.raises(InputError, match=rf"audio_neighbours\.npy: .*{message}"):
        n.load_neighbours(*folder)


def test_unfinished_and_missing(folder):
    path = folder[0] / "audio_neighbours.npy"
    path.rename(path.with_name("audio_neighbours.npy.part"))
    with pytest.raises(
        InputError, match=r"not finished; `python -m sslalign\.neighbors .*` continues it"
    ):
        n.load_neighbours(*folder)
    path.with_name("audio_neighbours.npy.part").unlink()
    with pytest.raises(InputError, match=r"no such file: .* makes it"):
        n.load_neighbours(*folder)
    whole = path.with_name("image_neighbours.npy").read_bytes()
    for damaged in (
        b"what is this",
        whole[:-1],
        whole.replace(b"}", b" "),
        whole.replace(b"(12", b"({}"),
        b"",
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"audio_neighbours\.npy: "):
            n.load_neighbours(*folder)
    (folder[0] / "ids.txt").unlink()
    with pytest.raises(InputError, match=r"ids\.txt"):
        n.load_neighbours(*folder)


# The command --------------------------------------------------------------------------------------


def fails(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        n.main([*map(str, args), "--device", "cpu"])
    err = [line for line in capsys.readouterr().err.splitlines() if " listed" not in line]
    assert stop.value.code == 2 and len(err) == 1
    return err[0]


def test_bad_input_is_one_line(folder, capsys):
    folder, _ = folder
    assert "--k: 12: each of 12 samples has 11" in fails(capsys, folder, "--k", 12)
    assert "--data goes with --root" in fails(capsys, folder, "--data", "vggsound")
    assert "the two weights with --data" in fails(capsys, folder, "--image-weights", "x.pth")
    assert "none of scenes, vggsound" in fails(capsys, folder, "--data", "vggss", "--root", folder)
    np.save(folder / "image_features.npy", np.zeros((11, 3), np.float32))
    assert "float32 (11, 3): not (N, d)" in fails(capsys, folder, "--k", 2)
    np.save(folder / "image_features.npy", np.zeros((12, 3)))
    assert "float64 (12, 3): not (N, d) float16 or float32" in fails(capsys, folder, "--k", 2)
    (folder / "image_features.npy").unlink()
    assert "image_features.npy: no such file: put the features of your encoders there" in fails(
        capsys, folder, "--k", 2
    )
    assert "ids.txt" in fails(capsys, folder / "nothing", "--k", 2)
