"""The training of a small network on arrays in memory, for teachers, encoders and classifiers."""
import numpy as np
import torch

from .batches import cosine_schedule
from .command import progress_bar


def fit(net, loss, inputs, targets, *, steps: int, batch_size: int, lr: float, seed, name: str):
    """Train `net` in place to minimise loss(net(inputs), targets), with Adam; returns the net.

    inputs, targets: (N, …) tensors on the net's device. A step takes `batch_size` random rows of
    them. The learning rate is `lr` times a cosine with a twentieth of warm-up. seed: of the rows,
    a number or a list of them, to which the step is appended. name: what the progress bar shows.
    Raises FloatingPointError if the last loss is not finite.

    >>> net, x = torch.nn.Linear(1, 1), torch.linspace(-1, 1, 50)[:, None]
    >>> _ = fit(net, torch.nn.functional.mse_loss, x, 3 * x, steps=200, batch_size=8, lr=0.1,
    ...         seed=0, name="fitting")
    >>> round(net.weight.item(), 1)
    3.0
    """
    device = inputs.device
    optimizer = torch.optim.Adam(net.parameters(), lr, fused=True)
    for step in progress_bar(range(steps), name=name):
        rng = np.random.default_rng([*np.atleast_1d(seed), step])
        rows = torch.from_numpy(rng.integers(len(inputs), size=batch_size)).to(device)
        for group in optimizer.param_groups:
            group["lr"] = lr * cosine_schedule(step, steps, max(steps // 20, 1))
        value = loss(net(inputs[rows]), targets[rows])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
    if not torch.isfinite(value):
        raise FloatingPointError(f"{name}: the loss is {value.item()} after {steps} steps")
    return net
