"""turn/sampling.py: Eqs. (11) to (13), and whether they find what is exclusive to a domain."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from common.training import checked
from common.benchmarks.pairs import make_scenes
from common.io import InputError
from turn.backbones.tokenizer import WordPiece
from turn.config import TINY
from turn.domains import Domain, scene_intermediate, scene_source
from turn.sampling import (
    adaptive_weights,
    domain_scores,
    print_exclusive_items,
    sampling_weights,
    train_classifier,
)
from turn.test_sets import scene_test_set

CPU = torch.device("cpu")
scores = st.lists(st.floats(-50, 50), min_size=1, max_size=20).map(np.array)
ratios = st.floats(1.01, 100)


def equations(phi_, k, sign):
    """(12) and (13), as they stand."""
    tau = (max(phi_) - min(phi_)) / math.log(k)
    e = [math.exp(sign * p / tau) for p in phi_]
    return np.array([x / sum(e) for x in e])


@settings(max_examples=150, deadline=None)
@given(scores, ratios, st.sampled_from([-1, 1]))
def test_equations_12_and_13(phi_, k, sign):
    w = sampling_weights(phi_, k, sign)
    assert w.sum() == pytest.approx(1) and (w > 0).all() and len(w) == len(phi_)
    spread = phi_.max() - phi_.min()
    if spread == 0:
        assert (w == 1 / len(phi_)).all()
        return
    assert w.max() / w.min() == pytest.approx(k)
    assert (
        np.diff(w[np.argsort(sign * phi_, kind="stable")]) >= -1e-15
    ).all()  # source: the surer Φ is, the rarer
    np.testing.assert_allclose(
        w, sampling_weights(3 * phi_, k, sign), rtol=1e-6
    )  # only the order and the proportions of Φ count
    if spread > 1:
        np.testing.assert_allclose(w, sampling_weights(phi_ + 7, k, sign), rtol=1e-6)
        np.testing.assert_allclose(w, equations(phi_, k, sign), rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(scores, ratios)
def test_the_domains_are_mirrors(phi_, k):
    assume(np.ptp(phi_) > 1e-3)
    np.testing.assert_allclose(sampling_weights(phi_, k, -1), sampling_weights(-phi_, k, 1))
    reverse = np.argsort(sampling_weights(phi_, k, -1), kind="stable")
    assert phi_[reverse[0]] == pytest.approx(phi_.max()) and phi_[reverse[-1]] == pytest.approx(
        phi_.min()
    )


def test_by_hand():
    np.testing.assert_allclose(
        sampling_weights(np.array([2.0, 0.0, 1.0]), 5, 1), np.array([5, 1, 5**0.5]) / (6 + 5**0.5)
    )
    np.testing.assert_allclose(
        sampling_weights(np.array([2.0, 0.0, 1.0]), 5, -1), np.array([1, 5, 5**0.5]) / (6 + 5**0.5)
    )
    for same in ([3.0, 3.0], [0.0]):
        assert sampling_weights(np.array(same), 5, 1).tolist() == [1 / len(same)] * len(same)
    assert sampling_weights(np.array([1.0, 9.0]), 1, 1).tolist() == [0.5, 0.5]  # k = 1: uniform
    assert np.isfinite(sampling_weights(np.array([-1e300, 1e300]) / 4, 5, -1)).all()


class Shorter(torch.nn.Module):
    def forward(self, tokens):
        return -(tokens != 0).sum(1).float()


def test_phi_is_the_mean_over_captions():
    tokenizer = WordPiece.from_texts(["a b c d"])
    texts = [("a",), ("a b c", "a"), ("a b",), ("a b c d", "a", "a")]  # and 2 special tokens each
    found = domain_scores(
        Shorter(), Domain(texts, texts), tokenizer, SimpleNamespace(text_length=8), CPU
    )
    assert found.dtype == np.float64 and found.tolist() == [-3, -4, -4, -4]


def test_report_shows_the_two_ends(capsys):
    """Of two items with one text the less exclusive one counts."""
    texts = [(name,) for name in "abcdef"] + [("a",)]
    values = np.array([0.0, 5, 1, 4, 2, 3, -1])
    domains = dict.fromkeys(("source", "intermediate"), Domain(texts, texts))
    assert print_exclusive_items(domains, dict.fromkeys(domains, values), 2) == {
        "source": {"least": [6, 2], "most": [3, 1]},
        "intermediate": {"least": [1, 3], "most": [2, 0]},
    }
    assert capsys.readouterr().out.splitlines() == [
        "source domain, least exclusive: a; c",
        "source domain, most exclusive: d; b",
        "intermediate domain, least exclusive: b; d",
        "intermediate domain, most exclusive: c; a",
    ]


def test_the_share_of_exclusive_texts_is_a_setting():
    """At 0 every phrase and caption has a meaning in both domains, at 1 none has."""
    small = replace(TINY, image_size=32, seconds=0.1, n_fft=256)
    for share in (0.0, 1.0):
        config = replace(small, exclusive=share)
        phrases = scene_source(0, 20, config).texts
        assert {any(w in p for w in ("wall", "corner")) for (p,) in phrases} == {share == 1}
        assert set((scene_intermediate(0, 20, config).labels < 0).tolist()) == {share == 1}
    with pytest.raises(ValueError, match="--exclusive"):
        checked(replace(small, exclusive=1.5))


def test_the_kinds_of_the_two_domains_are_settings():
    """Table 3 on scenes: other phrases for the same images, fewer captions for noisier audio; what
    the model is tested on stays."""
    small = replace(TINY, image_size=32, seconds=0.1, n_fft=256, exclusive=0.0, held_out=12)
    other = replace(small, phrases="refcoco", clips="audiocaps")
    (phrases, clips), (short, noisy) = (
        (scene_source(0, 40, config), scene_intermediate(0, 40, config))
        for config in (small, other)
    )
    for (full, box), (image, same_box) in zip(phrases.items, short.items):
        np.testing.assert_array_equal(full, image)
        np.testing.assert_array_equal(box, same_box)
    assert sum("the one" in p for (p,) in short.texts) > 10
    assert not any("the one" in p for (p,) in phrases.texts)
    assert {len(texts) for texts in clips.texts} == {5}
    assert {len(texts) for texts in noisy.texts} == {1}
    assert not any(torch.equal(a, b) for a, b in zip(clips.items, noisy.items))
    one, two = (scene_test_set(config, 7, 2).samples for config in (small, other))
    assert [s.phrase for s in one] == [s.phrase for s in two]
    assert all(np.array_equal(a.waveform, b.waveform) for a, b in zip(one, two))


@pytest.fixture(scope="module")
def scenes():
    """Small domains, the scores of a classifier trained on them, and what is exclusive."""
    config = replace(
        TINY,
        image_size=32,
        seconds=0.1,
        n_fft=256,
        scenes=400,
        sounds=250,
        batch_size=32,
        sampler_epochs=8,
    )
    source, intermediate = (
        scene_source(0, config.scenes, config),
        scene_intermediate(0, config.sounds, config),
    )
    tokenizer = WordPiece.from_texts(
        t for domain in (source, intermediate) for item in domain.texts for t in item
    )
    torch.manual_seed(5)
    before = torch.get_rng_state()
    classifier = train_classifier(source, intermediate, tokenizer, config, CPU)
    assert torch.equal(torch.get_rng_state(), before)  # or a resumed run would differ
    return (
        config,
        tokenizer,
        (source, intermediate),
        [domain_scores(classifier, d, tokenizer, config, CPU) for d in (source, intermediate)],
    )


def chance_that_first_is_higher(first, second):
    return float(
        (first[:, None] > second[None]).mean() + 0.5 * (first[:, None] == second[None]).mean()
    )


@pytest.mark.slow
def test_the_classifier_tells_the_domains_apart(scenes):
    """Eq. (11): more confident in the source domain."""
    assert chance_that_first_is_higher(*scenes[3]) > 0.9


@pytest.mark.slow
def test_the_classifier_finds_what_is_exclusive(scenes):
    """Walls and hisses, which scenes mark as exclusive, are drawn less often than the rest."""
    made = make_scenes(0, scenes[0])
    for make, values, sign in zip((made.grounding, made.caption), scenes[3], (-1, 1)):
        w = sampling_weights(values, 5, sign)
        exclusive = np.array([make(i).exclusive for i in range(len(w))])
        assert 0.05 < exclusive.mean() < 0.25
        assert w[exclusive].mean() < 0.7 * w[~exclusive].mean()
        # phrases with a colour, a size or a place are exclusive too, by their words
        assert chance_that_first_is_higher(w[~exclusive], w[exclusive]) > 0.75
        wrong = sampling_weights(values, 5, -sign)
        assert wrong[exclusive].mean() > wrong[~exclusive].mean()


@pytest.mark.slow
def test_weights_of_a_run_are_kept(scenes, tmp_path, capsys):
    config, tokenizer, domains, _ = scenes
    run = SimpleNamespace(folder=tmp_path, is_main=True, device=CPU)
    first = adaptive_weights(*domains, tokenizer, config, run)
    assert (tmp_path / "sampling.npz").is_file() and len(first[0]) == 400 and len(first[1]) == 250
    assert "intermediate domain, most exclusive" in capsys.readouterr().out
    for w in first:
        assert w.sum() == pytest.approx(1) and w.max() / w.min() == pytest.approx(config.k)
    phi = np.load(tmp_path / "sampling.npz")  # what is the least exclusive is drawn most often
    assert first[0].argmax() == phi["source"].argmin()
    assert first[1].argmax() == phi["intermediate"].argmax()
    resumed = replace(config, resume=True)
    saved = (tmp_path / "sampling.npz").read_bytes()
    again = adaptive_weights(*domains, tokenizer, resumed, run)
    assert (
        all((a == b).all() for a, b in zip(first, again))
        and (tmp_path / "sampling.npz").read_bytes() == saved
    )
    with pytest.raises(InputError, match="other data"):
        adaptive_weights(scene_source(0, 3, config), domains[1], tokenizer, resumed, run)
    (tmp_path / "sampling.npz").unlink()
    assert all(
        (a == b).all() for a, b in zip(first, adaptive_weights(*domains, tokenizer, resumed, run))
    )  # computed anew: the same
