"""A small training reaches what only a whole and sound one can: half a minute on one core."""
import numpy as np
import pytest
import torch

from common import metrics
from common.io import read_jsonl
from sslalign import evaluate as sslalign
from sslalign.pairs import ScenePairs, heard
from sslalign.train import main as train_sslalign
from turn.data import SceneIntermediate, SceneSource
from turn.evaluate import load
from turn.losses import corners
from turn.train import main

TURN = ("--scenes 48 --sounds 24 --held-out 8 --image-size 48 --dim 32 --backbone-width 8 --codes 128 --text-layers 1 --audio-layers 1 "
        "--visual-layers 2 --seconds 0.25 --sample-rate 8000 --n-fft 256 --hop 128 --n-mels 32 --batch-size 16 "
        "--batch-intermediate 8 --epochs 130 --lr 2e-3 "
        "--no-augment --no-adaptive --lambda-recon 0 --dropout 0 --visual-dropout 0 --validate-every 1000 --device cpu --name a")


@pytest.mark.slow
def test_turn_learns_its_training_set_by_heart(tmp_path, monkeypatch):
    """48 pictures: each phrase finds its own box, and not so another's phrase; most of 24 captions find their sound."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.run.signal.signal", lambda *args: None)
    main(TURN.split())
    folder = tmp_path / "runs" / "turn" / "a"
    rows = [row for row in read_jsonl(folder / "log.jsonl") if "loss" in row]
    first, last = (np.mean([row["iou"] for row in part]) for part in (rows[:10], rows[-10:]))
    assert last < 0.3 * first  # GIoU's loss

    predictor = load(folder / "last.pt", torch.device("cpu"))
    source, intermediate = SceneSource(0, 48, predictor.config), SceneIntermediate(0, 24, predictor.config)
    images, truth = zip(*(source[i] for i in range(len(source))))
    truth = corners(torch.from_numpy(np.stack(truth)))
    with torch.no_grad():
        q = predictor.texts([phrase for phrase, in source.texts])
        own, others = (metrics.box_iou(boxes, truth).mean().item() for boxes in predictor.boxes(images, [q, q.roll(1, 0)]))
        align, config = predictor.model.alignment, predictor.config
        t = align.text(predictor.tokenizer.encode([texts[0] for texts in intermediate.texts], config.text_length))
        a = align.audio(torch.stack(intermediate.logmels))
    found = metrics.retrieval(t, a, k=(5,))["forward"][5]
    assert own > 0.8 and others < own - 0.25, (own, others)
    assert found > 0.5, found  # chance is 0.21


SSLALIGN = ("--scenes 64 --held-out 8 --image-size 48 --width 8 --projection 32 --sample-rate 4000 --seconds 0.5 --crop 0.4 --shift 0.05 "
            "--window 64 --hop 64 --batch-size 16 --epochs 50 --lr 4e-3 --k 3 --mine-from 47 --no-view-image --no-view-audio "
            "--validate-every 1000 --device cpu --name a")


@pytest.mark.slow
def test_sslalign_learns_its_training_set_by_heart(tmp_path, monkeypatch):
    """64 pairs: most sounds find their own picture, by both similarities, and most pictures their sound."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.run.signal.signal", lambda *args: None)
    train_sslalign(SSLALIGN.split())
    predictor = sslalign.load(tmp_path / "runs" / "sslalign" / "a" / "last.pt", torch.device("cpu"))
    pairs = ScenePairs(0, 64, predictor.config, predictor.config.lone)
    with torch.no_grad():
        seen = predictor.model.see(predictor.look([pairs.image(i) for i in range(64)]))
        sounds = torch.stack([heard(pairs.sound(i), predictor.config) for i in range(64)])
        played = predictor.model.hear(predictor.listen(sounds))
    for v, a in (seen.mean, played.a), (seen.projected, played.projected):
        found = metrics.retrieval(a, v, k=(1,))
        assert min(found["forward"][1], found["backward"][1]) > 0.5, found  # chance is 0.016
