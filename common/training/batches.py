"""How the batches of a training are numbered and read: a step's batch is a function of its number."""
import torch
from torch.utils.data import DataLoader


def step_loader(batches, start: int, end: int, workers: int = 0) -> DataLoader:
    """The batches of the steps from `start` to `end`, where batches[s] is the batch of step s, read
    by `workers` processes. Nothing is drawn from torch's own generator."""
    return DataLoader(batches, None, sampler=range(start, end), num_workers=workers,
                      generator=torch.Generator(), pin_memory=torch.cuda.is_available(),
                      prefetch_factor=4 if workers else None)
