"""Training data (4.2): a random second of a video, T frames with the audio around each, and labels.

A source of clips has `ids`, `classes` (names, `background` last if it is one) and `draw(i, rng)` →
frames (T of (H, W, 3) uint8), segments (T, samples), labels (T,). A step has the label of its
video, as in the paper, or with a background class `background` if nothing sounds then.
"""
import numpy as np
import torch
from torch.utils.data import Dataset

from common.benchmarks import (FRAME_RATE, hold_out, listed_samples, load_samples,
                               readable_samples)
from common.benchmarks.pairs import VALIDATION, check_source
from common.benchmarks.videos import numbered_images
from common.io import InputError, read_audio, read_image
from common.scenes import Scenes
from common.training import check_batch_size, dist, progress_bar

from .backbones.vggish import RATE, segments_at
from .backbones.views import draw_view, test_view, train_view

TEST = VALIDATION + 19  # seed of the scenes of the test; --seed of training is below VALIDATION
ORDER, CLIP, VALIDATION_CLIP = 20, 21, 22  # streams of random numbers
BACKGROUND, INT16 = "background", 32767


def make_scenes(seed: int, config) -> Scenes:
    return Scenes(seed, config.image_size, RATE, folder=config.objects or None)


class SceneClips:
    """Videos of embedded scenes, composed once and kept in memory, with 16-bit audio."""

    def __init__(self, seed: int, count: int, config):
        scenes = make_scenes(seed, config)
        self.config, self.videos = config, []
        self.classes = [*scenes.names, *[BACKGROUND] * config.background]
        for i in progress_bar(range(count), name="drawing scenes"):
            video = scenes.video(i, config.T, config.clip_seconds, blurred=config.blurred)
            waveform = np.rint(video.waveform * INT16).astype(np.int16)
            self.videos.append(video._replace(waveform=waveform, boxes=None))
        self.ids = [f"{scenes.bank.fingerprint:08x}-{seed}-{i}" for i in range(count)]

    def draw(self, i, rng):
        video, c = self.videos[i], self.config
        frames = int(rng.integers(len(video.frames) - c.T + 1)) + np.arange(c.T)
        is_event = video.sounding[frames] | (not c.background)
        labels = np.where(is_event, video.cls, len(self.classes) - 1)
        waveform = torch.from_numpy(video.waveform.astype(np.float32) / INT16)
        segments = segments_at(waveform, (frames + 0.5) / c.T, c.samples)
        return list(video.frames[frames]), segments, labels


class FileClips:
    """Samples of the benchmark "ave": FRAME_RATE frames a second in a folder, audio, an event."""

    def __init__(self, samples, names, config):
        self.samples, self.config, self.ids = samples, config, [s.id for s in samples]
        self.classes = [*names, *[BACKGROUND] * config.background]
        self.seconds = [len(numbered_images(s.image)) // FRAME_RATE
                        for s in progress_bar(samples, name="counting frames")]
        if samples and not min(self.seconds):
            sample = samples[self.seconds.index(0)]
            raise InputError(sample.image, f"less than {FRAME_RATE} frames, one second")

    def draw(self, i, rng):
        sample, c = self.samples[i], self.config
        second = int(rng.integers(self.seconds[i]))
        frames = second * FRAME_RATE + np.arange(c.T) * FRAME_RATE // c.T
        is_event = sample.seconds[0] <= second < sample.seconds[1] or not c.background
        label = self.classes.index(sample.label if is_event else BACKGROUND)
        images = [read_image(sample.image / f"{k:04d}.jpg") for k in frames]
        waveform, times = read_audio(sample.audio, RATE)[0], (frames + 0.5) / FRAME_RATE
        return images, segments_at(waveform, times, c.samples), np.full(c.T, label)


def load_videos(config, file) -> list:
    """The samples of a list of AVE; with --skip-bad those whose files can all be read."""
    def read_frames(folder):
        for path in numbered_images(folder):
            read_image(path)

    samples = load_samples("ave", config.root, file or None)
    if config.skip_bad:
        samples = readable_samples(samples, "image", read_frames)
        samples = readable_samples(samples, "audio", read_audio)
    return samples


def ave_clips(config):
    """AVE → clips to train on, clips for validation. Raises InputError."""
    if FRAME_RATE % config.T:
        raise InputError("--T", f"{config.T} does not divide {FRAME_RATE}, the frames a second")
    names = sorted({s.label for s in listed_samples("ave", config.root)})
    samples = load_videos(config, config.train_list)
    if config.held_out_list:
        held_out = load_videos(config, config.held_out_list)
    else:
        samples, held_out = hold_out(samples, config.held_out, "videos")
    return FileClips(samples, names, config), FileClips(held_out, names, config)


def training_clips(config):
    """Clips to train on, clips for validation, with the same classes. Raises InputError."""
    if config.data not in ("scenes", "ave"):
        raise InputError("--data", f"{config.data!r} is neither scenes nor ave")
    check_source(config)
    if config.data == "ave":
        return ave_clips(config)
    return (SceneClips(config.seed, config.scenes, config),
            SceneClips(VALIDATION, config.held_out, config))


def load_clip(source, i: int, config, rng) -> dict:
    """A random second of video i → {"frames" (T, 3, S, S), "segments", "labels" (T,)}."""
    frames, segments, labels = source.draw(i, rng)
    if config.augment:  # all frames are cropped at one place (4.2); the paper mirrors nothing
        crop = (*draw_view(config.image_size, rng)[:2], False)
        views = [train_view(frame, config.image_size, crop) for frame in frames]
    else:
        views = [test_view(frame, config.image_size) for frame in frames]
    return {"frames": torch.stack(views), "segments": segments, "labels": torch.as_tensor(labels)}


def stack_clips(clips: list) -> dict:
    return {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}


class TrainingBatches(Dataset):
    """Item s is this process's part of the batch of step s, a function of configuration and s."""

    def __init__(self, source, config):
        check_batch_size(config.batch_size, len(source.ids), "clips")
        self.source, self.config = source, config
        self.steps_per_epoch = len(source.ids) // config.batch_size
        self.total_steps = config.steps or config.epochs * self.steps_per_epoch
        self.rank, self.world_size = dist.rank(), dist.world_size()  # workers cannot ask

    def __len__(self):
        return self.total_steps

    def __getitem__(self, step: int) -> dict:
        c, (epoch, batch) = self.config, divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([c.seed, ORDER, epoch]).permutation(len(self.source.ids))
        slots = range(batch * c.batch_size, (batch + 1) * c.batch_size)[self.rank::self.world_size]
        return stack_clips([
            load_clip(self.source, int(order[slot]), c,
                      np.random.default_rng([c.seed, CLIP, epoch, slot])) for slot in slots])
