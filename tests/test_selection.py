"""What chooses best.pt in avkd, sslalign and stmnet: validations by hand, and that no training or
validation has a scene of a test. TURN's are in test_turn_evaluate.py and test_turn_data.py."""

import importlib
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.benchmarks.pairs import TEST, VALIDATION, training_pairs
from common.evaluation import SceneTestSet
from common.scenes import Scenes
from stmnet import data, train
from stmnet.config import TINY
from stmnet.test_sets import SceneVideos

from . import test_avkd_data, test_sslalign_data, test_stmnet_data

CPU = torch.device("cpu")


class Told(torch.nn.Module):
    """Features of pair i are rows i of v and a; images are grey and as bright, audio as loud."""

    def __init__(self, v, a):
        super().__init__()
        self.v, self.a = v, a

    def encode_image(self, images):
        return self.v[(images.mean((1, 2, 3)) * 255 / 10).round().long()][..., None, None]

    def encode_audio(self, waveforms):
        return self.a[(waveforms.mean(1) * 30).round().long()]

    def image_features(self, v):
        return SimpleNamespace(mean=F.normalize(v, dim=1).mean((2, 3)))


@pytest.mark.parametrize("method", ["avkd", "sslalign"])
def test_the_validation_of_pairs_by_hand(method):
    """The score is the loss with the other sign: avkd's has both ways, sslalign's finds audio."""
    trained, tiny = (importlib.import_module(f"{method}.{name}") for name in ("train", "config"))
    config = replace(tiny.TINY, image_size=16, sample_rate=100, seconds=1.0, crop=1.0)
    held_out = SimpleNamespace(
        ids=[*map(str, range(24))],
        image=lambda i: np.full((16, 16, 3), 10 * i, np.uint8),
        waveform=lambda i: torch.full((100,), i / 30),
    )
    v, a = torch.randn(2, 24, 4, generator=torch.Generator().manual_seed(0))
    a += v
    found = trained.validate(Told(v, a), held_out, config, CPU)
    S = F.normalize(v, dim=1) @ F.normalize(a, dim=1).T
    own = S.diagonal()
    losses = [(torch.logsumexp(s / config.tau, 1) - own / config.tau).mean() for s in (S, S.T)]
    i2a, a2i = ((s > own[:, None]).sum(1) for s in (S, S.T))  # ranks
    if method == "avkd":
        expected = {"score": -sum(losses), "i2a_r@1": (i2a < 1).float().mean()}
        assert (i2a < 1).sum() != (a2i < 1).sum()
    else:
        recalls = {"i2a_r@10": (i2a < 10).float().mean(), "a2i_r@10": (a2i < 10).float().mean()}
        expected = {"score": -losses[0], **recalls}
        assert recalls["i2a_r@10"] != recalls["a2i_r@10"]
    assert abs(losses[0] - losses[1]) > 0.01
    expected = {f"validation/{name}": float(value) for name, value in expected.items()}
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("augment", [False, True])
def test_the_validation_of_clips_by_hand(augment):
    """The loss with the other sign. Frames are not augmented. A pixel's colours are the logits."""
    rng = np.random.default_rng(0)
    frames, labels = rng.integers(0, 256, (20, 4, 16, 16, 3), np.uint8), rng.integers(0, 3, 20)
    held_out = SimpleNamespace(
        ids=[*map(str, range(20))],
        draw=lambda i, rng: (list(frames[i]), torch.zeros(4, 5), [labels[i]] * 4),
    )
    model = torch.nn.Module()
    model.forward = lambda images, segments: SimpleNamespace(logits=9 * images[..., 0, 0])
    config = replace(TINY, image_size=16, background=False, augment=augment)
    found = train.validate(model, held_out, config, CPU)
    logits = torch.from_numpy(frames[:, :, 0, 0].max(1) / 255 * 9)  # of the clip: the maxima
    loss = F.cross_entropy(logits, torch.from_numpy(labels))
    accuracy = (logits.argmax(1).numpy() == labels).mean()
    expected = {"validation/score": -float(loss), "validation/accuracy": accuracy}
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["avkd", "sslalign", "stmnet"])
def test_training_validation_and_test_have_scenes_of_their_own(method, monkeypatch):
    asked = Counter()

    def counted(original):
        return lambda self, *args: (asked.update([self.seed]), original(self, *args))[1]

    for name in ("pair", "video"):
        monkeypatch.setattr(Scenes, name, counted(getattr(Scenes, name)))
    if method == "stmnet":
        config = replace(test_stmnet_data.SMALL, seed=7)
        data.training_clips(config)
        trained, held_out_seed = Counter(asked), data.TEST
        for i in range(4):
            SceneVideos(config).video(i)
    else:
        module = {"avkd": test_avkd_data, "sslalign": test_sslalign_data}[method]
        config = replace(module.CONFIG, seed=7)
        training_pairs(config)
        trained, held_out_seed = Counter(asked), TEST
        SceneTestSet(config, "pair")
    assert trained == {7: config.scenes, VALIDATION: config.held_out}
    assert asked - trained == {held_out_seed: 4} and held_out_seed != VALIDATION
