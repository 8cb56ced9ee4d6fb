"""avkd/losses.py and train.loss_terms: Eqs. (1) to (3) against loops over pairs and positions; what
they cost in memory; two processes as one."""

import math
import os
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avkd.config import PAPER, TINY
from avkd.losses import L_a, L_S, L_v, L_v_attention, similarity
from avkd.model import localization_map
from avkd.train import loss_terms
from common.training import dist

ROOT = Path(__file__).resolve().parents[1]


def naive_similarity(f_v, f_a):
    """The maximum of O (3.3), pair by pair and position by position: S (images, audio)."""

    def greatest(a, v):
        return max(
            a @ v[:, y, x] / (a.norm() * v[:, y, x].norm())
            for y in range(v.shape[1])
            for x in range(v.shape[2])
        )

    return torch.stack([torch.stack([greatest(a, v) for a in f_a]) for v in f_v])


def contrast(f_v, f_a, tau, chunk=128):
    """Eq. (1), the mean over the samples."""
    return L_S(similarity(f_v, f_a, chunk), tau).mean()


def naive_L_S(f_v, f_a, tau):
    """Eq. (1): the product of both softmaxes, sample by sample."""
    S, k, total = torch.exp(naive_similarity(f_v, f_a) / tau), len(f_v), 0
    for i in range(k):
        total = total - torch.log(
            S[i, i] / sum(S[i, j] for j in range(k)) * S[i, i] / sum(S[j, i] for j in range(k))
        )
    return total / k


def naive_hint(f, e):
    """Eqs. (2), (3) of what is normalised already: the squares, element by element."""
    return sum((x - y) ** 2 for x, y in zip(f.flatten(), e.flatten())) / f.numel()


def features(k, c=4, h=2, w=3, seed=0, m=None):
    """f_v, f_a, e_v, e_a in double precision."""
    g = torch.Generator().manual_seed(seed)
    shapes = (k, c, h, w), (m or k, c), (k, c, h, w), (k, c)
    return [torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes]


def both(fast, slow, inputs):
    """Equal values and equal gradients."""
    inputs = [x.requires_grad_() for x in inputs]
    a, b = fast(*inputs), slow(*inputs)
    torch.testing.assert_close(a, b)
    weight = torch.randn(a.shape, generator=torch.Generator().manual_seed(1), dtype=a.dtype)
    for ours, theirs in zip(
        torch.autograd.grad((a * weight).sum(), inputs),
        torch.autograd.grad((b * weight).sum(), inputs),
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.fixture(autouse=True)
def in_double_precision(monkeypatch):
    """Losses are computed in float32, under autocast too; here in the input's precision."""
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x)


# Eq. (1)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 3), m=st.integers(1, 3), h=st.integers(1, 2), seed=st.integers(0, 99))
def test_similarity_is_the_loop_over_pairs_and_positions(n, m, h, seed):
    both(similarity, naive_similarity, features(n, h=h, seed=seed, m=m)[:2])


@settings(max_examples=15, deadline=None)
@given(k=st.integers(1, 5), tau=st.sampled_from([0.07, 0.3, 1.0]), seed=st.integers(0, 99))
def test_L_S_is_equation_1(k, tau, seed):
    both(
        lambda v, a: contrast(v, a, tau),
        lambda v, a: naive_L_S(v, a, tau),
        features(k, seed=seed)[:2],
    )


@settings(max_examples=15, deadline=None)
@given(k=st.integers(1, 9), chunk=st.integers(1, 11), seed=st.integers(0, 99))
def test_chunks_are_of_no_matter(k, chunk, seed):
    inputs = features(k, seed=seed)[:2]
    both(lambda v, a: similarity(v, a, chunk), similarity, inputs)
    both(lambda v, a: contrast(v, a, 0.1, chunk), lambda v, a: contrast(v, a, 0.1), inputs)


