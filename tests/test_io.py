"""common.io: audio, JSON, CSV and lists, atomic files, paths."""

import json
import math
import os
import pickle
import re
import resource
import signal
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._utils import ExceptionWrapper

from common.io import text as text_module
from common.io import (
    InputError,
    append_jsonl,
    atomic,
    inside,
    read_audio,
    read_csv,
    read_json,
    read_lines,
    write_audio,
    write_json,
)


def tone(frequency, rate, seconds=0.5, dtype=torch.float64):
    return torch.sin(
        2 * math.pi * frequency * torch.arange(round(rate * seconds), dtype=torch.float64) / rate
    ).to(dtype)


# ---- audio files


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    "name, options, tolerance",
    [
        ("a.wav", {}, 1 / 32768),
        ("a.wav", {"subtype": "FLOAT"}, 0),
        ("a.flac", {"subtype": "PCM_24"}, 2**-23),
        ("a.ogg", {}, 0.12),
    ],
)
def test_read_audio(tmp_path, rate, channels, name, options, tolerance):
    sines = torch.stack(
        [0.3 * tone(200 + 90 * c, rate, 1, torch.float32) for c in range(channels)], 1
    )
    soundfile.write(tmp_path / name, sines.numpy(), rate, **options)
    for channel, want in (("mean", sines.mean(1)), ("left", sines[:, 0])):
        got, at = read_audio(tmp_path / name, channel=channel)
        assert at == rate and got.dtype == torch.float32 and got.shape == want.shape
        assert (got - want).abs().max() <= tolerance + 1e-7
        part, _ = read_audio(tmp_path / name, channel=channel, start=0.25, seconds=0.5)
        assert torch.allclose(
            part, got[round(rate * 0.25) : round(rate * 0.25) + round(rate * 0.5)], atol=1e-6
        )
    got, at = read_audio(tmp_path / name, 16000)
    assert at == 16000 and len(got) == 16000
    want = torch.stack(
        [0.3 * tone(200 + 90 * c, 16000, 1, torch.float32) for c in range(channels)]
    ).mean(0)
    assert (got - want)[800:-800].abs().max() < tolerance + 2e-3


def test_read_audio_at_the_end_and_beyond(tmp_path):
    write_audio(tmp_path / "a.wav", tone(100, 1000, 1), 1000)
    assert len(read_audio(tmp_path / "a.wav", start=0.9, seconds=5)[0]) == 100
    for start in (1.0, 7, -1):
        with pytest.raises(InputError, match="no audio at"):
            read_audio(tmp_path / "a.wav", start=start, seconds=1)


def test_only_the_frames_that_are_needed_are_read(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", torch.zeros(2, 300000), 16000)
    asked, read = [], soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile,
        "read",
        lambda self, n, *a, **k: asked.append(n) or read(self, n, *a, **k),
    )
    read_audio(tmp_path / "a.wav", start=2, seconds=1)
    assert sum(asked) == 16000


def test_pcm_comes_back_exactly_and_is_clipped(tmp_path):
    x = torch.arange(-32768, 32768, 7).double() / 32768
    write_audio(tmp_path / "a.wav", x, 16000)
    assert torch.equal(read_audio(tmp_path / "a.wav")[0], x.float())
    write_audio(tmp_path / "a.wav", torch.tensor([[-3.0, 3.0], [-3.0, 3.0]]), 16000)
    assert read_audio(tmp_path / "a.wav")[0].tolist() == [-1, 32767 / 32768]


def refused(path, reason, read=read_audio):
    with pytest.raises(InputError, match=reason) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and str(path) == caught.value.path


