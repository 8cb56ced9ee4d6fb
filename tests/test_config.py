"""The command line: every field a flag, every mistake one line."""

import contextlib
import io
import json
from dataclasses import asdict, dataclass, fields, replace

import pytest
from hypothesis import given as draws
from hypothesis import settings
from hypothesis import strategies as st

from common.training import (
    Parser,
    RunConfig,
    add_flags,
    fields_free_on_resume,
    flag,
    from_dict,
    given_flags,
    resolve,
)
from avkd.config import PRESETS as AVKD
from sslalign.config import PRESETS as SSLALIGN
from stmnet.config import PRESETS as STMNET
from turn.config import PRESETS as TURN


@dataclass(frozen=True)
class Config(RunConfig):
    tau: float = flag(0.07, "temperature")
    widths: tuple[int, ...] = flag((8, 16), "channels of the stages")
    kind: str = flag("mean", "what is taken", ("mean", "max"))
    augment: bool = flag(True, "change the images")

    def rules(self) -> dict:
        return {"--tau must be positive": self.tau > 0}


PRESETS = {
    "tiny": Config(),
    "paper": Config(preset="paper", tau=0.03, widths=(64, 128), epochs=100, augment=False),
}
ARGS = Parser(prog="python -m method.train", description="Train it.")
add_flags(ARGS, PRESETS)


def parse(*argv):
    return resolve(PRESETS, given_flags(ARGS.parse_args(argv)))


def fails(capsys, *argv, of=ARGS):
    with pytest.raises(SystemExit) as error:
        of.parse_args(argv)
    out, err = capsys.readouterr()
    assert (
        error.value.code == 2
        and not out
        and err.count("\n") == 1
        and err.startswith(f"{of.prog}: error: ")
    )
    return err


def test_no_flags_is_the_tiny_preset():
    assert parse() == PRESETS["tiny"] and parse("--preset", "paper") == PRESETS["paper"]


def test_flags_change_their_field_and_no_other():
    config = parse(
        "--preset",
        "paper",
        "--tau",
        "0.5",
        "--batch-size=7",
        "--no-amp",
        "--augment",
        "--kind=max",
        "--name",
        "a b",
    )
    assert config == replace(
        PRESETS["paper"], tau=0.5, batch_size=7, amp=False, augment=True, kind="max", name="a b"
    )
    assert type(config.tau) is float and type(config.batch_size) is int
    assert type(parse("--tau", "1").tau) is float


def test_tuples():
    assert parse("--widths", "1", "2", "3").widths == (1, 2, 3)
    assert parse("--widths").widths == () and parse().widths == (8, 16)


