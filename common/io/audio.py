"""Audio files in and out."""
import io
import os
import re
import zlib

import numpy as np
import soundfile
import torch

from .files import InputError, atomic, decoding, to_numpy
from .resample import resample

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "AIFF")
MAX_CHANNELS, MIN_RATE, MAX_RATE = 64, 1000, 768_000
MAX_SECONDS, MAX_SAMPLES = 3600, 2**26  # of one read: in all channels, or resampled
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # the bits of a byte


def read_audio(path, sample_rate=None, channel="mean", start=0.0, seconds=None):
    """Decode a WAV, FLAC, OGG or AIFF file: (waveform (n,) float32, rate in Hz).

    channel: "mean" of all, or "left", the first. start, seconds: the part to read, in seconds; it
    is shorter if the file ends earlier. sample_rate: resample to it; None keeps the file's rate.
    Raises InputError if the file has another format, is cut short, is larger than the bounds
    above, has no sample at `start`, or has samples that are not finite."""
    if channel not in ("mean", "left"):
        raise ValueError(f"channel is 'mean' or 'left', not {channel!r}")
    with decoding(path), soundfile.SoundFile(os.fspath(path)) as file:
        rate = file.samplerate
        _check_header(path, file)
        first = round(start * rate)
        rest = file.frames - first
        count = rest if seconds is None else min(rest, round(seconds * rate))
        if first < 0 or count < 1:
            raise InputError(path, f"no audio at {start} s: {file.frames} frames at {rate} Hz")
        largest = count * max(file.channels, (sample_rate or 0) / rate)
        if count > MAX_SECONDS * rate or largest > MAX_SAMPLES:
            raise InputError(path, f"{count} frames at {rate} Hz are too many")
        file.seek(first)
        frames = file.read(count, "float32", always_2d=True)  # (n, channels)
    if len(frames) < count:
        raise InputError(path, f"truncated: {count - len(frames)} of {count} frames are missing")
    waveform = torch.from_numpy(frames.mean(1) if channel == "mean" else frames[:, 0].copy())
    if not waveform.isfinite().all():
        raise InputError(path, "samples are not finite")
    if sample_rate is None:
        return waveform, rate
    return resample(waveform, rate, sample_rate), sample_rate


def _check_header(path, file):
    if file.format not in FORMATS:
        raise InputError(path, f"{file.format} is not supported: convert it to WAV, FLAC or OGG")
    is_in_range = MIN_RATE <= file.samplerate <= MAX_RATE
    if not (is_in_range and 1 <= file.channels <= MAX_CHANNELS):
        raise InputError(path, f"{file.channels} channels at {file.samplerate} Hz: out of bounds")
    if _is_truncated(path, file):
        raise InputError(path, "truncated: the header declares more audio than the file holds")


def _is_truncated(path, file):
    """Whether the file ends before its header says, which libsndfile does not report."""
    if file.format == "OGG":
        return _check_pages(path)
    sizes = re.search(r"(?:data|SSND) *: (\d+) \(should be (\d+)\)", file.extra_info)
    # A program that writes into a pipe cannot know the length and declares 2^32 - 1 bytes.
    return sizes is not None and int(sizes[2]) < int(sizes[1]) < 2**32 - 1


def _check_pages(path):
    """Whether the last page of an OGG file is missing. Raises InputError for a page that is damaged
    or left out: the decoder passes over it without a word, and the clip is shorter.

    A page: "OggS", …, [5] flags (4: the last), …, [14:18] stream, [18:22] number, [22:26] checksum,
    [26] number of lengths of segments, lengths, segments. The checksum is the CRC-32 of zlib on
    reversed bits, from 0 on."""
    is_last, numbers = False, {}
    with open(path, "rb") as raw:
        while len(page := raw.read(27)) == 27:
            page += (lengths := raw.read(page[26]))
            page += raw.read(sum(lengths))
            without = page[:22] + bytes(4) + page[26:]
            crc = zlib.crc32(without.translate(_REVERSED), 2**32 - 1) ^ (2**32 - 1)
            stream, number = page[14:18], int.from_bytes(page[18:22], "little")
            is_next = number == numbers.setdefault(stream, number - 1) + 1
            if crc.to_bytes(4, "big").translate(_REVERSED) != page[22:26] or not is_next:
                raise InputError(path, f"damaged before byte {raw.tell()}")
            numbers[stream] = number
            is_last = page[5] & 4
    return not is_last or len(page) > 0


def write_audio(path, waveform, rate):
    """Write (n,) or (channels, n), clipped to [-1, 1), as a 16-bit WAV in steps of 2^-15."""
    scaled = (to_numpy(waveform).astype(np.float64) * 2**15).round()
    pcm = scaled.clip(-(2**15), 2**15 - 1).astype(np.int16)
    encoded = io.BytesIO()  # libsndfile would not say that a disk is full
    soundfile.write(encoded, np.atleast_2d(pcm).T, rate, format="WAV", subtype="PCM_16")
    with atomic(path) as file:
        file.write(encoded.getvalue())
