"""What each step of a training needs: its batch, its learning rate, its precision."""
import math
import time

import torch
from torch.utils.data import DataLoader

from common.io import InputError

from . import dist
from .command import progress_bar


def check_batch_size(batch_size: int, count: int, what: str, flag="--batch-size") -> None:
    """Raises InputError if a batch is larger than the data or smaller than the processes.

    count: the number of samples; what: what they are, in the plural ("pairs")."""
    if batch_size > count:
        raise InputError(flag, f"{batch_size} {what} a step are more than all {count}")
    if batch_size < dist.world_size():
        raise InputError(flag, f"{batch_size} {what} a step are too few for "
                         f"{dist.world_size()} processes")


def step_loader(batches, start: int, end: int, workers: int = 0) -> DataLoader:
    """The batches of the steps from `start` to `end`, read by `workers` processes.

    batches[s] is the batch of step s, a function of s. torch's own generator is not used."""
    return DataLoader(batches, None, sampler=range(start, end), num_workers=workers,
                      generator=torch.Generator(), pin_memory=torch.cuda.is_available(),
                      prefetch_factor=4 if workers else None)


def training_steps(run, batches):
    """Yields the batches of the steps that are left, on the run's device, with a progress bar.

    Notes the time at which each is there, from which `Run.log` tells data_s and step_s."""
    with progress_bar(total=batches.total_steps, name="training", initial=run.step) as bar:
        run.logged = time.perf_counter()
        for batch in step_loader(batches, run.step, batches.total_steps, run.config.workers):
            run.fetched = time.perf_counter()
            bar.update()
            yield {k: v.to(run.device, non_blocking=True) for k, v in batch.items()}


def cosine_schedule(step: int, total: int, warmup: int) -> float:
    """The factor of the highest learning rate: linear warm-up, then half a cosine to zero.

    >>> [round(cosine_schedule(step, total=8, warmup=2), 3) for step in range(9)]
    [0.5, 1.0, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def autocast(run):
    """bfloat16 on a GPU with --amp, else float32. bfloat16 has float32's range: no loss scaling."""
    is_enabled = run.config.amp and run.device.type == "cuda"
    return torch.autocast(run.device.type, torch.bfloat16, enabled=is_enabled)
