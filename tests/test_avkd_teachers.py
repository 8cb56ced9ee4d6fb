"""avkd/teachers.py: the hints of each teacher, their files, and which files are refused."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from avkd.backbones import panns
from avkd import teachers
from avkd.backbones import small
from avkd.config import AUDIO_TEACHERS, HINTS, PAPER, TINY
from avkd.guidance import CONFIDENCE, confident_mean
from avkd.backbones.detr import Detr, square_view
from common.benchmarks.pairs import ScenePairs, cropped_waveform, training_pairs
from avkd.backbones.resnet import BasicBlock, ResNet
from avkd.backbones.views import MEAN, STD
from avkd.backbones.views import test_view as whole_view
from common.io import InputError, read_json, write_audio
from tests.layouts import write
from common.scenes import Scenes
from tests.goldens import fill
from tests.test_neighbors import Stopped

pytestmark = pytest.mark.slow

GOLDENS = Path(__file__).parent / "goldens"
TINIER = replace(
    TINY,
    image_size=48,
    sample_rate=4000,
    seconds=0.5,
    crop=0.5,
    window=64,
    hop=64,
    channels=16,
    teacher_steps=2,
    scenes=5,
)
FILES = replace(
    PAPER, channels=6, image_size=64, held_out=2, visual_hint="backbone"
)  # F_v's maps are 2 × 2


# Files of hints -----------------------------------------------------------------------------------


class Source:
    def __init__(self, count=11):
        self.ids = [f"clip{i}" for i in range(count)]


class Teacher:
    """Its hints tell whose they are, in more digits than float16 has. It counts its inputs, and can
    stop."""

    def __init__(self, *shape, stop=99):
        self.shape, self.seen, self.stop = shape, 0, stop

    def view(self, source, i):
        return torch.tensor(float(source.ids[i][4:]))

    def hint(self, x):
        if self.seen >= self.stop:
            raise Stopped
        self.seen += len(x)
        noise = torch.rand(99, *self.shape, generator=torch.Generator().manual_seed(0))
        return noise[x.long()] + x.view(-1, *[1] * len(self.shape))


SHAPES = {"e_v": (6, 2, 2), "e_a": (6,)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a file of weights and both kinds of hints, made four at a time."""
    monkeypatch.setattr(teachers, "BATCH", 4)
    (tmp_path / "weights.pth").write_bytes(b"weights")
    for name, shape in SHAPES.items():
        teachers.write_hints(
            Source(), FILES, name, Teacher(*shape), tmp_path / "weights.pth", tmp_path / "hints"
        )
    return tmp_path / "hints"


def reading(folder, **changes):
    return replace(FILES, hints=str(folder), **changes)


def test_hints_come_back(folder):
    """In float16, each beside its pair, without being read whole."""
    for name, found in zip(SHAPES, teachers.load_hints(reading(folder), Source().ids)):
        expected = Teacher(*SHAPES[name]).hint(torch.arange(11.0))
        assert (
            isinstance(found, np.memmap) and not found.flags.writeable and found.dtype == np.float16
        )
        np.testing.assert_array_equal(found, expected.half())
        assert np.abs(found - expected.numpy()).max() > 0
    assert (folder / "ids.txt").read_text().split() == Source().ids


@pytest.mark.parametrize("image, audio", [(True, False), (False, True), (False, False)])
def test_hints_without_a_teacher_are_not_read(folder, image, audio):
    for name in [name for name, expected in zip(SHAPES, (image, audio)) if not expected]:
        (folder / f"{name}.npy").write_bytes(b"damaged")
    found = teachers.load_hints(reading(folder, teach_image=image, teach_audio=audio), Source().ids)
    assert [x is not None for x in found] == [image, audio]


