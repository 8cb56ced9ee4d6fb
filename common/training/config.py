"""One frozen dataclass is the configuration of a method; the command line is derived from it: every field is a flag."""
import argparse
import dataclasses
import sys
from dataclasses import dataclass, field, fields, replace
from typing import get_args, get_origin


def flag(default, text: str, choices=None, free_on_resume: bool = False):
    """A field of a configuration: its default (the `tiny` preset's), a line of help, and what it may be.

    One that is free on resume says where a run takes place or where its data are, not what it computes: a continuation may differ in it.
    """
    return field(default=default, metadata={"help": text, "choices": choices, "free_on_resume": free_on_resume})


@dataclass(frozen=True)
class RunConfig:
    """What every method's configuration has; the methods add their own fields."""
    preset: str = flag("tiny", "the embedded default, or the paper's own configuration", ("tiny", "paper"))
    data: str = flag("scenes", "scenes (made on the fly), or the name of a benchmark or corpus under --root")
    root: str = flag("", "folder with the data set (see the README for its layout)", free_on_resume=True)
    objects: str = flag("", "folder of name.png + name.wav|ogg|flac from which scenes are composed", free_on_resume=True)
    name: str = flag("", "name of the run; default: the time", free_on_resume=True)
    out: str = flag("runs", "folder that holds the runs", free_on_resume=True)
    seed: int = flag(0, "everything random follows from it")
    epochs: int = flag(1, "passes over the training data")
    steps: int = flag(0, "stop after so many steps instead (0: not)")
    batch_size: int = flag(64, "samples a step, over all processes")
    lr: float = flag(1e-4, "(maximal) learning rate")
    workers: int = flag(0, "processes that load data", free_on_resume=True)
    device: str = flag("auto", "cpu, cuda, cuda:1, or auto", free_on_resume=True)
    amp: bool = flag(True, "bfloat16 autocast on a GPU")
    compile: bool = flag(False, "torch.compile the model", free_on_resume=True)
    resume: bool = flag(False, "continue --name (default: the newest run) from its last.pt", free_on_resume=True)
    save_every: int = flag(200, "steps between writings of last.pt; one is also written at every epoch's end", free_on_resume=True)
    skip_bad: bool = flag(False, "leave unreadable samples out, and list them, instead of stopping", free_on_resume=True)


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line and exit status 2."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options,
                         formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=130))

    def error(self, message):
        print(f"{self.prog}: error: {' '.join(message.split())} (--help lists the flags)", file=sys.stderr)
        sys.exit(2)


def parser(presets: dict, prog: str, about: str) -> Parser:
    """A flag for each field of the presets' dataclass, whose help shows the default and the paper's value."""
    parser = Parser(prog=prog, description=about)
    tiny, paper = presets["tiny"], presets["paper"]
    for f in fields(tiny):
        ours, theirs = getattr(tiny, f.name), getattr(paper, f.name)
        text = f"{f.metadata['help']} [{_show(ours)}" + (f"; paper: {_show(theirs)}]" if theirs != ours else "]")
        names = ["--" + f.name.replace("_", "-")]
        if f.type is bool:
            parser.add_argument(*names, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif get_origin(f.type) is tuple:
            parser.add_argument(*names, type=get_args(f.type)[0], nargs="*", default=None, help=text, metavar=f.name[0].upper())
        else:
            metavar = None if f.metadata["choices"] else f.type.__name__.upper()
            parser.add_argument(*names, type=f.type, choices=f.metadata["choices"], default=None, help=text, metavar=metavar)
    return parser


def fields_free_on_resume(config_class) -> set:
    """The names of the fields in which a run and its continuation may differ."""
    return {f.name for f in fields(config_class) if f.metadata["free_on_resume"]}


def given_flags(config_class, args: argparse.Namespace) -> dict:
    """The fields that stand on the command line, and nothing else."""
    values = {f.name: getattr(args, f.name) for f in fields(config_class)}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if v is not None}


def resolve(presets: dict, changes: dict):
    """The preset that `changes` names (or tiny), with the changes made. Raises ValueError where `validate` objects."""
    config = replace(presets[changes.get("preset", "tiny")], **changes)
    for f in fields(config):
        value = getattr(config, f.name)
        if f.type in (int, float) and not value >= 0:
            raise ValueError(f"--{f.name.replace('_', '-')} must not be negative (is {value})")
    if config.batch_size < 1:
        raise ValueError("--batch-size must be at least 1")
    config.validate()
    return config


def from_dict(presets: dict, values: dict):
    """The configuration that a checkpoint carries. Raises ValueError where its fields are not this method's, or make no sense."""
    cls = type(presets["tiny"])
    known = {f.name: get_origin(f.type) or f.type for f in fields(cls)}
    odd = sorted(set(values) ^ set(known))
    if odd:
        raise ValueError(f"its configuration has other fields ({', '.join(odd[:6])})")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for f in fields(cls):
        value, kind = values[f.name], known[f.name]
        if type(value) not in ((int, float) if kind is float else (kind,)) or value not in (f.metadata["choices"] or (value,)):
            raise ValueError(f"its configuration has {f.name} {value!r:.40}")
        if kind is tuple and not {type(v) for v in value} <= {get_args(f.type)[0]}:
            raise ValueError(f"its configuration has {f.name} {value!r:.40}")
    config = cls(**values)
    config.validate()
    return config


def as_dict(config) -> dict:
    return dataclasses.asdict(config)


def _show(value) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else "none"
