"""The objects of the embedded scenes: a cut-out image and a waveform of each class.

Two banks have the same methods: `Procedural` computes its objects, `Directory` reads cut-outs and
recordings from files. `names[c]` is what phrases and captions call class c. Each draw of an object
varies with the generator it is given.
"""
import zlib
from colorsys import hsv_to_rgb
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from common.io import InputError, inside, read_audio, read_image, resample
from common.training import dist

SHAPES = {  # name: whether the points u, v of [-1, 1]² are in it
    "circle": lambda u, v: u * u + v * v < 1,
    "triangle": lambda u, v: (abs(u) < (v + 0.95) / 2) & (v < 0.85),
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 0.95),
    "ring": lambda u, v: (u * u + v * v < 1) & (u * u + v * v > 0.3),
}
TEXTURES = ("plain", "striped", "dotted")
COLOURS = {"red": 0.0, "orange": 0.083, "yellow": 0.153, "green": 0.333, "cyan": 0.5,
           "blue": 0.639, "purple": 0.76, "pink": 0.9}  # name: hue


class Procedural:
    """12 classes, each a shape with a texture. Colour and pitch are random, whatever the class, or
    both follow the `tone` of an instance, in [0, 1]: from red to pink, from low to high."""

    names = [f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES]
    fingerprint = zlib.crc32("\n".join(names).encode())  # identifies the bank in cached results

    def aspect(self, cls: int, rng: np.random.Generator) -> float:
        """Width over height."""
        return 2 ** rng.uniform(-0.5, 0.5)

    def cutout(self, cls: int, rng: np.random.Generator, width: int, height: int, tone=None):
        """→ rgb (h, w, 3) uint8, is_opaque (h, w) bool, the name of the colour ("" of a tone)."""
        x, y = (((2 * np.arange(n) + 1) / n - 1).astype(np.float32) for n in (width, height))
        u, v = _rotate(x, y[:, None], rng.uniform(-0.25, 0.25))  # (h, w), in [-1, 1]²
        is_opaque = list(SHAPES.values())[cls // len(TEXTURES)](u, v)
        colour = list(COLOURS)[rng.integers(len(COLOURS))]
        hue = COLOURS[colour] + rng.uniform(-0.02, 0.02)
        if tone is not None:
            hue, colour = 0.85 * tone, ""
        first = np.array(hsv_to_rgb(hue % 1, rng.uniform(0.65, 1), rng.uniform(0.7, 1)))
        second = (first * rng.uniform(0.15, 0.45) if rng.random() < 0.5  # darker
                  else 1 - (1 - first) * rng.uniform(0.1, 0.4))  # lighter
        is_first = _texture(TEXTURES[cls % len(TEXTURES)], u, v, rng)
        shade = 1 - rng.uniform(0, 0.2) * (v + 1) / 2  # light from above
        palette = np.stack([second, first]).astype(np.float32)
        rgb = 255 * palette[is_first.astype(np.intp)] * shade[..., None]
        return rgb.clip(0, 255).astype(np.uint8), is_opaque, colour

    def waveform(self, cls: int, rng: np.random.Generator, samples: int, rate: int, tone=None):
        """→ waveform (samples,) float32 of 1 to 3 equal events, the number of events.
        Pitch, loudness, onset and phase are random."""
        times = int(rng.integers(1, 4))
        slot = samples // times
        length = int(slot * rng.uniform(0.6, 0.95))
        octaves = rng.uniform(-0.4, 0.4) if tone is None else 0.8 * tone - 0.4
        pitch = np.float32(220 * 2 ** octaves)
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
    """Pairs of `name.png`, with alpha, and `name.wav`, `.ogg` or `.flac`, in any subfolder.

    The first line of an optional `name.txt` is the class's name. Pairs that cannot be read, or have
    the name or recording of another, are left out and printed. InputError below 4 pairs."""

    def __init__(self, root):
        root, self.lone = Path(root), []  # images without a recording
        self.names, self.images, self.recordings = [], [], []  # of each class
        if not root.is_dir():
            raise InputError(root, "no such folder of cut-outs and recordings")
        for path in sorted(root.rglob("*.png")):
            try:
                self._add(root, path)
            except InputError as error:
                if dist.rank() == 0:
                    print("left out:", error)
        if self.lone and dist.rank() == 0:
            print(f"left out: {len(self.lone)} images without a recording, as {self.lone[0]}")
        if len(self.names) < 4:
            raise InputError(root, f"{len(self.names)} usable pairs of name.png (with alpha) and "
                                   "name.wav, .ogg or .flac; at least 4 are needed")
        self.fingerprint = zlib.crc32("\n".join(self.names).encode())
        for image, (recording, _) in zip(self.images, self.recordings):
            self.fingerprint = zlib.crc32(image.tobytes() + recording.tobytes(), self.fingerprint)

    def _add(self, root: Path, path: Path):
        audio = (path.with_suffix(suffix) for suffix in (".wav", ".ogg", ".flac"))
        audio = next((p for p in audio if p.is_file()), None)
        if audio is None:
            self.lone.append(path)
            return
        for file in (path, audio, path.with_suffix(".txt")):
            inside(root, file.relative_to(root))  # no link leads out
        image, (recording, rate), name = _load_cutout(path), _load_recording(audio), _name(path)
        if name in self.names:
            raise InputError(path, f"another image has the name {name!r}")
        if any(r == rate and np.array_equal(x, recording) for x, r in self.recordings):
            raise InputError(audio, "another image has the same recording")
        self.images.append(image)
        self.recordings.append((recording, rate))
        self.names.append(name)

    def aspect(self, cls: int, rng: np.random.Generator) -> float:
        return self.images[cls].width / self.images[cls].height * 2 ** rng.uniform(-0.15, 0.15)

    def cutout(self, cls: int, rng: np.random.Generator, width: int, height: int, tone=None):
        """→ rgb (h, w, 3) uint8, is_opaque (h, w) bool, "" (no name of a colour).
        Mirrored, rotated, scaled, at another brightness and contrast."""
        image = self.images[cls]
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR, expand=True)
        image = image.crop(_opaque_box(image)).resize((width, height), Image.Resampling.BILINEAR)
        rgb = ImageEnhance.Brightness(image.convert("RGB")).enhance(rng.uniform(0.75, 1.25))
        rgb = ImageEnhance.Contrast(rgb).enhance(rng.uniform(0.75, 1.25))
        return np.asarray(rgb), np.asarray(image.getchannel("A")) > 127, ""

    def waveform(self, cls: int, rng: np.random.Generator, samples: int, rate: int, tone=None):
        """→ waveform (samples,) float32 of the recording, 0 since the number of events is unknown.
        It is repeated to length from a random offset, at a random loudness and speed (±5 %)."""
        recording, recording_rate = self.recordings[cls]
        speed = recording_rate / rate * 2 ** rng.uniform(-0.07, 0.07)
        at = (rng.integers(len(recording)) + speed * np.arange(samples)) % len(recording)
        waveform = np.interp(at, np.arange(len(recording)), recording).astype(np.float32)
        waveform += np.float32(0.003) * rng.standard_normal(samples, dtype=np.float32)
        return loudness(waveform, rng), 0


