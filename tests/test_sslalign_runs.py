"""sslalign's runs on files: the paper's preset with neighbours and pretrained vision, bad files,
two processes as one."""

import os
import shutil
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.benchmarks.pairs import ScenePairs
from common.training import dist
from common.io import read_json
from tests.layouts import write
from common.scenes import Scenes
from sslalign import neighbors
from sslalign.config import TINY
from sslalign.model import Sslalign
from sslalign.backbones.resnet import resnet18
from sslalign.train import loss_terms, main

from .test_lifecycle import bad, done, log, start

PAPER = (
    "--preset paper --held-out 4 --batch-size 4 --image-size 32 --sample-rate 8000 --seconds 0.5 "
    "--crop 0.25 --shift 0.1 --window 128 --hop 64 --blocks 1 1 1 --width 8 "
    "--projection 8 --k 3 --workers 0 --device cpu"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """VGGSound with 14 pairs to learn from, their neighbours by somebody's features, and VGG-SS."""
    root = tmp_path_factory.mktemp("tree")
    write(Scenes(4, 40, 8000, 0.5), root / "vggsound", "vggsound", 24)
    write(Scenes(5, 40, 8000, 0.5), root / "vggss", "vggss", 3)
    write(Scenes(5, 40, 8000, 0.5), root / "is3", "is3", 4)
    with pytest.raises(SystemExit):  # ids.txt is written; whose rows are to be in it is said
        neighbors.main(
            [
                str(root / "near"),
                "--data",
                "vggsound",
                "--root",
                str(root / "vggsound"),
                "--held-out",
                "4",
                "--k",
                "3",
            ]
        )
    ids = (root / "near" / "ids.txt").read_text().splitlines()
    rng = np.random.default_rng(0)
    for name in ("image", "audio"):
        np.save(
            root / "near" / f"{name}_features.npy",
            rng.standard_normal((len(ids), 6)).astype(np.float32),
        )
    neighbors.main([str(root / "near"), "--k", "3", "--device", "cpu"])
    return root


def flags(root, *more):
    return [
        *PAPER.split(),
        "--root",
        str(root / "vggsound"),
        "--neighbours",
        str(root / "near"),
        *more,
    ]


@pytest.mark.slow
def test_the_paper_preset_on_published_layouts(tree, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.training.run.signal.signal", lambda *args: None)
    main(
        flags(
            tree,
            "--name",
            "a",
            "--steps",
            "3",
            "--benchmark",
            "vggss",
            "is3",
            "--benchmark-root",
            str(tree / "vggss"),
            str(tree / "is3"),
        )
    )
    folder = tmp_path / "runs" / "sslalign" / "a"
    assert [row["step"] for row in log(folder) if "loss" in row] == [1, 2, 3]
    metrics = read_json(folder / "metrics.json")
    assert (
        metrics["preset"] == "paper"
        and metrics["vggss/samples"] == 3
        and metrics["is3/samples"] == 4
        and "vggss/retrieval/a2i_r@1_projected_instance" in metrics
    )
    capsys.readouterr()
    assert "is3/interactive/iiou" in metrics and "vggss/interactive/iiou" not in metrics
    assert (folder / "samples-vggss.png").is_file() and (folder / "samples-is3.png").is_file()
    assert (folder / "report.html").read_text().count("upper bound") >= 2  # a table of each
    assert "--k asks for 4" in bad(
        "sslalign.train", flags(tree, "--name", "c", "--k", "4"), capsys, monkeypatch
    )
    main(flags(tree, "--name", "b", "--steps", "1"))  # no benchmark: trained, not evaluated
    assert (folder.parent / "b" / "best.pt").is_file() and "samples" not in read_json(
        folder.parent / "b" / "metrics.json"
    )


@pytest.mark.slow
def test_pretrained_vision(tmp_path):
    torch.manual_seed(0)
    published = resnet18()
    torch.save(
        {k: v for k, v in published.state_dict().items() if "num_batches" not in k},
        tmp_path / "resnet18.pth",
    )
    config = replace(
        TINY, blocks=(2, 2, 2, 2), width=64, vision_weights=str(tmp_path / "resnet18.pth")
    )
    model = Sslalign(config).visual.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.maps(image)[3], published.eval().maps(image)[3])
        assert model.features(image).shape[2:] == (4, 4) and published.features(image).shape[
            2:
        ] == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("part, suffix", [("frames", "jpg"), ("audio", "wav")])
def test_bad_files(tree, tmp_path, capsys, monkeypatch, part, suffix):
    """Missing files are no pairs; what cannot be decoded is named, or left out by --skip-bad."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tree / "vggsound", tmp_path / "vggsound")
    shutil.copytree(tree / "near", tmp_path / "near")
    name = f"{(tmp_path / 'near' / 'ids.txt').read_text().split()[2]}"
    file = tmp_path / "vggsound" / part / f"{name}.{suffix}"
    whole = file.read_bytes()
    for number, content in enumerate((b"", b"text", whole[:200])):
        file.write_bytes(content)
        err = bad(
            "sslalign.train",
            flags(tmp_path, "--epochs", "3", "--sampling", "anchor", "--name", str(number)),
            capsys,
            monkeypatch,
        )
        assert name in err
        assert not list((tmp_path / "runs").rglob("metrics.json"))  # it is the loop that found it
        shutil.rmtree(tmp_path / "runs")
    err = done(
        start(
            "sslalign.train",
            " ".join(flags(tmp_path, "--epochs", "3", "--workers", "1", "--name", "w")),
            tmp_path,
        ),
        2,
    )[1]
    assert len(err.strip().splitlines()) <= 2 and name in err, (
        err
    )  # how many were found, and the error
    shutil.rmtree(tmp_path / "runs")
    err = bad("sslalign.train", flags(tmp_path, "--skip-bad", "--steps", "1"), capsys, monkeypatch)
    assert "ids.txt" in err  # neighbours are those of other pairs now
    file.unlink()
    assert "ids.txt" in bad("sslalign.train", flags(tmp_path, "--steps", "1"), capsys, monkeypatch)


SMALL = (
    "--scenes 16 --held-out 4 --batch-size 8 --steps 4 --easy 1 --image-size 32 --width 8 "
    "--projection 8 --k 4 --seconds 0.5 --crop 0.25 --shift 0.1 --window 128 --hop 64 "
    "--encoder-steps 8 --semantic-from 0 --device cpu"
)


@pytest.mark.slow
def test_what_a_run_continues_with(tmp_path, capsys, monkeypatch):
    """Other pairs are refused. The anchor itself needs no neighbours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.training.run.signal.signal", lambda *args: None)
    main([*SMALL.split(), "--name", "a", "--sampling", "anchor"])
    assert not (tmp_path / "runs" / "sslalign" / "encoders").exists()
    path = tmp_path / "runs" / "sslalign" / "a" / "last.pt"
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, "pairs": saved["pairs"] + 1}, path)
    assert "pairs" in bad("sslalign.train", "--resume --name a --device cpu", capsys, monkeypatch)


