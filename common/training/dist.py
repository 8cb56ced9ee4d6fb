"""Several processes as one.

Every function here does nothing when there is one process. With n processes (`torchrun`), the convention is: each
process computes its *share* of the global loss (a sum over its own samples divided by the global count), and the
gradient of the global loss is the sum of the shares' gradients. So n processes on n parts of a batch and one process
on the whole batch do the same arithmetic, also when the parts have different sizes.
"""
import os

import torch
import torch.distributed as td
from torch import nn


def start(device: torch.device) -> None:
    """Join the process group that torchrun announces in the environment; without torchrun, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not td.is_initialized():
        td.init_process_group("nccl" if device.type == "cuda" else "gloo",
                              device_id=device if device.type == "cuda" else None)


def stop() -> None:
    if td.is_initialized():
        td.destroy_process_group()


def rank() -> int:
    return td.get_rank() if td.is_initialized() else 0


def world_size() -> int:
    return td.get_world_size() if td.is_initialized() else 1


def split(items: int) -> range:
    """The indices of `items` that this process takes: every world-th, so that no process has two more than another."""
    return range(rank(), items, world_size())


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.clone()
        td.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx, grad):  # every process's loss depends on every process's x
        grad = grad.clone()
        td.all_reduce(grad)
        return grad


def all_sum(x: torch.Tensor) -> torch.Tensor:
    """Sum over processes, with gradients."""
    return _Sum.apply(x) if world_size() > 1 else x


def gather_rows(x: torch.Tensor) -> torch.Tensor:
    """(n, …) of each process → (N, …), the rows of all in order of rank; the n may differ; gradients flow back."""
    if world_size() == 1:
        return x
    sizes = _sizes(x)
    # Rows of others are zero here, so the sum over processes is the concatenation, and its gradient is ours.
    parts = list(torch.zeros(sum(sizes), *x.shape[1:], dtype=x.dtype, device=x.device).split(sizes))
    parts[rank()] = x
    return all_sum(torch.cat(parts))


def first_row(x: torch.Tensor) -> int:
    """The row of `gather(x)` at which this process's rows begin."""
    return sum(_sizes(x)[:rank()]) if world_size() > 1 else 0


def _sizes(x: torch.Tensor) -> list[int]:
    sizes = torch.zeros(world_size(), dtype=torch.long, device=x.device)
    sizes[rank()] = len(x)
    td.all_reduce(sizes)
    return sizes.tolist()


def mean(values: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
    """This process's part of the mean of `values` (…), where the mask `where` is True, over all
    processes; the parts add up to the mean, and so do their gradients (`sum_gradients`).

        part = sum(values) / sum over processes of their number

    Values that every process has computed of the same gathered rows may be given by all of them:
    each then contributes 1/n of the same mean.
    """
    if where is None:
        count = torch.full((), float(values.numel()), device=values.device)
        return values.sum() / all_sum(count)
    count = all_sum(where.sum().to(values.dtype)).clamp(min=1)
    return (values * where).sum() / count


def main_process_first(make):
    """make(), in the main process before the others: it writes files that they only read."""
    made = make() if rank() == 0 else None
    gather_objects(None)
    return make() if made is None else made


def gather_objects(value) -> list:
    """The `value` of every process, in order of rank, in every process (plain data: it travels pickled among our own)."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    td.all_gather_object(values, value)
    return values


def merge_rows(own: list, count: int) -> torch.Tensor:
    """Batches of the rows of `share(count)`, of every process → the `count` rows of all in order, on the CPU, in every process."""
    parts = gather_objects(torch.cat(own).cpu() if own else None)  # a process may have none
    first = next(part for part in parts if part is not None)
    merged = first.new_empty(count, *first.shape[1:])
    for r, part in enumerate(parts):
        if part is not None:
            merged[r::len(parts)] = part
    return merged


def sum_gradients(parameters) -> None:
    """Replace every gradient by its sum over processes, in one transfer for each dtype."""
    if world_size() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    for dtype in sorted({g.dtype for g in grads}, key=str):
        group = [g for g in grads if g.dtype == dtype]
        flat = torch.cat([g.flatten() for g in group])
        td.all_reduce(flat)
        for g, summed in zip(group, flat.split([g.numel() for g in group])):
            g.copy_(summed.view_as(g))


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batch of all processes (torch's own synchronised one needs a GPU)."""

    def _check_input_dim(self, x):
        pass

    def forward(self, x):  # (B, C, …)
        if not self.training or world_size() == 1:
            return super().forward(x)
        dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))  # bfloat16 cannot count to 257
        dims = [d for d in range(x.dim()) if d != 1]
        count = all_sum(torch.tensor(float(x.numel() / x.shape[1]), device=x.device, dtype=x.dtype))
        mean = all_sum(x.sum(dims)) / count  # (C,)
        shape = [1, -1] + [1] * (x.dim() - 2)
        centred = x - mean.view(shape)
        var = all_sum(centred.square().sum(dims)) / count  # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        x = centred * torch.rsqrt(var + self.eps).view(shape)
        return (x * self.weight.view(shape) + self.bias.view(shape) if self.affine else x).to(dtype)


def sync_batchnorm(module: nn.Module) -> nn.Module:
    """Make every BatchNorm1d/2d inside `module` a synchronised one, in place: same parameters, same keys."""
    for part in module.modules():
        if type(part) in (nn.BatchNorm1d, nn.BatchNorm2d):
            part.__class__ = BatchNorm
    return module
