"""Several processes as one: n processes compute what one process would on the whole batch.

Each process holds some rows of the batch; their numbers may differ.

- `gather_rows(x)`: the rows of all processes, for a loss that compares each row with all others.
- `mean(values)`: this process's part of the mean over the values of all processes. Each process
  calls backward() on its part.
- `sum_gradients` adds up the gradients of the parts, which gives the gradient of the mean.

If every process computes a loss of all gathered rows, `mean` gets each value n times and counts it
1/n each time. Without `torchrun` there is one process: these functions return what they are given.
"""
import os

import torch
import torch.distributed as td
import torch.distributed.nn.functional  # imported later, its defaults would keep the group
from torch import nn
from torch.distributed.rendezvous import rendezvous

from common.io import InputError


def select_device(name: str) -> torch.device:
    """The device that --device names; each process of torchrun has its own. Raises InputError."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    devices = ["cpu", *(f"cuda:{i}" for i in range(gpus))]
    if name not in devices:
        raise InputError("--device", f"{name!r} is not one of {', '.join(devices)}")
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return device


def start(device: torch.device) -> None:
    """Join the processes that torchrun announces in the environment; without torchrun, nothing.

    Raises InputError if the environment announces only a part of what is needed."""
    if os.environ.get("WORLD_SIZE", "1") == "1" or td.is_initialized():
        return
    try:
        store, rank, size = next(rendezvous("env://"))
    except ValueError as error:
        raise InputError("WORLD_SIZE, RANK, MASTER_PORT", error) from None
    # torchrun keeps its store when it restarts processes: the addresses of the dead are in it.
    store = td.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    is_cuda = device.type == "cuda"
    td.init_process_group("cpu:gloo,cuda:nccl" if is_cuda else "gloo", store=store, rank=rank,
                          world_size=size, device_id=device if is_cuda else None)


def stop() -> None:
    if td.is_initialized():
        td.destroy_process_group()


def launch() -> str:
    """A name of the call of torchrun that this process belongs to; restarts have the same."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return f"{name} {os.getppid()}" if name == "none" else name


def rank() -> int:
    return td.get_rank() if td.is_initialized() else 0


def world_size() -> int:
    return td.get_world_size() if td.is_initialized() else 1


def split(items: int) -> range:
    """This process's part of the indices of `items`: every world_size-th, from its rank on."""
    return range(rank(), items, world_size())


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.clone()
        td.all_reduce(y)
        return y

    @staticmethod
    def backward(ctx, grad):  # the losses of all processes depend on this x
        grad = grad.clone()
        td.all_reduce(grad)
        return grad


def all_sum(x: torch.Tensor) -> torch.Tensor:
    """The sum over processes, with gradients."""
    return _Sum.apply(x) if world_size() > 1 else x


def gather_rows(x: torch.Tensor) -> torch.Tensor:
    """(n, …) of each process → (N, …), all rows in order of rank, with gradients; n may differ."""
    if world_size() == 1:
        return x
    sizes = torch.zeros(world_size(), dtype=torch.long, device=x.device)
    sizes[rank()] = len(x)
    td.all_reduce(sizes)
    parts = [x.new_zeros(size, *x.shape[1:]) for size in sizes.tolist()]
    parts[rank()] = x
    return all_sum(torch.cat(parts))  # all other rows are 0 here


def mean(values: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
    """This process's part of the mean of `values` (…) where the mask `where` is True, a scalar.

        part = Σ values / Σ over processes of their number,  mean = Σ over processes of part
    """
    if where is not None:
        values = values * where
    count = torch.tensor(values.numel()) if where is None else where.sum()
    count = all_sum(count.to(values.device, torch.float32))
    return values.sum() / count.clamp(min=1)


def sum_gradients(parameters) -> None:
    """Replace every gradient by its sum over processes, in one transfer."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if world_size() == 1 or not grads:
        return
    flat = torch.cat([g.flatten() for g in grads])
    td.all_reduce(flat)
    for g, summed in zip(grads, flat.split([g.numel() for g in grads])):
        g.copy_(summed.view_as(g))


def main_process_first(make):
    """make() in the main process, then in the others, which find the files that it wrote."""
    made = make() if rank() == 0 else None
    gather_objects(None)
    return made if rank() == 0 else make()


def from_main(make):
    """The value of make() in the main process, or the InputError that it raises, in all."""
    value = None
    if rank() == 0:
        try:
            value = make()
        except (InputError, OSError) as error:
            value = error
    value = gather_objects(value)[0]
    if isinstance(value, Exception):
        raise value
    return value


def is_any(value: bool) -> bool:
    """Whether `value` is true in a process. It sends one number between the CPUs."""
    return bool(all_sum(torch.tensor(int(value))))


def gather_objects(value) -> list:
    """The `value` of every process, in order of rank, in every process. It travels pickled."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    td.all_gather_object(values, value)
    return values


def merge_rows(batches: list, count: int) -> torch.Tensor:
    """Batches of the rows of `split(count)` → the `count` rows of all processes, on the CPU."""
    parts = gather_objects(torch.cat(batches).cpu() if batches else None)  # None: without rows
    first = next(part for part in parts if part is not None)
    merged = first.new_empty(count, *first.shape[1:])
    for r, part in enumerate(parts):
        if part is not None:
            merged[r::len(parts)] = part
    return merged


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batch of all processes (torch's own needs a GPU for that)."""

    def _check_input_dim(self, x):
        pass

    def forward(self, x):  # (B, C, …)
        if not self.training or world_size() == 1:
            return super().forward(x)
        dtype = x.dtype
        x = x.to(torch.promote_types(dtype, torch.float32))  # bfloat16 cannot count to 257
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = all_sum(torch.tensor(x.numel() / x.shape[1], device=x.device, dtype=x.dtype))
        mean = all_sum(x.sum(dims)) / count  # (C,)
        centred = x - mean.view(shape)
        var = all_sum(centred.square().sum(dims)) / count  # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        x = centred * torch.rsqrt(var + self.eps).view(shape)
        return (x * self.weight.view(shape) + self.bias.view(shape) if self.affine else x).to(dtype)


def sync_batchnorm(module: nn.Module) -> nn.Module:
    """Turn each BatchNorm1d/2d in `module` into the one above, in place, with the same keys."""
    for part in module.modules():
        if type(part) in (nn.BatchNorm1d, nn.BatchNorm2d):
            part.__class__ = BatchNorm
    return module
