"""The two ResNet-18s of a checkpoint that the authors of SSLalignment released.

`model_state_dict` in the file holds the weights of imgnet.… and audnet.…. Either has three first
convolutions, of images (conv1), of audio (conv1_a) and of optical flow (conv1_flow), and a
classifier of 1000 classes; imgnet takes conv1 and audnet conv1_a, and nothing else of these is
used. There are no projections.
"""
from common.io import InputError
from common.io.checkpoint import COUNTER, read_state


def load_released(path, visual, audio) -> list:
    """Copy the weights in the file at `path` into two ResNets without classifier; returns the names
    of the entries that are not used. Raises InputError if one is missing or has another shape."""
    state = {name.removeprefix("module."): x
             for name, x in read_state(path, "model_state_dict").items()}
    used, faults = set(), []
    for prefix, net in (("imgnet", visual), ("audnet", audio)):
        weights = net.state_dict()
        for name, value in weights.items():
            theirs = f"{prefix}.{name}"
            if theirs == "audnet.conv1.weight":
                theirs = "audnet.conv1_a.weight"
            if theirs in state and state[theirs].shape == value.shape:
                weights[name] = state[theirs]
                used.add(theirs)
            elif not name.endswith(COUNTER):
                faults.append(theirs)
        net.load_state_dict(weights)
    if faults:
        rest = ", …" if len(faults) > 3 else ""
        raise InputError(path, f"not a checkpoint of SSLalignment: {len(faults)} missing or of "
                               f"another shape ({', '.join(faults[:3])}{rest})")
    return sorted(set(state) - used)
