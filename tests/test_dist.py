"""Several processes compute what one does on the whole: values and gradients, in uneven parts."""

import os
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from common.io import InputError
from common.training import Run, RunConfig, dist

SIZES = {2: (5, 2), 3: (4, 0, 3)}  # rows of each process


def rows(world):
    """The whole batch, its parts' first rows, and a weight for every gathered element."""
    generator = torch.Generator().manual_seed(world)
    x = torch.randn(sum(SIZES[world]), 4, 3, 2, generator=generator, dtype=torch.double)
    return (
        x,
        np.cumsum([0, *SIZES[world]]),
        torch.randn(x.shape, generator=generator, dtype=torch.double),
    )


def norm(kind=nn.BatchNorm2d, **options):
    layer = kind(4, momentum=0.3, **options).double()
    if layer.affine:
        nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
        nn.init.normal_(layer.bias, generator=torch.Generator().manual_seed(2))
    return layer


def batchnorm(layer, part, weight):
    """→ output, gradients of input and parameters, running statistics."""
    part = part.clone().requires_grad_()
    out = layer(part)
    (out * weight).sum().backward()
    dist.sum_gradients(layer.parameters())
    return {
        "out": out.detach(),
        "dx": part.grad,
        "grads": [p.grad for p in layer.parameters()],
        "buffers": [b.clone() for b in layer.buffers()],
    }


def mean_losses(x):
    """Three means of the rows x of a batch, as a train.py takes them → values, gradients.

    of samples: a value of each row. of gathered rows: every process computes all of them. masked:
    a mean over some positions of the rows, of which a process may have none.
    """
    layer = nn.Linear(24, 5).double()
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(1))
    nn.init.zeros_(layer.bias)
    z = layer(x.flatten(1))  # (n, 5)
    everything = dist.gather_rows(z)  # (N, 5)
    parts = {
        "samples": dist.mean(z.square().sum(1)),
        "gathered": dist.mean(torch.logsumexp(everything @ everything.T, 1)),
        "masked": dist.mean(z.sin(), where=x.flatten(1)[:, :5] > 0.4),
        "nothing": dist.mean(z, where=torch.zeros_like(z, dtype=torch.bool)),
    }
    outputs = {}
    for name, part in parts.items():
        layer.zero_grad()
        part.backward(retain_graph=True)
        dist.sum_gradients(layer.parameters())
        grads = [p.grad.clone() for p in layer.parameters()]
        outputs[name] = dist.all_sum(part.detach()), grads
    return outputs


