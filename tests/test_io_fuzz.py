"""Thousands of damaged files: each gives a value of a bounded size or an InputError."""

import io
import json
import warnings

import numpy as np
import pytest
import soundfile
from PIL import Image

from common.io import InputError, read_audio, read_csv, read_image, read_json
from common.io.audio import MAX_FRAMES, MAX_RATE
from common.io.image import MAX_PIXELS


def mutations(data, count, rng):
    """Bytes changed, runs removed, repeated or zeroed, ends cut off; most near the header."""
    for _ in range(count):
        b = bytearray(data)
        for _ in range(rng.integers(1, 5)):
            at = int(len(b) * rng.random() ** 3)
            run = int(rng.integers(1, 9))
            kind = rng.integers(6)
            if kind < 2:
                b[at : at + 1] = rng.bytes(1)
            elif kind == 2:
                b[at : at + run] = rng.choice([b"\0", b"\xff", b"\x7f"]) * run
            elif kind == 3:
                del b[at : at + run]
            elif kind == 4:
                b[at:at] = b[at : at + run]
            else:
                del b[len(b) - at :]
        yield bytes(b)


def encoded(write, *arguments, **options):
    buffer = io.BytesIO()
    write(buffer, *arguments, **options)
    return buffer.getvalue()


WAVE = 0.5 * np.random.default_rng(0).uniform(-1, 1, (600, 2))
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 4), dtype=np.uint8)
SEEDS = {
    "wav": (read_audio, encoded(soundfile.write, WAVE, 16000, format="WAV")),
    "flac": (read_audio, encoded(soundfile.write, WAVE, 16000, format="FLAC")),
    "ogg": (read_audio, encoded(soundfile.write, WAVE, 16000, format="OGG")),
    "png": (read_image, encoded(lambda f: Image.fromarray(PIXELS).save(f, "PNG"))),
    "jpeg": (read_image, encoded(lambda f: Image.fromarray(PIXELS[..., :3]).save(f, "JPEG"))),
    "gif": (read_image, encoded(lambda f: Image.fromarray(PIXELS[..., 0]).save(f, "GIF"))),
    "tiff": (
        read_image,
        encoded(lambda f: Image.fromarray(PIXELS).save(f, "TIFF", compression="tiff_lzw")),
    ),
    "json": (read_json, json.dumps({"a": [1.5, None, "é"], "b": {"c": True}}).encode()),
    "csv": (lambda path: read_csv(path, ["f"]), b'f,g\nfile,"1, 2"\nfile,3\n'),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SEEDS)
def test_mutated_files_give_a_bounded_value_or_an_input_error(tmp_path, kind):
    read, data = SEEDS[kind]
    path, outcomes = tmp_path / "file", {"value": 0, "error": 0}
    for mutant in mutations(data, 500, np.random.default_rng(1)):
        path.write_bytes(mutant)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = read(path)
            outcomes["value"] += 1
        except InputError as error:
            assert str(error).count("\n") == 0
            outcomes["error"] += 1
        else:
            if read is read_audio:
                assert (
                    0 < len(value[0]) <= MAX_FRAMES
                    and value[0].isfinite().all()
                    and 1 <= value[1] <= MAX_RATE
                )
            elif read is read_image:
                assert (
                    value.dtype == np.uint8 and value.ndim == 3 and 0 < value.size <= 3 * MAX_PIXELS
                )
    assert min(outcomes.values()), outcomes  # both happen, or nothing was tested
