"""turn/losses.py: Eqs. (6) to (10), term by term, and the switches of Table 4 and Figure 4."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from common import metrics
from common.training import dist
from tests.goldens import fill
from turn.losses import (
    audio_reconstruction,
    box_overlap,
    box_regression,
    contrast,
    corners,
    giou,
    text_reconstruction,
)
from turn.model import Turn
from turn.train import loss_terms

from .test_turn_model import CONFIGS, TOKENIZER, batch_of

GOLDEN = np.load(Path(__file__).parent / "goldens" / "turn_released.npz")
side = st.floats(1 / 64, 1)
boxes = st.lists(st.tuples(side, side, side, side), min_size=1, max_size=6)


def tensor(rows):
    return torch.tensor(rows, dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(boxes, boxes)
def test_giou_is_the_metric(a, b):
    n = min(len(a), len(b))
    a, b = corners(tensor(a[:n])), corners(tensor(b[:n]))
    value = giou(a, b)
    torch.testing.assert_close(value, metrics.generalized_box_iou(a, b), atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(
        giou(10 * a, 10 * b), metrics.generalized_box_iou(a, b), atol=1e-4, rtol=1e-4
    )  # the 1e-7 fades
    torch.testing.assert_close(value, giou(b, a))
    torch.testing.assert_close(value, giou(a + 3, b + 3), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(
        giou(10 * a, 10 * a), torch.ones(n, dtype=torch.float64), atol=1e-4, rtol=0
    )
    assert (
        (value > -1).all() and (value <= 1).all() and (value <= metrics.box_iou(a, b) + 1e-6).all()
    )


def test_giou_draws_boxes_that_do_not_meet_together():
    near, far = tensor([[0.2, 0.5, 0.1, 0.1]]), tensor([[0.8, 0.5, 0.1, 0.1]])
    near.requires_grad_()
    value = giou(corners(near), corners(far))
    value.sum().backward()
    assert (
        value < 0 and near.grad[0, 0] > 0
    )  # a step to the right raises it, where IoU has no gradient


def test_localization():
    box, gt = torch.rand(5, 4), torch.rand(5, 4) * 0.5 + 0.2
    reg, iou = box_regression(box, gt), box_overlap(box, gt)
    assert reg.shape == iou.shape == (5,)
    torch.testing.assert_close(dist.mean(reg), 4 * F.smooth_l1_loss(box, gt))
    torch.testing.assert_close(reg, 0.5 * (box - gt).square().sum(1))  # none is farther than 1
    torch.testing.assert_close(
        iou,
        1 - metrics.generalized_box_iou(corners(box), corners(gt)),
        atol=1e-4,
        rtol=1e-4,
    )
    assert not box_regression(gt, gt).any() and (box_overlap(gt, gt).abs() < 1e-4).all()


def test_contrast_is_equation_7():
    g = torch.Generator().manual_seed(0)
    t, a = torch.randn(6, 5, generator=g), torch.randn(6, 5, generator=g)

    def cosine(x, y):
        return (
            sum(float(p) * float(q) for p, q in zip(x, y))
            / math.hypot(*x.tolist())
            / math.hypot(*y.tolist())
        )

    def likelihood(x, y):  # as printed, with its double sum
        return (
            sum(
                math.log(
                    math.exp(cosine(x[i], y[i]) / 0.1)
                    / sum(math.exp(cosine(x[i], y[j]) / 0.1) for j in range(6))
                )
                for i in range(6)
            )
            / 6
        )

    for x, y in ((t, a), (a, t)):
        loss = contrast(x, y, 0.1)
        assert loss.shape == (6,)
        assert float(dist.mean(loss)) == pytest.approx(-likelihood(x, y), rel=1e-5)
    assert abs(likelihood(t, a) - likelihood(a, t)) > 1e-3


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 7), st.integers(0, 1000))
def test_laws_of_contrast(n, seed):
    g = torch.Generator().manual_seed(seed)
    t, a = torch.randn(n, 4, generator=g), torch.randn(n, 4, generator=g)
    value, order = contrast(t, a, 0.1), torch.randperm(n, generator=g)
    moved, scaled = contrast(t[order], a[order], 0.1), contrast(3 * t, 0.1 * a, 0.1)
    torch.testing.assert_close(moved, value[order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scaled, value, atol=1e-5, rtol=1e-5)
    assert (value >= 0).all() and (n > 1 or value < 1e-5)
    same, other = contrast(t, t, 0.01), contrast(t, a, 0.01)
    assert same.mean() <= other.mean() + 1e-4


def test_the_contrast_pulls_pairs_together():
    g = torch.Generator().manual_seed(0)
    t, a = torch.randn(4, 8, generator=g).requires_grad_(), torch.randn(4, 8, generator=g)
    optimizer = torch.optim.Adam([t], 0.1)
    for _ in range(80):
        optimizer.zero_grad()
        contrast(t, a, 0.1).mean().backward()
        optimizer.step()
    assert (F.normalize(t, dim=1) @ F.normalize(a, dim=1).T).argmax(1).tolist() == [0, 1, 2, 3]


def test_captions_look_for_audio():
    """Eq. (7) in a step of 4 clips: the denominator is over audio."""
    config = CONFIGS["tiny"]
    parts = [batch_of(config, 3, 2, seed) for seed in range(2)]
    batch = {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
    torch.manual_seed(0)
    out = Turn(config, TOKENIZER)(batch)
    loss, other = (contrast(out[x], out[y], config.tau).mean() for x, y in ("ta", "at"))
    assert abs(loss - other) > 1e-4
    torch.testing.assert_close(loss_terms(out, batch, config)["contra"], loss)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    g = torch.Generator().manual_seed(0)
    t, a = torch.randn(2, 4, 8, generator=g).to(dtype)
    words, tokens = torch.randn(2, 5, 7, generator=g).to(dtype), torch.randint(7, (2, 5))
    for low, high in (
        (contrast(t, a, 0.1), contrast(t.float(), a.float(), 0.1)),
        (text_reconstruction(words, tokens), text_reconstruction(words.float(), tokens)),
    ):
        assert low.dtype == torch.float32 and torch.equal(low, high)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_masked_losses_count_masked_positions_only(seed):
    g = torch.Generator().manual_seed(seed)
    words, tokens = (
        torch.randn(2, 5, 7, generator=g, requires_grad=True),
        torch.randint(7, (2, 5), generator=g),
    )
    hidden = torch.rand(2, 5, generator=g) < 0.5
    hidden[0, 0] = True
    value = dist.mean(text_reconstruction(words, tokens), hidden)
    naive = [
        -float(words.detach()[i, j].log_softmax(0)[tokens[i, j]])
        for i in range(2)
        for j in range(5)
        if hidden[i, j]
    ]
    assert value.item() == pytest.approx(sum(naive) / len(naive), rel=1e-5)
    value.backward()
    assert torch.equal(words.grad.abs().sum(2) > 0, hidden)

    sound, logmel = (
        torch.randn(2, 5, 3, generator=g, requires_grad=True),
        torch.randn(2, 5, 3, generator=g),
    )
    value = dist.mean(audio_reconstruction(sound, logmel), hidden)
    naive = [
        abs(float(sound.detach()[i, j, k] - logmel[i, j, k]))
        for i in range(2)
        for j in range(5)
        for k in range(3)
        if hidden[i, j]
    ]
    assert value.item() == pytest.approx(sum(naive) / len(naive), rel=1e-5)
    value.backward()
    assert torch.equal(sound.grad.abs().sum(2) > 0, hidden)


def run(seed=0, **changes):
    """A step of a model without dropout: its terms and gradients."""
    config = replace(CONFIGS["tiny"], dropout=0.0, visual_dropout=0.0, **changes)
    torch.manual_seed(seed)
    model, batch = Turn(config, TOKENIZER), batch_of(config)
    terms = loss_terms(model(batch), batch, config)
    terms["loss"].backward()
    return config, terms, {name: p.grad for name, p in model.named_parameters()}


def test_the_total_is_the_weighted_sum():
    _, terms, _ = run(lambda_code=1.0, lambda_contra=0.1)
    weights = {
        "reg": 1,
        "iou": 1,
        "code": 1,
        "contra": 0.1,
        "recon_text": 0.1,
        "recon_audio": 0.1,
    }  # A.2.3, the paper preset's
    torch.testing.assert_close(terms["loss"], sum(weights[name] * terms[name] for name in weights))
    assert set(terms) == {"loss", *weights} and all(terms[name] > 0 for name in weights)


CONTRAST_ONLY, TEXT_DECODER, AUDIO_DECODER = (
    "alignment.audio_encoder",
    "alignment.text_decoder",
    "alignment.audio_decoder",
)


@pytest.mark.parametrize(
    "changes, term, gone",
    [
        ({"beta": 0.0}, "code", ()),
        ({"lambda_code": 0.0}, "code", ()),
        ({"lambda_contra": 0.0}, "contra", ()),
        # the sounds have three uses: contrast, codebook loss, reconstruction
        (
            {"lambda_contra": 0.0, "recon_intermediate": "no", "beta": 0.0},
            "contra code recon_audio",
            (CONTRAST_ONLY, AUDIO_DECODER),
        ),
        (
            {"lambda_recon": 0.0},
            "recon_text recon_audio",
            (TEXT_DECODER, AUDIO_DECODER, "alignment.to_words", "alignment.expand"),
        ),
        (
            {"recon_source": "no", "recon_intermediate": "no"},
            "recon_text recon_audio",
            (TEXT_DECODER, AUDIO_DECODER),
        ),
        ({"recon_intermediate": "no"}, "recon_audio", (AUDIO_DECODER, "alignment.mask_frame")),
        ({"recon_source": "no"}, "", ()),
        ({"lambda_reg": 0.0}, "reg", ()),
        ({"lambda_iou": 0.0}, "iou", ()),
        ({"lambda_reg": 0.0, "lambda_iou": 0.0}, "reg iou", ("localization",)),
    ],
)
def test_every_switch_takes_away_its_term_and_no_other(changes, term, gone):
    _, full, gradients = run()
    config, terms, left = run(**changes)
    contribution = {
        "reg": config.lambda_reg,
        "iou": config.lambda_iou,
        "code": config.lambda_code,
        "contra": config.lambda_contra,
        "recon_text": config.lambda_recon,
        "recon_audio": config.lambda_recon,
    }
    for name in contribution:
        if name in term.split():
            assert contribution[name] * terms[name].item() == 0
        elif name != "recon_text" or not {"recon_intermediate", "recon_source"} & set(changes):
            torch.testing.assert_close(terms[name], full[name])  # the others are what they were
    expected = sum(weight * terms[name] for name, weight in contribution.items())
    torch.testing.assert_close(terms["loss"], expected)
    for part in gone:
        assert all(g is None or not g.any() for name, g in left.items() if name.startswith(part)), (
            part
        )
        assert any(
            g is not None and g.any() for name, g in gradients.items() if name.startswith(part)
        ), part
    changed = any(
        (g is None) != (left[name] is None)
        or (g is not None and not torch.allclose(g, left[name], atol=1e-9))
        for name, g in gradients.items()
    )
    assert changed


def released(name, shape):
    return torch.from_numpy(fill.make_input(f"turn_released-{name}", shape))


def test_what_follows_the_released_losses():
    """GIoU inside the image, the contrast from audio to text, the reconstruction of text.

    Their Eq. (6) has l1 in the place of smooth l1; both sum the four coordinates.
    """
    box, gt = (released(f"loss-{name}", (12, 4)).sigmoid() for name in ("pred", "box"))
    box[:, 2:] /= 2
    gt[:, 2:] /= 2
    # their boxes begin at the top left corner, and are clipped
    x, y = (torch.cat([b[:, :2], b[:, :2] + b[:, 2:]], 1).clamp(0, 1) for b in (box, gt))
    assert float((1 - giou(x, y)).mean()) == pytest.approx(float(GOLDEN["loss_giou"]), abs=1e-4)
    a = released("loss-audio", (12, 256))
    t = 0.15 * a + released("loss-text", (12, 256))
    golden = pytest.approx(float(GOLDEN["loss_contrast"]), rel=2e-5)
    assert float(contrast(a, t, 0.1).mean()) == golden != float(contrast(t, a, 0.1).mean())
    assert float((box - gt).abs().sum(1).mean()) == pytest.approx(float(GOLDEN["loss_reg"]))
    smooth = 0.5 * (box - gt).square().sum(1)  # all errors are below 1
    torch.testing.assert_close(box_regression(box, gt), smooth)
    # a vocabulary of two: the word, and all others
    word, log_z = (
        torch.from_numpy(GOLDEN[f"text_{name}"]).double() for name in ("target_logit", "logsumexp")
    )
    hidden = torch.from_numpy(GOLDEN["words_hidden"])
    others = torch.log(log_z.exp() - word.exp())
    loss = text_reconstruction(
        torch.stack([word, others], 2)[hidden][None], hidden[hidden][None] * 0
    )
    assert float(loss.mean()) == pytest.approx(float(GOLDEN["text_recon_loss"]), rel=2e-5)


def test_reconstruction_of_each_domain_is_its_own_share():
    """Figure 4: self in the source domain and cross in the intermediate one add up."""
    both, source, intermediate = (
        run(**changes)[1]["recon_text"]
        for changes in ({}, {"recon_intermediate": "no"}, {"recon_source": "no"})
    )
    torch.testing.assert_close(both, source + intermediate)
    assert run(recon_intermediate="self")[1]["recon_audio"] != run()[1]["recon_audio"]
