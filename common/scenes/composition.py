"""The embedded data: pictures, short videos, sounds, captions, boxes and masks, made from nothing.

Every sample is a pure function of (seed, index), through numpy's default_rng([seed, kind, index]): the same in every worker,
every process and every run, in constant memory. Splits are other seeds.
"""
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.training import dist
from .objects import Directory, Procedural, hiss

# Quartiles of the area of an object's box as a share of the picture, as in IS3 (0.16 / 0.30 / 0.46), at 0, 1/4 … 1. A test
# holds the outcome; the inner values are a little larger because of what the objects in front hide.
AREA_QUANTILES = (0.05, 0.17, 0.32, 0.49, 0.72)
SMALLER = 0.8  # times that in videos, for room to move in: 0.13 / 0.24 / 0.37, where VGG-SS has 0.08 / 0.20 / 0.41
PLACES = {"on the left": (0, -1), "on the right": (0, 1), "at the top": (1, -1), "at the bottom": (1, 1)}
COUNTS = ("nearby", "once", "twice", "three times")  # by how often it sounds, 0 where that is not known


class Scene(NamedTuple):
    """A picture with K objects. Boxes are x0, y0, x1, y1 in [0, 1] around what is visible, masks are what is visible."""
    image: np.ndarray  # (S, S, 3) uint8
    boxes: np.ndarray  # (K, 4) float32
    masks: np.ndarray  # (K, S, S) bool
    classes: np.ndarray  # (K,) int
    colours: list  # of K names


class Sample(NamedTuple):
    """One picture with one sound, and what in the picture makes it (an empty box and mask where nothing does)."""
    image: np.ndarray  # (S, S, 3) uint8
    waveform: np.ndarray  # (n,) float32
    box: np.ndarray  # (4,) float32, x0, y0, x1, y1 in [0, 1]
    mask: np.ndarray  # (S, S) bool
    cls: int
    name: str
    phrase: str  # what a person would call it, see Scenes.phrase
    group: int  # samples of one picture share it
    sounding: bool


class Video(NamedTuple):
    """T frames and their sound; `labels[t]` is the class that sounds at frame t, or -1."""
    frames: np.ndarray  # (T, S, S, 3) uint8
    waveform: np.ndarray  # (n,) float32
    boxes: np.ndarray  # (T, 4) float32 of what sounds then, zeros where nothing does
    labels: np.ndarray  # (T,) int
    cls: int  # the label of the clip: its first sounding class
    name: str
    fps: float

    @property
    def sounding(self):
        return self.labels >= 0


class Grounding(NamedTuple):
    """TURN's source domain: a picture, a phrase, the box of what it names; `exclusive` where no sound could name it."""
    image: np.ndarray
    phrase: str
    box: np.ndarray  # (4,) float32, x0, y0, x1, y1 in [0, 1]
    exclusive: bool


class Caption(NamedTuple):
    """TURN's intermediate domain: a sound and captions of it; `exclusive` where no picture could show it."""
    waveform: np.ndarray
    captions: tuple
    exclusive: bool


