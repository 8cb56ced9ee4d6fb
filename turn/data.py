"""The batches of a training: samples of both domains, and what is masked in them.

b_s and b_m samples a step of this process, of the source (_s) and the intermediate domain (_m):

image       (b_s, 3, H, W)    padding      (b_s, H, W) bool     box          (b_s, 4) cx, cy, w, h
tokens_s    (b_s, L_t)        text_mask_s  (b_s, L_t) bool
logmel      (b_m, L_m, c)     audio_mask   (b_m, L_m) bool
tokens_m    (b_m, L_t)        text_mask_m  (b_m, L_t) bool
"""
import numpy as np
import torch
from torch.utils.data import Dataset

from common.training import check_batch_size, dist

from .backbones.frontend import spec_augment
from .backbones.views import test_view, train_view

# Streams of random numbers: [seed, ORDER, epoch] and [seed, SOURCE | INTERMEDIATE, epoch, slot]
ORDER, SOURCE, INTERMEDIATE = 20, 21, 22
CELL = 4  # frames that are masked together: one step of L_a


class TrainingBatches(Dataset):
    """Item s is this process's part of the batch of step s, a function of the configuration and s.

    An epoch has as many steps as the source domain has batches. With sampling weights items are
    drawn with replacement (3.6), without they are shuffled."""

    def __init__(self, source, intermediate, tokenizer, config, sampling_weights=(None, None)):
        self.source, self.intermediate, self.tokenizer = source, intermediate, tokenizer
        self.config, self.sampling_weights = config, sampling_weights
        texts = [len(domain.all_texts()) for domain in (source, intermediate)]
        in_proportion = round(config.batch_size * texts[1] / texts[0])  # to the corpora (A.2.3)
        self.sizes = config.batch_size, config.batch_intermediate or max(2, in_proportion)
        check_batch_size(self.sizes[0], len(source), "images")
        check_batch_size(self.sizes[1], len(intermediate), "clips", "--batch-intermediate")
        self.steps_per_epoch = len(source) // config.batch_size
        self.total_steps = config.steps or config.epochs * self.steps_per_epoch
        self.rank, self.world = dist.rank(), dist.world_size()  # unknown in workers without fork
        self._epoch = None, None

    def __len__(self):
        return self.total_steps

    def __getitem__(self, step: int) -> dict:
        epoch, batch = divmod(step, self.steps_per_epoch)
        slots_s, slots_m = (range(batch * size + self.rank, (batch + 1) * size, self.world)
                            for size in self.sizes)
        return self._source_batch(epoch, slots_s) | self._intermediate_batch(epoch, slots_m)

    def _source_batch(self, epoch: int, slots) -> dict:
        c, rows = self.config, []
        for slot in slots:
            rng = np.random.default_rng([c.seed, SOURCE, epoch, slot])
            i = self.order(epoch)[0][slot]
            (image, box), phrase = self.source[i], self.source.texts[i][0]
            if c.augment:
                image, padding, box, phrase = train_view(image, box, phrase, c.image_size, rng,
                                                         c.flip, c.jitter)
            else:
                image, padding, _ = test_view(image, c.image_size)  # scenes are square
            rows.append((image, padding, torch.as_tensor(box), phrase, rng.random(c.text_length)))
        images, paddings, boxes, phrases, draws = zip(*rows)
        tokens = self.tokenizer.encode(phrases, c.text_length)
        return {"image": torch.stack(images), "padding": torch.stack(paddings),
                "box": torch.stack(boxes).float(), "tokens_s": tokens,
                "text_mask_s": self.text_mask(tokens, np.stack(draws), self.mask_ratio(epoch))}

    def _intermediate_batch(self, epoch: int, slots) -> dict:
        c, ratio, rows = self.config, self.mask_ratio(epoch), []
        for slot in slots:
            rng = np.random.default_rng([c.seed, INTERMEDIATE, epoch, slot])
            i = self.order(epoch)[1][slot]
            texts, logmel = self.intermediate.texts[i], self.intermediate[i]
            caption = texts[rng.integers(len(texts))]  # another one at each visit
            logmel = spec_augment(logmel, rng, c.time_mask, c.freq_mask)
            draws = rng.random(c.text_length)
            cells = rng.random(-(-len(logmel) // CELL)) < ratio  # (L_a,)
            rows.append((logmel, caption, draws, np.repeat(cells, CELL)[:len(logmel)]))
        logmels, captions, draws, masks = zip(*rows)
        tokens = self.tokenizer.encode(captions, c.text_length)
        return {"logmel": torch.stack(logmels), "audio_mask": torch.from_numpy(np.stack(masks)),
                "tokens_m": tokens, "text_mask_m": self.text_mask(tokens, np.stack(draws), ratio)}

    def text_mask(self, tokens, draws, ratio: float):
        """tokens (B, L_t), draws (B, L_t) uniform in [0, 1) → (B, L_t) bool.

        Each word is masked with probability `ratio`, at least one of a text, no special token."""
        special = torch.tensor([self.tokenizer.pad, self.tokenizer.cls, self.tokenizer.sep])
        draws = torch.from_numpy(draws).masked_fill(torch.isin(tokens, special), 2.0)
        return (draws < ratio) | ((draws == draws.amin(1, keepdim=True)) & (draws < 1))

    def mask_ratio(self, epoch: int) -> float:
        """Linear from mask_from in the first epoch to mask_to in the last (A.2.2)."""
        first, last = self.config.mask_from, self.config.mask_to
        epochs = -(-self.total_steps // self.steps_per_epoch)
        return first + (last - first) * min(1, epoch / max(epochs - 1, 1))

    def order(self, epoch: int) -> list:
        """The indices into each of the two domains, for every slot of the epoch's batches."""
        if self._epoch[0] != epoch:
            rng, orders = np.random.default_rng([self.config.seed, ORDER, epoch]), []
            for items, size, weights in zip((self.source, self.intermediate), self.sizes,
                                            self.sampling_weights):
                slots = size * self.steps_per_epoch
                if weights is not None:
                    orders.append(rng.choice(len(items), slots, p=weights))
                else:
                    rounds = [rng.permutation(len(items)) for _ in range(-(-slots // len(items)))]
                    orders.append(np.concatenate(rounds)[:slots])
            self._epoch = epoch, orders
        return self._epoch[1]
