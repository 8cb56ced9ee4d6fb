"""sslalign/losses.py, model.py: Eqs. (1) to (5) against loops over pairs, samples, positions."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sslalign.config import TINY
from sslalign.losses import contrast, intra, losses, s_A, s_L
from sslalign.model import Sslalign, cosine_map

SMALL = replace(
    TINY,
    blocks=(1, 1, 1, 1),
    width=8,
    image_size=32,
    projection=6,
    sample_rate=2000,
    window=64,
    hop=32,
)


def naive_s_L(v, a):
    """Eq. (3), position by position: v (c, h, w), a (c,)."""
    total = 0
    for x in range(v.shape[1]):
        for y in range(v.shape[2]):
            total = total + v[:, x, y] @ a / (v[:, x, y].norm() * a.norm())
    return total / (v.shape[1] * v.shape[2])


def naive_s_A(p, q):
    """Eq. (4)."""
    return p @ q / (p.norm() * q.norm())


def naive_loss(V, pv, A, pa, tau, align=True, symmetric=False):
    """Eq. (5): V (P, B, c, h, w), A (Q, B, c) and their projections; the mean over the samples."""
    P, Q, B, total = len(V), len(A), V.shape[1], 0
    for i in range(B):
        for p in range(P):
            for q in range(Q):
                for s, x, y in ((naive_s_L, V, A), (naive_s_A, pv, pa))[: 1 + align]:
                    term = torch.log(
                        torch.exp(s(x[p, i], y[q, i]) / tau)
                        / sum(torch.exp(s(x[p, i], y[q, j]) / tau) for j in range(B))
                    )
                    if symmetric:
                        back = torch.log(
                            torch.exp(s(x[p, i], y[q, i]) / tau)
                            / sum(torch.exp(s(x[p, j], y[q, i]) / tau) for j in range(B))
                        )
                        term = (term + back) / 2
                    total = total - term
    return total / B


def stacked(P, Q, B, seed=0, c=4, d=3):
    g = torch.Generator().manual_seed(seed)
    shapes = (P, B, c, 2, 3), (P, B, d), (Q, B, c), (Q, B, d)
    return [
        torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_() for shape in shapes
    ]


def ours(V, pv, A, pa, config):
    """The mean over the samples of each term."""
    v = torch.nn.functional.normalize(V.flatten(0, 1), dim=1).mean((2, 3)).view(*V.shape[:3])
    terms = losses(v, A, pv, pa, config)
    assert all(loss.shape == V.shape[1:2] for loss in terms.values())
    return {name: loss.mean() for name, loss in terms.items()}


@pytest.fixture(autouse=True)
def in_double_precision(monkeypatch):
    """Similarities are computed in float32, under autocast too; here in the input's precision."""
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x)


@settings(max_examples=15, deadline=None)
@given(
    P=st.integers(1, 3),
    Q=st.integers(1, 3),
    B=st.integers(1, 4),
    align=st.booleans(),
    symmetric=st.booleans(),
    seed=st.integers(0, 99),
)
def test_all_pairs_at_once_are_the_double_loop_over_nine(P, Q, B, align, symmetric, seed):
    inputs = stacked(P, Q, B, seed)
    config = replace(SMALL, align=align, symmetric=symmetric, tau=0.3)
    fast = ours(*inputs, config)["loss"]
    slow = naive_loss(*inputs, 0.3, align, symmetric)
    torch.testing.assert_close(fast, slow)
    used = inputs if align else inputs[::2]
    for ours_, theirs in zip(torch.autograd.grad(fast, used), torch.autograd.grad(slow, used)):
        torch.testing.assert_close(ours_, theirs)


def test_the_nine_pairs_of_the_paper():
    inputs = stacked(3, 3, 5)
    terms = ours(*inputs, replace(SMALL, tau=0.07))
    torch.testing.assert_close(terms["loss"], naive_loss(*inputs, 0.07))
    torch.testing.assert_close(terms["loss"], terms["localization"] + terms["alignment"])


def test_the_denominator_has_audio_of_the_same_kind_only():
    """Changing a_conc of another sample moves the pairs with a_conc, and no others."""
    V, _, A, _ = stacked(3, 3, 4)
    x, y = V.flatten(0, 1).mean((2, 3)), A.detach().clone()
    before = contrast(s_L(x, y.flatten(0, 1)), 3, 3, 0.1)  # (P, B, Q)
    y[2, 1] += 1
    after = contrast(s_L(x, y.flatten(0, 1)), 3, 3, 0.1)
    assert torch.equal(before[..., :2], after[..., :2]) and (before[..., 2] != after[..., 2]).all()