class Scenes:
    """Makes samples by index. `size` in pixels, `seconds` of sound at `sample_rate` Hz, `objects` in a picture.

    `folder` composes the same scenes from a directory of cut-outs and recordings (common.bank.Directory; raises InputError).
    `object_scale` multiplies every object's area.
    """

    def __init__(self, seed, size=96, sample_rate=16000, seconds=1.0, objects=2, folder=None, object_scale=1.0, bank=None):
        self.seed, self.size, self.sample_rate, self.seconds = seed, size, sample_rate, seconds
        self.objects, self.object_scale = objects, object_scale
        self.bank = bank or (_directory(str(folder)) if folder else Procedural())
        self.names = self.bank.names

    def rng(self, kind: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, kind, index])

    def waveform(self, cls: int, rng, seconds: float | None = None):
        """→ waveform (n,) float32, how many times it sounds."""
        return self.bank.waveform(cls, rng, round((seconds or self.seconds) * self.sample_rate), self.sample_rate)

    # What is composed ---------------------------------------------------------------------------------------------

    def scene(self, rng, classes) -> Scene:
        """Objects of these classes at random places and sizes, the larger ones behind."""
        image = background(rng, self.size)
        places = place(rng, np.array([self.bank.aspect(c, rng) for c in classes]), self.object_scale)
        places = np.rint(places * self.size).astype(int)
        owner = np.full((self.size, self.size), -1, np.int8)
        colours = [""] * len(classes)
        for k in np.argsort(-np.prod(places[:, 2:] - places[:, :2], axis=1), kind="stable"):
            colours[k] = self._draw(image, owner, k, classes[k], places[k], rng)
        masks = owner == np.arange(len(classes))[:, None, None]  # (K, S, S)
        return Scene(image, tight_boxes(masks), masks, np.array(classes), colours)

    def _draw(self, image, owner, k, cls, place, rng) -> str:
        x0, y0, x1, y1 = place
        rgb, opaque, colour = self.bank.cutout(cls, rng, max(x1 - x0, 4), max(y1 - y0, 4))
        region = slice(y0, y0 + rgb.shape[0]), slice(x0, x0 + rgb.shape[1])
        opaque = opaque[:self.size - y0, :self.size - x0]
        image[region][opaque] = rgb[:opaque.shape[0], :opaque.shape[1]][opaque]
        owner[region][opaque] = k
        return colour

    def classes(self, rng, count: int | None = None) -> np.ndarray:
        return rng.choice(len(self.names), count or self.objects, replace=False)

    def pair(self, index: int) -> Sample:
        """A picture with several objects and the sound of one of them (avkd, sslalign)."""
        rng = self.rng(0, index)
        scene = self.scene(rng, self.classes(rng))
        return self._sample(scene, int(rng.integers(self.objects)), rng, index)

    def interactive(self, index: int) -> Sample:
        """Each object of one picture in turn (IS3): members of a group are neighbours in the index."""
        group, member = divmod(index, self.objects)
        rng = self.rng(1, group)
        scene = self.scene(rng, self.classes(rng))
        return self._sample(scene, member, self.rng(2, index), group)

    def extended(self, index: int) -> Sample:
        """Half of the samples sound; the others have silence, noise, or the sound of what is not in the picture."""
        rng = self.rng(3, index)
        classes = self.classes(rng, self.objects + 1)
        scene = self.scene(rng, classes[:-1])
        if index % 2 == 0:
            return self._sample(scene, int(rng.integers(self.objects)), rng, index)
        samples = round(self.seconds * self.sample_rate)
        kind = rng.integers(3)
        waveform = (np.zeros(samples, np.float32) if kind == 0 else hiss(rng, samples) if kind == 1
                    else self.waveform(classes[-1], rng)[0])
        nothing = np.zeros((self.size, self.size), bool)
        return Sample(scene.image, waveform, np.zeros(4, np.float32), nothing, -1, "", "", index, False)

    def _sample(self, scene, k, rng, group) -> Sample:
        cls = int(scene.classes[k])
        waveform, phrase = self.waveform(cls, rng)[0], self.phrase(scene, k, rng)
        return Sample(scene.image, waveform, scene.boxes[k], scene.masks[k], cls, self.names[cls], phrase, group, True)

    def grounding(self, index: int) -> Grounding:
        """A picture and a phrase that names one thing in it; one in eight names what makes no sound."""
        rng = self.rng(4, index)
        scene = self.scene(rng, self.classes(rng))
        if rng.random() < 1 / 8:
            return self._silent_thing(scene, rng)
        k = int(rng.integers(self.objects))
        return Grounding(scene.image, self.phrase(scene, k, rng), scene.boxes[k], False)

    def phrase(self, scene: Scene, k: int, rng) -> str:
        """"the small red plain circle on the left": the class, and at times what else is true of object k alone."""
        centres = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2  # (K, 2)
        areas = np.prod(scene.boxes[:, 2:] - scene.boxes[:, :2], axis=1)
        others = np.arange(len(areas)) != k
        words = [self.names[scene.classes[k]]]
        if not others.any():
            return with_article("the", words[0])
        if scene.colours[k] and rng.random() < 0.3:
            words.insert(0, scene.colours[k])
        if rng.random() < 0.2 and (areas[k] < 0.7 * areas[others].min() or areas[k] > 1.4 * areas[others].max()):
            words.insert(0, "small" if areas[k] < areas[others].min() else "large")
        where = [words_ for words_, (axis, sign) in PLACES.items()
                 if (sign * (centres[k, axis] - centres[others, axis])).min() > 0.15 and sign * (centres[k, axis] - 0.5) > 0]
        if where and rng.random() < 0.3:
            words.append(where[rng.integers(len(where))])
        return with_article(rng.choice(["the", "a"]), " ".join(words))

    def _silent_thing(self, scene, rng) -> Grounding:
        taken = scene.masks.any(0)
        half = self.size // 2
        cover = [taken[y:y + half, x:x + half].mean() for y in (0, half) for x in (0, half)]
        if rng.random() < 0.5 or min(cover) > 0.1:  # no corner is empty
            phrase = f"the {rng.choice(['blank', 'bare', 'far'])} wall"
            return Grounding(scene.image, phrase, np.array([0, 0, 1, 1], np.float32), True)
        y, x = divmod(int(np.argmin(cover)), 2)
        phrase = f"the empty corner at the {('top', 'bottom')[y]} {('left', 'right')[x]}"
        return Grounding(scene.image, phrase, np.array([x, y, x + 1, y + 1], np.float32) / 2, True)

    def caption(self, index: int) -> Caption:
        """A sound and five captions of it; one in eight is a noise with no source."""
        rng = self.rng(5, index)
        if rng.random() < 1 / 8:
            texts = ("a steady background hiss", "distant noise with no clear source", "static noise goes on and on",
                     "a constant low rushing noise", "continuous hissing in the distance")
            return Caption(hiss(rng, round(self.seconds * self.sample_rate)), texts, True)
        cls = int(rng.integers(len(self.names)))
        waveform, times = self.waveform(cls, rng)
        return Caption(waveform, self.captions(cls, times, rng), False)

    def captions(self, cls: int, times: int, rng) -> tuple:
        thing, count = with_article(rng.choice(["the", "a"]), self.names[cls]), COUNTS[times]
        verb = rng.choice(["sounds", "is heard", "rings out", "makes a noise", "can be heard"])
        return f"{thing} {verb} {count}", thing, f"the sound of {thing}", f"{thing} {verb} in the background", f"{thing} {verb}"

    def probe(self, cls: int, index: int):
        """One class alone: a picture with one object of it, and a sound of it (for classifiers and tests)."""
        rng = self.rng(6, index)
        return self.scene(rng, [cls]), self.waveform(cls, rng)[0]

    # Videos -------------------------------------------------------------------------------------------------------

    def video(self, index: int, fps: float = 4, seconds: float = 4, turns: bool = False, blurred: float = 0.0) -> Video:
        """Moving objects, of which one sounds in intervals with gaps (with `turns`, two take turns). A share `blurred` of the
        frames is out of focus: objects are seen, their textures are not.

        Classes 2i and 2i + 1 share the timbre of 2i and are never in one picture: the sound narrows the label down to two
        classes, and only the right object in the picture tells which.
        """
        rng = self.rng(8 if turns else 7, index)
        pairs = rng.choice(len(self.names) // 2, self.objects, replace=False)
        classes = 2 * pairs + rng.integers(0, 2, self.objects)
        frames = round(fps * seconds)
        owners = self._schedule(rng, seconds, 2 if turns else 1)  # (ticks,) the object that sounds in each tick, or -1
        at = np.minimum((np.arange(frames) + 0.5) / fps / TICK, len(owners) - 1).astype(int)
        sounding = owners[at]  # (T,)
        waveform = self._soundtrack(rng, classes, owners, seconds)
        images, boxes = self._film(rng, classes, frames, fps)
        for t in np.flatnonzero(rng.random(frames) < blurred):
            images[t] = out_of_focus(images[t])
        boxes = np.where((sounding >= 0)[:, None], boxes[np.arange(frames), np.maximum(sounding, 0)], 0)
        labels = np.where(sounding >= 0, classes[sounding], -1)
        return Video(images, waveform, boxes.astype(np.float32), labels, int(classes[0]), self.names[classes[0]], fps)

    def _schedule(self, rng, seconds, speakers) -> np.ndarray:
        """Stretches of sound of 1 to 2 s and gaps of about 1 s, in ticks of half a second. The first object sounds, and in
        4 s or more every speaker."""
        owners, turn, on = [], 0, bool(rng.random() < 0.7)
        while len(owners) * TICK < seconds or turn < speakers:
            length = int(rng.integers(2, 5)) if on else int(rng.integers(1, 4))
            owners += [turn % speakers if on else -1] * length
            turn, on = turn + on, not on
        ticks = round(seconds / TICK)
        start = 0 if speakers - 1 in owners[:ticks] else owners.index(0)
        return np.array(owners + [-1] * ticks)[start:start + ticks]

    def _soundtrack(self, rng, classes, owners, seconds) -> np.ndarray:
        samples = round(seconds * self.sample_rate)
        waveform = np.float32(0.002) * rng.standard_normal(samples, dtype=np.float32)
        at = np.minimum((np.arange(samples) / self.sample_rate / TICK).astype(int), len(owners) - 1)
        for k in sorted(set(owners.tolist()) - {-1}):
            voice, times = self.waveform(int(classes[k]) // 2 * 2, rng, seconds)
            voice = voice[:samples // max(times, 1)]
            dense = np.flatnonzero(np.abs(voice) > 1e-4)
            voice = np.resize(voice[dense[0]:dense[-1] + 1], samples)  # no pauses of its own
            waveform += voice * (owners == k)[at]
        return waveform.clip(-1, 1)

    def _film(self, rng, classes, frames, fps):
        """→ images (T, S, S, 3), boxes (T, K, 4): every object drifts on a straight line and bounces off the edges."""
        wall = background(rng, self.size)
        start = np.rint(place(rng, np.array([self.bank.aspect(c, rng) for c in classes]), SMALLER * self.object_scale) * self.size)
        extent = (start[:, 2:] - start[:, :2]).astype(int).clip(4)  # (K, 2)
        cutouts = [self.bank.cutout(c, rng, *extent[k]) for k, c in enumerate(classes)]
        velocity = rng.uniform(-0.06, 0.06, (len(classes), 2)) * self.size  # pixels a second
        room = np.maximum(self.size - extent, 1)
        path = start[:, :2] + velocity * (np.arange(frames) / fps)[:, None, None]  # (T, K, 2)
        path = room - np.abs(path % (2 * room) - room)  # a triangle wave: bounce
        path = np.minimum(path.astype(int), self.size - extent)
        images, owner = np.repeat(wall[None], frames, 0), np.full((frames, self.size, self.size), -1, np.int8)
        for k in np.argsort(-extent.prod(1), kind="stable"):
            (w, h), (rgb, opaque, _) = extent[k], cutouts[k]
            for t in range(frames):
                x, y = path[t, k]
                images[t, y:y + h, x:x + w][opaque] = rgb[opaque]
                owner[t, y:y + h, x:x + w][opaque] = k
        masks = owner[:, None] == np.arange(len(classes))[:, None, None]  # (T, K, S, S)
        return images, tight_boxes(masks)


TICK = 0.5  # seconds


def with_article(article: str, name: str) -> str:
    return f"an {name}" if article == "a" and name[0] in "aeiou" else f"{article} {name}"


@lru_cache(maxsize=2)
def _directory(folder: str) -> Directory:
    """Read once a process, however many splits are made of it; says what it left out."""
    bank = Directory(folder)
    if dist.rank() == 0:
        for _, reason in bank.skipped:
            print("left out:", reason)
    return bank


def place(rng, aspects: np.ndarray, scale: float = 1.0, tries: int = 48) -> np.ndarray:
    """(K, 4) boxes x0, y0, x1, y1 in [0, 1] for K objects: of several tries, the first in which no box hides a quarter of
    another, or else the one with the least hidden. The sizes are drawn once, so that the choice does not favour small ones."""
    count = len(aspects)
    area = np.interp(rng.random(count), (0, 0.25, 0.5, 0.75, 1), AREA_QUANTILES) * scale * min(1, 2 / count)
    size = np.stack([np.sqrt(area * aspects), np.sqrt(area / aspects)], -1).clip(0.06, 0.98)  # (K, 2)
    low = rng.random((tries, count, 2)) * (1 - size)
    boxes = np.concatenate([low, low + size], -1)  # (tries, K, 4)
    inner = np.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:]) - np.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    common = inner.clip(0).prod(-1) / size.prod(-1)[:, None]  # (tries, K, K) share of the one under the other
    common[:, range(count), range(count)] = 0
    worst = common.max((1, 2))
    return boxes[np.argmax(worst < 0.25) if (worst < 0.25).any() else worst.argmin()]


def background(rng, size: int) -> np.ndarray:
    """(S, S, 3) uint8: a blurred patchwork of colours with a little grain."""
    base = rng.uniform(40, 215, 3)
    cells = (base + rng.uniform(-45, 45, (rng.integers(2, 8), rng.integers(2, 8), 3))).clip(0, 255).astype(np.uint8)
    image = np.asarray(Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC)).copy()
    grain = np.frombuffer(rng.bytes(size * size), np.uint8).reshape(size, size, 1) >> 4
    return np.minimum(image, 239) + grain


def out_of_focus(image: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 as if it had S/8 pixels a side."""
    size = len(image)
    small = Image.fromarray(image).resize((max(size // 8, 1),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))


def tight_boxes(masks: np.ndarray) -> np.ndarray:
    """(…, S, S) bool → (…, 4) float32 boxes x0, y0, x1, y1 in [0, 1]; zeros where a mask is empty."""
    size = masks.shape[-1]
    columns, rows = masks.any(-2), masks.any(-1)  # (…, S)
    low = [m.argmax(-1) for m in (columns, rows)]
    high = [size - m[..., ::-1].argmax(-1) for m in (columns, rows)]
    boxes = np.stack(low + high, -1) / size
    return (boxes * masks.any((-1, -2))[..., None]).astype(np.float32)
