"""What TURN learns from: the source domain (pictures, phrases, boxes) and the intermediate domain (sounds, captions).

Both domains are list-likes with `texts` (per item: a tuple of phrases or captions). No sample of either holds a picture and a
sound together; `Steps` is all that the training loop ever sees.
"""
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common import benchmarks
from common.training import dist
from common.io import InputError, fit, read_audio, read_image
from common.training import progress_bar
from common.scenes import Scenes

from .augment import test_view, train_view
from common.benchmarks.corpora import SPLIT_BY, audiocaps, clotho, refcoco
from .backbones.frontend import log_mel, spec_augment

# Seeds of the held-out scenes; training uses --seed, which is smaller. (10**6 + 1 and + 2 were looked at while `tiny` was tuned.)
VALIDATION, TEST, TEST_3 = 10**6, 10**6 + 3, 10**6 + 4


def logmel_of(waveform, config):
    """(…, n) samples at config.sample_rate → (…, L_m, c)."""
    return log_mel(waveform, config.sample_rate, n_fft=config.n_fft, hop=config.hop, n_mels=config.n_mels,
                   filterbank_rate=config.filterbank_rate or None)


def read_logmel(path, config, around=(0.0, 0.0)):
    """A sound file → (L_m, c): mono, config.seconds long (repeated if shorter, cut if longer), clipped to [-1, 1] (A.2.1).

    `around`: the (start, end) in seconds of what the sound is wanted for, as one frame of a long video: it comes in the middle.
    """
    start = max(0.0, (sum(around or (0.0, 0.0)) - config.seconds) / 2)
    waveform, _ = read_audio(path, config.sample_rate, start=start, seconds=config.seconds)
    return logmel_of(fit(waveform, round(config.seconds * config.sample_rate)).clamp(-1, 1), config)


class SceneSource:
    """The source domain made of embedded scenes, drawn once and kept in memory."""

    def __init__(self, seed: int, count: int, config):
        scenes = Scenes(seed, config.image_size, config.sample_rate, config.seconds, folder=config.objects or None)
        self.items = [scenes.grounding(i) for i in progress_bar(range(count), name="drawing scenes")]
        self.texts = [(item.phrase,) for item in self.items]
        self.exclusive = np.array([item.exclusive for item in self.items])  # the truth about 3.6's domain-exclusivity

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        """→ picture (H, W, 3) uint8, box (4,) cx, cy, w, h in [0, 1]."""
        return self.items[i].image, centred(self.items[i].box)


class SceneIntermediate:
    """The intermediate domain made of embedded sounds, kept in memory as log-mel spectrograms."""

    def __init__(self, seed: int, count: int, config):
        scenes = Scenes(seed, config.image_size, config.sample_rate, config.seconds, folder=config.objects or None)
        self.logmels, self.texts, exclusive = [], [], []
        for i in progress_bar(range(count), name="making sounds"):
            item = scenes.caption(i)
            self.logmels.append(logmel_of(torch.from_numpy(item.waveform), config))
            self.texts.append(item.captions)
            exclusive.append(item.exclusive)
        self.exclusive = np.array(exclusive)

    def __len__(self):
        return len(self.logmels)

    def __getitem__(self, i):
        return self.logmels[i]


class FileSource:
    """The source domain of files: items of turn.corpora with `image`, `phrase`, `box` (cx, cy, w, h)."""

    def __init__(self, items):
        self.items, self.texts = items, [(item.phrase,) for item in items]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return read_image(self.items[i].image), np.asarray(self.items[i].box, np.float32)


class FileIntermediate:
    """The intermediate domain of files: clips of turn.corpora with `audio` and `captions`, one drawn at each visit."""

    def __init__(self, items, config):
        self.items, self.config, self.texts = items, config, [item.captions for item in items]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return read_logmel(self.items[i].audio, self.config)


def centred(box):
    """(…, 4) x0, y0, x1, y1 → cx, cy, w, h."""
    return np.concatenate([(box[..., :2] + box[..., 2:]) / 2, box[..., 2:] - box[..., :2]], -1)


def domains(config, split: str):
    """The two domains of a split, "train" or "validation". Raises InputError."""
    if config.data == "scenes":
        if split == "validation":
            return SceneSource(VALIDATION, config.held_out, config), SceneIntermediate(VALIDATION, config.held_out, config)
        if config.seed >= VALIDATION:
            raise InputError("--seed", f"{config.seed} is a held-out seed; take one below {VALIDATION}")
        return SceneSource(config.seed, config.scenes, config), SceneIntermediate(config.seed, config.sounds, config)
    source, _, intermediate = config.data.rpartition("+")  # refcoco+ ends in one too
    if source not in SPLIT_BY or intermediate not in ("clotho", "audiocaps"):
        raise InputError("--data", f"{config.data!r} is neither scenes nor SOURCE+INTERMEDIATE of {', '.join(SPLIT_BY)} and "
                         "clotho, audiocaps")
    root = Path(config.root)
    if not config.root or not root.is_dir():
        raise InputError(config.root or "--root", f"not a folder; --root names the one that holds {source} and {intermediate}")
    train = split == "train"
    skip = config.skip_bad
    phrases = refcoco(root, source, "train" if train else "val", config.refcoco_split or None, skip)
    if intermediate == "clotho":
        clips = clotho(root, "development" if train else "validation", skip)
    else:
        clips = audiocaps(root, "train" if train else "val", skip)
    for line in phrases.bad + clips.bad if dist.rank() == 0 else ():
        print("left out:", line)
    if skip:
        phrases = benchmarks.readable_samples(phrases, "image", read_image)
        clips = benchmarks.readable_samples(clips, "audio", lambda path: read_audio(path, seconds=config.seconds))
    return FileSource(phrases), FileIntermediate(clips, config)