def test_equal_features_score_the_logarithm_of_the_batch():
    """Nothing to tell samples apart: every one of P·Q terms is log B (Eq. (2))."""
    V, pv, A, pa = (x.detach()[:, :1].expand(-1, 6, *x.shape[2:]) for x in stacked(3, 2, 1))
    assert float(ours(V, pv, A, pa, SMALL)["localization"]) == pytest.approx(6 * math.log(6))


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_similarities_are_cosines(scale, seed):
    V, pv, A, pa = (x.detach() for x in stacked(1, 1, 3, seed))
    loss = ours(V, pv, A, pa, SMALL)["loss"]
    torch.testing.assert_close(ours(scale * V, pv, A * scale, pa / scale, SMALL)["loss"], loss)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(ours(*(x[:, order] for x in (V, pv, A, pa)), SMALL)["loss"], loss)
    assert (s_A(pv[0], pa[0]).abs() <= 1).all() and float(loss) > 0


def test_the_map_is_what_s_L_averages():
    V, _, A, _ = (x.detach() for x in stacked(1, 1, 3))
    maps = cosine_map(V[0], A[0])
    assert maps.shape == (3, 2, 3)
    torch.testing.assert_close(
        maps.mean((1, 2)), torch.stack([naive_s_L(v, a) for v, a in zip(V[0], A[0])])
    )
    unit = torch.nn.functional.normalize(V[0], dim=1).mean((2, 3))
    torch.testing.assert_close(s_L(unit, A[0]).diagonal(), maps.mean((1, 2)))


def test_intra_is_the_mean_over_pairs_of_views():
    _, pv, _, _ = stacked(3, 1, 4)
    total = sum(
        -torch.log(
            torch.exp(naive_s_A(pv[p, i], pv[q, i]) / 0.2)
            / sum(torch.exp(naive_s_A(pv[p, i], pv[q, j]) / 0.2) for j in range(4))
        )
        for i in range(4)
        for p in range(3)
        for q in range(3)
        if p != q
    )
    torch.testing.assert_close(intra(pv.flatten(0, 1), 3, 0.2).mean(), total / 6 / 4)
    assert torch.equal(intra(pv[0], 1, 0.2), torch.zeros(4))
    with_it = ours(*stacked(3, 3, 4), replace(SMALL, intra=True))
    torch.testing.assert_close(
        with_it["loss"], with_it["localization"] + with_it["alignment"] + with_it["intra"]
    )
    assert with_it["intra"] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype, monkeypatch):
    """Both similarities, and v̄ of Eq. (3)."""
    monkeypatch.undo()
    inputs = torch.randn(4, 1, 5, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    low, high = losses(*inputs, SMALL), losses(*inputs.float(), SMALL)
    for name, value in high.items():
        assert low[name].dtype == torch.float32 and torch.equal(low[name], value), name
    v = inputs[:3, 0, :4].transpose(1, 2).unflatten(2, (2, 2))  # (3, 64, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        v_bar = Sslalign(SMALL).eval().image_features(v).mean
    assert torch.equal(v_bar, torch.nn.functional.normalize(v.float(), dim=1).mean((2, 3)))


def test_one_pass_of_the_encoders_is_three(monkeypatch):
    """Stacked positives give the features that they give one by one (batch norms fixed)."""
    monkeypatch.undo()
    torch.manual_seed(0)
    model = Sslalign(SMALL).eval()
    images = torch.randint(0, 256, (3 * 2, 3, 32, 32), dtype=torch.uint8)
    waveforms = 0.1 * torch.randn(3 * 2, 2000)
    with torch.no_grad():
        image, audio = model(images.unflatten(0, (3, 2)), waveforms.unflatten(0, (3, 2)))
        for part in range(3):
            rows = slice(2 * part, 2 * part + 2)
            alone = (
                *model.image_features(model.encode_image(images[rows])),
                *model.audio_features(model.encode_audio(waveforms[rows])),
            )
            for x, y in zip((*image, *audio), alone):
                torch.testing.assert_close(x[part], y, atol=1e-5, rtol=1e-4)
        assert model.encode_image(images).shape == (6, 64, 2, 2)
        assert audio.a.shape == (3, 2, 64) and audio.projected.shape == (3, 2, 6)
        assert Sslalign(replace(SMALL, last_stride=2)).eval().encode_image(images).shape == (
            6,
            64,
            1,
            1,
        )


def test_the_paper_s_shapes(monkeypatch):
    from sslalign.config import PAPER

    monkeypatch.undo()
    model = Sslalign(PAPER).eval()
    with torch.no_grad():
        assert model.encode_image(torch.zeros(1, 3, 224, 224)).shape == (
            1,
            512,
            14,
            14,
        )  # as the released checkpoints
        assert model.audio_features(model.encode_audio(torch.zeros(1, 48000))).projected.shape == (
            1,
            512,
        )
    assert (
        sum(p.numel() for p in model.visual.parameters()) == 11_176_512
    )  # ResNet-18 without its classifier