def loudness(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale to a random root mean square, independent of the class, and clip to [-1, 1]."""
    rms = float(np.sqrt(np.mean(np.square(waveform)))) + 1e-8
    return np.clip(waveform * np.float32(10 ** rng.uniform(-1.5, -0.9) / rms), -1, 1)


def hiss(rng: np.random.Generator, samples: int) -> np.ndarray:
    """A steady background noise that belongs to no class, (samples,) float32."""
    smooth = int(rng.integers(1, 24))
    noise = rng.standard_normal(samples + smooth, dtype=np.float32).cumsum(dtype=np.float64)
    return loudness((noise[smooth:] - noise[:-smooth]).astype(np.float32), rng)


def tight_boxes(masks: np.ndarray) -> np.ndarray:
    """(…, S, S) bool → (…, 4) float32 boxes of the masks, zeros if a mask is empty."""
    size = masks.shape[-1]
    columns, rows = masks.any(-2), masks.any(-1)  # (…, S)
    low = [m.argmax(-1) for m in (columns, rows)]
    high = [size - m[..., ::-1].argmax(-1) for m in (columns, rows)]
    boxes = np.stack(low + high, -1) / size
    return (boxes * masks.any((-1, -2))[..., None]).astype(np.float32)


def _rotate(x, y, angle):
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x


def _texture(name, u, v, rng):
    """Coordinates u, v (h, w) → (h, w) bool, True where the first colour is."""
    if name == "plain":
        return np.ones(u.shape, bool)
    density, phase = rng.uniform(9, 13), np.float32(rng.uniform(0, 6))
    u, v = (np.sin(density * x + phase) for x in _rotate(u, v, rng.uniform(0, np.pi)))
    return u > 0 if name == "striped" else u * v < 0.25  # dotted: spots of the second colour


def _load_cutout(path: Path) -> Image.Image:
    image = Image.fromarray(read_image(path, mode="RGBA"))
    with Image.open(path) as header:
        if not header.has_transparency_data:
            raise InputError(path, "the image has no alpha channel")
    image.thumbnail((384, 384))
    if (box := _opaque_box(image)) is None:
        raise InputError(path, "the image is fully transparent")
    return image.crop(box)


def _opaque_box(image: Image.Image):
    """The box of the pixels whose alpha is over a half, or None."""
    return image.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox()


def _load_recording(path: Path):
    """→ waveform (n,) float32 with peak 1, its sample rate."""
    waveform, rate = read_audio(path, seconds=30)
    if len(waveform) < 0.1 * rate:
        raise InputError(path, f"the audio is shorter than 0.1 s ({len(waveform) / rate:.3f} s)")
    if (peak := waveform.abs().max()) < 1e-4:
        raise InputError(path, "the audio is silent")
    low_rate = 16000 if rate > 24000 else rate
    return resample(waveform / peak, rate, low_rate).numpy(), low_rate


def _name(path: Path) -> str:
    text, lines = path.with_suffix(".txt"), []
    if text.is_file():
        with open(text, "rb") as file:
            lines = file.read(200).decode("utf-8", "replace").splitlines()
    name = (lines[0] if lines else path.stem.replace("_", " ")).strip().rstrip(".!").lower()
    return name.removeprefix("a ").removeprefix("an ").removeprefix("the ") or path.stem


# Procedural audio: one timbre a class; t is the time in seconds (n,), f the pitch in Hz -----------

def _sin(cycles):
    return np.sin(np.float32(2 * np.pi) * (cycles - np.floor(cycles)))


def _harmonics(t, f, numbers, decay, rng):
    phase = f * t + np.float32(rng.random())
    return sum(_sin(k * phase) / np.float32(k ** decay) for k in numbers)


def _noise_band(rng, t, centre, width):
    """Noise around `centre` Hz: a carrier with slow random gains."""
    knots = rng.standard_normal((2, int(width * t[-1]) + 3))
    gain = [np.interp(t * width, np.arange(len(k)), k).astype(np.float32) for k in knots]
    return gain[0] * _sin(centre * t) + gain[1] * _sin(centre * t + np.float32(0.25))


def _chirp(t, f, low, high, per_second, rng):
    """Repeated sweeps from low·f to high·f."""
    saw = (per_second * t + rng.random()).astype(np.float32) % 1
    frequency = np.float32(f * low) * np.float32(high / low) ** saw
    return _sin(np.cumsum(frequency, dtype=np.float64) * float(t[1] - t[0])).astype(np.float32)


def _slow(t, low, high, rng):
    """A sine between `low` and `high` Hz."""
    return _sin(np.float32(rng.uniform(low, high)) * t)


TIMBRES = (
    lambda rng, t, f: _harmonics(t, f, (1, 2, 3, 4, 5, 6), 0.6, rng),  # reed
    lambda rng, t, f: _harmonics(t, 2 * f, (1, 3, 5), 1.0, rng) * np.exp(-6 * (t % 0.25)),  # pluck
    lambda rng, t, f: _sin(3 * f * t + 1.5 * _sin(1.41 * f * t)),  # bell-like FM
    lambda rng, t, f: _sin(4 * f * t) * (1 + _slow(t, 9, 12, rng)),  # tremolo
    lambda rng, t, f: _sin(5 * f * t + np.float32(6) * _slow(t, 5, 7, rng)),  # vibrato
    lambda rng, t, f: _noise_band(rng, t, 1.2 * f, 150),  # rumble
    lambda rng, t, f: _noise_band(rng, t, 14 * f, 1500),  # hiss
    lambda rng, t, f: _chirp(t, f, 2, 10, rng.uniform(3, 5), rng),  # rising sweeps
    lambda rng, t, f: _chirp(t, f, 10, 2, rng.uniform(3, 5), rng),  # falling sweeps
    lambda rng, t, f: (np.exp(-250 * (t % np.float32(1 / rng.uniform(14, 20))))
                       * _sin(9 * f * t)),  # ticking
    lambda rng, t, f: _noise_band(rng, t, 6 * f, 900) * (_slow(t, 5, 7, rng) > 0),  # noise bursts
    # two tones in turn
    lambda rng, t, f: np.where(_slow(t, 3, 4, rng) > 0, _sin(3 * f * t), _sin(4.5 * f * t)),
)
