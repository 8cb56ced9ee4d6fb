"""Flags that are out of range or do not fit together, in every command that has them: status 2
and one line."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest

from avkd.config import PRESETS
from avkd.repeats import train_repeatedly
from common.evaluation import serve
from common.io import InputError
from common.training import cli

METHODS = ("turn", "sslalign", "avkd", "stmnet")
LONG = "9" * 5000
CASES = [
    *(f"{method}.train --seed {2**64}" for method in METHODS),
    *(f"{method}.train --seed {LONG}" for method in METHODS),
    *(f"{method}.train --seconds {x}" for method in METHODS[:3] for x in ("inf", "nan")),
    *(f"{method}.train --lr {x}" for method in METHODS for x in ("inf", "1e20", LONG)),
    *(f"{method}.ablate --seeds 0" for method in METHODS),
    *(f"stmnet.{x} --nms 9" for x in ("train", "evaluate", "localize --video x")),
    *(f"stmnet.{x} --memory-seconds 1e20" for x in ("train", "evaluate", "localize --video x")),
    *(f"turn.train --{part}-layers {10**5}" for part in ("text", "audio", "decoder", "visual")),
    *(f"{method}.train --blocks {10**5} 1 1" for method in METHODS[1:]),
    *(f"stmnet.train --depth-{x} {10**5}" for x in "va"),
    "turn.train --n-fft 0",
    "turn.train --dim 0",
    "sslalign.train --window 1",
    "avkd.train --window 1",
    "avkd.evaluate --detr-size 0",
    "avkd.evaluate --og-weights inf 1",
    "avkd.localize --og-weights nan 1 --image x --audio y",
    f"avkd.teachers --seed {2**64}",
    "sslalign.is3 compose --out o --seconds inf",
    f"sslalign.is3 compose --out o --seed {2**64}",
    "sslalign.is3 compose --out o --size 0",
    "sslalign.neighbors d --batch-size 0",
    "stmnet.localize --video x --fps inf",
    f"common.benchmarks.prepare check vggss . --jobs {LONG}",
    "common.benchmarks.prepare prepare vggss . . --rate 0",
    *(f"{method}.train --root x" for method in METHODS),  # files without --data
    *(f"{method}.evaluate --{x} y" for method in METHODS for x in ("root", "ids")),
    "avkd.evaluate --data vggss --objects x",
    "stmnet.evaluate --compare a.pt",  # without sheets on which to show it
    "stmnet.evaluate --data ave-stm --root . --noisy 0.5",  # of scenes
    *(f"{method}.train --batch-size 1" for method in METHODS[:3]),  # nothing to contrast
    "sslalign.train --data flickr-soundnet --root x --neighbours encoders",
    "sslalign.localize --image a --audio b --data vggss",
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[:60])
def test_out_of_range(case, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    module, *flags = case.split()
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main(flags)
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and not out and err.count("\n") == 1, err
    assert [x for x in flags if x.startswith("--")][-1] in err or "--og-weights" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("port", [-5, 10**8])
def test_a_port_that_is_none(port, capsys):
    with pytest.raises(SystemExit) as ended, cli("prog"):
        serve(SimpleNamespace(method="turn"), port)
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.count("\n") == 1 and "port" in err


@pytest.mark.parametrize("file", ["config.json", "metrics.json"])
@pytest.mark.parametrize("text", ["[1]", "null", "{", "9" * 5000])
def test_odd_json_of_an_earlier_run_of_avkds_repeats(tmp_path, file, text):
    (tmp_path / "avkd" / "r-0").mkdir(parents=True)
    (tmp_path / "avkd" / "r-0" / file).write_text(text)
    with pytest.raises(InputError, match=file):
        train_repeatedly(None, replace(PRESETS["tiny"], out=str(tmp_path), name="r"))