@pytest.mark.parametrize("name", SHAPES)
def test_goes_on_where_it_was_killed(name, tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "BATCH", 4)
    (tmp_path / "weights.pth").write_bytes(b"weights")

    def run(stop=99, folder=tmp_path / "hints", config=FILES):
        teacher = Teacher(*SHAPES[name], stop=stop)
        try:
            return teachers.write_hints(
                Source(), config, name, teacher, tmp_path / "weights.pth", folder
            ), teacher.seen
        except Stopped:
            return None, teacher.seen

    whole = run(folder=tmp_path / "whole")[0]
    assert run(stop=4) == (None, 4)
    part = tmp_path / "hints" / f"{name}.npy.part"
    with open(part, "ab") as file:
        file.write(b"a torn block")
    with pytest.raises(
        InputError, match=rf"{name}\.npy: is not finished; .*avkd\.teachers` continues it"
    ):
        teachers.load_hints(
            reading(tmp_path / "hints", teach_image=name == "e_v", teach_audio=name == "e_a"),
            Source().ids,
        )
    assert run(stop=4) == (None, 4)  # from the fifth on, killed again before the ninth
    found, seen = run()
    assert seen == 3 and not part.exists()
    np.testing.assert_array_equal(found, whole)
    assert (tmp_path / "hints" / f"{name}.npy").read_bytes() == (
        tmp_path / "whole" / f"{name}.npy"
    ).read_bytes()
    assert run()[1] == 0  # finished: nothing is computed
    (tmp_path / "weights.pth").write_bytes(b"others")
    assert run()[1] == 11  # another teacher
    changed = {"visual_hint": "encoder"} if name == "e_v" else {"channel": "left"}
    assert run(config=replace(FILES, **changed))[1] == 11
    with pytest.raises(InputError, match=r"ids\.txt: line 6 is .*: other samples"):
        teachers.write_hints(
            Source(5),
            FILES,
            name,
            Teacher(*SHAPES[name]),
            tmp_path / "weights.pth",
            tmp_path / "hints",
        )


STALE = [
    ("e_v", {"visual_hint": "decoder"}, "its hint is 'backbone', this training's 'decoder'"),
    ("e_v", {"teacher_size": 224}, "its size is 800, this training's 224"),
    ("e_v", {"visual_hint": "attention"}, "its hint is 'backbone', this training's 'attention'"),
    ("e_v", {"channels": 8}, r"its shape is \[11, 6, 2, 2\], this training's \[11, 8, 2, 2\]"),
    ("e_v", {"image_size": 96}, r"this training's \[11, 6, 3, 3\]"),
    (
        "e_a",
        {"teach_image": False, "channels": 8},
        r"its shape is \[11, 6\], this training's \[11, 8\]",
    ),
    (
        "e_a",
        {"audio_teacher": "cnn14"},
        "its teacher is 'wavegram_logmel_cnn14', this training's 'cnn14'",
    ),
    ("e_a", {"crop": 2.0}, "its crop is 3.0, this training's 2.0"),
    ("e_a", {"seconds": 10.0}, "its seconds is 0.0, this training's 10.0"),
    ("e_a", {"channel": "left"}, "its channel is 'mean', this training's 'left'"),
]


@pytest.mark.parametrize(
    "name, changes, message",
    STALE,
    ids=[f"{name}-{','.join(changes)}" for name, changes, _ in STALE],
)
def test_hints_of_another_training(folder, name, changes, message):
    with pytest.raises(
        InputError, match=rf"{name}\.npy: .*{message}.*`python -m avkd\.teachers`"
    ) as error:
        teachers.load_hints(reading(folder, **changes), Source().ids)
    assert "\n" not in str(error.value)


