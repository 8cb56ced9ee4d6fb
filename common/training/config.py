"""A method's configuration: a frozen dataclass of which every field is a command-line flag."""
import argparse
import sys
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import get_args, get_origin

MAX_INT, MAX_FLOAT = 2**31 - 1, 1e9


def flag(default, text: str, choices=None, free_on_resume: bool = False, low=None, high=None):
    """A field of a configuration: its value in the `tiny` preset, a line of help, its choices.

    low, high: the range of a number, or of each in a tuple; by default from 1 (int) or 0 (float).
    free_on_resume: the field says where a run takes place or where its data are, not what it
    computes. A continued run may change it."""
    metadata = {"help": text, "choices": choices, "free_on_resume": free_on_resume,
                "range": (low, high)}
    return field(default=default, metadata=metadata)


_free = partial(flag, free_on_resume=True)


@dataclass(frozen=True)
class RunConfig:
    """The fields that every method has; each method adds its own."""
    preset: str = flag("tiny", "all defaults: small for scenes, or as published", ("tiny", "paper"))
    data: str = flag("scenes", "scenes (generated), or the name of a data set")
    root: str = _free("", "folder of the data set; the heads of readers.py and corpora.py in "
                      "common/benchmarks show the layouts")
    objects: str = _free("", "folder of NAME.png + NAME.wav|ogg|flac for scenes (none: built-in)")
    name: str = _free("", "name of the run (none: date and time)")
    out: str = _free("runs", "folder of all runs; this one is OUT/METHOD/NAME")
    seed: int = flag(0, "seed of everything random", low=0, high=2**32 - 1)
    epochs: int = flag(1, "passes over the training data")
    steps: int = flag(0, "number of steps, instead of --epochs (0: use --epochs)", low=0)
    batch_size: int = flag(64, "samples a step, over all processes")
    lr: float = flag(1e-4, "highest learning rate")
    workers: int = _free(0, "processes that load data (0: the training itself)", low=0)
    device: str = _free("auto", "cpu, cuda, cuda:1, or auto: a GPU if there is one")
    amp: bool = flag(True, "compute in bfloat16 on a GPU (autocast)")
    compile: bool = _free(False, "compile the model (torch.compile)")
    resume: bool = _free(False, "continue the run --name (none: the newest) from its last.pt")
    save_every: int = _free(200, "steps between two last.pt (0: only at an epoch's end)", low=0)
    skip_bad: bool = flag(False, "skip and list unreadable samples instead of stopping")


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line and exit status 2."""

    def __init__(self, **options):
        wide = partial(argparse.HelpFormatter, max_help_position=34, width=100)
        super().__init__(allow_abbrev=False, formatter_class=wide, **options)

    def error(self, message):
        message = " ".join(message.split())
        print(f"{self.prog}: error: {message} (--help lists the flags)", file=sys.stderr)
        sys.exit(2)


def add_flags(parser, presets: dict, names=None) -> None:
    """A flag for each field of the presets' dataclass, or for those in `names`; its help shows
    tiny's and paper's value. A flag that is not given is None."""
    for f in fields(presets["tiny"]):
        if names is not None and f.name not in names:
            continue
        tiny, paper = (_show(getattr(presets[name], f.name)) for name in ("tiny", "paper"))
        value = f"[{tiny}]" if tiny == paper else f"[{tiny}; paper: {paper}]"
        options = {"default": None, "help": f"{f.metadata['help']} {value}"}
        if f.type is bool:
            options |= {"action": argparse.BooleanOptionalAction}
        elif get_origin(f.type) is tuple:
            options |= {"type": get_args(f.type)[0], "nargs": "*", "metavar": f.name[0].upper()}
        else:
            choices = f.metadata["choices"]
            metavar = None if choices else f.type.__name__.upper()
            options |= {"type": f.type, "choices": choices, "metavar": metavar}
        parser.add_argument("--" + f.name.replace("_", "-"), **options)


def _show(value) -> str:
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    return "none" if value == "" else f"{value:g}" if isinstance(value, float) else str(value)


def fields_free_on_resume(config_class) -> set:
    """The names of the fields that a continued run may change."""
    return {f.name for f in fields(config_class) if f.metadata["free_on_resume"]}


def given_flags(args: argparse.Namespace, names=None) -> dict:
    """The flags, of all or of these names, that the command line sets, and their values."""
    values = {name: x for name, x in vars(args).items() if names is None or name in names}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if v is not None}


def resolve(presets: dict, changes: dict):
    """The preset that `changes` names (or tiny), changed. Raises ValueError if a value is bad."""
    return checked(replace(presets[changes.get("preset", "tiny")], **changes))


def checked(config):
    """The configuration. Raises ValueError if a number is out of the range of its field, infinite
    or NaN, or one of its `rules`, message → whether it is met, is not met."""
    for f in fields(config):
        value, is_whole = getattr(config, f.name), int in (f.type, *get_args(f.type))
        for x in value if isinstance(value, tuple) else (value,):
            if isinstance(x, (int, float)) and f.type is not bool:
                low, high = f.metadata["range"]
                low = int(is_whole) if low is None else low
                high = high or (MAX_INT if is_whole else MAX_FLOAT)
                if not low <= x <= high:
                    what = f"at least {low}" if x < low else f"at most {high:g}"
                    raise ValueError(f"--{f.name.replace('_', '-')} must be {what} (is {x})")
    if config.name in (".", "..") or "/" in config.name or not config.name.isprintable():
        raise ValueError(f"--name {config.name!r} is not the name of a folder in --out")
    if config.root and config.data == "scenes":
        raise ValueError("--root is of files: name what they are with --data, or --preset paper")
    for message, is_met in config.rules().items():
        if not is_met:
            raise ValueError(message)
    return config


def from_dict(presets: dict, values: dict):
    """The configuration in a checkpoint. Raises ValueError if it is not one of this method."""
    cls = type(presets["tiny"])
    if odd := sorted(set(values) ^ {f.name for f in fields(cls)}):
        raise ValueError(f"its configuration has other fields ({', '.join(odd[:6])})")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for f in fields(cls):
        value, kind = values[f.name], get_origin(f.type) or f.type
        is_valid = type(value) in ((int, float) if kind is float else (kind,))
        is_valid = is_valid and value in (f.metadata["choices"] or (value,))
        if kind is tuple:
            is_valid = is_valid and {type(v) for v in value} <= {get_args(f.type)[0]}
        if not is_valid:
            raise ValueError(f"its configuration has {f.name} {value!r:.40}")
    return checked(cls(**values))


def check_settings(parser, presets: dict, args, names) -> dict:
    """The fields that the command line sets; what training would refuse is its error."""
    changes = given_flags(args, names)
    try:
        resolve(presets, changes)
    except ValueError as error:
        parser.error(str(error))
    return changes
