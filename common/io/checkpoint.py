"""Published checkpoints → modules: strictly, and without executing anything in the file."""
import argparse
from pathlib import Path

import torch

from .files import InputError, atomic, limited_memory

MAX_BYTES = 2**32
COUNTER = "num_batches_tracked"  # of batch norm; older files and frozen batch norm have none
MAX_LISTED = 20  # keys named for each fault; the wrong file would name hundreds


def load_published(module, path, key=None, prefix=""):
    """Copy the state_dict in the file at `path` into `module`, and return the module.

    key: the entry of the file that holds the state_dict ("model" for DETR and PANNs), None if the
    file is one. prefix: what the file puts before each of the module's names; entries without it
    are ignored. Either side may lack batch norm's counters. Raises InputError if the file
    cannot be read safely, or lists the keys that are missing, extra or of another shape."""
    state = {name.removeprefix(prefix): value for name, value in read_state(path, key).items()
             if name.startswith(prefix)}
    target = module.state_dict()
    faults = {
        "missing": [name for name in target if name not in state],
        "extra": [name for name in state if name not in target],
        "misshapen": [f"{name} {tuple(state[name].shape)} for {tuple(value.shape)}"
                      for name, value in target.items()
                      if name in state and state[name].shape != value.shape]}
    reasons = []
    for fault, names in faults.items():
        if names := [name for name in names if not name.endswith(COUNTER)]:
            rest = ", …" if len(names) > MAX_LISTED else ""
            reasons.append(f"{len(names)} {fault} ({', '.join(names[:MAX_LISTED])}{rest})")
    if reasons:
        kind = type(module).__name__
        raise InputError(path, f"not the weights of this {kind}: {'; '.join(reasons)}")
    module.load_state_dict({name: state.get(name, value) for name, value in target.items()})
    return module


def read_state(path, key=None):
    """The {name: tensor} in a checkpoint, on the CPU; `key` as above. Raises InputError."""
    content = read_checkpoint(path)
    entries = content if isinstance(content, dict) else {}
    state = content if key is None else entries.get(key)
    if not (isinstance(state, dict) and all(isinstance(name, str) and torch.is_tensor(value)
                                            for name, value in state.items())):
        names = ", ".join(map(str, list(entries)[:MAX_LISTED]))
        under = f" under {key!r}" if key else ""
        raise InputError(path, f"holds no state_dict{under}: entries {names or 'none'}")
    return {name: value.detach() for name, value in state.items()}  # some hold nn.Parameter


def write_checkpoint(path, content):
    """torch.save to `path`, whole or not at all. Raises InputError, as when the disk is full."""
    try:
        with atomic(path) as file:
            torch.save(content, file)
    except RuntimeError as error:  # what torch makes of an OSError of the file
        reason = getattr(error.__context__, "strerror", None) or str(error).splitlines()[0]
        raise InputError(path, f"cannot be written: {reason}") from error


def read_checkpoint(path):
    """What torch.save wrote, on the CPU, if it is only tensors and plain data.

    Files of 2020 hold an argparse.Namespace, a class that only holds data: it is allowed.
    Raises InputError for anything else, before any of it is executed, for a file that would take
    more than twice its size and 256 MB, and for a number that is not finite."""
    if not Path(path).is_file():
        is_published = "third_party" in Path(path).parts
        raise InputError(path, "is a folder: name the file in it" if Path(path).is_dir() else
                         f"no such file{' (see `make weights`)' * is_published}")
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise InputError(path, f"{size} bytes, more than {MAX_BYTES}")
    try:
        with limited_memory(path, 2 * size + 2**28), torch.serialization.safe_globals(
                [argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
            _check_tensors(path, content, size)
            return content
    except InputError:
        raise
    except Exception as error:  # bytes from outside can fail in any way
        reason = "not a checkpoint, or damaged"
        if (unsafe := "Unsupported global: GLOBAL ") in str(error):
            name = str(error).split(unsafe)[1].split()[0]
            reason = f"refused: it needs {name}, which is more than tensors and plain data"
        raise InputError(path, reason) from error


def _check_tensors(path, content, size):
    """Raises InputError if a tensor is not finite, or all have more elements than `size` bytes."""
    entries, number = [("", content)], 0
    while entries:
        name, value = entries.pop()
        number += value.numel() if torch.is_tensor(value) else 1
        if number > size:  # a view that repeats its elements, a list in itself
            raise InputError(path, f"{name[1:]} has more values than the file can hold")
        if isinstance(value, (dict, list, tuple)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            entries += [(f"{name}.{key}"[-200:], item) for key, item in items]
        elif torch.is_tensor(value) and not value.isfinite().all():
            raise InputError(path, f"{name[1:]} has values that are not finite")
