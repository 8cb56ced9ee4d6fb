"""Short videos: when which object sounds, the soundtrack, and how the objects move.

`Scenes.video` (composition.py) puts a `Video` together from these. T frames of S × S pixels,
K objects. `owners[i]` is the object that sounds in tick i, or -1.

>>> schedule(np.random.default_rng(0), seconds=4, speakers=2)
array([ 0,  0,  0, -1,  1,  1, -1,  0])
"""
from typing import NamedTuple

import numpy as np
from PIL import Image

TICK = 0.5  # seconds: audio begins and ends at multiples of it
QUIET = 0.002  # deviation of the noise that is there when nothing sounds
SPEED = 0.01, 0.02  # sides of the image a second: medians of AVE's boxes are 0.011 to 0.024


class Video(NamedTuple):
    """T frames and their audio; `labels[t]` is the class that sounds at frame t, or -1."""
    frames: np.ndarray  # (T, S, S, 3) uint8
    waveform: np.ndarray  # (n,) float32
    boxes: np.ndarray  # (T, 4) float32 of the sounding object, zeros if there is none
    labels: np.ndarray  # (T,) int
    cls: int  # the label of the video: its first sounding class
    name: str

    @property
    def sounding(self):
        return self.labels >= 0


def schedule(rng, seconds: float, speakers: int) -> np.ndarray:
    """Owners (ticks,): intervals of 1 to 2 s in which one object sounds, and gaps of about 1 s.
    The objects 0 … speakers - 1 take turns. Object 0 always sounds, the others in 4 s or more."""
    owners, turn, on = [], 0, bool(rng.random() < 0.7)
    while len(owners) * TICK < seconds or turn < speakers:
        length = int(rng.integers(2, 5)) if on else int(rng.integers(1, 4))
        owners += [turn % speakers if on else -1] * length
        turn, on = turn + on, not on
    ticks = round(seconds / TICK)
    start = 0 if speakers - 1 in owners[:ticks] else owners.index(0)
    return np.array(owners + [-1] * ticks)[start:start + ticks]


def owner_at(owners: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The owner at each time, in seconds; after the end, the last one."""
    return owners[np.minimum(times / TICK, len(owners) - 1).astype(int)]


def soundtrack(bank, rng, classes, owners: np.ndarray, samples: int, rate: int) -> np.ndarray:
    """(samples,) float32: quiet noise, and each object's audio where it is the owner.
    The even one of two confusable classes lends its audio to both, see `Scenes.video`."""
    waveform = np.float32(QUIET) * rng.standard_normal(samples, dtype=np.float32)
    owners = owner_at(owners, np.arange(samples) / rate)  # (samples,)
    for k in sorted(set(owners.tolist()) - {-1}):
        audio, times = bank.waveform(int(classes[k]) // 2 * 2, rng, samples, rate)
        audio = audio[:samples // max(times, 1)]  # one event
        loud = np.flatnonzero(np.abs(audio) > 1e-4)
        audio = np.resize(audio[loud[0]:loud[-1] + 1], samples)  # without pauses
        waveform += audio * (owners == k)
    return waveform.clip(-1, 1)


def cover_with_noise(rng, waveform: np.ndarray, share: float, rate: int) -> np.ndarray:
    """The waveform, in a share of the ticks under noise that is about as loud as an object."""
    is_noisy = rng.random(int(len(waveform) / rate / TICK) + 1) < share
    noise = np.float32(0.1) * rng.standard_normal(len(waveform), dtype=np.float32)
    return (waveform + noise * owner_at(is_noisy, np.arange(len(waveform)) / rate)).clip(-1, 1)


def animate(rng, background, corners, cutouts, frames: int, fps: float, is_shaking):
    """→ images (T, S, S, 3), masks (T, K, S, S) of the visible pixels: each object moves on a
    straight line from its corner at SPEED and bounces off the edges, the larger ones behind.
    background (S, S, 3), corners (K, 2) pixels, cutouts: rgb (h, w, 3), is_opaque (h, w) of each;
    is_shaking (T, K): frames in which an object also moves by 3 % of the image to and fro."""
    size, count, times = len(background), len(corners), np.arange(frames) / fps
    extent = np.array([is_opaque.shape[::-1] for _, is_opaque in cutouts])  # (K, 2)
    angle = rng.uniform(0, 2 * np.pi, count)
    velocity = rng.uniform(*SPEED, (count, 1)) * np.stack([np.cos(angle), np.sin(angle)], 1) * size
    room = np.maximum(size - extent, 1)
    path = corners + velocity * times[:, None, None]  # (T, K, 2)
    path += 0.03 * size * (np.sin(9 * times)[:, None] * is_shaking)[..., None]
    path = room - np.abs(path % (2 * room) - room)  # a triangle wave
    path = np.minimum(path.astype(int), size - extent)
    images = np.repeat(background[None], frames, 0)
    top = np.full((frames, size, size), -1, np.int8)  # the object that is visible there
    for k in np.argsort(-extent.prod(1), kind="stable"):
        (w, h), (rgb, is_opaque) = extent[k], cutouts[k]
        for t, (x, y) in enumerate(path[:, k]):
            images[t, y:y + h, x:x + w][is_opaque] = rgb[is_opaque]
            top[t, y:y + h, x:x + w][is_opaque] = k
    return images, top[:, None] == np.arange(count)[:, None, None]


def cover_with_bars(rng, images, masks, share: float, fps: float) -> None:
    """In a share of the ticks a grey bar, a third of the image wide, covers images and masks."""
    size = images.shape[1]
    is_covered = rng.random(int(len(images) / fps / TICK) + 1) < share
    left = np.where(is_covered, rng.integers(0, size - size // 3, len(is_covered)), -1)
    left = owner_at(left, np.arange(len(images)) / fps)  # (T,), -1: no bar
    for t in np.flatnonzero(left >= 0):
        bar = slice(left[t], left[t] + size // 3)
        images[t, :, bar] = 96
        masks[t, :, :, bar] = False


def out_of_focus(image: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 as if it had S / 8 pixels a side."""
    size = len(image)
    small = Image.fromarray(image).resize((max(size // 8, 1),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))
