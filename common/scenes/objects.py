"""Where the objects of the embedded scenes come from: a picture and a sound for each class, varied at every draw.

Two banks with the same members. `Procedural` draws everything from formulas; `Directory` reads anyone's cut-outs and
recordings. `names[c]` is what a phrase or a caption calls class c; `cutout` and `sound` draw from the generator they are given.
"""
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from common.io import InputError, read_audio, read_image, resample

SHAPES = ("circle", "triangle", "cross", "ring")
TEXTURES = ("plain", "striped", "dotted")
COLOURS = {"red": 0.0, "orange": 0.083, "yellow": 0.153, "green": 0.333, "cyan": 0.5, "blue": 0.639, "purple": 0.76, "pink": 0.9}


class Procedural:
    """12 classes, the product of shape and texture. The colour is drawn, so that it says nothing about the class."""

    names = [f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES]
    fingerprint = zlib.crc32("\n".join(names).encode())  # tells one bank from another

    def aspect(self, cls: int, rng: np.random.Generator) -> float:
        """Width over height."""
        return 2 ** rng.uniform(-0.5, 0.5)

    def cutout(self, cls: int, rng: np.random.Generator, width: int, height: int):
        """→ rgb (h, w, 3) uint8, opaque (h, w) bool, the name of the colour."""
        u, v = _grid(rng, width, height)
        opaque = _shape(SHAPES[cls // len(TEXTURES)], u, v)
        colour = list(COLOURS)[rng.integers(len(COLOURS))]
        first = _hsv(COLOURS[colour] + rng.uniform(-0.02, 0.02), rng.uniform(0.65, 1), rng.uniform(0.7, 1))
        second = first * rng.uniform(0.15, 0.45) if rng.random() < 0.5 else 1 - (1 - first) * rng.uniform(0.1, 0.4)
        on = _texture(TEXTURES[cls % len(TEXTURES)], u, v, rng)
        shade = 1 - rng.uniform(0, 0.2) * (v + 1) / 2  # light from above
        palette = np.stack([second, first]).astype(np.float32)
        return (255 * palette[on.astype(np.intp)] * shade[..., None]).clip(0, 255).astype(np.uint8), opaque, colour

    def waveform(self, cls: int, rng: np.random.Generator, samples: int, rate: int):
        """→ waveform (samples,) float32 with a drawn pitch, loudness, onset and phase; how often it sounds (1 to 3)."""
        times = int(rng.integers(1, 4))
        slot = samples // times
        length = int(slot * rng.uniform(0.6, 0.95))
        pitch = np.float32(220 * 2 ** rng.uniform(-0.4, 0.4))
        event = TIMBRES[cls](rng, np.arange(length, dtype=np.float32) / rate, pitch)
        fade = min(length // 2, rate // 50)
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        event[:fade] *= ramp
        event[length - fade:] *= ramp[::-1]
        waveform = np.zeros(samples, np.float32)
        onset = rng.integers(0, slot - length + 1)
        for i in range(times):
            waveform[i * slot + onset:i * slot + onset + length] = event
        return loudness(waveform, rng), times


class Directory:
    """`name.png` with alpha and `name.wav|ogg|flac`, optionally `name.txt` whose first line says what it is, found recursively.

    What cannot be used, or cannot be told from another by its name or sound, is left out and listed in `skipped` as
    (path, reason); fewer than 4 usable pairs is an InputError.
    """

    def __init__(self, root):
        root, self.skipped, self.names, self.pictures, self.sounds = Path(root), [], [], [], []
        if not root.is_dir():
            raise InputError(root, "no such folder of cut-outs and recordings")
        for picture in sorted(root.rglob("*.png")):
            recording = next((p for p in (picture.with_suffix(s) for s in (".wav", ".ogg", ".flac")) if p.is_file()), None)
            if recording is None:
                continue  # a picture that makes no sound is no pair
            try:
                rgba, sound, name = _load_cutout(picture), _load_sound(recording), _name(picture)
                if name in self.names:
                    raise InputError(picture, f"another picture is called {name!r} too")
                if any(rate == sound[1] and np.array_equal(wave, sound[0]) for wave, rate in self.sounds):
                    raise InputError(recording, "another picture has the same recording")
            except InputError as error:
                self.skipped.append((picture, str(error)))
                continue
            self.pictures.append(rgba)
            self.sounds.append(sound)
            self.names.append(name)
        if len(self.names) < 4:
            raise InputError(root, f"{len(self.names)} usable pairs of name.png (with alpha) and name.wav|ogg|flac; 4 are needed")
        self.fingerprint = zlib.crc32("\n".join(self.names).encode())  # tells one bank from another, by what is in it
        for picture, (recording, _) in zip(self.pictures, self.sounds):
            self.fingerprint = zlib.crc32(recording.tobytes(), zlib.crc32(picture.tobytes(), self.fingerprint))

    def cutout(self, cls: int, rng: np.random.Generator, width: int, height: int):
        """→ rgb (h, w, 3) uint8, opaque (h, w) bool, "" (its colour has no name): flipped, turned, scaled, relit."""
        picture = self.pictures[cls]
        if rng.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        picture = picture.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR, expand=True)
        picture = picture.crop(_visible(picture)).resize((width, height), Image.Resampling.BILINEAR)
        rgb = ImageEnhance.Brightness(picture.convert("RGB")).enhance(rng.uniform(0.75, 1.25))
        rgb = ImageEnhance.Contrast(rgb).enhance(rng.uniform(0.75, 1.25))
        return np.asarray(rgb), np.asarray(picture.getchannel("A")) > 127, ""

    def aspect(self, cls: int, rng: np.random.Generator) -> float:
        return self.pictures[cls].width / self.pictures[cls].height * 2 ** rng.uniform(-0.15, 0.15)

    def waveform(self, cls: int, rng: np.random.Generator, samples: int, rate: int):
        """→ waveform (samples,) float32: another offset, loudness and speed (±5 %) of the recording, a little noise;
        0: how often it sounds is not known."""
        recording, own_rate = self.sounds[cls]
        speed = own_rate / rate * 2 ** rng.uniform(-0.07, 0.07)
        at = (rng.integers(len(recording)) + speed * np.arange(samples)) % len(recording)  # repeated to length
        waveform = np.interp(at, np.arange(len(recording)), recording).astype(np.float32)
        waveform += np.float32(0.003) * rng.standard_normal(samples, dtype=np.float32)
        return loudness(waveform, rng), 0


def loudness(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale to a drawn root mean square, so that loudness says nothing about the class; no sample leaves [-1, 1]."""
    rms = float(np.sqrt(np.mean(np.square(waveform)))) + 1e-8
    return np.clip(waveform * np.float32(10 ** rng.uniform(-1.5, -0.9) / rms), -1, 1)


def hiss(rng: np.random.Generator, samples: int) -> np.ndarray:
    """A steady background noise that belongs to no class."""
    smooth = int(rng.integers(1, 24))
    noise = rng.standard_normal(samples + smooth, dtype=np.float32).cumsum(dtype=np.float64)
    return loudness((noise[smooth:] - noise[:-smooth]).astype(np.float32), rng)


# Pictures -----------------------------------------------------------------------------------------------------------

def _grid(rng, width, height):
    """Coordinates (h, w) of a slightly turned square [-1, 1]²."""
    x = ((2 * np.arange(width) + 1) / width - 1).astype(np.float32)
    y = ((2 * np.arange(height) + 1) / height - 1).astype(np.float32)[:, None]
    turn = rng.uniform(-0.25, 0.25)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return c * x + s * y, c * y - s * x


def _shape(name, u, v):
    if name == "circle":
        return u * u + v * v < 1
    if name == "ring":
        r = u * u + v * v
        return (r < 1) & (r > 0.3)
    if name == "triangle":
        return (np.abs(u) < (v + 0.95) / 2) & (v < 0.85)
    return (np.minimum(np.abs(u), np.abs(v)) < 0.3) & (np.maximum(np.abs(u), np.abs(v)) < 0.95)  # cross


def _texture(name, u, v, rng):
    if name == "plain":
        return np.ones(u.shape, bool)
    density, phase, turn = rng.uniform(9, 13), rng.uniform(0, 6), rng.uniform(0, np.pi)
    a = density * (np.float32(np.cos(turn)) * u + np.float32(np.sin(turn)) * v) + np.float32(phase)
    if name == "striped":
        return np.sin(a) > 0
    b = density * (np.float32(np.cos(turn)) * v - np.float32(np.sin(turn)) * u) + np.float32(phase)
    return np.sin(a) * np.sin(b) < 0.25  # dotted: spots of the second colour


def _hsv(hue, saturation, value):
    """One colour as rgb (3,) in [0, 1]."""
    k = (np.array([5, 3, 1]) + 6 * hue) % 6
    return value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


def _load_cutout(path: Path) -> Image.Image:
    picture = Image.fromarray(read_image(path, mode="RGBA"))
    with Image.open(path) as header:
        if not header.has_transparency_data:
            raise InputError(path, "the picture has no alpha channel")
    picture.thumbnail((384, 384))
    box = _visible(picture)
    if box is None:
        raise InputError(path, "the picture is wholly transparent")
    return picture.crop(box)


def _visible(picture: Image.Image):
    """The box of what is more opaque than not, or None."""
    return picture.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox()


def _load_sound(path: Path):
    waveform, rate = read_audio(path, seconds=30)
    if len(waveform) < 0.1 * rate:
        raise InputError(path, f"the sound is shorter than 0.1 s ({len(waveform) / rate:.3f} s)")
    peak = waveform.abs().max()
    if peak < 1e-4:
        raise InputError(path, "the sound is silent")
    waveform = waveform / peak
    return (resample(waveform, rate, 16000).numpy(), 16000) if rate > 24000 else (waveform.numpy(), rate)


def _name(picture: Path) -> str:
    text = picture.with_suffix(".txt")
    first = text.read_text("utf-8", "replace")[:200].splitlines()[:1] if text.is_file() else []
    name = (first[0] if first else picture.stem.replace("_", " ")).strip().rstrip(".!").lower()
    return name.removeprefix("a ").removeprefix("an ").removeprefix("the ") or picture.stem


# Sounds: one timbre a class; t is the time in seconds, f the pitch in Hz --------------------------------------------------

def _sin(cycles):
    return np.sin(np.float32(2 * np.pi) * (cycles - np.floor(cycles)))


def _stack(t, f, harmonics, roll, rng):
    phase = f * t + np.float32(rng.random())
    return sum(_sin(k * phase) / np.float32(k ** roll) for k in harmonics)


def _noise_band(rng, t, centre, width):
    """Noise around `centre` Hz: slow random gains on a carrier."""
    knots = rng.standard_normal((2, int(width * t[-1]) + 3)) if len(t) else np.zeros((2, 1))
    slow = [np.interp(t * width, np.arange(len(k)), k).astype(np.float32) for k in knots]
    return slow[0] * _sin(centre * t) + slow[1] * _sin(centre * t + np.float32(0.25))


def _chirp(t, f, low, high, per_second, rng):
    """Sweeps from low·f to high·f, again and again."""
    saw = (per_second * t + rng.random()).astype(np.float32) % 1
    octave = np.float32(f * low) * np.float32(high / low) ** saw
    return _sin(np.cumsum(octave, dtype=np.float64).astype(np.float64) * float(t[1] - t[0])).astype(np.float32)


TIMBRES = (
    lambda rng, t, f: _stack(t, f, (1, 2, 3, 4, 5, 6), 0.6, rng),                                            # reed
    lambda rng, t, f: _stack(t, 2 * f, (1, 3, 5), 1.0, rng) * np.exp(-6 * (t % 0.25)),                       # plucked, hollow
    lambda rng, t, f: _sin(3 * f * t + 1.5 * _sin(1.41 * f * t)),                                            # bell-like FM
    lambda rng, t, f: _sin(4 * f * t) * (1 + _sin(np.float32(rng.uniform(9, 12)) * t)),                      # tremolo
    lambda rng, t, f: _sin(5 * f * t + np.float32(6) * _sin(np.float32(rng.uniform(5, 7)) * t)),             # wide vibrato
    lambda rng, t, f: _noise_band(rng, t, 1.2 * f, 150),                                                     # rumble
    lambda rng, t, f: _noise_band(rng, t, 14 * f, 1500),                                                     # hissing
    lambda rng, t, f: _chirp(t, f, 2, 10, rng.uniform(3, 5), rng),                                           # rising
    lambda rng, t, f: _chirp(t, f, 10, 2, rng.uniform(3, 5), rng),                                           # falling
    lambda rng, t, f: np.exp(-250 * (t % np.float32(1 / rng.uniform(14, 20)))) * _sin(9 * f * t),            # ticking
    lambda rng, t, f: _noise_band(rng, t, 6 * f, 900) * (_sin(np.float32(rng.uniform(5, 7)) * t) > 0),       # noise in bursts
    lambda rng, t, f: np.where(_sin(np.float32(rng.uniform(3, 4)) * t) > 0, _sin(3 * f * t), _sin(4.5 * f * t)),  # two tones
)
