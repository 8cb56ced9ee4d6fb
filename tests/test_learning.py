"""Small trainings reach scores that only correct code reaches; half a minute each on one core."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from common import metrics
from sslalign import evaluate as sslalign
from common.benchmarks.pairs import ScenePairs, cropped_waveform
from sslalign.backbones.views import test_view as whole_view
from sslalign.train import main as train_sslalign
from stmnet import evaluate as stmnet
from stmnet.backbones import small
from stmnet.backbones.vggish import segments_at
from stmnet.config import TINY
from stmnet.data import make_scenes
from common.evaluation.frames import boxes_to_maps, enlarge
from stmnet.train import main as train_stmnet
from turn.domains import scene_intermediate, scene_source
from turn.evaluate import load_predictor
from turn.losses import corners
from turn.train import main

TURN = (
    "--scenes 48 --sounds 24 --held-out 8 --image-size 48 --dim 32 --backbone-width 8 "
    "--codes 128 --text-layers 1 --audio-layers 1 --visual-layers 2 --seconds 0.25 "
    "--sample-rate 8000 --n-fft 256 --hop 128 --n-mels 32 --batch-size 16 "
    "--batch-intermediate 8 --epochs 130 --lr 2e-3 "
    "--detr-steps 0 --visual-lr-scale 1 --no-augment --no-adaptive --lambda-recon 0 --dropout 0 "
    "--visual-dropout 0 --validate-every 1000 --device cpu --name a"
)


@pytest.mark.slow
def test_turn_learns_its_training_set_by_heart(tmp_path, monkeypatch):
    """48 images: each phrase finds its box, another's does not; most of 24 captions find their
    audio."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.training.run.signal.signal", lambda *args: None)
    main(TURN.split())
    folder = tmp_path / "runs" / "turn" / "a"
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    rows = [row for row in rows if "loss" in row]
    first, last = (np.mean([row["iou"] for row in part]) for part in (rows[:10], rows[-10:]))
    assert last < 0.3 * first  # GIoU's loss

    predictor = load_predictor(folder / "last.pt", torch.device("cpu"))
    source, intermediate = (
        scene_source(0, 48, predictor.config),
        scene_intermediate(0, 24, predictor.config),
    )
    images, gt = zip(*(source[i] for i in range(len(source))))
    gt = corners(torch.from_numpy(np.stack(gt)))
    with torch.no_grad():
        q = predictor.encode_text([phrase for (phrase,) in source.texts])
        iou, shuffled_iou = (
            metrics.box_iou(boxes, gt).mean().item()
            for boxes in predictor.predict(images, q, q.roll(1, 0))
        )
        align, config = predictor.model.alignment, predictor.config
        t = align.encode_text(
            predictor.tokenizer.encode(
                [texts[0] for texts in intermediate.texts], config.text_length
            )
        )
        a = align.encode_audio(torch.stack(intermediate.items))
    found = metrics.retrieval(t, a, k=(5,))["forward"][5]
    assert iou > 0.8 and shuffled_iou < iou - 0.25, (iou, shuffled_iou)
    assert found > 0.5, found  # chance is 0.21


SSLALIGN = (
    "--scenes 64 --held-out 8 --image-size 48 --width 8 --projection 32 --sample-rate 4000 "
    "--seconds 0.5 --crop 0.4 --shift 0.05 --window 64 --hop 64 --batch-size 16 --easy 0 "
    "--epochs 50 --lr 4e-3 --no-semantic-image --no-semantic-audio --no-view-image --no-view-audio "
    "--validate-every 1000 --device cpu --name a"
)


@pytest.mark.slow
def test_sslalign_learns_its_training_set_by_heart(tmp_path, monkeypatch):
    """64 pairs: most audio finds its image, by both similarities, and most images their audio."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.training.run.signal.signal", lambda *args: None)
    train_sslalign(SSLALIGN.split())
    path, device = tmp_path / "runs" / "sslalign" / "a" / "last.pt", torch.device("cpu")
    predictor = sslalign.load_predictor(path, device)
    config, model = predictor.config, predictor.model
    pairs = ScenePairs(0, 64, config, config.lone)
    with torch.no_grad():
        images = [whole_view(pairs.image(i), config.image_size) for i in range(64)]
        waveforms = [cropped_waveform(pairs.waveform(i), config) for i in range(64)]
        image = model.image_features(model.encode_image(torch.stack(images)))
        audio = model.audio_features(model.encode_audio(torch.stack(waveforms)))
    for v, a in (image.mean, audio.a), (image.projected, audio.projected):
        found = metrics.retrieval(a, v, k=(1,))
        assert min(found["forward"][1], found["backward"][1]) > 0.5, found  # chance is 0.016


@pytest.fixture(scope="module")
def stmnet_out(tmp_path_factory):
    """The small encoders are made once for both tests."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.slow