@pytest.mark.slow
def test_small_encoders(tmp_path):
    """Neighbours by them are of the class that sounds far more often than by chance, and the second
    run reads the encoders that the first has written."""
    config = replace(
        TINY, scenes=120, width=8, k=3, encoder_steps=150, seconds=0.5, crop=0.5, out=str(tmp_path)
    )
    source = ScenePairs(0, 120, config, lone=1.0)
    found = neighbors.scene_neighbours(source, config, torch.device("cpu"))
    labels = np.array([sample.cls for sample in source.samples])
    for rows in found:
        assert rows.shape == (120, 3) and (rows != np.arange(120)[:, None]).all()
        assert (labels[rows] == labels[:, None]).mean() > 0.2  # chance is 1/12
    files = sorted((tmp_path / "sslalign" / "encoders").rglob("*.pt"))
    assert [path.name for path in files] == ["audio.pt", "image.pt"]
    times = [path.stat().st_mtime_ns for path in files]
    again = neighbors.scene_neighbours(source, config, torch.device("cpu"))
    assert all(np.array_equal(x, y) for x, y in zip(found, again))
    assert times == [path.stat().st_mtime_ns for path in files]


def step_of(split, symmetric):
    """One step in double precision of a part of a batch of six: terms and gradients."""
    config = replace(
        TINY,
        image_size=32,
        width=8,
        projection=8,
        sample_rate=2000,
        window=64,
        hop=32,
        intra=True,
        symmetric=symmetric,
    )
    torch.manual_seed(0)
    model = dist.sync_batchnorm(Sslalign(config)).double()
    images, waveforms = torch.rand(3, 6, 3, 32, 32), 0.1 * torch.randn(2, 6, 2000)
    model.encode_image = lambda x: model.visual.features(x.double())
    model.encode_audio = lambda x: model.audio.features(x.double().view(-1, 1, 40, 50)).amax((2, 3))
    terms = loss_terms(*model(images[:, split], waveforms[:, split]), config)
    terms["loss"].backward()
    dist.sum_gradients(model.parameters())
    return {k: dist.all_sum(v.detach()) for k, v in terms.items()}, {
        n: p.grad for n, p in model.named_parameters()
    }


def one_of_two(rank, folder):
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="localhost",
        MASTER_PORT=(folder / "port").read_text(),
    )
    torch.set_num_threads(1)
    torch.Tensor.float = lambda x: x  # the similarities stay in double precision
    dist.start(torch.device("cpu"))
    found = [
        step_of(split[rank], symmetric)
        for split in (([0, 1, 2], [3, 4, 5]), ([0, 1, 2, 3], [4, 5]))
        for symmetric in (False, True)
    ]
    torch.save(found, folder / f"{rank}.pt")
    dist.stop()


@pytest.mark.slow
def test_losses_and_gradients_of_two_processes_are_those_of_one(tmp_path, monkeypatch):
    """Even and uneven halves; every denominator has the samples of both."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    torch.multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x)
    expected = [step_of(list(range(6)), symmetric) for symmetric in (False, True)]
    for rank in range(2):
        for found, (terms, gradients) in zip(
            torch.load(tmp_path / f"{rank}.pt", weights_only=True), expected * 2
        ):
            assert (
                set(terms) == {"loss", "localization", "alignment", "intra"} and len(gradients) > 20
            )
            for name, value in (*terms.items(), *gradients.items()):
                theirs = {**found[0], **found[1]}[name]
                torch.testing.assert_close(
                    theirs, value, atol=1e-6, rtol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
                )
