"""Training data (4.2): a random second of a video, T frames with the audio around each, and labels.

A source of clips has `ids`, `classes` (names, `background` last if it is one) and `draw(i, rng)` →
frames (T of (H, W, 3) uint8), segments (T, samples), labels (T,). A step has the label of its
video, as in the paper, or with a background class `background` if nothing sounds then.
"""
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate

from common.benchmarks import (FRAME_RATE, hold_out, listed_samples, load_samples,
                               readable_samples)
from common.benchmarks.annotations import find_metadata
from common.benchmarks.cvat import INSTRUMENTS, instruments
from common.benchmarks.pairs import VALIDATION, check_source
from common.io import InputError, numbered_images, read_audio, read_image
from common.scenes import Scenes
from common.training import check_batch_size, dist, progress_bar

from .backbones.vggish import RATE, segments_at
from .backbones.views import test_view, to_planes

TEST = VALIDATION + 19  # seed of the scenes of the test; --seed of training is below VALIDATION
ORDER, CLIP, VALIDATION_CLIP = 20, 21, 22  # streams of random numbers
BACKGROUND, INT16 = "background", 32767
SETS = {"ave": "ave", "audioset-instrument": "audioset-instrument-clips"}  # --data → its reader
TEST_LISTS = {"ave": "testSet.txt", "audioset-instrument": "test.csv"}
RARE = ("marimba", "violin")  # they never stand alone


def make_scenes(seed: int, config) -> Scenes:
    scenes = Scenes(seed, config.image_size, RATE, folder=config.objects or None)
    scenes.blurred, scenes.noisy = config.blurred, config.noisy
    scenes.occluded, scenes.twins = config.occluded, config.twins
    return scenes


class SceneClips:
    """Videos of embedded scenes, composed once and kept in memory, with 16-bit audio."""

    def __init__(self, seed: int, count: int, config):
        scenes = make_scenes(seed, config)
        self.config, self.videos = config, []
        self.classes = [*scenes.names, *[BACKGROUND] * config.background]
        for i in progress_bar(range(count), name="drawing scenes"):
            video = scenes.video(i, config.T, config.clip_seconds)
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
    """Videos on disk: FRAME_RATE frames a second in a folder, audio, an event or instruments."""

    def __init__(self, samples, names, config):
        self.samples, self.config, self.ids = samples, config, [s.id for s in samples]
        self.classes = [*names, *[BACKGROUND] * config.background]
        self.seconds = [len(numbered_images(s.image)) // FRAME_RATE
                        for s in progress_bar(samples, name="counting frames")]
        if 0 in self.seconds:
            raise InputError(samples[self.seconds.index(0)].image, f"less than {FRAME_RATE} frames")

    def draw(self, i, rng):
        sample, c = self.samples[i], self.config
        second = int(rng.integers(self.seconds[i]))
        frames = second * FRAME_RATE + np.arange(c.T) * FRAME_RATE // c.T
        is_event = sample.seconds[0] <= second < sample.seconds[1] or not c.background
        label = self.label_of(sample, rng) if is_event else BACKGROUND
        paths = numbered_images(sample.image)
        images = [read_image(paths[k]) for k in frames]
        waveform, times = read_audio(sample.audio, RATE)[0], (frames + 0.5) / FRAME_RATE
        labels = np.full(c.T, self.classes.index(label))
        return images, segments_at(waveform, times, c.samples), labels

    def label_of(self, sample, rng) -> str:
        """The event; of several instruments marimba, else violin, else one at random."""
        names = [sample.label] if self.config.data == "ave" else instruments(sample.label)
        return next((name for name in RARE if name in names),
                    names[0] if len(names) == 1 else names[rng.integers(len(names))])


def load_videos(config, file) -> list:
    """The samples of a list; with --skip-bad those whose files can all be read."""
    def read_frames(folder):
        for path in numbered_images(folder):
            read_image(path)

    samples = load_samples(SETS[config.data], config.root, file or None)
    if config.skip_bad:
        samples = readable_samples(samples, "image", read_frames)
        samples = readable_samples(samples, "audio", read_audio)
    return samples


def file_clips(config):
    """AVE or AudioSet-Instrument → clips to train on, clips for validation. Raises InputError."""
    if FRAME_RATE % config.T:
        raise InputError("--T", f"{config.T} does not divide {FRAME_RATE}, the frames a second")
    samples = load_videos(config, config.train_list)
    name, is_left_out = config.exclude_list or TEST_LISTS[config.data], bool(config.exclude_list)
    report = f"how many training videos are test videos is unknown: there is no {name}"
    if is_left_out or find_metadata(config.root, name, optional=True):
        listed = {s.id for s in listed_samples(SETS[config.data], config.root, name)}
        kept = [s for s in samples if s.id not in listed]  # of AVE's lists 8 ids are in both
        report = (f"{len(samples) - len(kept)} of {len(samples)} training videos are in {name}, "
                  f"{'left out' if is_left_out else '--exclude-list leaves them out'}")
        samples = kept if is_left_out else samples
    if dist.rank() == 0:
        print(report)
    if config.held_out_list:
        held_out = load_videos(config, config.held_out_list)
    else:
        samples, held_out = hold_out(samples, config.held_out, "videos")
    names = INSTRUMENTS if config.data != "ave" else sorted({
        s.label for s in listed_samples("ave", config.root)})
    return FileClips(samples, names, config), FileClips(held_out, names, config)


def training_clips(config):
    """Clips to train on, clips for validation, with the same classes. Raises InputError."""
    if config.data in SETS and not config.root:
        raise InputError("--root", f"none: {config.data} is a folder with metadata/TRAIN_LIST, "
                         "frames/ID/0000.jpg …, four a second, and audio/ID.wav")
    check_source(config)
    if config.data in SETS:
        return file_clips(config)
    return (SceneClips(config.seed, config.scenes, config),
            SceneClips(VALIDATION, config.held_out, config))


def crop_frame(frame, size: int, u: float, v: float, is_mirrored: bool):
    """(H, W, 3) uint8 → (3, size, size) uint8: resized to 1.1 · size along the shorter side, then
    a crop at the shares u, v of what is left over (4.2); mirrored as in the authors' code."""
    height, width = frame.shape[:2]
    scale = int(1.1 * size) / min(height, width)
    image = Image.fromarray(frame).resize((round(width * scale), round(height * scale)),
                                          Image.Resampling.BICUBIC)
    x, y = int(u * (image.width - size + 1)), int(v * (image.height - size + 1))
    return to_planes(image.crop((x, y, x + size, y + size)), is_mirrored)


def load_clip(source, i: int, config, rng) -> dict:
    """A random second of video i → {"frames" (T, 3, S, S), "segments", "labels" (T,)}."""
    frames, segments, labels = source.draw(i, rng)
    if config.augment:
        crop = (*rng.random(2), rng.random() < 0.5)
        views = [crop_frame(frame, config.image_size, *crop) for frame in frames]
    else:
        views = [test_view(frame, config.image_size) for frame in frames]
    return {"frames": torch.stack(views), "segments": segments, "labels": torch.as_tensor(labels)}


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
        return default_collate([
            load_clip(self.source, int(order[slot]), c,
                      np.random.default_rng([c.seed, CLIP, epoch, slot])) for slot in slots])