def work(rank, world, port, folder):
    """In each process: everything once, saved for the tests."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world)
    )
    dist.start(torch.device("cpu"))
    x, first, weight = rows(world)
    mine = slice(first[rank], first[rank + 1])
    outputs = {
        "rank": dist.rank(),
        "world": dist.world_size(),
        "share": list(dist.split(7)),
        "objects": dist.gather_objects({"rank": rank}),
    }

    part = x[mine].clone().requires_grad_()
    gathered = dist.gather_rows(part)
    (gathered * weight * (rank + 1)).sum().backward()  # every process has another loss of the whole
    outputs |= {
        "gathered": gathered.detach(),
        "dgather": part.grad,
        "labels": dist.gather_rows(torch.arange(rank + 1)),
    }

    part = x[mine].clone().requires_grad_()
    summed = dist.all_sum(part.sum((0, 2, 3)))
    (summed**2 * (rank + 1)).sum().backward()
    outputs |= {"total": summed.detach(), "dtotal": part.grad}

    parameters = [
        nn.Parameter(torch.zeros(3)),
        nn.Parameter(torch.zeros(2, 2, dtype=torch.double)),
        nn.Parameter(torch.zeros(1)),
        nn.Parameter(torch.zeros(2)),
    ]
    for i, p in enumerate(parameters[:3]):
        p.grad = torch.full_like(p, (rank + 1) * 10**i)
    dist.sum_gradients(iter(parameters))
    outputs |= {"grads": [p.grad for p in parameters]}

    outputs["means"] = mean_losses(x[mine])
    outputs["bn"] = batchnorm(dist.sync_batchnorm(norm()), x[mine], weight[mine])
    flat = dist.sync_batchnorm(norm(nn.BatchNorm1d, affine=False))
    outputs["bn1d"] = batchnorm(flat, x[mine][:, :, 0, 0], weight[mine][:, :, 0, 0])
    half = dist.sync_batchnorm(norm()).float()
    outputs["half"] = half(x[mine].bfloat16()).detach(), half.running_var
    outputs["eval"] = dist.sync_batchnorm(norm()).eval()(x[mine])

    run = Run("toy", RunConfig(out=str(folder / f"runs{world}"), device="cpu"))
    outputs["model"] = nn.Linear(
        3, 3
    ).state_dict()  # must be the same everywhere without a word between the processes
    run.start({}, {})
    outputs["drawn"] = torch.rand(3)
    run.step = 1
    run.log({"loss": torch.tensor(float(rank + 1))})
    run._has_signal = rank == world - 1  # the signal reached one process only
    try:
        run.end_step(True)
    except KeyboardInterrupt as error:
        outputs["stopped"] = str(error)
    outputs["name"] = run.config.name
    torch.save(outputs, folder / f"{world}-{rank}.pt")
    dist.stop()


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow) for n in SIZES])
def results(request, tmp_path_factory):
    """What the processes computed, in order of rank."""
    world, folder = request.param, tmp_path_factory.mktemp("dist")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(work, (world, port, folder), nprocs=world, start_method="forkserver")
    files = [folder / f"{world}-{rank}.pt" for rank in range(world)]
    outputs = [torch.load(file, weights_only=True) for file in files]
    return world, outputs, folder


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_ranks_and_shares(results):
    world, outputs, _ = results
    assert [f["rank"] for f in outputs] == list(range(world)) and {f["world"] for f in outputs} == {
        world
    }
    assert sorted(i for f in outputs for i in f["share"]) == list(range(7))
    assert max(len(f["share"]) for f in outputs) - min(len(f["share"]) for f in outputs) <= 1
    assert all(f["objects"] == [{"rank": r} for r in range(world)] for f in outputs)


def test_gather_is_the_whole_with_its_gradients(results):
    world, outputs, _ = results
    x, first, weight = rows(world)
    for rank, f in enumerate(outputs):
        close(f["gathered"], x)
        close(
            f["dgather"], (weight * sum(range(1, world + 1)))[first[rank] : first[rank + 1]]
        )  # of the sum of all losses
        assert f["labels"].tolist() == [i for r in range(world) for i in range(r + 1)]


def test_total_is_the_sum_with_its_gradients(results):
    world, outputs, _ = results
    x, first, _ = rows(world)
    whole = x.clone().requires_grad_()
    summed = whole.sum((0, 2, 3))
    (summed**2 * sum(range(1, world + 1))).sum().backward()
    for rank, f in enumerate(outputs):
        close(f["total"], summed.detach())
        close(f["dtotal"], whole.grad[first[rank] : first[rank + 1]])


def test_sum_gradients(results):
    world, outputs, _ = results
    everybody = sum(range(1, world + 1))
    for f in outputs:
        for i, grad in enumerate(f["grads"][:3]):
            close(grad, torch.full_like(grad, everybody * 10**i))
        assert f["grads"][1].dtype == torch.double and f["grads"][3] is None


@pytest.mark.parametrize("name", ["samples", "gathered", "masked", "nothing"])
def test_means_and_their_gradients_are_those_of_one_process(results, name):
    world, outputs, _ = results
    value, grads = mean_losses(rows(world)[0])[name]
    assert (name == "nothing") == (value == 0) == all((g == 0).all() for g in grads)
    for f in outputs:
        torch.testing.assert_close(f["means"][name][0], value, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(f["means"][name][1], grads, rtol=1e-6, atol=1e-6)


def test_mean_alone_is_torchs():
    x = torch.randn(7, 3)
    torch.testing.assert_close(dist.mean(x), x.mean())
    torch.testing.assert_close(dist.mean(x, x > 0), x[x > 0].mean())
    assert dist.mean(x, x != x) == 0  # of nothing


@pytest.mark.parametrize("kind", ["bn", "bn1d"])
def test_batch_norm_is_that_of_the_whole_batch(results, kind):
    world, outputs, _ = results
    x, first, weight = rows(world)
    if kind == "bn":
        expected = batchnorm(norm(), x, weight)
    else:
        expected = batchnorm(norm(nn.BatchNorm1d, affine=False), x[:, :, 0, 0], weight[:, :, 0, 0])
    for rank, f in enumerate(outputs):
        part = slice(first[rank], first[rank + 1])
        close(f[kind]["out"], expected["out"][part])
        close(f[kind]["dx"], expected["dx"][part])
        close(f[kind]["grads"], expected["grads"])
        close(f[kind]["buffers"], expected["buffers"])


def test_batch_norm_of_bfloat16_keeps_its_statistics_in_float32(results):
    world, outputs, _ = results
    x, first, _ = rows(world)
    layer = norm().float()
    expected = layer(x.bfloat16().float()).detach()
    for rank, f in enumerate(outputs):
        out, variance = f["half"]
        assert out.dtype == torch.bfloat16 and variance.dtype == torch.float32
        torch.testing.assert_close(
            out.float(), expected[first[rank] : first[rank + 1]], rtol=0.01, atol=0.01
        )
        torch.testing.assert_close(variance, layer.running_var, rtol=1e-5, atol=1e-6)


def test_batch_norm_in_evaluation_is_torchs(results):
    world, outputs, _ = results
    x, first, _ = rows(world)
    for rank, f in enumerate(outputs):
        close(f["eval"], norm().eval()(x[first[rank] : first[rank + 1]]))


def test_every_process_begins_with_the_same_model_and_stops_together(results):
    """Dropout, which comes later, has other draws in each."""
    world, outputs, folder = results
    assert len({tuple(f["drawn"].tolist()) for f in outputs}) == world
    model = outputs[0]["model"]
    assert all(torch.equal(f["model"][k], v) for f in outputs for k, v in model.items())
    assert all(f["stopped"].startswith("stopped at step 1; --resume") for f in outputs)
    assert len({f["name"] for f in outputs}) == 1
    written = folder / f"runs{world}" / "toy" / outputs[0]["name"]
    assert len(torch.load(written / "last.pt", weights_only=True)["rng"]) == world
    assert (written / "log.jsonl").read_text().count("\n") == 1  # one process writes
    assert (
        f'"loss": {sum(range(1, world + 1))}.0' in (written / "log.jsonl").read_text()
    )  # the sum of the shares


def test_alone_everything_is_the_identity():
    x = torch.randn(3, 2, requires_grad=True)
    assert dist.gather_rows(x) is x and dist.all_sum(x) is x and dist.gather_objects(1) == [1]
    assert (dist.rank(), dist.world_size(), list(dist.split(3))) == (0, 1, [0, 1, 2])
    layer, other = dist.sync_batchnorm(norm()), norm()
    images = torch.randn(5, 4, 3, 3, dtype=torch.double)
    assert torch.equal(layer(images), other(images)) and list(layer.state_dict()) == list(
        other.state_dict()
    )
    dist.start(torch.device("cpu"))  # nothing announced: nothing to join
    assert not torch.distributed.is_initialized()


def test_sync_batchnorm_finds_those_inside_and_leaves_the_rest():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.Sequential(nn.BatchNorm2d(2), nn.GroupNorm(1, 2)), nn.BatchNorm1d(2)
    )
    parameters = [id(p) for p in model.parameters()]
    assert dist.sync_batchnorm(model) is model and [id(p) for p in model.parameters()] == parameters
    assert [type(m) is dist.BatchNorm for m in (model[1][0], model[1][1], model[2])] == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("change", [{}, {"RANK": "0"}, {"WORLD_SIZE": "x"}])
def test_half_an_environment_is_one_line(monkeypatch, change):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"WORLD_SIZE": "2", **change}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="WORLD_SIZE"):
        dist.start(torch.device("cpu"))