class Steps(Dataset):
    """steps[s] is this process's part of the batch of step s, and depends on nothing but the configuration and s.

    An epoch is as many steps as the source domain has batches. With sampling weights, items are drawn with replacement (3.6);
    without, the order is shuffled.
    """

    def __init__(self, source, intermediate, tokenizer, config, weights=(None, None)):
        self.source, self.intermediate, self.tokenizer, self.config, self.weights = source, intermediate, tokenizer, config, weights
        texts = [sum(map(len, domain.texts)) for domain in (source, intermediate)]  # the scale of a corpus (A.2.3)
        self.sizes = config.batch_size, config.batch_intermediate or max(2, round(config.batch_size * texts[1] / texts[0]))
        if len(source) < config.batch_size or len(intermediate) < self.sizes[1]:
            raise InputError("--batch-size", f"{self.sizes} samples a step are more than the two domains have ({len(source)}, "
                             f"{len(intermediate)})")
        self.per_epoch = len(source) // config.batch_size
        self.total = config.steps or config.epochs * self.per_epoch
        self.rank, self.world = dist.rank(), dist.world_size()  # workers that are not forks do not know
        if min(self.sizes) < self.world:
            raise InputError("--batch-size", f"{self.sizes} samples of the two domains are too few for {self.world} processes")
        self._epoch = None, None

    def __len__(self):
        return self.total

    def order(self, epoch: int):
        """Indices into the two domains, for every slot of the epoch's batches."""
        if self._epoch[0] != epoch:
            rng, orders = np.random.default_rng([self.config.seed, 20, epoch]), []
            for items, size, weights in zip((self.source, self.intermediate), self.sizes, self.weights):
                slots = size * self.per_epoch
                if weights is not None:
                    orders.append(rng.choice(len(items), slots, p=weights))
                else:
                    rounds = -(-slots // len(items))
                    orders.append(np.concatenate([rng.permutation(len(items)) for _ in range(rounds)])[:slots])
            self._epoch = epoch, orders
        return self._epoch[1]

    def mask_ratio(self, epoch: int) -> float:
        """Linear from mask_from in the first epoch to mask_to in the last (A.2.2)."""
        epochs = max(-(-self.total // self.per_epoch), 1)
        return self.config.mask_from + (self.config.mask_to - self.config.mask_from) * min(1, epoch / max(epochs - 1, 1))

    def __getitem__(self, step: int) -> dict:
        epoch, batch = divmod(step, self.per_epoch)
        c, ratio = self.config, self.mask_ratio(epoch)
        slots = [range(batch * size + self.rank, (batch + 1) * size, self.world) for size in self.sizes]
        images, boxes, pads, phrases, hidden_s = [], [], [], [], []
        for slot in slots[0]:
            rng = np.random.default_rng([c.seed, 21, epoch, slot])
            i = self.order(epoch)[0][slot]
            (image, box), phrase = self.source[i], self.source.texts[i][0]
            if c.augment:
                image, box, phrase, pad = train_view(image, box, phrase, c.image_size, rng, c.flip, c.jitter)
            else:
                image, pad, _ = test_view(image, c.image_size)  # scenes are square
            images.append(image), boxes.append(torch.as_tensor(box)), pads.append(pad), phrases.append(phrase)
            hidden_s.append(rng.random(c.text_length))
        logmels, captions, hidden_m, hidden_a = [], [], [], []
        for slot in slots[1]:
            rng = np.random.default_rng([c.seed, 22, epoch, slot])
            i = self.order(epoch)[1][slot]
            texts, logmel = self.intermediate.texts[i], self.intermediate[i]
            captions.append(texts[rng.integers(len(texts))])
            logmels.append(spec_augment(logmel, rng, c.time_mask, c.freq_mask))
            hidden_m.append(rng.random(c.text_length))
            hidden_a.append(np.repeat(rng.random(-(-len(logmel) // 4)) < ratio, 4)[:len(logmel)])  # whole cells of L_a
        tokens_s, tokens_m = (self.tokenizer.encode(texts, c.text_length) for texts in (phrases, captions))
        return {"image": torch.stack(images), "pad": torch.stack(pads), "box": torch.stack(boxes).float(),
                "tokens_s": tokens_s, "hidden_s": self._hide(tokens_s, np.stack(hidden_s), ratio),
                "logmel": torch.stack(logmels), "tokens_m": tokens_m, "hidden_m": self._hide(tokens_m, np.stack(hidden_m), ratio),
                "hidden_a": torch.from_numpy(np.stack(hidden_a))}

    def _hide(self, tokens, draws, ratio):
        """Which words are masked: each with probability `ratio`, at least one, never a special token. (B, L) bool."""
        special = torch.tensor([self.tokenizer.pad, self.tokenizer.cls, self.tokenizer.sep])
        draws = torch.from_numpy(draws).masked_fill(torch.isin(tokens, special), 2.0)
        return (draws < ratio) | ((draws == draws.amin(1, keepdim=True)) & (draws < 1))

    def loader(self, start: int):
        """Batches of the steps from `start` on, read by config.workers processes. It draws nothing from torch's generator."""
        return DataLoader(self, None, sampler=range(start, self.total), num_workers=self.config.workers,
                          generator=torch.Generator(), pin_memory=torch.cuda.is_available(),
                          persistent_workers=False, prefetch_factor=4 if self.config.workers else None)

