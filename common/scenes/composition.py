"""The samples of the embedded data, composed of objects: images, audio, phrases, captions, videos.

A sample is a function of (seed, stream, index) alone, since default_rng([seed, stream, index])
draws all of it. Splits are other seeds. S is the side of an image in pixels, K the number of
objects in it; boxes are x0, y0, x1, y1 in [0, 1].

>>> scenes = Scenes(seed=0, size=64, sample_rate=8000, seconds=0.5)
>>> sample = scenes.pair(3)
>>> sample.image.shape, sample.waveform.shape, sample.name
((64, 64, 3), (4000,), 'plain ring')
"""
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from .objects import Directory, Procedural, hiss, tight_boxes
from .videos import (Video, animate, cover_with_bars, cover_with_noise, out_of_focus, owner_at,
                     schedule, soundtrack)

# Streams of random numbers, one for each kind of sample.
PAIR, INTERACTIVE, INTERACTIVE_AUDIO, EXTENDED, GROUNDING, CAPTION = range(6)
VIDEO, VIDEO_TURNS, ENCODER_IMAGES, ENCODER_AUDIO = 7, 8, 9, 10  # the last two: small encoders

# The area of an object's box as a share of the image: minimum, quartiles, maximum. Visible boxes,
# after occlusion, have the quartiles of IS3 (0.16 / 0.30 / 0.46), which a test checks.
AREA_QUANTILES = (0.05, 0.17, 0.32, 0.49, 0.72)
VIDEO_SCALE = 0.8  # of areas in videos, for room to move: 0.13 / 0.24 / 0.37
PLACES = {"on the left": (0, -1), "on the right": (0, 1),
          "at the top": (1, -1), "at the bottom": (1, 1)}  # axis, direction
NOISE = 0.6  # of linked instances: the noise of a white background, as a share of the signal
COUNTS = ("nearby", "once", "twice", "three times")  # by the number of events, 0 if unknown
NOISE_CAPTIONS = ("a steady background hiss", "distant noise with no clear source",
                  "static noise goes on and on", "a constant low rushing noise",
                  "continuous hissing in the distance")

load_directory = lru_cache(maxsize=2)(Directory)  # read, and its faults printed, once a process


class Scene(NamedTuple):
    """An image with K objects; boxes and masks are of their visible pixels."""
    image: np.ndarray  # (S, S, 3) uint8
    boxes: np.ndarray  # (K, 4) float32
    masks: np.ndarray  # (K, S, S) bool
    classes: np.ndarray  # (K,) int
    colours: list  # K names
    tones: list  # K numbers in [0, 1] if instances are linked, else None
    light: float  # mean of the background, in [0, 1]


class Sample(NamedTuple):
    """An image with the audio of one object in it; box and mask are empty if none sounds."""
    image: np.ndarray  # (S, S, 3) uint8
    waveform: np.ndarray  # (n,) float32
    box: np.ndarray  # (4,) float32
    mask: np.ndarray  # (S, S) bool
    cls: int
    name: str
    phrase: str  # see Scenes.phrase
    group: int  # samples of one image share it
    sounding: bool


class Grounding(NamedTuple):
    """TURN's source domain: an image, a phrase, and the box of what the phrase refers to."""
    image: np.ndarray  # (S, S, 3) uint8
    phrase: str
    box: np.ndarray  # (4,) float32
    exclusive: bool  # no audio can have this meaning


class Caption(NamedTuple):
    """TURN's intermediate domain: audio and five captions of it."""
    waveform: np.ndarray  # (n,) float32
    captions: tuple
    exclusive: bool  # no image can have this meaning
    cls: int  # -1 if it is exclusive