def test_hints_of_another_training_may_differ_in_what_no_teacher_sees(folder):
    teachers.load_hints(
        reading(
            folder,
            sample_rate=16000,
            window=1024,
            hop=100,
            lr=1.0,
            batch_size=4,
            seed=5,
            augment=True,
            tau=1.0,
        ),
        Source().ids,
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda ids: ids[::-1], r"line 1 is 'clip0', the data have 'clip10' there"),
        (lambda ids: ids[:-1], "the data have nothing there"),
        (lambda ids: [*ids, "clip11"], "line 12 is nothing, the data have 'clip11' there"),
    ],
)
def test_hints_of_other_pairs(folder, change, message):
    with pytest.raises(InputError, match=rf"ids\.txt: .*{message}"):
        teachers.load_hints(reading(folder), change(Source().ids))


@pytest.mark.parametrize("name", SHAPES)
def test_files_that_are_not_hints(folder, name):
    path, record = folder / f"{name}.npy", folder / f"{name}.npy.json"
    whole, message = path.read_bytes(), record.read_text()

    def refused(words, file=rf"{name}\.npy"):
        with pytest.raises(InputError, match=rf"{file}: .*{words}") as error:
            teachers.load_hints(reading(folder), Source().ids)
        assert "\n" not in str(error.value)

    for damaged in (b"", b"what is this", whole[:-1], whole.replace(b"}", b" ")):
        path.write_bytes(damaged)
        refused("")
    for array in (
        np.zeros((11, *SHAPES[name]), np.float32),
        np.zeros((10, *SHAPES[name]), np.float16),
        np.zeros(11, np.float16),
    ):
        np.save(path, array)
        refused(rf"not what {name}\.npy\.json says")
    np.save(path, np.array([{}] * 11), allow_pickle=True)
    refused("Python objects in dtype")
    path.write_bytes(whole)
    for other in ("[]", "null", "{}", json.dumps({**json.loads(message), "teacher": "another"})):
        record.write_text(other)
        refused("its teacher is (None|'another')")
    record.write_text("what is this")
    refused("", rf"{name}\.npy\.json")
    record.unlink()
    refused("is missing: it says which teacher made the hints", rf"{name}\.npy\.json")
    record.write_text(message)
    shutil.copy(path, folder / f"{name}.npy.part")
    refused("is not finished")
    (folder / f"{name}.npy.part").unlink()
    path.unlink()
    refused(r"no such file: `python -m avkd\.teachers` with the flags of this training makes it")
    (folder / "ids.txt").unlink()
    refused("", r"ids\.txt")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    config = replace(TINIER, out=str(tmp_path_factory.mktemp("runs")))
    return config, ScenePairs(0, 5, config)


@pytest.mark.slow
def test_scenes_make_their_own_hints(scenes, monkeypatch):
    config, source = scenes
    e_v, e_a = teachers.training_hints(config, source)
    with torch.no_grad():
        views = torch.stack([whole_view(source.image(i), 48) for i in range(5)])
        detector = small.make_network("e_v", config)
        maps, has_detection = confident_mean(*detector.detect(views))
        maps[~has_detection] = torch.nan
        np.testing.assert_allclose(e_v, maps, atol=2e-3, rtol=2e-3)
        features = teachers.training_hints(replace(config, visual_hint="backbone"), source)[0]
        lift = teachers.SmallDetector(config, "cpu").lift
        assert features.shape == (5, 16, config.side, config.side) and lift.shape == (16, 64)
        torch.testing.assert_close(lift @ lift.T, torch.eye(16), atol=1e-5, rtol=0)
        expected = small.make_network("e_a", config).hint(
            torch.stack([cropped_waveform(source.waveform(i), config) for i in range(5)])
        )
        np.testing.assert_allclose(e_a, expected, atol=2e-3, rtol=2e-3)
    assert e_v.shape == (5, config.side, config.side) and e_a.shape == (5, 16) and e_a.any()
    nothing, alone = teachers.training_hints(replace(config, teach_image=False), source)
    assert nothing is None and np.array_equal(alone, e_a)
    alone, nothing = teachers.training_hints(replace(config, teach_audio=False), source)
    assert nothing is None and np.array_equal(alone, e_v, equal_nan=True)
    monkeypatch.setattr(teachers, "DataLoader", None)  # all is there
    assert np.array_equal(teachers.training_hints(config, source)[0], e_v, equal_nan=True)


