"""stmnet/backbones/small.py: the small encoders of embedded scenes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from common.io import write_audio
from stmnet.backbones import small
from stmnet.config import TINY
from stmnet.model import Stmnet

SMALL = replace(TINY, image_size=48, width=8, audio_width=8, C=16, encoder_steps=4)


@pytest.mark.parametrize("objects", [1, 2])
def test_images_and_what_is_in_them(objects):
    side = 48 // (3 - objects)
    images, is_present = small.draw_images(SMALL, 8, side, objects)
    assert images.shape == (8, 3, side, side) and images.dtype == torch.uint8
    assert (
        is_present.shape == (8, 12)
        and is_present.sum(1).tolist() == [objects] * 8
        and set(is_present.unique().tolist()) == {0, 1}
    )
    scenes = small.Scenes(small.SEED, side, objects=objects, object_scale=0.8 * (48 / side) ** 2)
    rng = scenes.rng(9, 3)
    scene = scenes.scene(rng, scenes.classes(rng))
    assert (
        np.array_equal(images[3].permute(1, 2, 0), scene.image)
        and sorted(scene.classes) == is_present[3].nonzero()[:, 0].tolist()
    )


def test_objects_of_both_sizes_of_images_have_those_of_videos():
    """In pixels, but for what does not fit into half an image."""

    def extent(side, objects):
        scenes = small.Scenes(5, side, objects=objects, object_scale=0.8 * (64 / side) ** 2)
        found = []
        for i in range(200):
            rng = scenes.rng(9, i)
            boxes = scenes.scene(rng, scenes.classes(rng)).boxes * side
            found += (boxes[:, 2:] - boxes[:, :2]).prod(1).tolist()
        return np.quantile(np.sqrt(found), [0.25, 0.5])

    sizes = [
        (b[2:] - b[:2]) * 64
        for i in range(60)
        for b in small.Scenes(5, 64).video(i, 1, 4).boxes
        if b[2] > 0
    ]
    expected = np.quantile(np.sqrt(np.prod(sizes, 1)), [0.25, 0.5])
    assert np.allclose(extent(64, 2), expected, rtol=0.15) and np.allclose(
        extent(32, 1), expected, rtol=0.2
    )


def test_audio_segments_are_of_every_class():
    segments, is_present = small.draw_audio(SMALL, 60)
    assert (
        segments.shape == (60, SMALL.samples)
        and is_present.shape == (60, 12)
        and (is_present.sum(1) == 1).all()
    )
    assert (is_present.sum(0) > 0).all() and (segments.abs().amax(1) > 0.01).all()


def test_the_two_losses():
    """The mean of a class's map is its logit in the first task; in the second a square of four
    positions is enough, and no less."""
    maps = torch.full((1, 3, 4, 4), -12.0)
    maps[0, 1] = -1
    maps[0, 1, 0, 0] = maps[0, 1, 0, 3] = 1  # alone
    maps[0, 2, 2:, 2:] = 9
    assert (
        small.mean_map_loss(maps, torch.tensor([[0.0, 1, 0]]))
        < 0.01
        < small.mean_map_loss(maps, torch.tensor([[0.0, 0, 1]]))
    )
    assert (
        small.max_map_loss(maps, torch.tensor([[0.0, 0, 1]]))
        < 0.2
        < small.max_map_loss(maps, torch.tensor([[0.0, 1, 1]]))
    )


def test_what_another_encoder_would_be_is_filed_elsewhere(tmp_path, monkeypatch):
    changes = [
        {"image_size": 32},
        {"segment_seconds": 0.5},
        {"blocks": (1, 1)},
        {"width": 4},
        {"bottleneck": True},
        {"last_stride": 2},
        {"audio": "vggish"},
        {"audio_width": 4},
        {"encoder_steps": 5},
    ]
    folders = [small.encoders_folder(replace(SMALL, **change)) for change in ({}, *changes)]
    for k, name in enumerate("abcd"):
        image = np.full((20, 20, 4), 255 - k, np.uint8)
        image[:5, :, 3] = 0
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        write_audio(tmp_path / f"{name}.wav", np.sin(np.arange(8000) / (9 + k)), 16000)
    folders.append(small.encoders_folder(replace(SMALL, objects=str(tmp_path))))
    assert (
        small.encoders_folder(replace(SMALL, C=8, seed=3, lr=1.0, memory_seconds=0.5)) == folders[0]
    )
    monkeypatch.setattr(small, "RECIPE", 0)
    folders.append(small.encoders_folder(SMALL))
    assert len(set(folders)) == len(folders)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["visual", "audio"])
def test_an_encoder_is_made_once(name, tmp_path, monkeypatch):
    config = replace(SMALL, out=str(tmp_path))
    before = torch.random.get_rng_state()
    first = small.make_encoder(name, config).state_dict()
    monkeypatch.setattr(small, "train_task", None)  # read from its file, not trained
    again = small.make_encoder(name, replace(config, C=8, lr=1.0, seed=4)).state_dict()
    assert all(torch.equal(x, again[k]) for k, x in first.items()) and torch.equal(
        torch.random.get_rng_state(), before
    )
    with pytest.raises(TypeError):  # another one is wanted
        small.make_encoder(name, replace(config, encoder_steps=5))
    monkeypatch.undo()
    anew = small.make_encoder(name, replace(config, out=str(tmp_path / "anew"))).state_dict()
    assert all(torch.equal(x, anew[k]) for k, x in first.items())
    model = Stmnet(config, 13)
    small.load_encoders(model, config, "cpu")
    assert all(
        torch.equal(x, first[k]) for k, x in getattr(model, f"{name}_encoder").state_dict().items()
    )
