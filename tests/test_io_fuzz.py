"""Damaged files, and files that are small but are large in memory: a value or an InputError."""

import io
import os
import struct
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from common.benchmarks import listed_samples
from common.benchmarks.annotations import read_ids
from common.io import InputError, overlay, read_audio
from common.scenes import Scenes
from stmnet.config import PRESETS
from stmnet.evaluate import load_predictor
from tests import fuzz, processes


@pytest.mark.slow
def test_500_damaged_files(tmp_path):
    outcomes = fuzz.fuzz(500, seed=1, keep=tmp_path / "failure")
    read, refused = (sum(x[kind] for x in outcomes.values()) for kind in ("read", "refused"))
    assert min(read, refused) > 100  # both happen, or nothing was tested


def zipped(**entries):
    """An archive as torch.save writes it, with other entries."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for name, data in {"version": b"3\n", "byteorder": b"little", **entries}.items():
            file.writestr(f"a/{name.replace('_', '.')}", data)
    return target.getvalue()


def view_of_one_number():
    return fuzz.saved({"model": torch.zeros(1).expand(2**31)})


def many_scans():
    data = fuzz.image("JPEG", np.zeros((2000, 2000, 3), np.uint8), progressive=True)
    return data[:-2] + data[data.rfind(b"\xff\xda") : -2] * 1200 + data[-2:]


def wave(rate=44100, declared=None):
    data = fuzz.encoded(soundfile.write, fuzz.WAVE, rate, format="WAV")
    return data if declared is None else data[:40] + struct.pack("<I", declared) + data[44:]


def deflated():
    return fuzz.deflated(fuzz.saved({"weight": torch.zeros(75 * 2**20)}))


def silence():
    """More samples than may be read, in a file of some kilobytes."""
    buffer, block = io.BytesIO(), np.zeros((2**17, 8), np.int16)
    with soundfile.SoundFile(buffer, "w", 48000, 8, format="FLAC") as file:
        for _ in range(66):
            file.write(block)
    return buffer.getvalue()


def png_header():
    """1 × 1 pixel, of which the header makes 60 000 × 60 000."""
    data = fuzz.image("PNG", np.zeros((1, 1, 3), np.uint8))
    head = b"IHDR" + struct.pack(">II", 60_000, 60_000) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def xml():
    text = fuzz.BOX.decode().replace("<a>1", "<a>&x;")
    return f"<!DOCTYPE a [<!ENTITY x '1'>]>{text}".encode("utf-16")


def text_without_end():
    nested = b"]" + b"2\x86" * 60  # a list, then pairs of what stands before
    head = b"\x80\x02]}(U\x08image_idK\x01U\x06ann_idK\x02U\x05splitU\x05trainU\x09sentences"
    return head + b"]}(U\x04sent" + nested + b"U\x07sent_idK\x07uaua."


BOMBS = {  # name: reader, file
    "byte array": ("pickle", lambda: b"\x80\x05\x96" + struct.pack("<Q", 3 << 30) + b"."),
    "key without end": ("pickle", lambda: b"\x80\x02})" + b"2\x86" * 45 + b"K\x01s."),
    "text without end": ("pickle", text_without_end),
    "deflated": ("checkpoint", deflated),
    "byte array of torch": (
        "checkpoint",
        lambda: zipped(data_pkl=b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."),
    ),
    "byte array of old": ("checkpoint", lambda: b"\x80\x02cbuiltins\nbytearray\nJ\0\0\0\x7f\x85R."),
    "view": ("checkpoint", view_of_one_number),
    "lists": ("json", lambda: b"[" + b"[]," * (1 << 20) + b"1]"),
    "depth": ("json", lambda: b"[" * 10**5),
    "digits": ("json", lambda: b"9" * 10**6),
    "fields": ("csv", lambda: b"f\n" + b'""\n' * (1 << 19)),
    "entities": ("xml", xml),
    "silence": ("flac", silence),
    "scans": ("progressive", many_scans),
    "png": ("png", png_header),
    "webp": ("webp", lambda: fuzz.image("WEBP", np.zeros((5700, 5700, 3), np.uint8))),
    "1 Hz": ("wav", lambda: wave(1)),
    "declared": ("wav", lambda: wave(declared=2**32 - 1)),
}


READ = """
import sys
from pathlib import Path
from common.io import files
from tests import fuzz
if sys.argv[1] in ("json", "csv"):
    files.MAX_MEMORY = 2**25  # and files of 3 MB for 80
print(fuzz.check(sys.argv[1], Path("file")))
"""


def read_alone(program, argv, folder):
    """What the program prints. It is a process of its own: in a worker of pytest the memory that
    other tests freed would be given to the reader, which then takes none that could be refused."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    out, err = processes.start(program, argv, folder, environment).communicate(100)
    assert not err
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_are_large(tmp_path, name):
    reader, make = BOMBS[name]
    (tmp_path / "file").write_bytes(make())
    outcome = read_alone(READ, [reader], tmp_path)
    assert outcome == ("read\n" if name == "declared" else "refused\n")