def test_files_that_are_not_audio(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is not audio\n" * 50)
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 2)), 16000)
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan, 1]), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "inf.wav", np.array([[0, 0], [0, np.inf]]), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "a.mp3", np.zeros(5000), 16000)
    os.mkfifo(tmp_path / "pipe.wav")
    refused(tmp_path / "empty.wav", "empty")
    refused(tmp_path / "text.wav", "not recognised")
    refused(tmp_path / "none.wav", "no audio")
    refused(tmp_path / "nan.wav", "finite")
    refused(tmp_path / "inf.wav", "finite")
    refused(tmp_path / "a.mp3", "MP3")
    refused(tmp_path / "absent.wav", "No such file")
    refused(tmp_path / "pipe.wav", "regular file")
    refused(tmp_path, "regular file")


@pytest.mark.parametrize(
    "options",
    [
        {"format": "WAV"},
        {"format": "WAV", "subtype": "FLOAT"},
        {"format": "AIFF"},
        {"format": "FLAC"},
        {"format": "OGG"},
        {"format": "OGG", "subtype": "OPUS"},
    ],
)
def test_truncated_audio(tmp_path, options):
    noise = 0.1 * np.random.default_rng(0).standard_normal((200000, 2))
    soundfile.write(tmp_path / "a", noise, 16000, **options)
    whole = (tmp_path / "a").read_bytes()
    assert len(read_audio(tmp_path / "a")[0]) == 200000
    page = whole.rfind(
        b"OggS"
    )  # an OGG may end between two pages; -1 for the others, the last byte is gone
    for cut in (page, len(whole) - 1, len(whole) - 1000, len(whole) // 2, len(whole) // 5, 100, 20):
        (tmp_path / "cut").write_bytes(whole[:cut])
        refused(tmp_path / "cut", ".")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_damaged_pages_do_not_shorten_a_clip(tmp_path, subtype):
    """libsndfile leaves out such pages without a word."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(200000)
    soundfile.write(tmp_path / "a", noise, 16000, format="OGG", subtype=subtype)
    whole = (tmp_path / "a").read_bytes()
    second, third = (m.start() for m in list(re.finditer(b"OggS", whole))[-3:-1])
    for damaged in (
        whole[: second + 1000] + b"\0\1" + whole[second + 1002 :],
        whole[:second] + whole[third:],
        whole[:second] + b"O" + whole[second:],
    ):
        (tmp_path / "b").write_bytes(damaged)
        refused(tmp_path / "b", "damaged before byte")


def test_a_decoder_that_stops_early(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", torch.zeros(1000), 16000)
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, n, *a, **k: np.zeros((0, 1), np.float32)
    )
    refused(tmp_path / "a.wav", "truncated: 1000 of 1000")


def test_headers_that_lie(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((1000, 2)), 16000)
    wav = (tmp_path / "a.wav").read_bytes()

    def patched(at, form, value):
        (tmp_path / "b.wav").write_bytes(
            wav[:at] + struct.pack(form, value) + wav[at + struct.calcsize(form) :]
        )
        return tmp_path / "b.wav"

    refused(patched(40, "<I", 4_000_000_000), "truncated")  # four billion bytes of audio
    assert (
        len(read_audio(patched(40, "<I", 2**32 - 1))[0]) == 1000
    )  # written into a pipe: the length was not known
    refused(patched(24, "<I", 2_000_000_000), ".")
    refused(patched(24, "<I", 0), ".")
    refused(patched(22, "<H", 60000), ".")
    soundfile.write(tmp_path / "a.wav", np.zeros((1000, 65)), 16000)
    refused(tmp_path / "a.wav", "65 channels")
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 999)
    refused(tmp_path / "a.wav", "999 Hz")
    soundfile.write(tmp_path / "a.wav", np.zeros(3_601_000), 1000)
    refused(tmp_path / "a.wav", "too many")  # more than an hour
    with pytest.raises(InputError, match="too many"):  # resampled, more than 2^26
        read_audio(tmp_path / "a.wav", 192_000, seconds=400)
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-1, 1, 5000), 44100)
    flac = bytearray((tmp_path / "a.flac").read_bytes())
    assert (
        int.from_bytes(flac[21:26], "big") & (2**36 - 1) == 5000
    )  # the number of samples in the first block
    for frames in (5_000_000, 4_000_000_000):
        flac[21:26] = (int.from_bytes(flac[21:26], "big") >> 36 << 36 | frames).to_bytes(5, "big")
        (tmp_path / "b.flac").write_bytes(flac)
        refused(tmp_path / "b.flac", ".")


def test_an_input_error_survives_a_worker():
    with pytest.raises(InputError) as caught:
        try:
            raise ValueError("the cause")
        except ValueError as cause:
            try:
                raise InputError("some: where/a.wav", "not\n a: sound") from cause
            except InputError:
                passed_on = ExceptionWrapper(
                    where="in DataLoader worker process 0"
                )  # what DataLoader does with it
        passed_on.reraise()
    assert (
        str(caught.value)
        == str(pickle.loads(pickle.dumps(caught.value)))
        == "some: where/a.wav: not a: sound"
    )


# ---- text


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
@settings(max_examples=40, deadline=None)
def test_floats_survive(values):
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder, "a.json"), {"values": values})
        got = read_json(Path(folder, "a.json"))["values"]
    assert [struct.pack("d", v) for v in got] == [struct.pack("d", v) for v in values]


def test_json_of_everything(tmp_path):
    value = {
        "nan": math.nan,
        "list": [math.inf, (1, -math.inf)],
        "np": np.float32(0.5),
        "array": np.array([1, np.nan]),
        "é": "狗\u2028",
        "tensor": torch.tensor([[1, 2]]),
        "path": Path("a/b"),
        "none": None,
        "bool": True,
        "scalar": torch.tensor(2.5),
    }
    want = {
        "nan": None,
        "list": [None, [1, None]],
        "np": 0.5,
        "array": [1.0, None],
        "é": "狗\u2028",
        "tensor": [[1, 2]],
        "path": "a/b",
        "none": None,
        "bool": True,
        "scalar": 2.5,
    }
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == want
    with open(tmp_path / "a.jsonl", "a") as file:
        append_jsonl(file, value)
        append_jsonl(file, 0.1)
        lines = (tmp_path / "a.jsonl").read_text().splitlines()  # before the file is closed
        assert [json.loads(line) for line in lines] == [want, 0.1]
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert read_json(tmp_path / "a.json") == want and sorted(os.listdir(tmp_path)) == [
        "a.json",
        "a.jsonl",
    ]


@pytest.mark.parametrize(
    "text, reason",
    [
        (b"", "empty"),
        (b"{", "Expecting"),
        (b"[1, NaN]", "NaN"),
        (b"\xff\xfe\xfa", "decode"),
        (b"[" * 200000, "Recursion"),
        (b"9" * 9999, "digits"),
        (b"[1] 2", "Extra"),
    ],
)
def test_json_that_is_none(tmp_path, text, reason):
    (tmp_path / "a.json").write_bytes(text)
    refused(tmp_path / "a.json", reason, read_json)


def test_json_of_another_kind(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    assert read_json(tmp_path / "a.json", list) == [1]
    with pytest.raises(InputError, match=r"a\.json: holds a list, not a dict"):
        read_json(tmp_path / "a.json", dict)


def test_text_is_bounded(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", "x" * 100)
    monkeypatch.setattr(text_module, "MAX_TEXT", 103)
    assert read_json(tmp_path / "a.json") == "x" * 100
    monkeypatch.setattr(text_module, "MAX_TEXT", 102)
    for read in (read_json, read_lines, read_csv):
        refused(tmp_path / "a.json", "more than 102 bytes", read)
    refused(tmp_path / "b.json", "No such file", read_json)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_atomic_leaves_the_old_file_or_the_new_one(tmp_path, error):
    path = tmp_path / "a.bin"
    with atomic(path) as file:
        file.write(b"old")
        assert not path.exists()
    with pytest.raises(error), atomic(path) as file:
        file.write(b"half of the n")
        file.flush()
        raise error
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]
    with atomic(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.bin"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask  # others may read it as they may any file


def test_atomic_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events, fsync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.fstat(fd).st_size), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("named"), rename(*paths)))
    with atomic(tmp_path / "a") as file:
        file.write(b"12345")
    assert events == [5, "named"]


def test_atomic_with_the_longest_name(tmp_path):
    write_json(tmp_path / ("n" * 250 + ".json"), 1)
    assert os.listdir(tmp_path) == ["n" * 250 + ".json"]


# ---- paths


def test_inside(tmp_path):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "root2").mkdir()
    (tmp_path / "secret").write_text("x")
    (root / "a.wav").write_text("x")
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "sub")
    (root / "loop").symlink_to(root / "loop")
    (tmp_path / "link").symlink_to(root)
    for path in ("a.wav", "sub/../a.wav", "./a.wav", "in/../a.wav", Path("a.wav")):
        assert inside(root, path) == root / "a.wav" == inside(tmp_path / "link", path)
    assert inside(root, "not/there.wav") == root / "not/there.wav"
    for path in (
        "../secret",
        "../root2/x",
        "sub/../../secret",
        "/etc/passwd",
        str(root / "a.wav"),
        "out/secret",
        "out",
        "a\0b",
        "in/../../secret",
    ):
        with pytest.raises(InputError):
            inside(root, path)
    with pytest.raises(InputError):
        inside(root, "loop/../../secret")


def test_links_in_a_trusted_folder_lead_out(tmp_path):
    """Data on another disk behind a link is a common set-up; names in files still stay inside."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.jpg").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "frames").symlink_to(tmp_path / "disk")
    path = inside(tmp_path / "root", "frames/a.jpg", is_trusted=True)
    assert path == tmp_path / "root" / "frames" / "a.jpg" and path.is_file()
    for name in ("../disk/a.jpg", "/etc/passwd", "frames/../../disk/a.jpg"):
        with pytest.raises(InputError):
            inside(tmp_path / "root", name, is_trusted=True)
    with pytest.raises(InputError):
        inside(tmp_path / "root", "frames/a.jpg")


