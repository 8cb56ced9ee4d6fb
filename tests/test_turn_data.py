"""turn/data.py, domains.py: batches are functions of (configuration, step); zero-resource."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.benchmarks.corpora import Phrase
from common.io import InputError, write_audio, write_image
from common.scenes import Scenes
from common.training import step_loader
from turn import data, domains, train
from turn.backbones.frontend import logmel_of, read_logmel
from turn.backbones.tokenizer import WordPiece
from turn.config import TINY
from turn.data import TrainingBatches
from turn.domains import VALIDATION, load_domains, scene_intermediate, scene_source
from turn.losses import corners
from turn.test_sets import TEST, load_test_sets

SMALL = replace(
    TINY,
    image_size=32,
    text_length=14,
    seconds=0.1,
    n_fft=256,
    hop=128,
    n_mels=16,
    time_mask=4,
    freq_mask=4,
    scenes=40,
    sounds=20,
    held_out=6,
    batch_size=8,
    batch_intermediate=4,
    epochs=4,
    augment=False,
    mask_from=0.5,
    mask_to=1.0,
    detr_steps=0,
)


@pytest.fixture(scope="module")
def parts():
    source, intermediate = load_domains(SMALL, "train")
    return (
        source,
        intermediate,
        WordPiece.from_texts(t for d in (source, intermediate) for item in d.texts for t in item),
    )


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_step_depends_on_nothing_but_the_configuration_and_its_number(parts):
    first, second = TrainingBatches(*parts, SMALL), TrainingBatches(*parts, SMALL)
    forwards = [first[s] for s in range(len(first))]
    torch.manual_seed(123), np.random.seed(5)
    backwards = {s: second[s] for s in reversed(range(len(second)))}
    assert len(forwards) == 20 and all(
        equal(batch, backwards[s]) for s, batch in enumerate(forwards)
    )
    assert not equal(forwards[0], forwards[1]) and not equal(
        forwards[0], forwards[5]
    )  # another batch, another epoch
    other = TrainingBatches(*parts, replace(SMALL, seed=1))[0]
    assert not torch.equal(other["image"], forwards[0]["image"])


def test_the_draws_of_a_slot_are_of_seed_epoch_and_slot(parts, monkeypatch):
    """A stream for each item of either domain, in epoch 1, batch 1."""
    steps, seeds, make = TrainingBatches(*parts, replace(SMALL, seed=3)), [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: (seeds.append(seed), make(seed))[1])
    steps[steps.steps_per_epoch + 1]
    for stream, size in ((data.SOURCE, 8), (data.INTERMEDIATE, 4)):
        found = [seed for seed in seeds if seed[1] == stream]
        assert found == [[3, stream, 1, slot] for slot in range(size, 2 * size)]


def test_workers_and_the_place_to_start_change_nothing(parts):
    state = torch.get_rng_state()
    alone = list(step_loader(TrainingBatches(*parts, SMALL), 0, 20))
    two = list(step_loader(TrainingBatches(*parts, SMALL), 3, 20, workers=2))
    assert torch.equal(
        torch.get_rng_state(), state
    )  # the loader draws nothing from torch's generator
    assert len(alone) == 20 and len(two) == 17 and all(equal(a, b) for a, b in zip(alone[3:], two))


def test_what_a_batch_holds(parts):
    batch = TrainingBatches(*parts, SMALL)[0]
    frames = parts[1][0].shape[0]
    assert {k: tuple(v.shape) for k, v in batch.items()} == {
        "image": (8, 3, 32, 32),
        "padding": (8, 32, 32),
        "box": (8, 4),
        "tokens_s": (8, 14),
        "text_mask_s": (8, 14),
        "logmel": (4, frames, 16),
        "tokens_m": (4, 14),
        "text_mask_m": (4, 14),
        "audio_mask": (4, frames),
    }
    assert batch["image"].dtype == batch["box"].dtype == batch["logmel"].dtype == torch.float32
    box = corners(batch["box"])
    assert (box >= -1e-6).all() and (box <= 1 + 1e-6).all() and (box[:, 2:] > box[:, :2]).all()


@pytest.mark.parametrize(
    "batch_size, given, expected", [(8, 4, 4), (8, 7, 7), (2, 0, 5), (4, 0, 10), (8, 0, 20)]
)
def test_batches_are_in_proportion_to_the_texts_or_as_told(parts, batch_size, given, expected):
    """40 phrases, 20 clips with five captions each: five captions to two phrases."""
    steps = TrainingBatches(*parts, replace(SMALL, batch_size=batch_size, batch_intermediate=given))
    assert steps.sizes == (batch_size, expected) and steps.steps_per_epoch == 40 // batch_size


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_batch(parts, world, monkeypatch):
    whole, shares = TrainingBatches(*parts, SMALL)[2], []
    for rank in range(world):
        monkeypatch.setattr(data.dist, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(data.dist, "world_size", lambda: world)
        shares.append(TrainingBatches(*parts, SMALL)[2])
    for key, value in whole.items():
        for rank, part in enumerate(shares):
            assert torch.equal(value[rank::world], part[key])
    monkeypatch.setattr(data.dist, "world_size", lambda: 5)  # of 4 clips
    with pytest.raises(InputError, match="5 processes"):
        TrainingBatches(*parts, SMALL)


def test_without_weights_an_epoch_is_a_shuffle(parts):
    steps = TrainingBatches(*parts, SMALL)
    orders = [steps.order(epoch) for epoch in range(3)]
    for order_s, order_m in orders:
        assert sorted(order_s) == list(range(40)) and sorted(order_m) == list(range(20))
    assert not (orders[0][0] == orders[1][0]).all() and not (orders[0][1] == orders[1][1]).all()
    longer = TrainingBatches(parts[0], scene_intermediate(0, 7, SMALL), parts[2], SMALL).order(0)[1]
    assert len(longer) == 20 and len(set(longer[:7])) == len(set(longer[7:14])) == 7  # whole rounds


def test_with_weights_items_are_drawn_with_replacement_in_proportion(parts):
    weights = [np.random.default_rng(i).uniform(1, 5, n) for i, n in enumerate((40, 20))]
    weights = [w / w.sum() for w in weights]
    steps = TrainingBatches(*parts, SMALL, weights)
    draws = [np.concatenate([steps.order(epoch)[d] for epoch in range(500)]) for d in range(2)]
    assert len(set(steps.order(0)[0])) < 40  # with replacement
    for drawn, w in zip(draws, weights):
        found = np.bincount(drawn, minlength=len(w)) / len(drawn)
        sigma = np.sqrt(w * (1 - w) / len(drawn))
        assert (np.abs(found - w) < 5 * sigma).all()
    np.testing.assert_array_equal(
        steps.order(3)[0], TrainingBatches(*parts, SMALL, weights).order(3)[0]
    )


def test_every_caption_of_a_clip_is_drawn(parts):
    _, intermediate, tokenizer = parts
    seen, steps = Counter(), TrainingBatches(*parts, replace(SMALL, epochs=30))
    for step in range(steps.total_steps):
        rows = steps[step]["tokens_m"] if step % 5 == 0 else ()
        batch = step % 5
        for slot, row in zip(range(batch * 4, batch * 4 + 4), rows):
            texts = intermediate.texts[steps.order(step // 5)[1][slot]]
            own = tokenizer.encode(texts, 14)
            seen[(own == row).all(1).tolist().index(True)] += 1
    assert set(seen) == {0, 1, 2, 3, 4} and sum(seen.values()) == 120 and max(seen.values()) < 50


def test_the_mask_ratio_grows_from_the_first_epoch_to_the_last(parts):
    steps = TrainingBatches(*parts, SMALL)
    assert [steps.mask_ratio(e) for e in range(4)] == pytest.approx([0.5, 2 / 3, 5 / 6, 1.0])
    assert TrainingBatches(*parts, replace(SMALL, epochs=1)).mask_ratio(0) == 0.5
    assert [TrainingBatches(*parts, replace(SMALL, steps=8)).mask_ratio(e) for e in range(2)] == [
        0.5,
        1,
    ]  # two epochs, the second unfinished
    paper = TrainingBatches(*parts, replace(SMALL, epochs=30))
    assert (
        np.allclose(np.diff([paper.mask_ratio(e) for e in range(30)]), 0.5 / 29)
        and paper.mask_ratio(29) == 1
    )


def test_masks_hide_words_and_never_what_is_special(parts):
    tokenizer = parts[2]
    for ratio in (0.0, 0.5, 1.0):
        steps = TrainingBatches(*parts, replace(SMALL, mask_from=ratio, mask_to=ratio))
        words = hidden = frames = 0
        for step in range(steps.total_steps):
            batch = steps[step]
            for tokens, mask in (
                (batch["tokens_s"], batch["text_mask_s"]),
                (batch["tokens_m"], batch["text_mask_m"]),
            ):
                special = torch.isin(
                    tokens, torch.tensor([tokenizer.pad, tokenizer.cls, tokenizer.sep])
                )
                assert (
                    mask.dtype == torch.bool and not mask[special].any() and mask.any(1).all()
                )  # at least one word
                assert mask[~special].all() or ratio < 1
                words, hidden = words + int((~special).sum()), hidden + int(mask.sum())
                assert ratio or (mask.sum(1) == 1).all()
            cells = batch["audio_mask"]
            assert torch.equal(
                cells, cells[:, ::4].repeat_interleave(4, 1)[:, : cells.shape[1]]
            )  # whole steps of L_a
            frames += float(cells.float().mean()) / steps.total_steps
        assert frames == pytest.approx(ratio, abs=0.08)
        if ratio == 0.5:
            assert 0.45 < hidden / words < 0.65  # a little more than half: one at least
    empty = steps.text_mask(tokenizer.encode([""], 14), np.zeros((1, 14)), 1.0)
    assert not empty.any()


def test_the_box_moves_with_the_image(parts):
    """In batches too: the box of a scene's wall is all that is not padding. Phrases that name a
    side are mirrored with the image."""
    config, (source, _, tokenizer) = replace(SMALL, augment=True, flip=True), parts
    steps = TrainingBatches(*parts, config)
    walls = {i for i, (text,) in enumerate(source.texts) if text.endswith("wall")}
    found = padded = flipped = 0
    for step in range(steps.total_steps):
        epoch, first = step // 5, step % 5 * 8
        rows, batch = steps.order(epoch)[0][first : first + 8], steps[step]
        for i, box, pad, tokens in zip(
            rows, batch["box"], batch["padding"], batch["tokens_s"], strict=True
        ):
            flipped += not torch.equal(tokenizer.encode(source.texts[i], 14)[0], tokens)
            if i in walls:
                y, x = (~pad).nonzero(as_tuple=True)
                edges = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]) / 32
                torch.testing.assert_close(corners(box), edges, atol=1e-5, rtol=0)
                found, padded = found + 1, padded + bool(pad.any())
    assert found and padded and flipped
    plain = TrainingBatches(*parts, SMALL)
    i = plain.order(0)[0][0]
    expected = torch.from_numpy(source.items[i][1])
    torch.testing.assert_close(plain[0]["box"][0], expected, atol=1e-6, rtol=0)


def test_zero_resource(monkeypatch, tmp_path):
    """A training asks the scenes for images with phrases and audio with captions, never for pairs.

    The two domains come from different streams of random numbers, so no image of one belongs to
    audio of the other. Pairs are asked for at the end only, of seeds that no training may have.
    """
    asked = []

    def recorded(name, original):
        def method(self, *args, **options):
            asked.append((name, self.seed))
            return original(self, *args, **options)

        return method

    for name in ("pair", "interactive", "extended", "video", "grounding", "caption"):
        monkeypatch.setattr(Scenes, name, recorded(name, getattr(Scenes, name)))
    finished = [False]
    monkeypatch.setattr(
        train, "evaluate_best", lambda run, benchmark: finished.__setitem__(0, True)
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.training.run.signal.signal", lambda *args: None)
    batches = []
    monkeypatch.setattr(
        train,
        "loss_terms",
        lambda output, batch, config, original=train.loss_terms: (
            batches.append(batch),
            original(output, batch, config),
        )[1],
    )
    config = replace(
        SMALL,
        seed=7,
        dim=8,
        heads=2,
        visual_heads=2,
        backbone_width=8,
        codes=8,
        steps=2,
        detr_steps=2,
        name="zero",
        device="cpu",
    )
    train.train(config)
    assert finished[0] and len(batches) == 2
    assert Counter(asked) == {
        ("grounding", 7): 40,
        ("caption", 7): 20,
        ("grounding", VALIDATION): 6,
        ("caption", VALIDATION): 6,
    }
    source, intermediate = scene_source(7, 3, SMALL), scene_intermediate(7, 3, SMALL)
    assert all(len(item) == 2 for item in source.items)
    assert all(
        isinstance(part, np.ndarray) and len(part) in (32, 4) for part in source[0]
    )  # an image and a box
    assert isinstance(intermediate[0], torch.Tensor) and intermediate[0].dim() == 2  # a spectrogram
    assert all(isinstance(item, torch.Tensor) and item.dim() == 2 for item in intermediate.items)
    assert set(vars(intermediate)) == {"items", "texts", "load", "labels"}
    assert intermediate.load is None and source.labels is None
    assert not any("label" in key for batch in batches for key in batch)  # reports alone see them
    frames = {tuple(b["logmel"].shape[1:]) for b in batches}
    assert frames == {
        tuple(intermediate[0].shape)
    }  # rows of a batch: images and audio have no common index
    assert all(len(b["image"]) == 8 and len(b["logmel"]) == 4 for b in batches)


def test_held_out_seeds_are_apart():
    assert len({VALIDATION, TEST, TEST + 1}) == 3
    for seed in (VALIDATION, TEST, 10**9):
        with pytest.raises(InputError, match="held-out"):
            load_domains(replace(SMALL, seed=seed), "train")
    held, trained = scene_source(VALIDATION, 5, SMALL), scene_source(0, 5, SMALL)
    assert not any((a[0] == b[0]).all() for a in held.items for b in trained.items)


def test_tests_have_scenes_of_their_own(monkeypatch):
    """With two and with three objects, none of which is of a training or a validation."""
    asked, pair = Counter(), Scenes.pair
    monkeypatch.setattr(Scenes, "pair", lambda s, i: (asked.update([s.seed]), pair(s, i))[1])
    load_test_sets(replace(SMALL, seed=7), ["scenes"])
    assert asked == {TEST: 6, TEST + 1: 6}


def test_sounds_of_files(tmp_path):
    config = replace(SMALL, seconds=1.0, sample_rate=8000)
    t = torch.arange(20 * 8000) / 8000
    rise = 0.5 * torch.sin(2 * torch.pi * (200 * t + 60 * t**2)) + 0.05 * torch.randn(
        len(t)
    )  # a pitch for every moment
    write_audio(tmp_path / "long.wav", rise, 8000)
    write_audio(tmp_path / "short.wav", rise[:3000], 8000)
    first = read_logmel(tmp_path / "long.wav", config)
    assert first.shape == logmel_of(rise[:8000], config).shape
    torch.testing.assert_close(first, logmel_of(rise[:8000], config), atol=0.05, rtol=0.01)
    repeated = torch.cat([rise[:3000]] * 3)[:8000]
    torch.testing.assert_close(
        read_logmel(tmp_path / "short.wav", config),
        logmel_of(repeated, config),
        atol=0.05,
        rtol=0.01,
    )
    middle = read_logmel(
        tmp_path / "long.wav", config, (12.0, 13.0)
    )  # one frame of a long video: the audio of that time
    torch.testing.assert_close(middle, logmel_of(rise[96000:104000], config), atol=0.05, rtol=0.01)
    torch.testing.assert_close(read_logmel(tmp_path / "long.wav", config, (0.0, 0.5)), first)
    torch.testing.assert_close(read_logmel(tmp_path / "long.wav", config, None), first)


@pytest.mark.parametrize("change", [{"batch_size": 41}, {"batch_size": 64}])
def test_too_large_a_batch(parts, change):
    with pytest.raises(InputError, match="--batch-size"):
        TrainingBatches(*parts, replace(SMALL, **change))


def test_an_image_of_another_size_than_its_annotation_is_refused(tmp_path):
    """The box is of other pixels then."""
    write_image(tmp_path / "a.png", np.zeros((12, 10, 3), np.uint8))
    phrase = Phrase(tmp_path / "a.png", "cat", (0.5, 0.5, 0.1, 0.1), (10, 12))
    assert domains._read_image_and_box(phrase)[0].shape == (12, 10, 3)
    with pytest.raises(InputError, match=r"a\.png: is not of \(12, 10\) pixels"):
        domains._read_image_and_box(phrase._replace(size=(12, 10)))
