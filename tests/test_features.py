"""Features of pre-trained encoders for the neighbours: inputs, files that go on, the command."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.io import InputError, crop_audio, read_image
from tests.layouts import write
from common.scenes import Scenes
from common.training import nearest
from sslalign import neighbors as n
from sslalign.backbones import small as f
from sslalign.backbones.pretrained import standardised
from common.benchmarks.pairs import training_pairs
from sslalign.backbones.resnet import resnet18
from sslalign.config import TINY
from tests.test_neighbors import Stopped, fails, is_top_k

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vggsound(tmp_path_factory):
    """A data set on disk, and weights of two random encoders in the published layouts."""
    root = tmp_path_factory.mktemp("vggsound")
    write(Scenes(3, 48, 16000, 1.0), root, "vggsound", 12)
    torch.manual_seed(0)
    torch.save(resnet18(1000).state_dict(), root / "image.pth")
    names = {f"audnet.{name}": value for name, value in resnet18(309, 1).state_dict().items()}
    torch.save({"epoch": 3, "model_state_dict": names}, root / "audio.pth")
    return root


def pairs(root):
    return training_pairs(replace(f.INPUTS, data="vggsound", root=str(root), held_out=2))[0]


def samples(root):
    return pairs(root).samples


def extract(source, modality, net, folder, weights, **options):
    """The features that `write_features` writes, in a new folder or one where it stopped."""
    folder.mkdir(exist_ok=True)
    n.write_features(folder, source, {modality: (net, weights)}, f.INPUTS, **options)
    return np.load(folder / f"{modality}_features.npy", allow_pickle=False)


class Mean:
    """An encoder that averages its input over positions; it counts its inputs, and can stop."""

    channels = 3

    def __init__(self, stop=99):
        self.seen, self.stop = 0, stop

    def parameters(self):
        yield torch.zeros(1)

    def features(self, x):
        if self.seen >= self.stop:
            raise Stopped
        self.seen += len(x)
        return x


def test_images_are_normalised(vggsound, tmp_path):
    found = extract(pairs(vggsound), "image", Mean(), tmp_path / "a", 1, batch_size=4)
    images = np.stack([read_image(s.image) for s in samples(vggsound)]).mean((1, 2)) / 255
    expected = (images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found, expected, atol=0.02)  # 224 x 224 from 48 x 48


def test_the_spectrogram_of_vggsound():
    """257 × 1004 of ten seconds: the log of a one-sided density, mean 0 and deviation 1."""
    x = np.random.default_rng(8).uniform(-0.5, 0.5, 48000) * np.linspace(0, 1, 48000)
    got = standardised(crop_audio(torch.from_numpy(x).float(), 16000, clip=10, crop=10))
    assert got.shape == (1, 257, 1004)
    t = np.minimum(np.arange(512), 512 - np.arange(512)) / 64
    taper = np.where(t < 1, (1 - np.cos(np.pi * t)) / 2, 1)
    repeated, power = np.tile(x, 4), []
    for first in range(0, 160000 - 511, 159):
        part = repeated[first : first + 512]
        power.append(np.abs(np.fft.rfft((part - part.mean()) * taper)) ** 2)
    density = np.array(power).T / (16000 * (taper**2).sum())
    density[1:-1] *= 2
    expected = np.log(density + 1e-7)
    np.testing.assert_allclose(got[0], (expected - expected.mean()) / expected.std(), atol=2e-3)


def test_silence_is_zero():
    """And not the rounding of its mean, divided by a deviation of nothing."""
    assert standardised(torch.zeros(160000)).abs().max() < 0.01


def test_extraction_goes_on_where_it_stopped(vggsound, tmp_path):
    source, options = pairs(vggsound), {"batch_size": 2}
    whole = extract(source, "image", Mean(), tmp_path / "whole", 1, **options)
    path, net = tmp_path / "a", Mean(stop=4)
    with pytest.raises(Stopped):
        extract(source, "image", net, path, 1, **options)
    for weights, seen in ((1, len(whole) - 4), (1, 0), (2, len(whole))):
        net = Mean()
        found = extract(source, "image", net, path, weights, **options)
        np.testing.assert_array_equal(found, whole)
        assert net.seen == seen


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_is_named(workers, vggsound, tmp_path):
    broken = pairs(vggsound)
    (tmp_path / "broken.wav").write_bytes(b"RIFF of nothing")
    broken.samples[3] = replace(broken.samples[3], audio=tmp_path / "broken.wav")
    with pytest.raises(InputError, match=r"broken\.wav: "):
        extract(broken, "audio", Mean(), tmp_path / "a", 1, batch_size=2, workers=workers)
    assert not (tmp_path / "a" / "audio_features.npy").exists()


# The command --------------------------------------------------------------------------------------


def command(root, folder, *more):
    return [
        *map(
            str,
            (
                folder,
                "--data",
                "vggsound",
                "--root",
                root,
                "--image-weights",
                root / "image.pth",
                "--audio-weights",
                root / "audio.pth",
                "--held-out",
                2,
                "--k",
                3,
                "--batch-size",
                2,
                *more,
            ),
        ),
        "--device",
        "cpu",
    ]


@pytest.mark.slow
def test_the_command_from_files_to_neighbours(vggsound, tmp_path, monkeypatch, capsys):
    source = samples(vggsound)
    n.main(command(vggsound, tmp_path))
    for modality, found in zip(
        n.MODALITIES, n.load_neighbours(tmp_path, [s.id for s in source])
    ):  # the samples that training has
        features = np.load(tmp_path / f"{modality}_features.npy", allow_pickle=False)
        assert features.dtype == np.float16 and features.shape == (len(source), 512)
        is_top_k(found, features)
        net = resnet18(1000, 3) if modality == "image" else resnet18(309, 1)
        state = torch.load(vggsound / f"{modality}.pth", weights_only=True)
        net.load_state_dict(
            state
            if modality == "image"
            else {k[7:]: v for k, v in state["model_state_dict"].items()}
        )
        with torch.no_grad():
            x = f.view(pairs(vggsound), 1, modality, f.INPUTS)[None]
            expected = net.eval().maps(x)[-1][0].flatten(1).mean(1)
        np.testing.assert_allclose(features[1], expected, rtol=2e-3, atol=1e-3)
    monkeypatch.setattr(nearest, "topk_blocks", None)  # a second call has nothing to do
    monkeypatch.setattr(f, "DataLoader", None)
    n.main(command(vggsound, tmp_path))
    assert capsys.readouterr().out.count("the 3 nearest of") == 4


@pytest.mark.slow
def test_a_folder_of_other_samples_is_left_alone(vggsound, tmp_path, capsys):
    (tmp_path / "ids.txt").write_text("another\n")
    line = fails(capsys, *command(vggsound, tmp_path))
    assert "ids.txt: line 1 is" in line and "other samples or another order" in line
    assert [p.name for p in tmp_path.iterdir()] == ["ids.txt"]


@pytest.mark.slow
def test_weights_of_another_network_write_nothing(vggsound, tmp_path, capsys):
    for flag, file, message in (
        ("audio", "image.pth", "holds no state_dict"),
        ("image", "audio.pth", "holds no state_dict"),
        ("image", "nothing.pth", "no such file"),
    ):
        assert f"{file}: {message}" in fails(
            capsys, *command(vggsound, tmp_path, f"--{flag}-weights", vggsound / file)
        )
    assert list(tmp_path.iterdir()) == []


def test_ids_for_encoders_of_ones_own(vggsound, tmp_path, capsys):
    """--data without weights writes the order in which the rows are wanted."""
    args = tmp_path, "--data", "vggsound", "--root", vggsound, "--held-out", 2, "--k", 3
    assert "image_features.npy: no such file" in fails(capsys, *args)
    ids = (tmp_path / "ids.txt").read_text().split()
    assert ids == [s.id for s in samples(vggsound)]
    for modality in n.MODALITIES:
        np.save(
            tmp_path / f"{modality}_features.npy",
            np.random.default_rng(9).standard_normal((len(ids), 5), dtype=np.float32),
        )
    n.main([*map(str, args), "--device", "cpu"])
    assert n.load_neighbours(tmp_path, ids)[0].shape == (len(ids), 3)
    assert "not made by this command" in fails(
        capsys, *args, "--image-weights", vggsound / "image.pth"
    )


def test_test_samples_are_left_out_of_pairs_and_neighbours(vggsound, tmp_path, capsys):
    """--exclude-test of the training and of this command leave out the same samples."""
    root = shutil.copytree(vggsound, tmp_path / "root")
    test = {"file": samples(root)[1].id, "class": "cat", "bbox": [[0, 0, 1, 1]]}
    (root / "metadata" / "vggss.json").write_text(json.dumps([test]))
    args = tmp_path, "--data", "vggsound", "--root", root, "--held-out", 2
    fails(capsys, *args, "--exclude-test", "vggss")  # there are no features yet
    ids = (tmp_path / "ids.txt").read_text().split()
    config = replace(TINY, data="vggsound", root=str(root), held_out=2)
    assert test["file"] in training_pairs(config)[0].ids and test["file"] not in ids
    assert "are test samples of vggss, --exclude-test" in capsys.readouterr().out
    assert training_pairs(replace(config, exclude_test="vggss"))[0].ids == ids
    assert "1 of 9 are test samples of vggss, left out" in capsys.readouterr().out


def test_neighbours_of_scenes(tmp_path, monkeypatch):
    """By small encoders, for the scenes that a training with the same settings has; the training
    finds the same, but for the files' half precision."""
    tiny = replace(n.TINY, scenes=24, held_out=4, encoder_steps=4, width=8, k=3)
    tiny = replace(tiny, out=str(tmp_path / "o"))
    monkeypatch.setattr(n, "TINY", tiny)
    n.main([str(tmp_path), "--data", "scenes", "--k", "3", "--device", "cpu"])
    source = training_pairs(tiny)[0]
    ours = n.scene_neighbours(source, tiny, torch.device("cpu"))
    for found, rows in zip(n.load_neighbours(tmp_path, source.ids, 3), ours, strict=True):
        assert found.shape == rows.shape == (24, 3) and (found == rows).mean() > 0.8