@pytest.mark.slow
def test_one_teacher_makes_one_file(scenes, tmp_path):
    config = replace(scenes[0], out=str(tmp_path), teach_image=False)
    nothing, e_a = teachers.training_hints(config, scenes[1])
    assert nothing is None and e_a.shape == (5, 16)
    assert not [p for p in tmp_path.rglob("*") if "e_v" in p.name]
    assert teachers.training_hints(replace(config, teach_audio=False), scenes[1]) == (None, None)
    others = ScenePairs(1, 5, config)  # other pairs of the same teachers
    assert not np.array_equal(teachers.training_hints(config, others)[1], e_a)
    assert len(list(tmp_path.rglob("ids.txt"))) == 2


@pytest.mark.parametrize("is_attention", [True, False])
def test_whether_both_hints_pull_one_way(is_attention):
    """Against loops: of the scenes of one object, objects of the class that sounds, of others, and
    positions that no object touches; a row of NaN counts nowhere."""
    source = ScenePairs(0, 24, TINIER, 0.5)
    rng = np.random.default_rng(0)
    e_v = rng.random((24, 6, 6) if is_attention else (24, 16, 6, 6)).astype(np.float16)
    e_a = rng.random((24, 16)).astype(np.float16)
    lone = np.flatnonzero(source.is_alone)
    e_v[lone[1]] = np.nan
    values = {"hints/own_class": [], "hints/other_classes": [], "hints/nothing": []}
    for i in lone:
        for j in lone:
            a = e_a[j].astype(float) / np.linalg.norm(e_a[j].astype(float))
            for y, x in np.ndindex(6, 6):
                v = e_v[i, ..., y, x].astype(float)
                cosine = (v * np.ones(16) if is_attention else v / np.linalg.norm(v)) @ a
                share = source.samples[i].mask[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].mean()
                is_own = source.samples[i].cls == source.samples[j].cls
                kind = "own_class" if is_own else "other_classes"
                kind = "nothing" if share == 0 else kind if share > 0.5 else None
                if kind and not np.isnan(cosine):
                    values[f"hints/{kind}"].append(cosine)
    found = teachers.hint_cosines(e_v, e_a, source)
    assert found == pytest.approx({name: np.mean(x) for name, x in values.items()}, rel=1e-5)
    assert teachers.hint_cosines(None, e_a, source) == {}
    assert teachers.hint_cosines(e_v * np.nan, e_a, source) == {}


# DETR ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    keys = json.loads((GOLDENS / "detr_r50.keys.json").read_text())
    path = tmp_path_factory.mktemp("weights") / "detr.pth"
    torch.save(
        {"model": {k: torch.from_numpy(fill.fill_array(k, s)) for k, s in keys.items()}}, path
    )
    yield path
    path.unlink()


def golden_image():
    """(1, 3, 96, 128), before it is normalised."""
    x = torch.from_numpy(fill.make_input("detr_r50-image", (1, 3, 96, 128)))
    return x * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def pooled(x):
    """(…, 3, 4) → (…, 2, 2): means of rows 0, 1 and 1, 2 and of columns 0, 1 and 2, 3."""
    return np.stack(
        [
            np.stack([x[..., r : r + 2, c : c + 2].mean((-1, -2)) for c in (0, 2)], -1)
            for r in (0, 1)
        ],
        -2,
    )


