"""stmnet/memory.py: the paper's formulas in loops, and the laws of the memory."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stmnet.memory import (
    EMPTY,
    MemoryLayer,
    TemporalAttention,
    spatial_scores,
    spatial_softmax,
)

pytestmark = pytest.mark.slow

C = 6
VARIANTS = {
    "C+U": {},
    "U": {"ablation": "U"},
    "none": {"ablation": "none"},
    "heads": {"heads": 3},
    "temperature": {"temperature": 0.2},
}
some = settings(max_examples=40, deadline=None)
variants = st.sampled_from(sorted(VARIANTS))
steps, sizes, seeds = st.integers(1, 9), st.integers(0, 10), st.integers(0, 2**32 - 1)
every_step = st.just({*range(1, 9)})


def build(variant, K, seed=0, dtype=torch.float32):
    """A layer whose projections are large enough for the weights in time to differ much."""
    torch.manual_seed(seed)
    layer = MemoryLayer(C, K, **VARIANTS[variant]).to(dtype)
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    return layer


def inputs(T, B=2, seed=0, dtype=torch.float32):
    """x_a (B, T, C, 3, 2), x_v (B, T, C, 4, 5)."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, C, 3, 2, generator=g).to(dtype), torch.randn(
        B, T, C, 4, 5, generator=g
    ).to(dtype)


def close(ours, theirs, tolerance=1e-5):
    return all((a - b).abs().max() <= tolerance for a, b in zip(ours, theirs, strict=True))


# The paper in loops -------------------------------------------------------------------------------


def naive_phi(x):  # (C, h, w) → (C,)
    return [max(map(max, c)) for c in x]


def naive_f(x_v, x_a, temperature):
    """Eq. (1)."""
    a = naive_phi(x_a)
    height, width = x_v.shape[1:]
    e = [
        [math.exp(sum(x_v[c, i, j] * a[c] for c in range(C)) / temperature) for j in range(width)]
        for i in range(height)
    ]
    return np.array(e) / sum(map(sum, e))


def naive_spatial(x_v, x_a, temperature):
    alpha, x_av = naive_f(x_v, x_a, temperature), np.empty_like(x_v)
    for c in range(C):
        for i, j in np.ndindex(*alpha.shape):
            x_av[c, i, j] = alpha[i, j] * x_v[c, i, j]
    return x_av


def naive_g(x, past, attention):
    """Eq. (2) and the sum below it: x (C, h, w), past a list of such."""
    entries, beta = [x, *past], np.zeros(len(past) + 1)
    for query, key in zip(
        *(p.weight.detach().numpy().reshape(-1, C, C) for p in (attention.query, attention.key))
    ):
        q = query @ naive_phi(x)
        e = np.array([math.exp(q @ (key @ naive_phi(entry)) / math.sqrt(C)) for entry in entries])
        beta += e / e.sum()
    beta /= attention.heads
    return sum(b * entry for b, entry in zip(beta, entries))


def naive_layer(layer, x_a, x_v, variant):
    """Algorithm 1, step after step, of one sequence: (T, C, …) → x_av_hat, x_a_hat."""
    options = {"ablation": "C+U", "temperature": 1.0} | VARIANTS[variant]
    tau, K, kept, out = options["temperature"], layer.K, [], []
    for a, v in zip(x_a, x_v):
        past = kept[max(0, len(kept) - K) :]
        a_hat, v_hat = a, v
        if "U" in options["ablation"]:
            a_hat = naive_g(a, [p[0] for p in past], layer.g_a)
            v_hat = naive_g(v, [p[1] for p in past], layer.g_v)
        av_hat = naive_spatial(v_hat, a_hat, tau)
        if options["ablation"] == "C+U":
            av_hat = naive_g(av_hat, [p[2] for p in past], layer.g_av)
        kept.append((a, v, naive_spatial(v, a, tau)))
        out.append((av_hat, a_hat))
    return [np.stack(x) for x in zip(*out)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("T, K", [(1, 3), (4, 3), (5, 2), (6, 1), (3, 0)])
def test_against_the_paper_in_loops(variant, T, K):
    layer, (x_a, x_v) = build(variant, K, T, torch.float64), inputs(T, 1, T, torch.float64)
    x_av_hat, x_a_hat, *_ = layer(x_a, x_v)
    naive = naive_layer(layer, x_a[0].numpy(), x_v[0].numpy(), variant)
    assert close((x_av_hat[0].detach(), x_a_hat[0].detach()), map(torch.from_numpy, naive), 1e-11)


def test_weights_in_time_of_one_channel_by_hand():
    """C = 1, W = 1: the exponents are the products of the maxima."""
    g = TemporalAttention(1, 1)
    torch.nn.init.ones_(g.query.weight)
    torch.nn.init.ones_(g.key.weight)
    x = torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1, 1) + torch.tensor([-1.0, 0]).view(1, 1, 1, 1, 2)
    beta = g.beta(x, x, K=1)[0]  # the current step, then the steps 0, 1, 2
    e = math.exp
    expected = [
        [1, 0, 0, 0],
        [e(4) / (e(4) + e(2)), e(2) / (e(4) + e(2)), 0, 0],
        [e(9) / (e(9) + e(6)), 0, e(6) / (e(9) + e(6)), 0],
    ]
    assert torch.allclose(beta, torch.tensor(expected), atol=1e-6)