class Scenes:
    """Makes samples by index. size: pixels a side; seconds: of audio at sample_rate Hz; objects: in
    an image; folder: take them from a `Directory` (raises InputError) instead of the procedural
    bank; object_scale: multiplies the area of each; link: the hue of a procedural object goes with
    its pitch, the light of the background with noise; `exclusive`, which may be set, is the share
    of TURN's samples that have no meaning in the other domain; `clutter`, likewise, is how loud
    another object and noise sound beside the source, relative to it; `style`, the kind of phrases:
    long as in refcocog, short as in refcoco+, or half of them places instead of names, refcoco.

    Settings of videos make single frames insufficient, the motive of stmnet's memory: shares of
    frames out of focus (`blurred`), of ticks in which noise covers the audio (`noisy`) or a bar the
    image (`occluded`), and whether a second object of the sounding class is silent (`twins`)."""
    exclusive, clutter, style = 1 / 8, 0.0, "refcocog"
    blurred, noisy, occluded, twins = 0.0, 0.0, 0.0, False

    def __init__(self, seed, size=96, sample_rate=16000, seconds=1.0, objects=2, folder=None,
                 object_scale=1.0, link=False):
        self.seed, self.size, self.objects, self.object_scale = seed, size, objects, object_scale
        self.sample_rate, self.seconds, self.link = sample_rate, seconds, link
        self.bank = load_directory(str(folder)) if folder else Procedural()
        self.names = self.bank.names

    def rng(self, stream: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, index])

    def waveform(self, cls: int, rng, seconds: float | None = None, tone: float | None = None):
        """→ waveform (n,) float32, the number of events in it. tone: see `Procedural`."""
        samples = round((seconds or self.seconds) * self.sample_rate)
        waveform, times = self.bank.waveform(cls, rng, samples, self.sample_rate, tone)
        if self.clutter:
            other, rate = int(rng.integers(len(self.names))), self.sample_rate
            for noise in self.bank.waveform(other, rng, samples, rate)[0], hiss(rng, samples):
                gain = self.clutter * np.linalg.norm(waveform) / (np.linalg.norm(noise) + 1e-8)
                waveform = waveform + np.float32(gain) * noise
            waveform = waveform.clip(-1, 1)
        return waveform, times

    def classes(self, rng, count: int | None = None) -> np.ndarray:
        """`count` different classes, by default one for each object of an image."""
        return rng.choice(len(self.names), count or self.objects, replace=False)

    def scene(self, rng, classes) -> Scene:
        """Objects of these classes at random places and sizes, the larger ones behind."""
        image = background(rng, self.size)
        light = float(image.mean()) / 255
        tones = rng.random(len(classes)).tolist() if self.link else [None] * len(classes)
        boxes = self._place(rng, classes, self.object_scale)
        top = np.full((self.size, self.size), -1, np.int8)  # the object that is visible there
        colours = [""] * len(classes)
        for k in np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable"):
            (x, y), (width, height) = boxes[k, :2], (boxes[k, 2:] - boxes[k, :2]).clip(4)
            rgb, is_opaque, colours[k] = self.bank.cutout(classes[k], rng, width, height, tones[k])
            is_opaque = is_opaque[:self.size - y, :self.size - x]
            h, w = is_opaque.shape
            image[y:y + h, x:x + w][is_opaque] = rgb[:h, :w][is_opaque]
            top[y:y + h, x:x + w][is_opaque] = k
        masks = top == np.arange(len(classes))[:, None, None]  # (K, S, S)
        return Scene(image, tight_boxes(masks), masks, np.array(classes), colours, tones, light)

    def _place(self, rng, classes, scale) -> np.ndarray:
        """(K, 4) int boxes in pixels."""
        aspects = np.array([self.bank.aspect(cls, rng) for cls in classes])
        return np.rint(place(rng, aspects, scale) * self.size).astype(int)

    def pair(self, index: int) -> Sample:
        """An image with several objects and the audio of one of them (avkd, sslalign)."""
        rng = self.rng(PAIR, index)
        scene = self.scene(rng, self.classes(rng))
        return self._sample(scene, int(rng.integers(self.objects)), rng, index)

    def interactive(self, index: int) -> Sample:
        """Each object of an image in turn (IS3): samples of one image are neighbours in index."""
        group, member = divmod(index, self.objects)
        rng = self.rng(INTERACTIVE, group)
        scene = self.scene(rng, self.classes(rng))
        return self._sample(scene, member, self.rng(INTERACTIVE_AUDIO, index), group)

    def extended(self, index: int) -> Sample:
        """Even samples sound; odd ones have silence, noise, or audio of a class out of view."""
        rng = self.rng(EXTENDED, index)
        classes = self.classes(rng, self.objects + 1)
        scene = self.scene(rng, classes[:-1])
        if index % 2 == 0:
            return self._sample(scene, int(rng.integers(self.objects)), rng, index)
        samples, kind = round(self.seconds * self.sample_rate), rng.integers(3)
        waveform = (np.zeros(samples, np.float32) if kind == 0 else hiss(rng, samples) if kind == 1
                    else self.waveform(classes[-1], rng)[0])
        box, mask = np.zeros(4, np.float32), np.zeros((self.size, self.size), bool)
        return Sample(scene.image, waveform, box, mask, -1, "", "", index, False)

    def _sample(self, scene, k, rng, group) -> Sample:
        cls = int(scene.classes[k])
        waveform = self.waveform(cls, rng, tone=scene.tones[k])[0]
        phrase = self.phrase(scene, k, rng)
        if self.link:
            noise = hiss(rng, len(waveform))
            level = NOISE * scene.light * np.std(waveform) / np.std(noise)
            waveform = np.clip(waveform + np.float32(level) * noise, -1, 1)
        return Sample(scene.image, waveform, scene.boxes[k], scene.masks[k], cls, self.names[cls],
                      phrase, group, True)

    def grounding(self, index: int) -> Grounding:
        """An image and a phrase for one object in it; in a share, for something silent."""
        rng = self.rng(GROUNDING, index)
        scene = self.scene(rng, self.classes(rng))
        if rng.random() < self.exclusive:
            return self._exclusive_grounding(scene, rng)
        k = int(rng.integers(self.objects))
        return Grounding(scene.image, self.phrase(scene, k, rng), scene.boxes[k], False)

    def phrase(self, scene: Scene, k: int, rng) -> str:
        """"the small red circle on the left": the class and what is true of object k alone."""
        words, rest = [self.names[scene.classes[k]]], np.arange(len(scene.classes)) != k
        if not rest.any():
            return with_article("the", words[0])
        low, high = scene.boxes[:, :2], scene.boxes[:, 2:]
        centres, areas = (low + high) / 2, np.prod(high - low, axis=1)  # (K, 2), (K,)
        smallest, largest = areas[rest].min(), areas[rest].max()
        if scene.colours[k] and rng.random() < 0.3:
            words.insert(0, scene.colours[k])
        if rng.random() < 0.2 and (areas[k] < 0.7 * smallest or areas[k] > 1.4 * largest):
            words.insert(0, "small" if areas[k] < smallest else "large")
        places = [text for text, (axis, sign) in PLACES.items()
                  if (sign * (centres[k, axis] - centres[rest, axis])).min() > 0.15
                  and sign * (centres[k, axis] - 0.5) > 0]
        if self.style != "refcocog":  # short: a place, or the last word of the name, or the name
            if self.style == "refcoco" and places and rng.random() < 0.5:
                return f"the one {places[rng.integers(len(places))]}"
            nouns = [self.names[cls].split()[-1] for cls in scene.classes]
            return f"the {nouns[k] if nouns.count(nouns[k]) == 1 else self.names[scene.classes[k]]}"
        if places and rng.random() < 0.3:
            words.append(places[rng.integers(len(places))])
        return with_article(rng.choice(["the", "a"]), " ".join(words))

    def _exclusive_grounding(self, scene, rng) -> Grounding:
        """The emptiest corner, or the wall if no corner is empty (and half of the time)."""
        is_object, half = scene.masks.any(0), self.size // 2
        cover = [is_object[y:y + half, x:x + half].mean() for y in (0, half) for x in (0, half)]
        if rng.random() < 0.5 or min(cover) > 0.1:
            phrase = f"the {rng.choice(['blank', 'bare', 'far'])} wall"
            return Grounding(scene.image, phrase, np.array([0, 0, 1, 1], np.float32), True)
        y, x = divmod(int(np.argmin(cover)), 2)
        phrase = f"the empty corner at the {('top', 'bottom')[y]} {('left', 'right')[x]}"
        return Grounding(scene.image, phrase, np.array([x, y, x + 1, y + 1], np.float32) / 2, True)

    def caption(self, index: int) -> Caption:
        """Audio and five captions of it; a share is noise without a source."""
        rng = self.rng(CAPTION, index)
        if rng.random() < self.exclusive:
            noise = hiss(rng, round(self.seconds * self.sample_rate))
            return Caption(noise, NOISE_CAPTIONS, True, -1)
        cls = int(rng.integers(len(self.names)))
        waveform, times = self.waveform(cls, rng)
        name = with_article(rng.choice(["the", "a"]), self.names[cls])
        verb = rng.choice(["sounds", "is heard", "rings out", "makes a noise", "can be heard"])
        captions = (f"{name} {verb} {COUNTS[times]}", name, f"the sound of {name}",
                    f"{name} {verb} in the background", f"{name} {verb}")
        return Caption(waveform, captions, False, cls)

    def video(self, index: int, fps: float = 4, seconds: float = 4, turns: bool = False) -> Video:
        """Moving objects, of which one (with `turns`, each of two in turn) sounds, with gaps.
        Classes 2i and 2i + 1 share the audio of 2i and are never in one image: audio narrows the
        label down to two classes, and only the object in the image tells which."""
        rng = self.rng(VIDEO_TURNS if turns else VIDEO, index)
        classes = 2 * rng.choice(len(self.names) // 2, self.objects, replace=False)
        classes = classes + rng.integers(0, 2, self.objects)
        frames, samples = round(fps * seconds), round(seconds * self.sample_rate)
        owners = schedule(rng, seconds, 2 if turns else 1)
        times = (np.arange(frames) + 0.5) / fps
        owner = owner_at(owners, times)  # (T,)
        waveform = soundtrack(self.bank, rng, classes, owners, samples, self.sample_rate)
        wall = background(rng, self.size)
        classes = np.append(classes, classes[0]) if self.twins else classes  # (K,)
        places = self._place(rng, classes, VIDEO_SCALE * self.object_scale)
        extent = (places[:, 2:] - places[:, :2]).clip(4)  # (K, 2)
        cutouts = [self.bank.cutout(cls, rng, *extent[k])[:2] for k, cls in enumerate(classes)]
        is_shaking = (owner[:, None] == np.arange(len(classes))) & self.twins  # (T, K)
        images, masks = animate(rng, wall, places[:, :2], cutouts, frames, fps, is_shaking)
        for t in np.flatnonzero(rng.random(frames) < self.blurred):
            images[t] = out_of_focus(images[t])
        cover_with_bars(rng, images, masks, self.occluded, fps)
        waveform = cover_with_noise(rng, waveform, self.noisy, self.sample_rate)
        is_sounding = owner >= 0  # (T,)
        boxes = tight_boxes(masks)[np.arange(frames), owner] * is_sounding[:, None]  # (T, 4)
        labels, cls = np.where(is_sounding, classes[owner], -1), int(classes[0])
        return Video(images, waveform, boxes, labels, cls, self.names[cls])


def with_article(article: str, name: str) -> str:
    return f"an {name}" if article == "a" and name[0] in "aeiou" else f"{article} {name}"


def place(rng, aspects: np.ndarray, scale: float = 1.0, tries: int = 48) -> np.ndarray:
    """aspects (K,) of width to height → (K, 4) boxes: the first of `tries` placements in which no
    box covers a quarter of another, or else the one with the least overlap. Sizes are the same in
    all tries, so small ones are not favoured."""
    count = len(aspects)
    area = np.interp(rng.random(count), (0, 0.25, 0.5, 0.75, 1), AREA_QUANTILES)
    area = area * scale * min(1, 2 / count)
    size = np.stack([np.sqrt(area * aspects), np.sqrt(area / aspects)], -1).clip(0.06, 0.98)
    low = rng.random((tries, count, 2)) * (1 - size)
    high = low + size  # (tries, K, 2)
    inner = (np.minimum(high[:, :, None], high[:, None])
             - np.maximum(low[:, :, None], low[:, None])).clip(0).prod(-1)
    overlap = inner / size.prod(-1)[:, None]  # (tries, K, K): share of the first under the second
    overlap[:, range(count), range(count)] = 0
    worst = overlap.max((1, 2))
    best = np.argmax(worst < 0.25) if (worst < 0.25).any() else worst.argmin()
    return np.concatenate([low, high], -1)[best]


def background(rng, size: int) -> np.ndarray:
    """(S, S, 3) uint8: a blurred patchwork of colours with a little grain."""
    base = rng.uniform(40, 215, 3)
    cells = base + rng.uniform(-45, 45, (rng.integers(2, 8), rng.integers(2, 8), 3))
    cells = Image.fromarray(cells.clip(0, 255).astype(np.uint8))
    image = np.asarray(cells.resize((size, size), Image.Resampling.BICUBIC))
    grain = np.frombuffer(rng.bytes(size * size), np.uint8).reshape(size, size, 1) >> 4
    return np.minimum(image, 239) + grain