@pytest.mark.slow
@pytest.mark.parametrize("reading", HINTS)
def test_the_hints_of_detr(reading, published, monkeypatch):
    queries = 0.9 * (torch.arange(100) % 3 == 1).float()[None]  # of decoder: every third
    golden = np.load(GOLDENS / "detr_r50.npz")
    config = replace(
        PAPER, visual_hint=reading, image_size=64, channels=2048 if reading == "backbone" else 300
    )
    teacher = teachers.Detr(config, published)
    with torch.no_grad():
        e_v = teacher.hint(golden_image())
    if reading == "attention":  # tests/test_avkd_released.py; here no query is confident
        assert e_v.shape == (1, 3, 4) and e_v.isnan().all()
        return
    assert e_v.shape == (1, config.channels, 2, 2)
    if reading == "backbone":
        found, expected = e_v[:, ::16], golden["backbone"]
    else:  # the projection is orthogonal: its transpose takes it back
        torch.testing.assert_close(teacher.lift.T @ teacher.lift, torch.eye(256), atol=1e-5, rtol=0)
        found, expected = torch.einsum("cd,nchw->ndhw", teacher.lift, e_v), golden["memory"]
        if reading == "decoder":
            assert e_v.isnan().all()  # no query is confident
            monkeypatch.setattr(teachers, "detr_confidence", lambda output: queries)
            with torch.no_grad():
                e_v = teacher.hint(golden_image())
            found = torch.einsum("cd,nchw->ndhw", teacher.lift, e_v)[:, ::4]
            kept = golden["attention"] * (queries >= CONFIDENCE).numpy()[..., None, None]
            expected = np.einsum("nqd,nqhw->ndhw", golden["hs_last"], kept)
        assert torch.equal(
            teachers.Detr(config, published).lift, teacher.lift
        )  # the same in every process
    expected = pooled(expected)
    assert (
        found.shape == expected.shape
        and np.abs(found.numpy() - expected).max() <= 2e-5 * np.abs(expected).max()
    )


@pytest.mark.slow
def test_what_detr_sees(published, scenes):
    source = scenes[1]
    config = replace(PAPER, teacher_size=80, image_size=64, visual_hint="backbone")
    teacher = teachers.Detr(config, published)
    view = teacher.view(source, 2)
    assert torch.equal(view, square_view(source.image(2), 80)) and view.shape == (3, 80, 80)
    with torch.no_grad():
        assert teacher.hint(torch.stack([view, teacher.view(source, 3)])).shape == (2, 2048, 2, 2)
    with pytest.raises(InputError, match="--channels: 2047: the backbone of DETR has 2048"):
        teachers.Detr(replace(config, channels=2047), published)


# PANNs --------------------------------------------------------------------------------------------

WIDTHS = {"cnn14": 4, "wavegram_logmel_cnn14": 16}  # embeddings of 128 or 512


@pytest.fixture
def narrow(tmp_path, monkeypatch):
    """Narrow networks in the published layouts: 128 or 512 channels of PANNs, 32 of DETR, of which
    the encoder gives the hints."""
    torch.manual_seed(0)
    for name, width in WIDTHS.items():
        make = getattr(panns, name)
        monkeypatch.setattr(
            teachers, name, lambda make=make, width=width: make(width=width, classes=5)
        )
        net = getattr(teachers, name)()
        torch.save({"model": fill.fill_state_dict(net.state_dict())}, tmp_path / f"{name}.pth")
    monkeypatch.setattr(
        teachers,
        "detr_r50",
        lambda: Detr(
            ResNet(BasicBlock, (1, 1, 1, 1), 8, num_classes=None), 32, 4, 1, 1, 64, 0.1, 5
        ),
    )
    torch.save(
        {"model": fill.fill_state_dict(teachers.detr_r50().state_dict())}, tmp_path / "detr.pth"
    )
    return tmp_path


