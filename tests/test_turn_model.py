"""turn/model.py: shapes, what the equations say, and what must not change a result."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from turn.backbones.frontend import logmel_of
from turn.backbones.tokenizer import WordPiece
from turn.backbones.transformer import Transformer, masked_mean, sine
from turn.config import PAPER, TINY
from turn.evaluate import Predictor
from turn.model import Turn

NARROW = {"dim": 16, "heads": 2, "visual_heads": 2, "backbone_width": 8, "codes": 8, "ffn": 2}
CONFIGS = {
    "tiny": replace(TINY, **NARROW, image_size=64),
    "paper": replace(
        PAPER,
        **NARROW,
        detr="narrow",
        image_size=64,
        detr_weights="",
        vocabulary="",
        text_layers=2,
        audio_layers=2,
        decoder_layers=2,
        detr_layers=2,
        seconds=2.0,
    ),
}
TOKENIZER = WordPiece.from_texts(
    ["the small red ring on the left", "a plain cross sounds twice in the background"]
)


@pytest.fixture(params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


def build(config, seed=0):
    torch.manual_seed(seed)
    model = Turn(config, TOKENIZER)
    for norm in model.alignment.norms.values():
        norm.running_mean.normal_()  # so that evaluation is not the identity there
    return model


def batch_of(config, n_s=3, n_m=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    frames = logmel_of(torch.zeros(round(config.seconds * config.sample_rate)), config).shape[0]
    size = config.image_size
    padding = torch.zeros(n_s, size, size, dtype=torch.bool)
    padding[0, :, size // 2 :] = True
    tokens_s = TOKENIZER.encode(
        ["the red ring", "the cross", "a small ring on the left"][:n_s], config.text_length
    )
    tokens_m = TOKENIZER.encode(["a cross sounds twice", "the ring"][:n_m], config.text_length)
    audio_mask = (torch.rand(n_m, -(-frames // 4), generator=g) < 0.5).repeat_interleave(4, 1)[
        :, :frames
    ]
    return {
        "image": torch.randn(n_s, 3, size, size, generator=g).masked_fill(padding[:, None], 0),
        "padding": padding,
        "box": torch.rand(n_s, 4, generator=g) * 0.4 + 0.2,
        "tokens_s": tokens_s,
        "text_mask_s": tokens_s > TOKENIZER.mask,
        "tokens_m": tokens_m,
        "text_mask_m": tokens_m > TOKENIZER.mask,
        "logmel": 3 * torch.randn(n_m, frames, config.n_mels, generator=g) - 4,
        "audio_mask": audio_mask,
    }


def test_shapes_of_a_step(config):
    batch = batch_of(config)
    output = build(config)(batch)
    frames = batch["logmel"].shape[1]
    assert output["box"].shape == (3, 4) and output["t"].shape == output["a"].shape == (
        2,
        config.dim,
    )
    assert output["words_s"].shape == (3, config.text_length, len(TOKENIZER))
    assert output["words_m"].shape == (2, config.text_length, len(TOKENIZER))
    assert output["audio"].shape == (2, frames, config.n_mels)
    assert [x.shape for x in output["code_losses"]] == [
        (3, config.dim),
        (2, config.dim),
        (2, config.dim),
    ]
    assert output["codes"]["counts"].shape == (2, config.codes // 2)
    assert output["codes"]["counts"].sum(1).tolist() == [
        7,
        7,
    ]  # 3 + 2 texts and 2 clips choose a code in each group
    assert ((output["box"] > 0) & (output["box"] < 1)).all()


def test_the_paper_compresses_216_frames_to_54():
    config = replace(PAPER, **NARROW, detr="narrow", detr_weights="")
    logmel = logmel_of(torch.zeros(220500), config)
    assert logmel.shape == (216, 128)
    align = build(config).alignment
    assert align._compress(logmel[None]).shape == (1, 54, 16)
    q = torch.zeros(1, 16)
    for frames in (216, 63, 64, 65):  # any number of frames comes back
        assert (
            align.reconstruct_audio(
                torch.zeros(1, frames, 128), torch.zeros(1, frames, dtype=torch.bool), q
            ).shape[1]
            == frames
        )
    assert (
        PAPER.dim,
        PAPER.heads,
        PAPER.visual_heads,
        PAPER.text_layers,
        PAPER.visual_layers,
        PAPER.ffn,
    ) == (256, 8, 4, 6, 3, 4)


def test_equation_1(config):
    """Tokens times q have norm 1 before the transformer: the scales of both change nothing."""
    stream = build(config).eval().localization
    v, q = torch.randn(2, 16, config.dim), torch.randn(2, config.dim)
    inputs = []
    hook = stream.transformer.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    box = stream.locate(v, torch.zeros(2, 16, config.dim), None, q)
    hook.remove()
    torch.testing.assert_close(inputs[0].norm(dim=-1), torch.ones(2, 16))
    torch.testing.assert_close(
        inputs[0], v * q[:, None] / (v * q[:, None]).norm(dim=-1, keepdim=True)
    )
    torch.testing.assert_close(
        stream.locate(7 * v, torch.zeros(2, 16, config.dim), None, 0.1 * q), box
    )
    mean = stream.transformer(inputs[0]).mean(1)  # Eqs. (1) and (2), written again
    w1, w2 = stream.head[0], stream.head[2]
    expected = torch.sigmoid(torch.relu(mean @ w1.weight.T + w1.bias) @ w2.weight.T + w2.bias)
    torch.testing.assert_close(box, expected)


def test_positions(config):
    stream = build(config).eval().localization
    v, positions, mask = stream.embed(batch_of(config)["image"], batch_of(config)["padding"])
    assert v.shape == positions.shape == (*mask.shape, config.dim)
    torch.testing.assert_close(positions.norm(dim=-1), torch.ones(mask.shape))
    assert torch.equal(positions[0], positions[1])  # of the first image a half is padding
    assert (
        torch.cdist(positions[1], positions[1]).add(torch.eye(mask.shape[1])).min() > 1e-3
    )  # no two places are alike
    q = torch.randn(3, config.dim)
    order = torch.randperm(mask.shape[1], generator=torch.Generator().manual_seed(0))
    moved = stream.locate(v[:, order], positions, mask[:, order], q)
    assert (moved - stream.locate(v, positions, mask, q))[1].abs().max() > 1e-4  # they matter
    together = stream.locate(v[:, order], positions[:, order], mask[:, order], q)
    torch.testing.assert_close(together, stream.locate(v, positions, mask, q), atol=1e-5, rtol=1e-4)


def test_padded_tokens_of_an_image_change_nothing(config):
    stream = build(config).eval().localization
    v, positions, mask = stream.embed(batch_of(config)["image"], batch_of(config)["padding"])
    assert mask[0].any() and not mask[0].all() and not mask[1:].any()
    q = torch.randn(3, config.dim)
    box = stream.locate(v, positions, mask, q)
    assert torch.equal(stream.locate(v.masked_fill(mask[..., None], 1e4), positions, mask, q), box)
    cut = ~mask[0]
    alone = stream.locate(v[:1, cut], positions[:1, cut], None, q[:1])
    torch.testing.assert_close(alone, box[:1], atol=1e-5, rtol=1e-4)
    assert (
        stream.locate(v.masked_fill(~mask[..., None], 1e4), positions, mask, q) - box
    ).abs().max() > 1e-4


def test_no_box_depends_on_the_rest_of_the_batch(config):
    """Also where images differ in shape, and where queries are given together."""
    predictor = Predictor(build(config), TOKENIZER, config, torch.device("cpu"))
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (h, w, 3), np.uint8)
        for h, w in ((64, 64), (64, 112), (70, 50), (64, 64))
    ]
    q = predictor.encode_text(["the red ring", "the cross", "a small ring", "the ring"])
    queries = [q, q.flip(0)]
    found = predictor.predict(images, *queries)
    for i, image in enumerate(images):
        alone = predictor.predict([image], *(each[i : i + 1] for each in queries))
        for ours, theirs in zip(found, alone):
            torch.testing.assert_close(ours[i : i + 1], theirs, atol=1e-5, rtol=1e-4)
    for boxes in found:
        assert ((boxes >= 0) & (boxes <= 1)).all() and (boxes[:, 2:] >= boxes[:, :2]).all()


def test_padding_of_texts_changes_nothing(config):
    align = build(config).eval().alignment
    phrase = ["the small red ring on the left"]
    short, long = (align.encode_text(TOKENIZER.encode(phrase, n)) for n in (9, 14))
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-4)
    tokens, hidden, q = (
        TOKENIZER.encode(phrase, 14),
        torch.zeros(1, 14, dtype=torch.bool),
        torch.randn(1, config.dim),
    )
    words = align.reconstruct_text(tokens, hidden, q)[:, :9]
    torch.testing.assert_close(
        align.reconstruct_text(tokens[:, :9], hidden[:, :9], q), words, atol=1e-5, rtol=1e-4
    )
    assert (
        align.encode_text(TOKENIZER.encode(["the small red ring on the"], 14)) - long
    ).abs().max() > 1e-3


def test_what_is_hidden_cannot_be_seen(config):
    """The decoders must not learn to copy: only the query can tell what is behind a mask."""
    align, batch = build(config).eval().alignment, batch_of(config)
    q, hidden = torch.randn(2, config.dim), batch["text_mask_m"]
    words = align.reconstruct_text(batch["tokens_m"], hidden, q)
    other = torch.where(hidden, TOKENIZER.unk, batch["tokens_m"])
    assert torch.equal(align.reconstruct_text(other, hidden, q), words)
    sound = align.reconstruct_audio(batch["logmel"], batch["audio_mask"], q)
    other = torch.where(batch["audio_mask"][..., None], 9.0, batch["logmel"])
    assert torch.equal(align.reconstruct_audio(other, batch["audio_mask"], q), sound)
    assert (align.reconstruct_text(batch["tokens_m"], hidden, -q) - words).abs().max() > 1e-3
    assert (
        align.reconstruct_audio(batch["logmel"], batch["audio_mask"], -q) - sound
    ).abs().max() > 1e-3


@pytest.mark.parametrize(
    "source, intermediate, words_from, sound_from",
    [
        ("self", "cross", "a", "t"),
        ("no", "self", "t", "a"),
        ("self", "no", None, None),
        ("no", "no", None, None),
    ],
)
def test_equation_5_and_figure_4(source, intermediate, words_from, sound_from):
    """What guides which reconstruction: (5) is self-cross."""
    config = replace(CONFIGS["tiny"], recon_source=source, recon_intermediate=intermediate)
    model, batch = build(config).eval(), batch_of(config)
    align, guides = model.alignment, {"text": [], "audio": []}
    for kind in guides:
        original = getattr(align, f"reconstruct_{kind}")
        setattr(
            align,
            f"reconstruct_{kind}",
            lambda x, hidden, q, kind=kind, original=original: (
                guides[kind].append(q),
                original(x, hidden, q),
            )[1],
        )
    output = model(batch)
    q_s, q_t, q_a = (
        model.query(batch["tokens_s"]),
        align.quantise(align.encode_text(batch["tokens_m"], "caption"))[0][0],
        model.query(logmel=batch["logmel"]),
    )
    assert (output["words_s"] is None) == (source == "no") and (output["words_m"] is None) == (
        output["audio"] is None
    ) == (words_from is None)
    by = {"a": q_a, "t": q_t}
    expected = [q_s] * (source == "self") + [by.get(words_from)] * (words_from is not None)
    assert len(guides["text"]) == len(expected) and len(guides["audio"]) == (sound_from is not None)
    for ours, theirs in zip(guides["text"] + guides["audio"], [*expected, by.get(sound_from)]):
        torch.testing.assert_close(ours, theirs)


def test_without_reconstruction_loss_nothing_is_reconstructed():
    output = build(replace(CONFIGS["tiny"], lambda_recon=0.0))(batch_of(CONFIGS["tiny"]))
    assert output["words_s"] is output["words_m"] is output["audio"] is None


def test_query_equals_the_parts(config):
    model, batch = build(config).eval(), batch_of(config)
    align = model.alignment
    (q_s, q_t, q_a), _, _ = align.quantise(
        align.encode_text(batch["tokens_s"]),
        align.encode_text(batch["tokens_m"]),
        align.encode_audio(batch["logmel"]),
    )
    for ours, parts in (
        (model.query(batch["tokens_s"]), q_s),
        (model.query(tokens=batch["tokens_m"]), q_t),
        (model.query(logmel=batch["logmel"]), q_a),
    ):
        torch.testing.assert_close(ours, parts)
    for i in range(3):  # a batch of one is nothing special
        torch.testing.assert_close(model.query(batch["tokens_s"][i : i + 1]), q_s[i : i + 1])
    codes = align.codebook.codes  # (2, codes, d / 2): a query is made of codes, each group's own
    for half, book in zip(q_a.chunk(2, 1), codes):
        assert torch.cdist(half, book).min(1).values.max() < 1e-5
    output = model(batch)  # Eqs. (7) and (8) take what the codebooks take
    torch.testing.assert_close(output["a"], align.encode_audio(batch["logmel"]))
    torch.testing.assert_close(output["t"], align.encode_text(batch["tokens_m"], "caption"))
    torch.testing.assert_close(
        model(batch)["box"], model.localization(batch["image"], q_s, batch["padding"])
    )


def test_evaluation_does_not_touch_the_codebook(config):
    model = build(config)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.eval().query(batch_of(config)["tokens_s"])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.train()(batch_of(config))
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert {
        "alignment.codebook.codes",
        "alignment.codebook.average_count",
        "alignment.norms.phrase.running_mean",
        "alignment.norms.caption.running_mean",
        "alignment.norms.audio.running_mean",
    } <= changed


def test_queries_begin_near_one():
    """q multiplies ṽ in Eq. (1)."""
    norms = build(CONFIGS["tiny"]).alignment.norms.values()
    assert all((norm.bias == 1).all() for norm in norms)


def test_random_query():
    model = build(CONFIGS["tiny"])
    q = model.random_query(4000, torch.Generator().manual_seed(1))
    assert q.shape == (4000, 16) and abs(float(q.var()) - 1) < 0.05 and abs(float(q.mean())) < 0.02
    assert torch.equal(q, model.random_query(4000, torch.Generator().manual_seed(1)))
    assert not torch.equal(q, model.random_query(4000, torch.Generator().manual_seed(2)))


def test_gradients_reach_every_part(config):
    """All parameters but the keys of a single memory token have a gradient."""
    from turn.train import loss_terms

    model, batch = build(config), batch_of(config)
    for p in (
        model.parameters()
    ):  # some begin at zero, and what is before them has no gradient at the first step
        p.data += 0.02 * torch.randn_like(p)
    loss_terms(model(batch), batch, config)["loss"].backward()
    dead = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    unseen = {
        name
        for name in dead
        if ".cross.q." not in name and ".cross_norm." not in name and ".cross.kv.bias" not in name
    }
    assert not unseen, unseen


def test_transformer_parts():
    torch.manual_seed(0)
    x, mask = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False, False, True, True, True]])
    torch.testing.assert_close(masked_mean(x, mask)[1], x[1, :2].mean(0))
    assert torch.equal(masked_mean(x, None), x.mean(1))
    assert torch.equal(
        masked_mean(x, torch.ones(2, 5, dtype=torch.bool)), torch.zeros(2, 8)
    )  # all padding: no NaN
    model = Transformer(8, 2, 2, 4, 0.0)
    later = x.clone()
    later[:, 4] *= -1
    assert (model(later) - model(x))[
        :, 0
    ].abs().max() > 1e-4  # bidirectional: the first token sees the last
    torch.testing.assert_close(model(x, mask)[1, :2], model(x[1:, :2])[0])
    positions = sine(50, 8)
    assert positions.shape == (50, 8) and positions.abs().max() <= 1
    assert torch.cdist(positions, positions).add(torch.eye(50)).min() > 0.1
    torch.testing.assert_close(positions[:, 0], torch.arange(50.0).sin())