def test_the_small_encoders_learn_what_is_where(stmnet_out):
    """Features tell classes apart in audio and, of two objects in an image, which is where."""
    config = replace(TINY, image_size=48, audio_width=8, encoder_steps=350, out=str(stmnet_out))
    visual, audio = (small.make_encoder(name, config).eval() for name in ("visual", "audio"))

    def fitted(x, y):  # the first half teaches a linear probe, the second is asked
        half, one_hot = len(x) // 2, torch.nn.functional.one_hot(y, 12).float()
        x = torch.cat([x, torch.ones(len(x), 1)], 1)
        weights = torch.linalg.lstsq(
            x[:half].T @ x[:half] + torch.eye(x.shape[1]), x[:half].T @ one_hot[:half]
        ).solution
        return ((x[half:] @ weights).argmax(1) == y[half:]).float().mean()

    with torch.no_grad():
        segments, is_present = small.draw_audio(config, 300)
        found = fitted(audio(segments).mean((2, 3)), is_present.argmax(1))
        assert found > 0.65, found  # 0.53 untrained
        scenes, features, classes = small.Scenes(3, 48, object_scale=small.VIDEO_SCALE), [], []
        for i in range(300):
            rng = scenes.rng(9, i)
            scene = scenes.scene(rng, scenes.classes(rng))
            found = visual(torch.from_numpy(scene.image).permute(2, 0, 1)[None])[0]
            for box, cls in zip(scene.boxes, scene.classes):
                x, y = (
                    ((box[:2] + box[2:]) / 2 * found.shape[-1])
                    .astype(int)
                    .clip(0, found.shape[-1] - 1)
                )
                features.append(found[:, y, x])
                classes.append(int(cls))
    found = fitted(torch.stack(features), torch.tensor(classes))
    assert found > 0.25, found  # 0.10 untrained


STMNET = (
    "--image-size 48 --audio-width 8 --encoder-steps 350 --scenes 300 --held-out 2 "
    "--test-videos 2 --video-seconds 2 --batch-size 20 "
    "--epochs 18 --blurred 0 --validate-every 1000 --device cpu --name a"
)


@pytest.mark.slow
def test_stmnet_learns_what_sounds_and_where(stmnet_out, monkeypatch):
    """Two classes in a frame can make its sound, so the right one takes both image and audio."""
    monkeypatch.setattr("common.training.run.signal.signal", lambda *args: None)
    train_stmnet([*STMNET.split(), "--out", str(stmnet_out)])
    path = stmnet_out / "stmnet" / "a" / "last.pt"
    predictor = stmnet.load_predictor(path, torch.device("cpu"))
    config, scenes = predictor.config, make_scenes(0, predictor.config)
    videos = [scenes.video(i, config.T, config.clip_seconds) for i in range(24)]
    times = (np.arange(len(videos[0].frames)) + 0.5) / config.T
    audio = [segments_at(torch.from_numpy(v.waveform), times, config.samples) for v in videos]
    is_right, pointing = [], {"matched": [], "shuffled": []}
    for i, video in enumerate(videos):
        features = predictor.encode_frames(list(video.frames))
        gt = boxes_to_maps([box[None] for box in video.boxes])
        for kind, segments in (("matched", audio[i]), ("shuffled", audio[(i + 12) % 24])):
            prediction = predictor.predict(features, segments, predictor.start(config.T))
            points = metrics.pointing(enlarge(prediction.heatmaps["attention"]), gt)
            pointing[kind] += points[video.sounding].tolist()
            if kind == "matched":
                labels = np.where(video.sounding, video.name, "background")
                is_right += (np.array(prediction.labels) == labels).tolist()
    matched, shuffled = (np.mean(pointing[kind]) for kind in ("matched", "shuffled"))
    # audio alone: 0.68, which is silence and half of the rest; places by chance: 0.28
    scores = np.mean(is_right), matched, shuffled
    assert scores[0] > 0.8 and matched > 0.45 and matched > shuffled + 0.08, scores
