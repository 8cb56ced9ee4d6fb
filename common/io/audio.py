"""Audio files in and out."""
import os
import re

import numpy as np
import soundfile
import torch

from .files import InputError, atomic, decoding, to_numpy
from .resample import resample

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "AIFF")
MAX_CHANNELS, MAX_RATE = 64, 768_000
MAX_SECONDS, MAX_FRAMES = 3600, 2**28  # of one read; 2^28 float32 frames are 1 GiB


def read_audio(path, sample_rate=None, channel="mean", start=0.0, seconds=None):
    """Decode a WAV, FLAC, OGG or AIFF file: (waveform (n,) float32, rate in Hz).

    channel: "mean" of all, or "left", the first. start, seconds: the part to read, in seconds; it
    is shorter if the file ends earlier. sample_rate: resample to it; None keeps the file's rate.
    Raises InputError if the file has another format, is cut short, is larger than the bounds
    above, has no sample at `start`, or has samples that are not finite.
    """
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
        if count > min(MAX_SECONDS * rate, MAX_FRAMES):
            raise InputError(path, f"{count} frames at {rate} Hz are too many")
        file.seek(first)
        waveform = torch.from_numpy(_read_frames(path, file, count, channel))  # (n,)
    if not waveform.isfinite().all():
        raise InputError(path, "samples are not finite")
    if sample_rate is None:
        return waveform, rate
    return resample(waveform, rate, sample_rate), sample_rate


def _check_header(path, file):
    if file.format not in FORMATS:
        raise InputError(path, f"{file.format} is not supported: convert it to WAV, FLAC or OGG")
    if not (1 <= file.channels <= MAX_CHANNELS and 1 <= file.samplerate <= MAX_RATE):
        raise InputError(path, f"{file.channels} channels at {file.samplerate} Hz: out of bounds")
    if _is_truncated(path, file):
        raise InputError(path, "truncated: the header declares more audio than the file holds")


def _is_truncated(path, file):
    """Whether the file ends before its header says, which libsndfile does not report."""
    if file.format == "OGG":  # the last page of a stream has a flag
        with open(path, "rb") as raw:
            raw.seek(max(0, os.path.getsize(path) - 2**17))  # a page has at most 65 307 bytes
            tail = raw.read()
        # A page: 27 bytes, of which [5] are the flags and [26] is the number of lengths; lengths; …
        page = tail[tail.rfind(b"OggS"):]
        is_last = len(page) >= 27 and page[5] & 4
        return not is_last or len(page) < 27 + page[26] + sum(page[27:27 + page[26]])
    sizes = re.search(r"(?:data|SSND) *: (\d+) \(should be (\d+)\)", file.extra_info)
    # A program that writes into a pipe cannot know the length and declares 2^32 - 1 bytes.
    return sizes is not None and int(sizes[2]) < int(sizes[1]) < 2**32 - 1


def _read_frames(path, file, count, channel):
    """The next `count` frames of one channel, (count,) float32, block by block."""
    mix = np.full(file.channels, 1 / file.channels, np.float32)
    blocks, missing = [], count
    while missing and len(block := file.read(min(missing, 2**16), "float32", always_2d=True)):
        blocks.append(block @ mix if channel == "mean" else block[:, 0].copy())  # (frames,)
        missing -= len(block)
    if missing:
        raise InputError(path, f"truncated: {missing} of {count} frames are missing")
    return np.concatenate(blocks)


def write_audio(path, waveform, rate):
    """Write (n,) or (channels, n), clipped to [-1, 1), as a 16-bit WAV in steps of 2^-15."""
    scaled = (to_numpy(waveform).astype(np.float64) * 2**15).round()
    pcm = scaled.clip(-(2**15), 2**15 - 1).astype(np.int16)
    with atomic(path) as file:
        soundfile.write(file, np.atleast_2d(pcm).T, rate, format="WAV", subtype="PCM_16")
