"""Audio files in and out."""
import os
import re

import numpy as np
import soundfile
import torch

from .drawing import to_numpy
from .files import InputError, atomic, decoding
from .resample import resample

MAX_CHANNELS, MAX_RATE = 64, 768_000
MAX_SECONDS, MAX_FRAMES = 3600, 2**28  # of one read; 2^28 float32 frames are 1 GiB


def read_audio(path, sample_rate=None, channel="mean", start=0.0, seconds=None):
    """Decode a WAV, FLAC, OGG or AIFF file: (waveform (n,) float32, rate in Hz).

    channel: "mean" of all, or "left", the first. start, seconds: the part to read, in seconds; less comes back
    where the file ends earlier (see `fit`). sample_rate: resample to it; None keeps the file's own.
    Raises InputError for what is not such a file, is cut short, has no sample at `start`, holds samples that are
    not finite, or is larger than the bounds above.
    """
    if channel not in ("mean", "left"):
        raise ValueError(f"channel is 'mean' or 'left', not {channel!r}")
    with decoding(path), soundfile.SoundFile(os.fspath(path)) as file:
        rate = file.samplerate
        if file.format not in ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "AIFF"):
            raise InputError(path, f"{file.format} is not read here: convert it to WAV, FLAC or OGG")
        if not (1 <= file.channels <= MAX_CHANNELS and 1 <= rate <= MAX_RATE):
            raise InputError(path, f"{file.channels} channels at {rate} Hz are out of bounds")
        if _cut_short(path, file):
            raise InputError(path, "truncated: the header declares more sound than there is")
        first = round(start * rate)
        wanted = file.frames - first if seconds is None else min(file.frames - first, round(seconds * rate))
        if first < 0 or wanted < 1:
            raise InputError(path, f"no sound at {start} s: {file.frames} frames at {rate} Hz")
        if wanted > min(MAX_SECONDS * rate, MAX_FRAMES):
            raise InputError(path, f"{wanted} frames at {rate} Hz are too many")
        file.seek(first)
        blocks, missing, share = [], wanted, np.full(file.channels, 1 / file.channels, np.float32)
        while missing and len(block := file.read(min(missing, 2**16), "float32", always_2d=True)):  # (frames, channels)
            blocks.append(block @ share if channel == "mean" else block[:, 0].copy())
            missing -= len(block)
        if missing:
            raise InputError(path, f"truncated: {missing} of {wanted} frames are missing")
    waveform = torch.from_numpy(np.concatenate(blocks))  # (n,)
    if not waveform.isfinite().all():
        raise InputError(path, "samples are not finite")
    if sample_rate is None or sample_rate == rate:
        return waveform, rate
    return resample(waveform, rate, sample_rate), sample_rate


def _cut_short(path, file):
    """Whether the file ends before its header or its stream says; libsndfile then quietly reads what is left."""
    if file.format == "OGG":  # the last page of a stream carries a flag
        with open(path, "rb") as raw:
            raw.seek(max(0, os.path.getsize(path) - 2**17))  # a page has at most 65 307 bytes
            tail = raw.read()
        page = tail[tail.rfind(b"OggS"):]  # 27 bytes, the 6th with the flags and the last the number of lengths, the lengths, …
        return len(page) < 27 or not page[5] & 4 or len(page) < 27 + page[26] + sum(page[27:27 + page[26]])
    sizes = re.search(r"(?:data|SSND) *: (\d+) \(should be (\d+)\)", file.extra_info)
    # A program that writes into a pipe cannot know the length: it declares 2^32 - 1 bytes, which is no lie.
    return sizes is not None and int(sizes[2]) < int(sizes[1]) < 2**32 - 1


def write_audio(path, waveform, rate):
    """Write (n,) or (channels, n) in [-1, 1], clipped, as a 16-bit WAV; reading it gives back multiples of 2^-15."""
    pcm = (to_numpy(waveform).astype(np.float64) * 2**15).round().clip(-(2**15), 2**15 - 1).astype(np.int16)
    with atomic(path) as file:
        soundfile.write(file, np.atleast_2d(pcm).T, rate, format="WAV", subtype="PCM_16")
