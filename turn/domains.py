"""The two domains that TURN learns from (section 3.1), from embedded scenes or from files.

The source domain has images, phrases and boxes, the intermediate domain audio and captions. Both
are list-likes with `texts`, for each item a tuple of phrases or captions. No item of either has an
image and audio together.
"""
from pathlib import Path

import numpy as np
import torch

from common import benchmarks
from common.benchmarks.corpora import SPLIT_BY, audiocaps, clotho, refcoco
from common.io import InputError, fit, read_audio, read_image
from common.scenes import Scenes
from common.training import dist, progress_bar

from .backbones.frontend import log_mel

# Seeds of the held-out scenes; training uses --seed, which is smaller. 10**6 + 1 and + 2 are used
# up: they were evaluated on while `tiny` was tuned.
VALIDATION, TEST, TEST_3 = 10**6, 10**6 + 3, 10**6 + 4


def scenes_of(config, seed: int, objects: int = 2) -> Scenes:
    return Scenes(seed, config.image_size, config.sample_rate, config.seconds, objects,
                  config.objects or None)


def logmel_of(waveform, config):
    """waveform (…, n) at config.sample_rate → (…, L_m, c)."""
    return log_mel(waveform, config.sample_rate, n_fft=config.n_fft, hop=config.hop,
                   n_mels=config.n_mels, filterbank_rate=config.filterbank_rate or None)


def read_logmel(path, config, around=None):
    """An audio file → (L_m, c), of config.seconds: repeated if shorter, cut if longer (A.2.1).

    around: the (start, end) in seconds of what the audio is for, as a frame of a long video; it is
    in the middle of the clip. None: the clip is the beginning of the file.
    """
    start = max(0.0, (sum(around or (0.0, 0.0)) - config.seconds) / 2)
    waveform, _ = read_audio(path, config.sample_rate, start=start, seconds=config.seconds)
    waveform = fit(waveform, round(config.seconds * config.sample_rate))
    return logmel_of(waveform.clamp(-1, 1), config)


def centred(box):
    """(…, 4) x0, y0, x1, y1 → cx, cy, w, h."""
    return np.concatenate([(box[..., :2] + box[..., 2:]) / 2, box[..., 2:] - box[..., :2]], -1)


class SceneSource:
    """Embedded scenes, composed once and kept in memory: [i] → image (H, W, 3) uint8, box (4,)."""

    def __init__(self, seed: int, count: int, config):
        scenes = scenes_of(config, seed)
        self.items = [scenes.grounding(i) for i in progress_bar(range(count), name="scenes")]
        self.texts = [(item.phrase,) for item in self.items]
        self.is_exclusive = np.array([item.exclusive for item in self.items])  # what 3.6 estimates

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i].image, centred(self.items[i].box)


class SceneIntermediate:
    """Embedded audio, kept in memory as log-mel spectrograms: [i] → (L_m, c)."""

    def __init__(self, seed: int, count: int, config):
        scenes, self.logmels, self.texts, is_exclusive = scenes_of(config, seed), [], [], []
        for i in progress_bar(range(count), name="captioned audio"):
            item = scenes.caption(i)
            self.logmels.append(logmel_of(torch.from_numpy(item.waveform), config))
            self.texts.append(item.captions)
            is_exclusive.append(item.exclusive)
        self.is_exclusive = np.array(is_exclusive)

    def __len__(self):
        return len(self.logmels)

    def __getitem__(self, i):
        return self.logmels[i]


class FileSource:
    """Phrases of `common.benchmarks.corpora`: [i] → image (H, W, 3) uint8, box (4,) cx cy w h."""

    def __init__(self, items):
        self.items, self.texts = items, [(item.phrase,) for item in items]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return read_image(self.items[i].image), np.asarray(self.items[i].box, np.float32)


class FileIntermediate:
    """Clips of `common.benchmarks.corpora`: [i] → log-mel spectrogram (L_m, c)."""

    def __init__(self, items, config):
        self.items, self.config, self.texts = items, config, [item.captions for item in items]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return read_logmel(self.items[i].audio, self.config)


def load_domains(config, split: str) -> tuple:
    """Source and intermediate domain of a split, "train" or "validation". Raises InputError."""
    if config.data != "scenes":
        return _corpora(config, split)
    if split == "validation":
        seed, counts = VALIDATION, (config.held_out, config.held_out)
    elif config.seed < VALIDATION:
        seed, counts = config.seed, (config.scenes, config.sounds)
    else:
        raise InputError("--seed", f"{config.seed} is a held-out seed; take one below {VALIDATION}")
    return SceneSource(seed, counts[0], config), SceneIntermediate(seed, counts[1], config)


def _corpora(config, split: str) -> tuple:
    source, _, intermediate = config.data.rpartition("+")  # refcoco+ ends in one too
    if source not in SPLIT_BY or intermediate not in ("clotho", "audiocaps"):
        raise InputError("--data", f"{config.data!r} is neither scenes nor SOURCE+INTERMEDIATE of "
                         f"{', '.join(SPLIT_BY)} and clotho, audiocaps")
    root, is_train, skip = Path(config.root), split == "train", config.skip_bad
    if not config.root or not root.is_dir():
        raise InputError(config.root or "--root", "not a folder; --root names the one that holds "
                         f"{source} and {intermediate}")
    phrases = refcoco(root, source, "train" if is_train else "val", config.refcoco_split or None,
                      skip)
    if intermediate == "clotho":
        clips = clotho(root, "development" if is_train else "validation", skip)
    else:
        clips = audiocaps(root, "train" if is_train else "val", skip)
    for line in phrases.bad + clips.bad if dist.rank() == 0 else ():
        print("left out:", line)
    if skip:
        phrases = benchmarks.readable_samples(phrases, "image", read_image)
        clips = benchmarks.readable_samples(
            clips, "audio", lambda path: read_audio(path, seconds=config.seconds))
    return FileSource(phrases), FileIntermediate(clips, config)
