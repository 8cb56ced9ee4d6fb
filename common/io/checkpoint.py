"""Published checkpoints → modules: strictly, and without executing anything in the file."""
import argparse
from pathlib import Path

import torch

from .files import InputError

COUNTER = "num_batches_tracked"  # of batch norm; older files and frozen batch norm have none
MAX_LISTED = 20  # keys named for each fault; the wrong file would name hundreds


def load_published(module, path, key=None, prefix=""):
    """Copy the state_dict in the file at `path` into `module`, and return the module.

    key: the entry of the file that holds the state_dict ("model" for DETR and PANNs), None if the
    file is one. prefix: what the file puts before each of the module's names; entries without it
    are ignored. Either side may lack batch norm's counters. Raises InputError if the file
    cannot be read safely, or lists the keys that are missing, extra or of another shape.
    """
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
    """The {name: tensor} in a checkpoint file, on the CPU; `key` as in load_published.

    Files of 2020 hold an argparse.Namespace, a class that only holds data: it is allowed.
    Raises InputError for anything else that is not tensors and plain data.
    """
    if not Path(path).is_file():
        raise InputError(path, "no such file")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes from outside can fail in any way
        unsafe = "Unsupported global: GLOBAL "
        if unsafe in str(error):
            name = str(error).split(unsafe)[1].split()[0]
            reason = f"refused: it needs {name}, which is more than tensors and plain data"
        else:
            reason = f"not a checkpoint that can be read safely ({str(error)[:200]})"
        raise InputError(path, reason) from error
    if key is not None:
        if not isinstance(state, dict) or key not in state:
            raise InputError(path, f"has no entry {key!r}")
        state = state[key]
    if not isinstance(state, dict):
        raise InputError(path, "holds no state_dict")
    if not all(isinstance(name, str) and torch.is_tensor(x) for name, x in state.items()):
        entries = ", ".join(map(str, list(state)[:MAX_LISTED]))
        raise InputError(path, f"holds no state_dict{f' under {key!r}' if key else ''}: {entries}")
    return {name: value.detach() for name, value in state.items()}  # some hold nn.Parameter