# The two forms ------------------------------------------------------------------------------------


@some
@given(variants, steps, sizes, seeds, st.sets(st.integers(1, 8), max_size=4) | every_step)
def test_any_cut_into_calls_gives_the_same(variant, T, K, seed, cuts):
    """Step by step, as in live use, or in parts: outputs, and the memory at the end."""
    layer = build(variant, K, seed % 100, torch.float64)
    x_a, x_v = inputs(T, seed=seed, dtype=torch.float64)
    *expected, _, _, last = layer(x_a, x_v)
    memory, parts = EMPTY, []
    for first, end in pairwise([0, *sorted(cut for cut in cuts if cut < T), T]):
        *part, _, _, memory = layer(x_a[:, first:end], x_v[:, first:end], memory)
        parts.append(part)
    assert close((torch.cat(x, 1) for x in zip(*parts)), expected, 1e-9)
    assert [x is None for x in memory] == [x is None for x in last]
    assert close(
        (x for x in memory if x is not None and K), (x for x in last if x is not None and K)
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("K", [0, 1, 4])
def test_memory_does_not_grow(variant, K):
    layer, (x_a, x_v) = build(variant, K), inputs(30)
    memory, held = EMPTY, []
    with torch.no_grad():
        for first, length in [
            (0, 20),
            *((t, 1) for t in range(20, 30)),
        ]:  # also after a long piece at once
            *_, memory = layer(
                x_a[:, first : first + length], x_v[:, first : first + length], memory
            )
            held.append(sum(x.untyped_storage().nbytes() for x in memory if x is not None))
            assert all(x is None or x.shape[1] == K for x in memory)
    maps = {"U": 6 + 20, "none": 0}.get(variant, 6 + 20 + 20)
    assert held == [2 * K * C * maps * 4] * len(held)
    kept = [layer.has_uni, layer.has_uni, layer.has_cross]
    assert [x is not None for x in memory] == kept


def test_K_may_change_between_calls():
    layer, (x_a, x_v) = build("C+U", 2), inputs(6)
    wide = build("C+U", 5)
    *_, memory = layer(x_a[:, :3], x_v[:, :3])
    layer.K = 5
    assert not close(layer(x_a, x_v)[:1], build("C+U", 2)(x_a, x_v)[:1]) and close(
        layer(x_a, x_v)[:2], wide(x_a, x_v)[:2]
    )
    *_, memory = layer(x_a[:, 3:], x_v[:, 3:], memory)
    assert memory.av.shape[1] == 5


# Laws ---------------------------------------------------------------------------------------------


@some
@given(variants, st.integers(2, 9), sizes, seeds, st.data())
def test_the_future_never_changes_the_past(variant, T, K, seed, data):
    layer, (x_a, x_v) = build(variant, K, seed % 100), inputs(T, seed=seed)
    t = data.draw(st.integers(1, T - 1))
    before = layer(x_a, x_v)
    x_a[:, t:], x_v[:, t:] = 7 * torch.randn_like(x_a[:, t:]), 7 * torch.randn_like(x_v[:, t:])
    after = layer(x_a, x_v)
    for was, is_ in zip(before[:2], after[:2]):
        assert torch.equal(was[:, :t], is_[:, :t])
    assert not close(before[:2], after[:2])


@pytest.mark.parametrize("variant, reach", [("C+U", 1), ("U", 1), ("none", 0)])
@pytest.mark.parametrize("K", [0, 1, 2, 3])
def test_how_far_a_step_is_remembered(variant, reach, K):
    """K steps: x_av^k of the memory is computed from step k alone."""
    layer, T, s = build(variant, K), 12, 2
    for attention in layer.children():
        for p in attention.parameters():
            p.data *= 0.1  # even weights, so that nothing is forgotten by rounding
    x_a, x_v = inputs(T, dtype=torch.float64)
    layer = layer.double()
    before = layer(x_a, x_v)[0]
    x_v[:, s] += 1
    x_a[:, s] -= 1
    changed = (layer(x_a, x_v)[0] - before).abs().flatten(2).amax((0, 2)) > 0
    assert changed.tolist() == [s <= t <= s + reach * K for t in range(T)]


@some
@given(st.integers(1, 3), steps, st.integers(0, 5), sizes, seeds)
def test_attention_sums_to_one_over_the_right_things(heads, T, P, K, seed):
    torch.manual_seed(seed % 100)
    g, (_, memory) = TemporalAttention(C, heads), inputs(P + T, seed=seed)
    beta = g.beta(memory[:, P:], memory, K)
    assert (
        beta.shape == (2, T, 1 + P + T)
        and (beta >= 0).all()
        and torch.allclose(beta.sum(-1), torch.ones(2, T), atol=1e-6)
    )
    for t in range(T):
        seen = [s for s in range(P + T) if 0 < P + t - s <= K]
        assert (beta[:, t, 1:] > 0)[0].nonzero()[:, 0].tolist() == seen
    x_a, x_v = inputs(T, seed=seed)
    scores = spatial_scores(x_v, x_a, temperature=0.5)
    alpha = spatial_softmax(scores)
    assert alpha.shape == (2, T, 4, 5) and (alpha > 0).all()
    assert torch.allclose(alpha.sum((-2, -1)), torch.ones(2, T), atol=1e-6)


@some
@given(variants, steps, seeds)
def test_no_memory_is_none(variant, T, seed):
    x_a, x_v = inputs(T, seed=seed)
    same = {k: x for k, x in VARIANTS[variant].items() if k == "temperature"}
    layer, none = build(variant, 0, seed % 100), MemoryLayer(C, 3, ablation="none", **same)
    assert close(layer(x_a, x_v)[:2], none(x_a, x_v)[:2], 0)
    assert not list(none.parameters())


@some
@given(variants, sizes, seeds)
def test_a_still_video_with_a_steady_sound_is_what_one_step_is(variant, K, seed):
    """Weights sum to 1, so that equal maps stay as they are."""
    x_a, x_v = inputs(1, seed=seed)
    layer = build(variant, K, seed % 100)
    once, often = (
        layer(x_a, x_v)[:2],
        layer(x_a.repeat(1, 6, 1, 1, 1), x_v.repeat(1, 6, 1, 1, 1))[:2],
    )
    assert all(torch.allclose(b, a.expand_as(b), atol=1e-5) for a, b in zip(once, often))


def test_batch_is_each_sequence_alone():
    layer, (x_a, x_v) = build("C+U", 3), inputs(5, B=3)
    together = layer(x_a, x_v)[:2]
    for i in range(3):
        assert close(layer(x_a[i : i + 1], x_v[i : i + 1])[:2], (x[i : i + 1] for x in together))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_flow_to_every_projection_and_back_in_time_only(variant):
    layer, (x_a, x_v) = build(variant, 2), inputs(6)
    x_a.requires_grad_()
    x_v.requires_grad_()
    x_av_hat, x_a_hat, *_ = layer(x_a, x_v)
    (x_av_hat[:, 4].square().sum() + x_a_hat[:, 4].square().sum()).backward()
    for p in layer.parameters():
        assert p.grad.isfinite().all() and p.grad.abs().sum() > 0
    reach = {"none": 0}.get(variant, 2)
    for x in x_a, x_v:
        assert [bool(g.abs().sum() > 0) for g in x.grad.transpose(0, 1)] == [
            4 - reach <= t <= 4 for t in range(6)
        ]


def test_gradients_through_the_memory_equal_those_of_all_at_once():
    layer, (x_a, x_v) = build("C+U", 2), inputs(5)

    def grads(loss):
        return torch.autograd.grad(loss, list(layer.parameters()))

    expected = grads(layer(x_a, x_v)[0].square().sum())
    memory, loss = EMPTY, 0
    for t in range(5):
        x_av_hat, *_, memory = layer(x_a[:, t : t + 1], x_v[:, t : t + 1], memory)
        loss = loss + x_av_hat.square().sum()
    assert close(grads(loss), expected, 1e-4)


def test_large_scores_stay_finite():
    layer, (x_a, x_v) = build("C+U", 3), inputs(5)
    assert all(x.isfinite().all() for x in layer(1e3 * x_a, 1e3 * x_v)[:2])


def test_ablations_are_those_of_table_2():
    names = {
        a: {n for n, _ in MemoryLayer(C, ablation=a).named_children()} for a in ("C+U", "U", "none")
    }
    assert names == {"C+U": {"g_a", "g_v", "g_av"}, "U": {"g_a", "g_v"}, "none": set()}
    with pytest.raises(KeyError):
        MemoryLayer(C, ablation="C")


def test_betas_are_returned():
    layer, (x_a, x_v) = build("C+U", 2), inputs(5)
    betas = layer(x_a, x_v).betas
    assert set(betas) == {"a", "v", "av"}
    for beta in betas.values():
        assert beta.shape == (2, 5, 1 + 5) and (beta[:, 0, 0] == 1).all()
        assert torch.allclose(beta.sum(-1), torch.ones(2, 5), atol=1e-6)
        assert beta.std() > 0.05  # the projections are large: weights differ