@pytest.mark.parametrize(
    "argv, word",
    [
        (["--colour", "red"], "--colour"),
        (["extra"], "extra"),
        (["--epochs", "many"], "epochs"),
        (["--epochs", "1.5"], "epochs"),
        (["--tau", "x"], "tau"),
        (["--kind", "median"], "median"),
        (["--preset", "huge"], "huge"),
        (["--widths", "a"], "widths"),
        (["--epochs"], "epochs"),
        (["--no-seed"], "--no-seed"),
        (["--amp", "yes"], "yes"),
        (["--batch", "3"], "--batch"),
        (["--kind", "two\nlines"], "two"),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys, argv, word):
    assert word in fails(capsys, *argv)


@pytest.mark.parametrize(
    "argv, flag",
    [
        (["--epochs", "-1"], "--epochs"),
        (["--lr=-0.1"], "--lr"),
        (["--lr", "nan"], "--lr"),
        (["--save-every", "-2"], "--save-every"),
        (["--batch-size", "0"], "--batch-size"),
        (["--tau", "0"], "--tau"),
        (["--tau", "inf"], "--tau"),
        (["--lr", "1e20"], "--lr must be at most 1e"),
        (["--seed", str(2**64)], "--seed must be at most 4"),
        (["--epochs", str(10**20)], "--epochs must be at most 2"),
        (["--widths", "3", "-1"], "--widths must be at least 1"),
        (["--name", "../../x"], "--name '../../x' is not the name of a folder"),
        (["--name", ".."], "--name"),
        (["--name", "/tmp"], "--name"),
    ],
)
def test_values_that_cannot_be(argv, flag):
    with pytest.raises(ValueError, match=flag):
        parse(*argv)


@pytest.mark.parametrize(
    "presets",
    [PRESETS, TURN, SSLALIGN, AVKD, STMNET],
    ids=["made up", "turn", "sslalign", "avkd", "stmnet"],
)
def test_help_shows_every_flag_with_its_default_and_the_papers_value(presets):
    out, parser = io.StringIO(), Parser(prog="prog", description="About.")
    add_flags(parser, presets)
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as error:
        parser.parse_args(["--help"])
    assert error.value.code == 0
    text = "".join(out.getvalue().split())  # however it was wrapped
    for f in fields(presets["tiny"]):
        name, ours, theirs = (
            f"--{f.name.replace('_', '-')}",
            getattr(presets["tiny"], f.name),
            getattr(presets["paper"], f.name),
        )
        assert name in text
        if f.type in (int, float):
            values = [
                f"{value:g}" if f.type is float else str(value)
                for value in dict.fromkeys((ours, theirs))
            ]
            assert "".join(f"{f.metadata['help']} [{'; paper: '.join(values)}]".split()) in text
    if presets is PRESETS:
        assert (
            "temperature[0.07;paper:0.03]" in text
            and "[816;paper:64128]" in text
            and "[True;paper:False]" in text
        )
        assert "whatistaken[mean]" in text


def configs():
    """Any configuration that can be."""
    text = st.text(max_size=8).filter(lambda x: x != "--")  # argparse takes it for an end
    number = st.floats(0, 1e9)
    return st.builds(
        Config,
        seed=st.integers(0, 2**32 - 1),
        lr=number,
        name=st.text("ab é_.", max_size=8).filter(lambda name: name not in (".", "..")),
        data=text,
        amp=st.booleans(),
        tau=st.floats(1e-9, 1),
        widths=st.lists(st.integers(1, 2**31 - 1), max_size=4).map(tuple),
        kind=st.sampled_from(["mean", "max"]),
    )


@settings(max_examples=60, deadline=None)
@draws(configs())
def test_round_trips(config):
    assert from_dict(PRESETS, asdict(config)) == config
    assert (
        from_dict(PRESETS, json.loads(json.dumps(asdict(config)))) == config
    )  # where tuples are lists


@settings(max_examples=60, deadline=None)
@draws(configs())
def test_the_command_line_says_every_configuration(config):
    argv = []
    for f in fields(config):
        value, name = getattr(config, f.name), f.name.replace("_", "-")
        if f.type is bool:
            argv.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, tuple):
            argv += [f"--{name}", *map(str, value)]
        else:
            argv.append(f"--{name}={value}")
    assert parse(*argv) == config


@pytest.mark.parametrize(
    "presets",
    [PRESETS, TURN, SSLALIGN, AVKD, STMNET],
    ids=["made up", "turn", "sslalign", "avkd", "stmnet"],
)
def test_presets_are_valid_and_survive(presets):
    for name, config in presets.items():
        assert config.preset == name and from_dict(presets, asdict(config)) == config == resolve(
            presets, {"preset": name}
        )
        for f in fields(config):
            assert f.metadata["help"] and "\n" not in f.metadata["help"]
            choices = f.metadata["choices"]
            assert not choices or getattr(config, f.name) in choices
    assert (
        {"name", "out", "root", "workers", "device", "resume"}
        <= fields_free_on_resume(type(presets["tiny"]))
        <= {f.name for f in fields(presets["tiny"])}
        - {"seed", "lr", "batch_size", "epochs", "steps", "data"}
    )


@pytest.mark.parametrize(
    "change",
    [
        {"tau": "0.1"},
        {"epochs": 1.5},
        {"epochs": True},
        {"amp": 1},
        {"widths": 3},
        {"widths": ["8"]},
        {"name": None},
        {"tau": 0.0},
        {"kind": "median"},
        {"surprise": 1},
        {"seed": 2**64},
        {"widths": [-1]},
    ],
)
def test_a_configuration_from_outside_is_checked(change):
    with pytest.raises(ValueError):
        from_dict(PRESETS, {**asdict(PRESETS["tiny"]), **change})
    values = asdict(PRESETS["tiny"])
    del values["tau"]
    with pytest.raises(ValueError, match="tau"):
        from_dict(PRESETS, values)


def test_a_configuration_does_not_change():
    with pytest.raises(AttributeError):
        PRESETS["tiny"].tau = 1
