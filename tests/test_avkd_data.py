"""avkd/data.py: which pairs a step holds, whose hints, and that a hint is cropped as its image."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from avkd.config import PAPER, TINY
from avkd.data import TrainingBatches, crop_hint
from common.benchmarks.pairs import ScenePairs, cropped_waveform, training_pairs
from avkd.backbones.views import test_view as whole_view
from avkd.backbones.views import draw_view, train_view
from common.io import InputError, read_audio
from common.scenes import Scenes
from common.training import step_loader
from tests.layouts import write

CONFIG = replace(
    TINY,
    scenes=20,
    held_out=4,
    batch_size=6,
    epochs=2,
    image_size=32,
    sample_rate=2000,
    window=64,
    hop=32,
    augment=False,
)
SIDE = 8  # of coarse copies of images


@pytest.fixture(scope="module")
def source():
    return ScenePairs(0, 20, CONFIG)


def numbered():
    """Hints that say whose they are: e_v (20, 3, 2, 2), e_a (20, 5)."""
    row = np.arange(20, dtype=np.float16)
    return np.broadcast_to(row[:, None, None, None], (20, 3, 2, 2)), np.broadcast_to(
        row[:, None], (20, 5)
    )


def rows(config, step):
    """The pairs of a step: an epoch's shuffled order, six at a time, without the remainder."""
    epoch, batch = divmod(step, 3)
    return np.random.default_rng([config.seed, 20, epoch]).permutation(20)[6 * batch :][:6]


def coarse(images):
    """(n, 3, H, W) → (n, 3, SIDE, SIDE): the means of squares."""
    return F.adaptive_avg_pool2d(images.float(), SIDE)


# TrainingBatches


def test_a_step_is_a_function_of_its_number(source):
    for config in (CONFIG, replace(CONFIG, augment=True)):
        steps, again = (
            TrainingBatches(source, config, *numbered()),
            TrainingBatches(source, config, *numbered()),
        )
        assert steps.steps_per_epoch == 3 and len(steps) == steps.total_steps == 6
        for s in (0, 5, 2):
            assert set(steps[s]) == {"images", "waveforms", "e_v", "e_a"}
            assert all(torch.equal(x, again[s][name]) for name, x in steps[s].items())
        in_workers = list(step_loader(TrainingBatches(source, config), 1, 5, workers=2))
        assert len(in_workers) == 4
        assert all(
            torch.equal(x[name], steps[s][name])
            for s, x in zip(range(1, 5), in_workers)
            for name in ("images", "waveforms")
        )


def test_every_pair_once_an_epoch(source):
    steps = TrainingBatches(source, replace(CONFIG, batch_size=5), *numbered())
    orders = [
        torch.cat([steps[s]["e_a"][:, 0] for s in epoch]).tolist()
        for epoch in (range(4), range(4, 8))
    ]
    assert all(sorted(order) == list(range(20)) for order in orders) and orders[0] != orders[1]
    another = TrainingBatches(source, replace(CONFIG, batch_size=5, seed=1), *numbered())
    assert another[0]["e_a"][:, 0].tolist() != orders[0][:5]
    assert len(TrainingBatches(source, replace(CONFIG, steps=7))) == 7


def test_images_audio_and_hints_belong_together(source):
    steps = TrainingBatches(source, CONFIG, *numbered())
    for s in (0, 4):
        batch = steps[s]
        assert batch["images"].shape == (6, 3, 32, 32) and batch["waveforms"].shape == (6, 2000)
        assert batch["e_v"].dtype == batch["e_a"].dtype == torch.float32
        for n, i in enumerate(rows(CONFIG, s)):
            assert torch.equal(
                batch["images"][n], whole_view(source.image(i), 32)
            )  # without --augment
            assert torch.equal(batch["waveforms"][n], cropped_waveform(source.waveform(i), CONFIG))
            assert (batch["e_v"][n] == i).all() and (batch["e_a"][n] == i).all()
            assert batch["e_v"][n].shape == (3, 2, 2) and batch["e_a"][n].shape == (5,)


@pytest.mark.parametrize("e_v, e_a", [(False, True), (True, False), (False, False)])
def test_without_a_teacher_there_is_no_hint(source, e_v, e_a):
    v, a = numbered()
    batch = TrainingBatches(source, CONFIG, v if e_v else None, a if e_a else None)[1]
    assert set(batch) == {"images", "waveforms", *["e_v"] * e_v, *["e_a"] * e_a}
    assert torch.equal(batch["images"], TrainingBatches(source, CONFIG, v, a)[1]["images"])


@pytest.mark.parametrize("augment", [False, True])
def test_the_shares_of_two_processes_make_up_one(source, augment):
    config = replace(CONFIG, augment=augment, batch_size=5)
    whole = TrainingBatches(source, config, *numbered())[2]
    for rank in range(2):
        half = TrainingBatches(source, config, *numbered())
        half.rank, half.world_size = rank, 2
        assert all(torch.equal(x, whole[name][rank::2]) for name, x in half[2].items())


