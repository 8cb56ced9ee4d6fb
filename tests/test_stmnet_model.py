"""stmnet/model.py: shapes, sections 3.3 and 3.4, and what must not change a result."""

import pytest
import torch
from torch import nn

from stmnet.memory import EMPTY
from stmnet.model import SpaceTime, projection


def build(classes=4, **options):
    torch.manual_seed(0)
    return SpaceTime(12, 10, classes, C=8, **options).eval()


def features(T=5, B=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, 12, 4, 4, generator=g), torch.randn(B, T, 10, 3, 2, generator=g)


@pytest.mark.parametrize("ablation", ["C+U", "U", "none"])
def test_sections_3_3_and_3_4(ablation):
    model, (v, a) = build(ablation=ablation, heads=2), features()
    out = model(v, a)
    assert out.logits.shape == (2, 5, 4) and out.alpha.shape == out.scores.shape == (2, 5, 4, 4)
    for b in range(2):
        x_v, x_a = model.project(v[b : b + 1], a[b : b + 1])  # (1, T, 8, …)
        x_av_hat, x_a_hat, first, *_ = model.memory(x_a, x_v)
        for t in range(5):
            sound = x_a_hat[0, t].amax((1, 2))
            scores = torch.stack(
                [x_av_hat[0, t, :, i, j] @ sound for i in range(4) for j in range(4)]
            )
            if ablation != "C+U":  # f is applied once
                scores = first[0, t].flatten()
            assert torch.equal(out.scores[b, t], first[0, t])
            assert torch.allclose(
                out.alpha[b, t].flatten(), scores.exp() / scores.exp().sum(), atol=1e-6
            )
            joint = torch.cat(
                (sum(x_av_hat[0, t, :, i, j] for i in range(4) for j in range(4)), sound)
            )
            assert torch.allclose(out.logits[b, t], model.mlp(joint), atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.1},
        {"is_cosine": False},
        {"ablation": "U"},
        {"ablation": "none"},
        {"heads": 2, "K": 1},
    ],
)
def test_live_use_equals_all_at_once(options):
    model, (v, a) = build(**options), features(7)
    *expected, _, _ = model(v, a)
    past, frames = EMPTY, []
    with torch.no_grad():
        for t in range(7):
            *frame, _, past = model(v[:, t : t + 1], a[:, t : t + 1], past)
            frames.append(frame)
    for ours, theirs in zip(zip(*frames), expected):
        assert (torch.cat(ours, 1) - theirs).abs().max() <= 1e-5


def test_projections():
    """Batch norm after each convolution, ReLU after each but the last; the released widths."""
    stack = projection(2048, 256, 3)
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2 + [nn.Conv2d, nn.BatchNorm2d]
    assert [type(m) for m in stack] == kinds
    convolutions = [m for m in stack if isinstance(m, nn.Conv2d)]
    assert {m.kernel_size for m in convolutions} == {(1, 1)}
    widths = [tuple(m.weight.shape[:2]) for m in convolutions]
    assert widths == [(1024, 2048), (512, 1024), (256, 512)]
    assert [m.out_channels for m in projection(512, 256, 2) if isinstance(m, nn.Conv2d)] == [
        256
    ] * 2
    assert projection(12, 8, 3)(torch.randn(2, 12, 3, 5)).shape == (2, 8, 3, 5)


def test_the_cosine_is_of_vectors_of_length_1():
    """With it no exponent exceeds 1, and a louder input changes nothing but rounding."""
    model, (v, a) = build(), features()
    x_v, x_a = model.project(v, a)
    assert torch.allclose(x_v.norm(dim=2), torch.ones(2, 5, 4, 4), atol=1e-5)
    assert torch.allclose(x_a.amax((-2, -1)).norm(dim=-1), torch.ones(2, 5), atol=1e-5)
    assert model(v, a).scores.abs().max() <= 1 + 1e-5
    dot = build(is_cosine=False)
    assert not torch.allclose(dot.project(v, a)[0].norm(dim=2), torch.ones(2, 5, 4, 4), atol=0.1)


