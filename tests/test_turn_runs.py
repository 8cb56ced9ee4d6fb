"""TURN's runs: bad files of corpora, the paper's preset on published layouts, n processes."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.io import read_json
from common.scenes import Scenes
from common.training import dist
from tests.layouts import write
from turn import evaluate, sampling
from turn.model import Turn
from turn.train import loss_terms

from . import trees
from .test_lifecycle import NARROW, bad, done, log, start
from .test_turn_model import CONFIGS, TOKENIZER, batch_of

PAPER = (
    "--preset paper --data refcocog+clotho --detr narrow --detr-weights= --vocabulary= "
    "--batch-size 4 --batch-intermediate 2 --heads 2 --visual-heads 2 --ffn 1 --decoder-layers 1 "
    f"{NARROW} --image-size 64 --workers 0 --device cpu"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    return trees.clotho(trees.refcoco(root))


@pytest.mark.slow
def test_bad_files_of_a_corpus(tree, tmp_path, capsys, monkeypatch):
    """Wrong lists are found before anything is written, an image or audio when it is read."""
    monkeypatch.chdir(tmp_path)
    image, audio = (
        "images/mscoco/images/train2014/COCO_train2014_000000000003.jpg",
        "development/clip 3.wav",
    )
    cases = [
        ("refcocog/refs(google).p", b""),
        ("refcocog/refs(google).p", None),
        ("refcocog/refs(google).p", b"cos\nsystem\n."),
        ("refcocog/instances.json", b"{"),
        ("refcocog/instances.json", None),
        ("clotho_captions_development.csv", b""),
        ("clotho_captions_validation.csv", b"a,b\n1\n"),
        (image, None),
        (audio, None),
        (image, b""),
        (image, b"text"),
        (image, 100),
        (audio, b""),
        (audio, b"text"),
        (audio, 100),
    ]
    for number, (name, content) in enumerate(cases):
        root = tmp_path / "data"
        shutil.copytree(tree, root)
        if content is None:
            (root / name).unlink()
        else:
            (root / name).write_bytes(
                (tree / name).read_bytes()[:content] if isinstance(content, int) else content
            )
        flags = (
            f"{PAPER} --root {root} --epochs 1 --no-adaptive --batch-intermediate 4"  # all files
        )
        flags += f" --name {number}"
        err = bad("turn.train", flags.split(), capsys, monkeypatch)
        assert Path(name).name in err, (name, err)
        # an undecodable file is found by the loop, after the folder and config.json were written
        assert {p.name for p in (tmp_path / "runs").rglob("*") if p.is_file()} <= {
            "config.json",
            "lock",
        }, name
        shutil.rmtree(root)
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)


@pytest.mark.slow
def test_a_bad_image_in_a_worker(tree, tmp_path):
    """Also where another process finds it."""
    root = tmp_path / "data"
    shutil.copytree(tree, root)
    (root / "images/mscoco/images/train2014/COCO_train2014_000000000003.jpg").write_bytes(
        b"\xff\xd8\xff\xe0 no more"
    )
    err = done(
        start(
            "turn.train",
            f"{PAPER} --root {root} --epochs 1 --no-adaptive --name a --workers 1",
            tmp_path,
        ),
        2,
    )[1]
    assert len(err.strip().splitlines()) == 1 and "COCO_train2014_000000000003.jpg" in err, err


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["--steps 2", "--steps 1 --batch-size 2 --detr r50"])
def test_the_paper_preset_on_published_layouts(tree, tmp_path, flags, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.training.run.signal.signal", lambda *args: None)
    from turn.train import main

    main([*PAPER.split(), "--root", str(tree), "--name", "paper", *flags.split()])
    folder = tmp_path / "runs" / "turn" / "paper"
    rows = log(folder)
    assert [row["step"] for row in rows] == list(range(1, len(rows))) + [
        int(flags.split()[1])
    ] and "validation/score" in rows[-1]
    assert (folder / "best.pt").is_file() and read_json(folder / "metrics.json")[
        "preset"
    ] == "paper"
    if "r50" not in flags:
        for name, count in (("vggss", 19), ("music-solo", 3)):
            (tmp_path / name).mkdir()
            write(Scenes(4, 64, 8000, 0.5), tmp_path / name, name, count)
        boxes = tmp_path / "music-solo/metadata/solotest.json"
        frames = read_json(boxes)
        next(iter(frames.values()))["bbox"] = []
        boxes.write_text(json.dumps(frames))
        listed = [f"scene{i:06d}_000030" for i in range(2, 19)]  # 8 first, 8 best, one worst
        (tmp_path / "own.csv").write_text(",\n".join([*listed, ""]))
        main(
            [
                *PAPER.split(),
                "--root",
                str(tree),
                "--name",
                "both",
                "--steps",
                "1",
                *("--benchmark", "vggss", "music-solo", "--list", "own.csv", ""),
                *("--benchmark-root", "vggss", "music-solo"),
            ]
        )
        metrics = read_json(folder.parent / "both" / "metrics.json")
        assert (metrics["samples"], metrics["music-solo/samples"]) == (17, 2)  # one has no box
        assert "text/auc" in metrics and "music-solo/audio/auc" in metrics
        assert "music-solo/text/auc" not in metrics  # MUSIC has numbers of classes, no phrases
        samples = read_json(folder.parent / "both" / "samples.json")
        assert {s["id"] for s in samples["vggss"]} == set(listed)
        for rows in samples.values():
            ciou = [row["audio"] for row in rows]
            assert ciou == sorted(ciou, reverse=True)
        files = {path.name for path in (folder.parent / "both").iterdir()}
        assert {"samples.png", "best.png", "worst.png"} <= files
        capsys.readouterr()
        sampling.main(["--checkpoint", str(folder.parent / "both" / "best.pt")])
        assert "intermediate domain, most exclusive" in capsys.readouterr().out
        assert (folder.parent / "both" / "sampling.png").is_file()


@pytest.mark.slow
def test_selection_on_flickr(tree, tmp_path, monkeypatch):
    """best.pt is chosen by AUC, and no validation split of the two domains is needed."""
    from turn.train import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("common.training.run.signal.signal", lambda *args: None)
    write(Scenes(4, 64, 8000, 0.5), tmp_path / "flickr", "flickr", 3)
    root = tmp_path / "data"
    shutil.copytree(tree, root)
    (root / "clotho_captions_validation.csv").unlink()
    flags = [*PAPER.split(), "--root", str(root), "--name", "a", "--steps", "1"]
    main([*flags, "--select", "flickr", "--dev-root", "flickr"])
    row = log(tmp_path / "runs/turn/a")[-1]
    assert "codebook/agreement" not in row
    best = "--checkpoint runs/turn/a/best.pt --data flickr --root flickr --device cpu"
    evaluate.main([*best.split(), "--out", "all"])
    assert read_json("all/metrics-flickr.json")["audio/auc"] == row["validation/score"]
    (tmp_path / "one.csv").write_text("10000000001,\n")
    evaluate.main([*best.split(), "--out", "one", "--list", "one.csv"])
    (sample,) = read_json("one/samples-flickr.json")["flickr"]
    assert sample["id"] == "10000000001" and "text" not in sample


def step_of_turn(split):
    """A step in double precision: terms, gradients, buffers. split: rows of both domains."""
    config = replace(CONFIGS["tiny"], dropout=0.0, visual_dropout=0.0)
    torch.manual_seed(0)
    model = dist.sync_batchnorm(Turn(config, TOKENIZER)).double()
    codebook = model.alignment.codebook.float()  # it computes in float32 whatever comes in
    codebook.register_forward_hook(
        lambda module, args, out: (out[0].double(), out[1].double(), out[2])
    )
    parts = [batch_of(config, 3, 2, seed) for seed in range(2)]
    batch = {k: torch.cat([part[k] for part in parts]) for k in parts[0]}  # 6 images, 4 clips
    own = {k: v[split[len(v) == 4]] for k, v in batch.items()}
    own = {k: v.double() if v.is_floating_point() else v for k, v in own.items()}
    terms = loss_terms(model(own), own, config)
    terms["loss"].backward()
    dist.sum_gradients(model.parameters())
    return (
        {k: dist.all_sum(v.detach().double()) for k, v in terms.items()},
        {n: p.grad for n, p in model.named_parameters() if p.grad is not None},
        dict(model.named_buffers()),
    )


SPLITS = [([0, 1, 2], [0, 1]), ([3, 4, 5], [2, 3])], [([0, 1, 2, 3], [0, 1, 2]), ([4, 5], [3])]


def one_of_two(rank, folder):
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE="2",
        MASTER_ADDR="localhost",
        MASTER_PORT=(folder / "port").read_text(),
    )
    torch.set_num_threads(1)
    dist.start(torch.device("cpu"))
    found = [step_of_turn(split[rank]) for split in SPLITS]
    torch.save(found, folder / f"{rank}.pt")
    dist.stop()


@pytest.mark.slow
def test_losses_gradients_and_codebooks_of_two_processes_are_those_of_one(tmp_path):
    """Even and uneven halves of a batch, over all of TURN at once."""
    import socket

    with socket.socket() as free:
        free.bind(("localhost", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    torch.multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    expected = step_of_turn((list(range(6)), list(range(4))))
    assert float(expected[0]["contra"]) > 0.01
    for rank in range(2):
        for found in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            for ours, theirs in zip(expected, found):
                assert ours.keys() == theirs.keys() and len(ours) > 5
                for name, value in ours.items():
                    torch.testing.assert_close(
                        theirs[name],
                        value,
                        atol=1e-6,
                        rtol=1e-6,
                        msg=lambda m, name=name: f"{name}: {m}",
                    )