@pytest.mark.parametrize("name", AUDIO_TEACHERS)
def test_panns_hear_what_the_student_hears_at_32_khz(name, narrow, tmp_path):
    """Above 11 kHz too, where audio at the student's 22 050 Hz has nothing."""
    config = replace(PAPER, audio_teacher=name, channels=32 * WIDTHS[name], crop=1.0)
    teacher = teachers.Panns(config, narrow / f"{name}.pth")
    time = torch.arange(2 * 48000).double() / 48000

    def tone(i, t):  # rises by 600 Hz in a second
        return 0.5 * torch.sin(2 * torch.pi * (i * t + 300 * t.square())).float()

    files = {i: tmp_path / f"{i}.wav" for i in (440, 11200)}
    for i, path in files.items():
        write_audio(path, tone(i, time), 48000)
    tones = SimpleNamespace(samples={i: SimpleNamespace(audio=p) for i, p in files.items()})
    seconds = 0.5 + torch.arange(32000).double() / 32000  # the middle one of two
    views = [teacher.view(tones, i) for i in files]
    for i, view in zip(files, views):
        assert view.shape == (32000,)
        torch.testing.assert_close(view[200:-200], tone(i, seconds)[200:-200], atol=2e-2, rtol=0)
    with torch.no_grad():
        waveforms = torch.stack(views)
        e_a = teacher.hint(waveforms)
        assert (
            e_a.shape == (2, config.channels)
            and torch.equal(e_a, teacher.net(waveforms)["embedding"])
            and not e_a[0].equal(e_a[1])
        )
    with pytest.raises(
        InputError, match=f"--channels: 7: embeddings of PANNs have {config.channels}"
    ):
        teachers.Panns(replace(config, channels=7), narrow / f"{name}.pth")
    (other,) = set(AUDIO_TEACHERS) - {name}
    with pytest.raises(InputError, match=rf"{other}\.pth: not the weights"):
        teachers.Panns(config, narrow / f"{other}.pth")


# The command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flickr(tmp_path_factory):
    root = tmp_path_factory.mktemp("flickr")
    write(Scenes(3, 48, 8000, 1.0), root, "flickr-soundnet", 9)
    return root


def command(root, folder, *more):
    return [
        *map(
            str,
            (
                "--preset",
                "paper",
                "--root",
                root,
                "--hints",
                folder,
                "--held-out",
                2,
                "--image-size",
                64,
                "--sample-rate",
                8000,
                "--crop",
                1,
                "--teacher-size",
                64,
                "--visual-hint",
                "encoder",
                "--channels",
                128,
                "--audio-teacher",
                "cnn14",
                "--workers",
                0,
                "--device",
                "cpu",
                *more,
            ),
        )
    ]