def test_csv(tmp_path):
    path = tmp_path / "list.csv"

    def rows(text):
        path.write_bytes(text.encode())
        return read_csv(path, ["audio"])

    assert rows('\ufeffid,audio\r\n1,a.wav\r\n2,"b, b.wav"\r\n') == [
        {"id": "1", "audio": "a.wav"},
        {"id": "2", "audio": "b, b.wav"},
    ]
    assert rows("id,audio\n") == []
    for text, reason in (
        ("id,sound\n1,x\n", "list.csv: no column audio"),
        ("id,audio\n1\n", "line 2: not 2"),
        ("id,audio\n1,a.wav\n2,a.wav,x\n", "line 3: not 2"),
        ('id,audio\n1,"a', "line 2: unexpected end"),
        ('id,audio\n1,"a.wav\n2,"b.wav\n', "line 3: ',' expected"),
        ('id,audio\n1,"a.wav\n2,b"\n', "line 3: a quote spans"),
        ("", "empty"),
    ):
        with pytest.raises(InputError, match=reason):
            rows(text)
    with pytest.raises(InputError, match="No such file"):
        read_csv(tmp_path / "absent.csv")


def test_audio_on_a_full_disk(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_audio(tmp_path / "a.wav", torch.zeros(9000), 8000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


def test_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\n  two é \rthree\u2028\x85more\n".encode())
    assert read_lines(tmp_path / "a.txt") == ["one", "two é", "three\u2028\x85more"]
    (tmp_path / "a.txt").write_bytes(b"")
    refused(tmp_path / "a.txt", "empty file", read_lines)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xfa")
    refused(tmp_path / "a.txt", "decode", read_lines)
    refused(tmp_path / "b.txt", "No such file", read_lines)
