"""Published checkpoints into modules: strictly, and without executing anything that is in the file."""
import argparse
from pathlib import Path

import torch

from .files import InputError

LISTED = 20  # keys named for each fault; the wrong file altogether would name hundreds


def load_published(module, path, key=None, prefix="", optional=("num_batches_tracked",)):
    """Copy the state_dict in the file at `path` into `module`, on the module's device, and return the module.

    key: the entry of the file that holds the state_dict ("model" for DETR and PANNs), None when the file is one.
    prefix: what the file puts before every one of the module's names; entries without it belong to something else.
    optional: last parts of names that may be missing from the file or be more than the module has; batch norm's
    counters, which older files lack and frozen batch norm does not keep.
    Raises InputError when the file cannot be read safely, or a key is missing, extra or of another shape (all listed).
    """
    state = read_state(path, key)
    state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    own = module.state_dict()
    missing = [name for name in own if name not in state and name.rsplit(".", 1)[-1] not in optional]
    extra = [name for name in state if name not in own and name.rsplit(".", 1)[-1] not in optional]
    misshapen = [f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
                 for name in own if name in state and state[name].shape != own[name].shape]
    faults = [f"{len(names)} {fault} ({', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''})"
              for fault, names in (("missing", missing), ("extra", extra), ("misshapen", misshapen)) if names]
    if faults:
        raise InputError(path, f"not the weights of this {type(module).__name__}: " + "; ".join(faults))
    module.load_state_dict({name: state.get(name, value) for name, value in own.items()})
    return module


def read_state(path, key=None):
    """The {name: tensor} in a checkpoint file, on the CPU; `key` as in load_published. Raises InputError.

    Files of 2020 keep their command line as an argparse.Namespace: that one class, which holds data and runs nothing,
    is admitted. Anything else that is not tensors and plain data is refused.
    """
    if not Path(path).is_file():
        raise InputError(path, "no such file")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes from outside can fail in any way: the reason is kept, on one line
        unsafe = "Unsupported global: GLOBAL "
        if unsafe in str(error):
            name = str(error).split(unsafe)[1].split()[0]
            raise InputError(path, f"refused: it needs {name}, which is more than tensors and plain data") from error
        raise InputError(path, f"not a checkpoint that can be read safely ({str(error)[:200]})") from error
    if key is not None:
        if not isinstance(state, dict) or key not in state:
            raise InputError(path, f"has no entry {key!r}")
        state = state[key]
    if not isinstance(state, dict) or not all(isinstance(k, str) and torch.is_tensor(v) for k, v in state.items()):
        entries = f": entries {', '.join(map(str, list(state)[:LISTED]))}" if isinstance(state, dict) else ""
        raise InputError(path, f"holds no state_dict{f' under {key!r}' if key else ''}{entries}")
    return {name: value.detach() for name, value in state.items()}  # some files hold nn.Parameter