def test_filters_of_odd_rates_are_not_kept(tmp_path):
    start = fuzz.peak()
    for rate in range(400_001, 400_007, 2):
        (tmp_path / "a.wav").write_bytes(wave(rate))
        read_audio(tmp_path / "a.wav", 16000)
    assert fuzz.peak() - start < 300 * 2**20  # the filters of one are 120 MB


def test_the_heatmap_of_a_large_image_takes_little_memory():
    """In float64, an image of 60 megapixels took 4.5 GB."""
    image = np.zeros((6000, 500, 3), np.uint8)
    tracemalloc.start()
    overlay(image, np.ones((7, 7), np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * image.nbytes


def test_a_network_of_100_000_layers_is_not_built():
    config = replace(PRESETS["tiny"], depth_v=10**5)
    content = {"method": "stmnet", "config": asdict(config), "classes": ["a", "b"], "model": {}}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(content, Path(folder) / "a.pt")
        start = time.process_time()
        with pytest.raises(InputError, match=r"a\.pt: --depth-v must be at most 99"):
            load_predictor(Path(folder) / "a.pt", torch.device("cpu"))
    assert time.process_time() - start < fuzz.SECONDS


READ_SCORES = """
from common.io import InputError, files
from turn.sampling import read_scores
files.MAX_MEMORY = 2**25
try:
    read_scores("sampling.npz", {"source": range(2**25)})
except InputError as error:
    print(error)
"""


@pytest.mark.slow
def test_scores_of_a_run_that_are_deflated(tmp_path):
    np.savez_compressed(tmp_path / "sampling.npz", source=np.zeros(2**25))  # 268 MB
    out = read_alone(READ_SCORES, [], tmp_path)
    assert out == "sampling.npz: takes more than 32 MB of memory\n"


DIGITS = "9" * 5000
LONG_NUMBERS = {  # benchmark: its file, a row with a number of 5000 digits
    "vggsound": ("vggsound.csv", f"abcdefghijk,{DIGITS},dog,train"),
    "flickr-soundnet": ("flickr_144k.txt", f"abcdefghijk_{DIGITS}_{DIGITS}"),
    "ave-boxes": ("ave_box.json", f'{{"abc/{DIGITS}": {{"bbox": []}}}}'),
    "audioset-instrument-clips": ("train.csv", f"abc,0,{DIGITS},e,piano,0"),
    "vggss": ("vggss.json", f'[{{"file": "a", "class": "c", "bbox": [[{DIGITS},0,1,1]]}}]'),
}


@pytest.mark.parametrize("name", LONG_NUMBERS)
def test_numbers_of_5000_digits(tmp_path, name):
    file, row = LONG_NUMBERS[name]
    (tmp_path / file).write_text(f"{row}\n")
    with pytest.raises(InputError):
        listed_samples(name, tmp_path)


def test_of_a_text_beside_an_object_the_head_is_read(tmp_path):
    start = fuzz.peak()
    (tmp_path / "file").write_bytes(fuzz.READERS["object"][1])
    fuzz.cutouts(tmp_path / "file")
    with open(tmp_path / "objects" / "a.txt", "r+b") as file:
        file.truncate(2**31)
    assert len(Scenes(0, 32, 8000, 0.5, 2, str(tmp_path / "objects")).bank.names) == 4
    assert fuzz.peak() - start < 2**29


@pytest.mark.parametrize("rows", ['one,x\n"two,x\nthree,x\n', 'one\n"two\nthr"ee\nfour\n'])
def test_a_stray_quote_swallows_no_line(tmp_path, rows):
    (tmp_path / "list.csv").write_text(rows)
    with pytest.raises(InputError, match=r"list\.csv"):
        read_ids(tmp_path / "list.csv")


@pytest.mark.parametrize("name", ["a.png", "a.wav", "a.txt"])
def test_a_link_in_a_folder_of_objects_does_not_lead_out(tmp_path, capsys, name):
    (tmp_path / "file").write_bytes(fuzz.READERS["object"][1])
    fuzz.cutouts(tmp_path / "file")
    linked = (tmp_path / "objects").rename(tmp_path / "linked")  # "objects" is in a cache
    (linked / name).rename(tmp_path / "mine")
    (linked / name).symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="at least 4"):
        Scenes(0, 32, 8000, 0.5, 2, str(linked))
    assert "leaves" in capsys.readouterr().out


MANY_THREADS = """
import torch
from common.io import read_checkpoint
from common.training.run import building

torch.set_num_threads(128)
torch.save({}, "layers.pt")
with building("layers.pt"):
    layers = torch.nn.Linear(2048, 2048).state_dict()
torch.save(layers, "layers.pt")
assert set(read_checkpoint("layers.pt")) == {"weight", "bias"}
assert torch.get_num_threads() == 128
"""


def test_the_limit_of_memory_leaves_a_machine_of_many_cores_alone(tmp_path):
    """Each thread that torch starts reserves addresses, which the limit would count."""
    root = str(Path(__file__).resolve().parents[1])
    process = processes.start(MANY_THREADS, [], tmp_path, {**os.environ, "PYTHONPATH": root})
    out, err = process.communicate(60)
    assert process.returncode == 0, out + err