def test_the_papers_sizes():
    with torch.no_grad():
        out = SpaceTime()(torch.randn(1, 4, 2048, 8, 8), torch.randn(1, 4, 512, 6, 4))
    assert (
        out.logits.shape == (1, 4, 28)
        and out.alpha.shape == (1, 4, 8, 8)
        and out.memory.av.shape == (1, 3, 256, 8, 8)
    )


def test_audio_features_may_be_a_vector():
    model, (v, a) = build(), features()
    assert model(v, a[..., :1, :1]).alpha.shape == (2, 5, 4, 4)


def test_the_map_moves_with_the_image():
    """Permuting the positions of all frames permutes the map and leaves the logits."""
    model, (v, a) = build(), features()
    order = torch.randperm(16)
    out, moved = model(v, a), model(v.flatten(3)[..., order].unflatten(3, (4, 4)), a)
    assert torch.allclose(moved.alpha.flatten(2), out.alpha.flatten(2)[..., order], atol=1e-6)
    assert torch.allclose(moved.logits, out.logits, atol=1e-5)


def test_batch_is_each_clip_alone():
    model, (v, a) = build(), features(B=3)
    together = model(v, a)
    for i in range(3):
        alone = model(v[i : i + 1], a[i : i + 1])
        assert all(torch.allclose(x[0], y[i], atol=1e-5) for x, y in zip(alone[:3], together[:3]))


def test_bf16_autocast_keeps_the_attention_in_full():
    model, (v, a) = build(), features()
    with torch.autocast("cpu", torch.bfloat16):
        low = model(v, a)
    full = model(v, a)
    assert low.alpha.dtype == low.scores.dtype == low.memory.av.dtype == torch.float32
    assert torch.allclose(low.alpha.sum((2, 3)), torch.ones(2, 5), atol=1e-6)
    assert torch.allclose(low.alpha, full.alpha, atol=2e-3) and torch.allclose(
        low.logits.float(), full.logits, atol=0.05
    )


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["C+U", "none"])
def test_labels_alone_teach_where_the_sound_comes_from(ablation):
    """Five objects at random cells of a map, each with one of three marks; the label is the mark of
    the one that sounds."""
    torch.manual_seed(0)
    model, g = (
        SpaceTime(8, 5, 3, C=16, ablation=ablation, temperature=0.3),
        torch.Generator().manual_seed(1),
    )
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def batch(n):
        v, a = (
            0.1 * torch.randn(n, 3, 8, 4, 4, generator=g),
            0.1 * torch.randn(n, 3, 5, 2, 2, generator=g),
        )
        who, mark = torch.randint(5, (n,), generator=g), torch.randint(3, (n, 5), generator=g)
        cell = torch.rand(n, 16, generator=g).argsort(1)[:, :5]
        flat, every = v.flatten(3), torch.arange(n)
        for k in range(5):
            flat[every, :, k, cell[:, k]] += 2
            flat[every, :, 5 + mark[:, k], cell[:, k]] += 2
        a[every, :, who] += 2
        return v, a, mark[every, who], cell[every, who]

    for _ in range(600):
        v, a, label, _ = batch(64)
        loss = nn.functional.cross_entropy(
            model(v, a).logits.flatten(0, 1), label.repeat_interleave(3)
        )
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    v, a, label, cell = batch(400)
    model.eval()
    with torch.no_grad():
        out = model(v, a)
        shuffled = model(v, a.roll(1, 0))
    assert (out.logits.argmax(-1) == label[:, None]).float().mean() > 0.9
    assert (out.alpha.flatten(2).argmax(-1) == cell[:, None]).float().mean() > 0.9
    assert (
        shuffled.alpha.flatten(2).argmax(-1) == cell[:, None]
    ).float().mean() < 0.4  # another sound, another place
