"""The banks of objects: what tells the classes apart, what must not, and folders of cut-outs."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from common.io import InputError
from common.scenes import Scenes
from common.scenes.objects import (
    COLOURS,
    SHAPES,
    TEXTURES,
    TIMBRES,
    Directory,
    Procedural,
    hiss,
    loudness,
)

BANK = Procedural()
CLASSES = range(len(BANK.names))


def rng(*seed):
    return np.random.default_rng(list(seed))


def write_folder(root, count=5):
    """`count` cut-outs, off-centre opaque ellipses, with a tone each, in all audio formats."""
    root.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:48, :64]
    for i in range(count):
        rgba = np.zeros((48, 64, 4), np.uint8)
        rgba[..., :3] = (40 * i, 200 - 30 * i, 90)
        rgba[..., 3] = 255 * ((x - 40) ** 2 / 400 + (y - 20) ** 2 / 200 < 1)
        Image.fromarray(rgba).save(root / f"big_thing{i}.png")
        tone = 0.5 * np.sin(2 * np.pi * (300 + 200 * i) * np.arange(12000) / 24000)
        soundfile.write(
            root / f"big_thing{i}.{('wav', 'ogg', 'flac')[i % 3]}", tone.astype(np.float32), 24000
        )
    return root


def probe(train, train_labels, test, test_labels):
    """Accuracy of a linear classifier, by least squares, with held-out data."""
    train, test = (np.concatenate([x, np.ones((len(x), 1))], 1) for x in (train, test))
    weights = np.linalg.lstsq(train, np.eye(len(BANK.names))[train_labels], rcond=None)[0]
    return ((test @ weights).argmax(1) == test_labels).mean()


def test_classes_are_the_product_of_shape_and_texture():
    assert len(BANK.names) == len(set(BANK.names)) == len(TIMBRES) >= 12
    assert len(BANK.names) == len(SHAPES) * len(TEXTURES)
    for c in CLASSES:
        assert BANK.names[c] == f"{TEXTURES[c % len(TEXTURES)]} {list(SHAPES)[c // len(TEXTURES)]}"


@pytest.mark.parametrize("cls", CLASSES)
def test_cutout_is_what_its_name_says(cls):
    texture, shape = BANK.names[cls].split()
    areas = {"circle": (0.76, 0.8), "ring": (0.5, 0.58), "triangle": (0.35, 0.5)}
    areas["cross"] = (0.42, 0.56)
    for i in range(5):
        rgb, opaque, colour = BANK.cutout(cls, rng(i), 90, 80)
        assert rgb.shape == (80, 90, 3) and rgb.dtype == np.uint8
        assert opaque.shape == (80, 90) and opaque.dtype == bool
        assert colour in COLOURS
        assert opaque[40, 45] == (shape != "ring")  # only a ring is open in the middle
        low, high = areas[shape]
        assert low < opaque.mean() < high
        jumps = np.abs(np.diff(rgb.astype(int), axis=1)).max(-1)[opaque[:, 1:] & opaque[:, :-1]]
        assert (jumps.max() > 15) == (texture != "plain")  # two colours side by side


def test_the_named_colour_is_the_hue_of_the_pixels():
    for i in range(60):
        rgb, opaque, colour = BANK.cutout(i % 12, rng(7, i), 40, 40)
        hue = np.asarray(Image.fromarray(rgb).convert("HSV"))[..., 0][opaque] / 255
        away = {name: np.median(np.abs((hue - h + 0.5) % 1 - 0.5)) for name, h in COLOURS.items()}
        assert min(away, key=away.get) == colour and away[colour] < 0.04


@pytest.mark.parametrize("rate", [16000, 22050])
@pytest.mark.parametrize("seconds", [1, 10])
def test_waveforms_of_every_length_and_rate(rate, seconds):
    for cls in CLASSES:
        waveform, times = BANK.waveform(cls, rng(cls), rate * seconds, rate)
        assert waveform.shape == (rate * seconds,) and waveform.dtype == np.float32
        assert 1 <= times <= 3 and np.isfinite(waveform).all()
        assert 0.03 < np.abs(waveform).max() <= 1
        assert 10**-1.6 < np.sqrt(np.mean(waveform**2)) < 10**-0.89


def test_a_waveform_has_as_many_events_as_it_returns():
    counts = set()
    for i in range(60):
        cls = i % 10  # 10 is noise in bursts, which has pauses within an event
        waveform, times = BANK.waveform(cls, rng(3, i), 16000, 16000)
        pauses = (np.diff(np.flatnonzero(waveform)) > 100).sum()
        assert 1 + pauses == times, BANK.names[cls]
        counts.add(times)
    assert counts == {1, 2, 3}


def test_pitch_and_onset_vary_within_a_class():
    onsets, pitches = set(), set()
    for i in range(12):
        waveform = BANK.waveform(0, rng(4, i), 16000, 16000)[0]
        onsets.add(int(np.flatnonzero(waveform)[0]))
        spectrum = np.abs(np.fft.rfft(waveform * np.hanning(16000)))
        pitches.add(int(spectrum[150:320].argmax()))
    assert len(onsets) > 6 and len(pitches) > 6


@pytest.mark.slow
def test_mean_colour_and_loudness_do_not_give_the_class_away_but_the_spectrum_does():
    scenes, generator = Scenes(5, size=48), rng(5)
    labels = np.tile(CLASSES, 50)
    images, inside, waveforms = [], [], []
    for cls in labels:
        scene = scenes.scene(generator, [cls])
        images.append(scene.image.mean((0, 1)) / 255)
        inside.append(scene.image[scene.masks[0]].mean(0) / 255)
        waveforms.append(scenes.waveform(cls, generator)[0])
    colour, inside, waveforms = map(np.array, (images, inside, waveforms))
    power = np.mean(waveforms**2, axis=1)
    loud = np.stack([np.sqrt(power), np.log(power)], axis=1)
    half = len(labels) * 3 // 5
    for feature in (colour, loud):
        assert probe(feature[:half], labels[:half], feature[half:], labels[half:]) < 0.18
    # nor does the mean colour of the object alone
    assert probe(inside[:half], labels[:half], inside[half:], labels[half:]) < 0.25

    frames = waveforms[:, :15872].reshape(len(labels), -1, 512) * np.hanning(512).astype(np.float32)
    spectrum = np.log(np.abs(np.fft.rfft(frames)).mean(1) + 1e-3)
    spectrum -= spectrum.mean(1, keepdims=True)  # without its loudness
    centroids = np.stack([spectrum[:half][labels[:half] == c].mean(0) for c in CLASSES])
    nearest = ((spectrum[half:, None] - centroids) ** 2).sum(-1).argmin(1)
    assert (nearest == labels[half:]).mean() > 0.5


def test_loudness_does_not_depend_on_the_input():
    tone = np.sin(np.arange(8000, dtype=np.float32))
    for gain in (1e-3, 1, 1e3):
        np.testing.assert_allclose(
            loudness(np.float32(gain) * tone, rng(1)), loudness(tone, rng(1)), atol=2e-4
        )
    levels = [np.sqrt(np.mean(loudness(tone, rng(i)) ** 2)) for i in range(50)]
    assert 0.0316 <= min(levels) < 0.045 and 0.09 < max(levels) <= 0.126  # from -30 to -18 dB
    assert not loudness(np.zeros(100, np.float32), rng(1)).any()


def test_hiss_is_steady():
    for i in range(5):
        blocks = hiss(rng(i), 16000).reshape(10, -1)
        levels = np.sqrt((blocks**2).mean(1))
        assert levels.min() > 0.7 * levels.max() > 0


# Folders ------------------------------------------------------------------------------------------


def test_a_folder_of_cutouts(tmp_path, capsys):
    bank = Directory(write_folder(tmp_path / "deep" / "er").parent)
    assert bank.names == [f"big thing{i}" for i in range(5)] and not capsys.readouterr().out
    for cls in range(5):
        image = bank.images[cls]
        assert 1.2 < image.width / image.height < 1.6  # cropped to the ellipse: 40 x 28 pixels
        rgb, opaque, colour = bank.cutout(cls, rng(cls), 50, 40)
        assert rgb.shape == (40, 50, 3) and opaque.shape == (40, 50) and colour == ""
        assert opaque.any(0).all() and opaque.any(1).all()  # it fills its box
        assert not opaque[0, 0]
        waveform, times = bank.waveform(cls, rng(cls), 16000, 16000)
        assert waveform.shape == (16000,) and waveform.dtype == np.float32 and times == 0
        peak = np.abs(np.fft.rfft(waveform)).argmax()
        assert abs(peak / (300 + 200 * cls) - 1) < 0.06  # the tone, at a speed 5 % off at most


def test_draws_differ_and_are_repeatable(tmp_path):
    bank = Directory(write_folder(tmp_path))
    one, same, other = (bank.cutout(2, rng(i), 40, 40)[0] for i in (1, 1, 2))
    assert (one == same).all() and (one != other).any()
    one, same, other = (bank.waveform(2, rng(i), 9000, 16000)[0] for i in (1, 1, 2))
    assert (one == same).all() and (one != other).any()


def test_quiet_recordings_are_louder_than_the_noise(tmp_path):
    write_folder(tmp_path)
    t = np.arange(16000) / 16000
    soundfile.write(
        tmp_path / "big_thing0.wav", 0.002 * np.sin(2 * np.pi * 440 * t), 16000, subtype="FLOAT"
    )
    power = np.abs(np.fft.rfft(Directory(tmp_path).waveform(0, rng(1), 16000, 16000)[0])) ** 2
    assert power[400:480].sum() > 0.95 * power.sum()


def test_names_come_from_the_text_or_the_stem(tmp_path):
    write_folder(tmp_path)
    for i, text in enumerate(("A Red Fire-Engine.\nde.utf8=…\n", "the Cow!", "An owl", "", "Über")):
        (tmp_path / f"big_thing{i}.txt").write_text(text, "utf-8")
    assert Directory(tmp_path).names == ["red fire-engine", "cow", "owl", "big thing3", "über"]


def test_unusable_pairs_are_printed_and_left_out(tmp_path, capsys):
    write_folder(tmp_path, 5)
    good = tmp_path / "big_thing0.png"
    opaque = Image.open(good).convert("RGB")
    invisible = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    tone = np.sin(np.arange(16000, dtype=np.float32) / 5)

    def pair(name, image, audio, rate=16000):
        if isinstance(image, bytes):
            (tmp_path / f"{name}.png").write_bytes(image)
        else:
            image.save(tmp_path / f"{name}.png")
        if isinstance(audio, bytes):
            (tmp_path / f"{name}.wav").write_bytes(audio)
        else:
            soundfile.write(tmp_path / f"{name}.wav", audio, rate)

    bad = {
        "no_alpha": (opaque, tone),
        "invisible": (invisible, tone),
        "not_an_image": (b"hello", tone),
        "empty_image": (b"", tone),
        "cut_image": (good.read_bytes()[:60], tone),
        "not_audio": (Image.open(good), b"hello" * 20),
        "empty_audio": (Image.open(good), b""),
        "too_short": (Image.open(good), tone[:1599]),
        "silent": (Image.open(good), 0 * tone),
    }
    for name, files in bad.items():
        pair(name, *files)
    pair("just_long_enough", Image.open(good), tone[:1600])
    pair("zz_double", Image.open(good), tone[:1600])  # the same recording again
    pair("zz_namesake", Image.open(good), tone[::2])
    (tmp_path / "zz_namesake.txt").write_text("just long enough")
    Image.open(good).save(tmp_path / "mute.png")  # without audio it is no pair, and not an error
    soundfile.write(tmp_path / "mute_desc.ogg", tone, 16000)  # a description under another name

    bank = Directory(tmp_path)
    assert bank.names == [*(f"big thing{i}" for i in range(5)), "just long enough"]
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"left out: 1 images without a recording, as {tmp_path / 'mute.png'}"
    lines = [line.split(": ") for line in lines]
    assert {Path(path).stem for _, path, *_ in lines} == {*bad, "zz_double", "zz_namesake"}
    assert all(start == "left out" and reason for start, _, reason, *_ in lines)
    assert len(lines) == len(bad) + 2


def test_too_few_pairs(tmp_path):
    write_folder(tmp_path, 4)
    assert len(Directory(tmp_path).names) == 4
    (tmp_path / "big_thing3.png").unlink()
    with pytest.raises(InputError, match="3 usable pairs"):
        Directory(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        Directory(tmp_path / "missing")


def test_scenes_print_once_what_a_folder_lacks(tmp_path, capsys):
    write_folder(tmp_path)
    soundfile.write(tmp_path / "big_thing2.flac", np.zeros(9000), 9000)
    first, second = Scenes(0, folder=tmp_path), Scenes(1, folder=str(tmp_path))
    assert first.bank is second.bank  # read once
    line = f"left out: {tmp_path / 'big_thing2.flac'}: the audio is silent\n"
    assert capsys.readouterr().out == line
    assert first.names == [f"big thing{i}" for i in (0, 1, 3, 4)]