def test_views_of_training(source):
    """Another one in each epoch, one of those that train_view can give: that of seed, epoch and
    slot."""
    config = replace(CONFIG, augment=True, epochs=4, seed=3)
    steps, seen = TrainingBatches(source, config), {}
    for s in range(12):
        batch = steps[s]["images"]
        assert batch.dtype == torch.uint8
        for n, i in enumerate(rows(config, s)):
            drawn = [
                (x, y, m)
                for x in range(4)
                for y in range(4)
                for m in (False, True)
                if torch.equal(batch[n], train_view(source.image(i), 32, (x, y, m)))
            ]
            rng = np.random.default_rng([3, 21, s // 3, s % 3 * 6 + n])
            assert draw_view(32, rng) in drawn
            seen.setdefault(int(i), set()).add(drawn[0])
    assert (
        len(set.union(*seen.values())) > 12 and sum(len(views) > 1 for views in seen.values()) > 10
    )


def test_hints_move_along(source):
    """Hints that are coarse copies of the images are, in a batch, nearly those of the views."""
    config = replace(CONFIG, augment=True)
    hints = coarse(torch.stack([whole_view(source.image(i), 32) for i in range(20)])).numpy()
    steps = TrainingBatches(source, config, hints.astype(np.float16))
    for s in range(6):
        batch = steps[s]
        expected = coarse(batch["images"] / 255)
        mirror = (expected.flip(3) - batch["e_v"]).abs().mean((1, 2, 3))
        error = (expected - batch["e_v"]).abs().mean((1, 2, 3))
        unmoved = torch.from_numpy(hints[rows(config, s)])
        assert (
            float(error.mean()) < 0.5 * float((expected - unmoved).abs().mean())
            and (error < mirror).all()
        )


def test_memory_mapped_hints_are_read_and_not_changed(source, tmp_path):
    v, a = numbered()
    np.save(tmp_path / "e_v.npy", v)
    mapped = np.load(tmp_path / "e_v.npy", mmap_mode="r")
    batch = TrainingBatches(source, CONFIG, mapped, a)[1]
    assert torch.equal(batch["e_v"], TrainingBatches(source, CONFIG, v, a)[1]["e_v"])
    batch["e_v"].zero_()
    assert np.array_equal(np.load(tmp_path / "e_v.npy"), v)


def test_too_large_a_batch(source):
    assert TrainingBatches(source, replace(CONFIG, batch_size=20)).steps_per_epoch == 1
    with pytest.raises(InputError, match=r"--batch-size: 21 pairs .* all 20"):
        TrainingBatches(source, replace(CONFIG, batch_size=21))


def test_too_small_a_batch_for_the_processes(source, monkeypatch):
    monkeypatch.setattr("common.training.dist.world_size", lambda: 3)
    with pytest.raises(InputError, match=r"--batch-size: 2 .* 3 processes"):
        TrainingBatches(source, replace(CONFIG, batch_size=2))


# Hints of a part


def waves(size, seed):
    """A smooth image (size, size, 3) uint8, another one in x than in y."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    planes = [
        128 + 60 * np.sin(2 * np.pi * (fx * x + p)) + 60 * np.sin(2 * np.pi * (fy * y + q))
        for fx, fy, p, q in zip(*rng.uniform(0.3, 0.6, (2, 3)), *rng.uniform(0, 1, (2, 3)))
    ]
    return np.stack(planes, -1).round().astype(np.uint8)


@settings(max_examples=25, deadline=None)
@given(x=st.integers(0, 10), y=st.integers(0, 10), mirrored=st.booleans(), seed=st.integers(0, 99))
def test_a_coarse_copy_moves_as_the_image(x, y, mirrored, seed):
    """Away from the image's edge, beyond which there is no hint."""
    image, drawn = waves(96, seed), (x, y, mirrored)
    e_v = coarse(whole_view(image, 96)[None])[0]
    expected = coarse(train_view(image, 96, drawn)[None] / 255)[0]
    difference = (crop_hint(e_v, 96, drawn) - expected)[:, 1:-1, 1:-1].abs()
    assert float(difference.max()) < 0.02


def test_which_part_is_taken():
    """A hint that holds its own columns and rows gives back the coordinates of the part."""
    size, side = 96, 8
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    place = torch.stack([x, y])
    for drawn in ((0, 0, False), (10, 0, False), (0, 10, False), (3, 7, True), (10, 10, True)):
        found = crop_hint(place, size, drawn)
        column = (torch.arange(side) + 0.5) * size / side  # pixels of the view
        column = [
            ((size - column if drawn[2] else column) + drawn[0]) / 106 * side,
            (column + drawn[1]) / 106 * side,
        ]
        expected = torch.stack(torch.meshgrid(*column, indexing="xy")).clamp(
            0.5, side - 0.5
        )  # the border is repeated
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(
    x=st.integers(0, 10),
    y=st.integers(0, 10),
    h=st.integers(1, 7),
    w=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_mirrored_is_the_mirror_of_what_is_not(x, y, h, w, seed):
    """And every value is a mean of values of the hint."""
    e_v = torch.randn(3, h, w, generator=torch.Generator().manual_seed(seed))
    found = crop_hint(e_v, 96, (x, y, False))
    assert found.shape == e_v.shape
    torch.testing.assert_close(
        crop_hint(e_v, 96, (x, y, True)), found.flip(2), atol=1e-5, rtol=1e-5
    )
    assert (found.amax((1, 2)) <= e_v.amax((1, 2)) + 1e-5).all() and (
        found.amin((1, 2)) >= e_v.amin((1, 2)) - 1e-5
    ).all()


def test_no_crop_is_the_identity():
    """A tenth of four pixels is none: the large square is the view."""
    e_v = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(crop_hint(e_v, 4, (0, 0, False)), e_v)
    torch.testing.assert_close(crop_hint(e_v, 4, (0, 0, True)), e_v.flip(2))


# Pairs of files


@pytest.fixture
def flickr(tmp_path):
    """Nine pairs, of which two are in the published test list."""
    write(Scenes(3, 48, 4000, 0.5), tmp_path, "flickr-soundnet", 9)
    ids = [path.stem for path in sorted((tmp_path / "frames").iterdir())]
    (tmp_path / "metadata" / "flickr_test.csv").write_text(f"{ids[1]},202\n{ids[4]},0\n9999,0\n")
    return tmp_path, ids


def files(root, **changes):
    return replace(PAPER, root=str(root), held_out=2, **changes)


def test_test_samples_in_a_training_list(flickr, capsys):
    """They are counted, and left out on demand."""
    root, ids = flickr
    parts = training_pairs(files(root))
    assert sorted(parts[0].ids + parts[1].ids) == ids
    assert "2 of 9 are test samples of flickr, --exclude-test leaves" in capsys.readouterr().out
    parts = training_pairs(files(root, exclude_test="flickr"))
    assert sorted(parts[0].ids + parts[1].ids) == sorted({*ids} - {ids[1], ids[4]})
    assert "2 of 9 are test samples of flickr, left out" in capsys.readouterr().out
    (root / "metadata" / "flickr_test.csv").unlink()
    training_pairs(files(root))
    assert "test samples of flickr among them: unknown" in capsys.readouterr().out
    for name, message in (("flickr", "flickr_test.csv: no such file"), ("none", "no such bench")):
        with pytest.raises(InputError, match=message):
            training_pairs(files(root, exclude_test=name))
    away = {"benchmark": ("flickr",), "benchmark_root": (str(root / "away"),)}
    (root / "away").mkdir()
    (root / "away" / "flickr_test.csv").write_text(f"{ids[0]},1\n")
    parts = training_pairs(files(root, exclude_test="flickr", **away))
    assert ids[0] not in parts[0].ids + parts[1].ids and len(parts[0].ids + parts[1].ids) == 8


@pytest.mark.parametrize("layout", ["seconds", "milliseconds", "both"])
def test_lists_and_files_in_the_spellings_in_which_they_are_published(layout, tmp_path):
    """YOUTUBE_SECONDS of EZ-VSL's lists, and YOUTUBE_START_END in milliseconds of this paper's,
    whose files are called so too, with audio in FLAC."""
    write(Scenes(3, 48, 4000, 0.5), tmp_path, "vggsound", 6)
    ids = sorted(path.stem for path in (tmp_path / "frames").iterdir())
    before = {x: read_audio(tmp_path / "audio" / f"{x}.wav")[0] for x in ids}
    (tmp_path / "vggss_10k.txt").write_text("\n".join(ids))  # without a newline at the end
    spelt = [f"{x[:11]}_{int(x[12:]) * 1000}_{int(x[12:]) * 1000 + 10000}" for x in ids]
    (tmp_path / "metadata" / "vggsound_10k_random.txt").write_text("\n".join(spelt))
    for name, new in zip(ids, spelt) if layout != "seconds" else ():
        wav = tmp_path / "audio" / f"{name}.wav"
        soundfile.write(wav.with_name(f"{new}.flac"), *soundfile.read(wav))
        if layout == "milliseconds":
            wav.unlink()
            image = tmp_path / "frames" / f"{name}.jpg"
            image.rename(image.with_name(f"{new}.jpg"))
    suffix = ".flac" if layout == "milliseconds" else ".wav"  # of both, the name that is asked for
    for name in ("vggss_10k.txt", "vggsound_10k_random.txt", "vggsound_10k_random.csv"):
        parts = training_pairs(files(tmp_path, data="vggsound", ids=name, sample_rate=4000))
        assert sorted(parts[0].ids + parts[1].ids) == ids
        for part in parts:
            for i, expected in enumerate(before[name] for name in part.ids):
                assert part.samples[i].audio.suffix == suffix
                assert part.image(i).shape == (48, 48, 3)
                torch.testing.assert_close(part.waveform(i), expected, atol=1e-4, rtol=0)