def test_the_diagonal_is_the_maximum_of_the_localization_map():
    """What is trained is what is shown."""
    f_v, f_a, *_ = features(5)
    maps = localization_map(f_v, f_a)
    assert maps.shape == (5, 2, 3)
    torch.testing.assert_close(maps.amax((1, 2)), similarity(f_v, f_a).diagonal())


@settings(max_examples=15, deadline=None)
@given(k=st.integers(2, 6), scale=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_order_and_lengths_are_of_no_matter(k, scale, seed):
    f_v, f_a, *_ = features(k, seed=seed)
    order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    loss = contrast(f_v, f_a, 0.1)
    torch.testing.assert_close(contrast(f_v[order], f_a[order], 0.1), loss)
    torch.testing.assert_close(contrast(f_v * scale, f_a / scale, 0.1), loss)
    torch.testing.assert_close(
        contrast(f_v.flip(2).transpose(2, 3), f_a, 0.1), loss
    )  # nor where in the image the maximum is


@pytest.mark.parametrize("tau", [0.03, 0.5])
def test_perfect_alignment_is_the_minimum(tau):
    """One position of each image equals its audio; all else is orthogonal or the opposite."""
    k = 4
    f_a = torch.eye(2 * k, dtype=torch.float64)[:k]
    f_v = torch.eye(2 * k, dtype=torch.float64)[k:, :, None, None].repeat(1, 1, 2, 3)
    f_v[:, :, 1, 2] = f_a
    assert float(contrast(f_v, f_a, tau)) == pytest.approx(
        2 * math.log(1 + (k - 1) * math.exp(-1 / tau))
    )
    assert (
        float(contrast(f_v, f_a.roll(1, 0), tau)) > 1 / tau
    )  # each image with the audio of another
    pair = f_a[:1] * torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    least = 2 * math.log(1 + math.exp(-2 / tau))
    assert float(contrast(pair[:, :, None, None], pair, tau)) == pytest.approx(least)
    assert all(float(contrast(*features(2, seed=seed)[:2], tau)) > least for seed in range(20))


def test_features_that_are_all_the_same_score_two_logarithms():
    f_v, f_a, *_ = features(1)
    assert float(contrast(f_v.expand(6, -1, -1, -1), f_a.expand(6, -1), 0.03)) == pytest.approx(
        2 * math.log(6)
    )


# Eqs. (2), (3)


@settings(max_examples=15, deadline=None)
@given(k=st.integers(1, 3), seed=st.integers(0, 99))
def test_hints_are_equations_2_and_3(k, seed):
    def whole(f, e):
        return sum(naive_hint(x / x.norm(), y / y.norm()) for x, y in zip(f, e)) / k

    def positions(f, e):
        columns = [
            (f[i, :, y, x], e[i, :, y, x]) for i in range(k) for y in range(2) for x in range(3)
        ]
        return sum(naive_hint(x / x.norm(), y / y.norm()) for x, y in columns) / len(columns)

    f_v, f_a, e_v, e_a = features(k, seed=seed)
    both(lambda f, e: L_a(f, e).mean(), whole, (f_a, e_a))
    both(lambda f, e: L_v(f, e).mean(), whole, (f_v, e_v))
    both(lambda f, e: L_v(f, e, "position").mean(), positions, (f_v, e_v))


@settings(max_examples=15, deadline=None)
@given(k=st.integers(1, 3), scale=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_the_hint_of_attention_is_equation_2(k, scale, seed):
    """Of a map of the same size; its unit features are averaged over the channels."""

    def positions(f, e):
        values = [
            (sum(f[i, :, y, x] / f[i, :, y, x].norm()) / 4 - e[i, y, x]) ** 2
            for i in range(k)
            for y in range(2)
            for x in range(3)
        ]
        return sum(values) / len(values)

    f_v, _, e_v, _ = features(k, seed=seed)
    both(lambda f, e: L_v_attention(f, e).mean(), positions, (f_v, e_v[:, 0]))
    torch.testing.assert_close(L_v_attention(f_v * scale, e_v[:, 0]), L_v_attention(f_v, e_v[:, 0]))
    ones = torch.ones(k, 4, 2, 3, dtype=torch.float64)  # the most that a mean of channels can be
    assert (L_v_attention(ones, torch.full((k, 5, 4), 0.5, dtype=torch.float64)) < 1e-30).all()


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(0.1, 10), other=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_hints_at_equality_and_scaled(scale, other, seed):
    f_v, f_a, e_v, e_a = features(3, seed=seed)
    for loss, f, e, elements in (
        (L_a, f_a, e_a, 4),
        (L_v, f_v, e_v, 24),
        (lambda f, e: L_v(f, e, "position"), f_v, e_v, 4),
    ):
        assert loss(f, e).shape == (3,)
        assert (loss(f, f * scale) < 1e-30).all()
        assert (loss(f, e) > 1e-30).all() and (loss(f, e) < 4 / elements).all()
        opposite = torch.full((3,), 4 / elements, dtype=f.dtype)  # a distance of 2, squared
        torch.testing.assert_close(loss(f, -f), opposite)
        torch.testing.assert_close(loss(f * scale, e * other), loss(f, e))
        torch.testing.assert_close(loss(e, f), loss(f, e))


def test_a_strong_position_weighs_more_in_the_map_than_by_itself():
    """The two readings differ: the whole map's norm leaves a loud position loud."""
    f_v, _, e_v, _ = features(2)
    e_v[:, :, 0, 0] = 100 * f_v[:, :, 0, 0]
    f_v[:, :, 0, 0] *= 100
    assert (L_v(f_v, e_v, "map") < 0.01 * L_v(f_v, e_v, "position")).all()


# Their sum


@pytest.mark.parametrize("of", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("norm", ["map", "position"])
def test_the_total_is_the_weighted_sum(of, norm):
    f_v, f_a, e_v, e_a = features(4)
    e_v, e_a = e_v if of[0] else None, e_a if of[1] else None
    config = replace(TINY, alpha1=0.5, alpha2=3.0, alpha3=7.0, tau=0.2, visual_norm=norm, chunk=3)
    config = replace(config, visual_hint="backbone")
    expected = {"contrast": 0.5 * naive_L_S(f_v, f_a, 0.2)}
    if of[1]:
        expected["audio_hint"] = 3 * L_a(f_a, e_a).mean()
    if of[0]:
        expected["visual_hint"] = 7 * L_v(f_v, e_v, norm).mean()
    found = loss_terms(f_v, f_a, e_v, e_a, config)
    assert set(found) == {"loss", *expected}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(found["loss"], sum(expected.values()))


def test_the_paper_s_weights_put_the_terms_in_one_range():
    """Features of nothing in common, c = 2048 and 7 × 7: a squared distance of 2 over c or 49·c
    elements. α3 is of α2's order only if vision is normalised over the whole map.
    """
    assert (PAPER.alpha1, PAPER.alpha2, PAPER.alpha3, PAPER.visual_norm) == (
        1,
        1000,
        100_000,
        "map",
    )
    f_v, f_a, e_v, e_a = features(6, PAPER.channels, PAPER.side, PAPER.side)
    backbone = replace(PAPER, visual_hint="backbone")
    terms = loss_terms(f_v, f_a, e_v, e_a, backbone)
    assert float(terms["audio_hint"]) == pytest.approx(2000 / 2048, rel=0.1)
    assert float(terms["visual_hint"]) == pytest.approx(200_000 / (49 * 2048), rel=0.05)
    assert 0.1 < float(terms["contrast"]) < 20
    assert float(
        loss_terms(f_v, f_a, e_v, e_a, replace(backbone, visual_norm="position"))["visual_hint"]
    ) > 40 * float(terms["visual_hint"])
    attention = torch.zeros(6, 25, 25)
    attention[:, 5:15, 5:15] = 1 / 100  # a hundred of 625 positions: α3 / 625² / 100 · 625
    assert PAPER.visual_hint == "attention"
    terms = loss_terms(f_v, f_a, attention, e_a, PAPER)
    assert float(terms["visual_hint"]) == pytest.approx(160 / 100, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype, monkeypatch):
    monkeypatch.undo()
    f_v, f_a, e_v, e_a = (x.to(dtype) for x in features(4))
    for kind, hint in (("backbone", e_v), ("attention", e_v[:, 0])):
        config = replace(TINY, visual_hint=kind)
        low = loss_terms(f_v, f_a, hint, e_a, config)
        high = loss_terms(*(x.float() for x in (f_v, f_a, hint, e_a)), config)
        for name, value in high.items():
            assert low[name].dtype == torch.float32 and torch.equal(low[name], value), name


# Memory

MEMORY = """
    import resource
    import torch
    from dataclasses import replace
    from avkd.config import PAPER
    from avkd.train import loss_terms
    torch.set_num_threads(1)
    k, c, s = PAPER.batch_size, PAPER.channels, PAPER.side
    f_v, f_a = torch.randn(k, c, s, s, requires_grad=True), torch.randn(k, c, requires_grad=True)
    e_v, e_a = torch.randn(k, c, s, s), torch.randn(k, c)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss_terms(f_v, f_a, e_v, e_a, replace(PAPER, visual_hint="backbone"))["loss"].backward()
    assert f_v.grad.abs().sum() > 0 and f_a.grad.abs().sum() > 0
    print(k * c * s * s, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
def test_memory_of_the_paper_s_batch():
    """The products of all pairs, before they are summed over channels, would be 6.6 GB."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    elements, megabytes = done.stdout.split()
    assert int(elements) == 128 * 2048 * 49 and float(megabytes) < 2000, megabytes


# Processes


def part_of(rows):
    """Terms and gradients of these rows of six samples; other processes have the others. Two of
    them have no visual hint."""
    inputs, found = features(6), {}
    inputs[2][1], inputs[2][4, :, 0, 0] = torch.nan, torch.nan
    inputs = [x[rows] for x in inputs]
    for kind, norm in (("backbone", "map"), ("backbone", "position"), ("attention", "map")):
        f_v, f_a = (x.clone().requires_grad_() for x in inputs[:2])
        config = replace(TINY, alpha2=3.0, alpha3=7.0, tau=0.2, chunk=2, visual_norm=norm)
        config = replace(config, visual_hint=kind)
        e_v = inputs[2] if kind == "backbone" else inputs[2][:, 0]
        for name, term in loss_terms(f_v, f_a, e_v, inputs[3], config).items():
            gradients = torch.autograd.grad(term, (f_v, f_a), allow_unused=True, retain_graph=True)
            gradients = [torch.zeros(()) if g is None else g for g in gradients]
            found[f"{name} {kind} {norm}"] = term.detach(), gradients
    return found


SPLITS = ([0, 1, 2], [3, 4, 5]), ([0, 1, 2, 3, 4], [5])


def one_of_two(rank, folder):
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="localhost",
        MASTER_PORT=(folder / "port").read_text(),
    )
    torch.set_num_threads(1)
    torch.Tensor.float = lambda x: x
    dist.start(torch.device("cpu"))
    torch.save([part_of(split[rank]) for split in SPLITS], folder / f"{rank}.pt")
    dist.stop()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """Parts add up to the whole; each process has the gradients of the whole for its own rows."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    torch.multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    whole = part_of(list(range(6)))
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for first, second in zip(*halves):
        for name, (value, gradients) in whole.items():
            torch.testing.assert_close(first[name][0] + second[name][0], value)
            assert 0 < float(first[name][0]) < float(value)
            for a, b, expected in zip(first[name][1], second[name][1], gradients):
                torch.testing.assert_close(torch.cat([a, b]) if a.dim() else a, expected)
