"""turn/evaluate.py: scores are of the boxes, controls of other audio; what validation measures."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common import metrics
from turn import evaluate
from turn.domains import load_domains
from turn.test_sets import SIZE, BoxTestSet

from .test_turn_data import SMALL
from .test_turn_model import CONFIGS, TOKENIZER, build


def numbers(n, **parts) -> BoxTestSet:
    """n samples that are their numbers."""
    functions = {"image": lambda s: None, "waveform": None, "phrase": None} | parts
    return BoxTestSet("numbers", list(range(n)), list(range(n)), **functions)


def test_scores_are_those_of_the_boxes():
    """Queries are boxes here: their own have cIoU 1, others the IoU of the boxes."""
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.5, (5, 2))
    boxes = torch.from_numpy(np.hstack([low, low + rng.uniform(0.1, 0.5, (5, 2))])).float()
    test = numbers(5, gt_map=lambda s: metrics.boxes_to_map(boxes[s].numpy()[None] * SIZE, SIZE))
    told = SimpleNamespace(predict=lambda images, *queries: torch.stack(queries))
    found = evaluate.score_samples(told, test, {"audio": boxes, "text": boxes.flip(0)})
    np.testing.assert_allclose(found["audio"], 1)
    np.testing.assert_allclose(found["text"], metrics.box_iou(boxes, boxes.flip(0)), atol=0.02)


def test_controls_and_what_the_page_plays():
    """The shuffled query is of the sample half the list before, whose audio is in the gallery."""
    n = 7
    test = numbers(
        n,
        image=lambda s: np.zeros((8, 8, 3), np.uint8),
        waveform=lambda s: torch.full((1600,), s / 10),
        phrase=lambda s: f"phrase {s}",
        gt_map=lambda s: np.ones((SIZE, SIZE), np.float32),
    )
    told = SimpleNamespace(
        config=SMALL,
        encode_audio=lambda logmels: logmels.mean((1, 2))[:, None],
        encode_text=lambda phrases: torch.zeros(len(phrases), 1),
        model=SimpleNamespace(random_query=lambda n, g: torch.randn(n, 1, generator=g)),
        predict=lambda images, *q: torch.tensor([0.0, 0, 1, 1]).expand(len(q), len(images), 4),
    )
    q = evaluate.encode_queries(told, test)
    assert torch.equal(q["shuffled"], q["audio"][(torch.arange(n) - n // 2) % n])
    assert (q["shuffled"] != q["audio"]).all() and (q["silent"] == q["silent"][0]).all()
    for sample in evaluate.gallery(told, test, q, {k: np.arange(n) / n for k in q}).samples:
        clips = {clip.name: clip.waveform for clip in sample.clips}
        own, shuffled = (
            round(float(clips[evaluate.QUERIES[k]][0]) * 10)
            for k in q
            if k in ("audio", "shuffled")
        )
        assert sample.name == f"phrase {own}" and shuffled == (own - n // 2) % n


def test_the_validation_by_hand():
    """Captions, by their own norm, find audio among 24. The score is the mean of both shares."""
    config = replace(CONFIGS["tiny"], held_out=24, seconds=0.1, n_fft=256, hop=128, text_length=14)
    model, held_out = build(config).eval(), load_domains(config, "validation")
    g = torch.Generator().manual_seed(1)
    caption, phrase = torch.randn(2, 24, 16, generator=g)
    audio = 0.3 * caption + torch.randn(24, 16, generator=g)
    align = model.alignment
    align.encode_text = lambda tokens, kind="phrase": {"caption": caption, "phrase": phrase}[kind]
    align.encode_audio = lambda logmels: audio
    found = evaluate.validate(model, TOKENIZER, held_out, config, torch.device("cpu"))
    cosines = F.normalize(caption, dim=1) @ F.normalize(audio, dim=1).T
    ranks = [(x > x.diagonal()[:, None]).sum(1) for x in (cosines, cosines.T)]
    forward, backward = ((rank < 10).float().mean().item() for rank in ranks)
    assert forward != backward and found["validation/t2a_r@10"] == pytest.approx(forward)
    both = found["validation/text_ciou@0.5"] + forward
    assert found["validation/score"] == pytest.approx(both / 2)