def fails(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        teachers.main([*map(str, args)])
    err = [line for line in capsys.readouterr().err.splitlines() if " listed" not in line]
    assert stop.value.code == 2 and len(err) == 1, err
    return err[0]


@pytest.mark.slow
def test_the_command_from_files_to_hints(flickr, narrow, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "hints"
    config = replace(
        PAPER,
        root=str(flickr),
        hints=str(folder),
        held_out=2,
        image_size=64,
        sample_rate=8000,
        crop=1.0,
        teacher_size=64,
        visual_hint="encoder",
        channels=128,
        audio_teacher="cnn14",
    )
    source, _ = training_pairs(config)
    teachers.main(command(flickr, folder, "--detr", narrow / "detr.pth"))
    with pytest.raises(InputError, match=r"e_a\.npy: no such file"):
        teachers.load_hints(config, source.ids)
    teachers.main(command(flickr, folder, "--panns", narrow / "cnn14.pth", "--workers", 1))
    assert "e_a.npy: (7, 128), 0.00 GiB" in capsys.readouterr().out
    e_v, e_a = teachers.training_hints(config, source)  # as a training reads them
    detr, listener = (
        teachers.Detr(config, narrow / "detr.pth"),
        teachers.Panns(config, narrow / "cnn14.pth"),
    )
    with torch.no_grad():
        for i in (0, 6):
            expected = detr.hint(square_view(source.image(i), 64)[None])[0]
            np.testing.assert_allclose(e_v[i], expected, atol=2e-3 * float(expected.abs().max()))
            expected = listener.hint(listener.view(source, i)[None])[0]
            np.testing.assert_allclose(e_a[i], expected, atol=2e-3 * float(expected.abs().max()))
    assert (
        read_json(folder / "e_v.npy.json")["teacher"] == "detr_r50"
        and read_json(folder / "e_a.npy.json")["teacher"] == "cnn14"
    )
    before = {p: os.stat(p).st_mtime_ns for p in folder.iterdir()}
    monkeypatch.setattr(teachers, "DataLoader", None)  # a second call has nothing to do
    teachers.main(
        command(flickr, folder, "--detr", narrow / "detr.pth", "--panns", narrow / "cnn14.pth")
    )
    assert {p: os.stat(p).st_mtime_ns for p in folder.iterdir()} == before


def test_bad_flags_are_one_line_and_write_nothing(flickr, narrow, tmp_path, capsys):
    folder, detr, listener = (
        tmp_path / "hints",
        ("--detr", narrow / "detr.pth"),
        ("--panns", narrow / "cnn14.pth"),
    )
    for args, message in (
        (command(flickr, folder), "--detr, --panns or both"),
        (["--data", "scenes", *map(str, detr)], "scenes need no command"),
        ([*map(str, detr)], "scenes need no command"),
        (command(flickr, folder, *detr, "--data", "nonsense"), "nonsense"),
        (command(flickr, folder, *detr, "--detr", narrow / "gone.pth"), "gone.pth: no such file"),
        (
            command(flickr, folder, *listener, *detr, "--channels", 7),
            "--channels: 7: embeddings of PANNs have 128",
        ),
        (
            command(flickr, folder, *detr, "--visual-hint", "backbone"),
            "the backbone of DETR has 2048",
        ),
        (
            command(flickr, folder, *listener, "--panns", narrow / "detr.pth"),
            "detr.pth: not the weights of this Cnn14",
        ),
        (
            command(flickr, folder, *listener, "--detr", narrow / "cnn14.pth"),
            "cnn14.pth: not the weights of this Detr",
        ),
        (command(tmp_path / "nowhere", folder, *detr), "nowhere: not a folder"),
        (command(flickr, folder, *detr, "--held-out", 9), "--held-out: 9 of 9 pairs"),
        (command(flickr, folder, *detr, "--ids", "none.txt"), "none.txt"),
        (command(flickr, folder, *detr, "--image-size", 50), "--image-size 50"),
        (command(flickr, folder, *detr, "--visual-hint", "body"), "invalid choice: 'body'"),
        (command(flickr, folder, *detr, "--device", "toaster"), "toaster"),
        (["--no-such-flag"], "--no-such-flag"),
    ):
        assert message in fails(capsys, *args)
        assert not folder.exists()


@pytest.mark.slow
def test_bad_files_are_named(flickr, narrow, tmp_path, capsys):
    root, folder = tmp_path / "flickr", tmp_path / "hints"
    shutil.copytree(flickr, root)
    source = training_pairs(replace(PAPER, root=str(root), held_out=2))[0]
    source.samples[3].image.write_bytes(b"nothing")
    detr, listener = ("--detr", narrow / "detr.pth"), ("--panns", narrow / "cnn14.pth")
    assert f"{source.ids[3]}.jpg: " in fails(capsys, *command(root, folder, *detr))
    assert f"{source.ids[3]}.jpg: " in fails(capsys, *command(root, folder, *detr, "--workers", 1))
    assert not (folder / "e_v.npy").exists()
    teachers.main(command(root, folder, *listener))  # its audio is whole
    assert "other samples or another order; take another folder" in fails(
        capsys, *command(root, folder, *listener, "--skip-bad")
    )
    teachers.main(command(root, tmp_path / "others", *detr, "--skip-bad"))
    assert source.ids[3] not in (tmp_path / "others" / "ids.txt").read_text().split()
