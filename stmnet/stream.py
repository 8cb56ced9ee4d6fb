"""Live use: frames and sound as they come, boxes as JSON lines; memory of K steps and one segment of sound, however long it runs.

Frames are raw rgb24 of one size, sound is raw s16le, mono, 16 kHz: what `ffmpeg -f rawvideo -pix_fmt rgb24` and `ffmpeg -f s16le -ac 1
-ar 16000` write. Each comes from a path of its own: a file, a named pipe, /dev/fd/N, or - for standard input. A frame is answered as
soon as the second half of its segment has been heard.
"""
import sys
import time

import numpy as np
import torch

from common.io import InputError, append_jsonl

from .memory import EMPTY
from .backbones.vggish import RATE

BLOCK = 4096  # bytes of sound that are read at once, at most


class Sound:
    """A segment after the other of a stream of s16le; what lies before the last one is forgotten. After the end there is silence."""

    def __init__(self, file, samples: int):
        self.file, self.samples, self.ended = file, samples, False
        self.data, self.start = b"", 0  # bytes from sample `start` on

    def segment(self, time: float) -> torch.Tensor:
        """(samples,) in [-1, 1] centred on `time` in seconds, which never goes back."""
        first = round(time * RATE) - self.samples // 2
        while not self.ended and self.start + len(self.data) // 2 < first + self.samples:
            self._forget(first)
            block = self.file.read1(BLOCK)  # what is there: it does not wait for more
            self.ended = not block
            self.data += block
        self._forget(first)
        segment = np.zeros(self.samples, np.float32)
        at = max(0, self.start - first)  # 0, but before the first sample of all
        heard = np.frombuffer(self.data[:len(self.data) // 2 * 2], "<i2")[:self.samples - at]
        segment[at:at + len(heard)] = heard / np.float32(2**15)
        return torch.from_numpy(segment)

    def _forget(self, first):
        gone = min(max(0, first - self.start), len(self.data) // 2)
        self.data, self.start = self.data[2 * gone:], self.start + gone


def frames_of(file, path, width: int, height: int):
    """(H, W, 3) uint8, one after the other. Raises InputError where the stream ends within a frame."""
    size = width * height * 3
    while data := file.read(size):
        if len(data) < size:
            raise InputError(path, f"ends within a frame: {len(data)} of {width}x{height}x3 bytes")
        yield np.frombuffer(bytearray(data), np.uint8).reshape(height, width, 3)


def line(number, moment, shape, boxes, name, confidence) -> dict:
    """What is said of a frame of `shape` (H, W, 3): boxes x0, y0, x1, y1 in its pixels with scores, the class and its probability."""
    height, width = shape[:2]
    return {"frame": number, "time": round(float(moment), 4), "label": name, "confidence": round(float(confidence), 4),
            "boxes": (boxes[:, :4] * torch.tensor([width, height, width, height])).tolist(), "scores": boxes[:, 4].tolist()}


def stream(predictor, frames, sound: Sound, fps: float, out) -> int:
    """Frames one by one, and a Sound → a JSON line each to `out`, flushed. Returns how many. """
    past, count, started = EMPTY, 0, None
    for image in frames:
        started = started or time.perf_counter()
        moment = (count + 0.5) / fps
        maps, said, confidence, shown, past = predictor.answer(predictor.look([image]), sound.segment(moment)[None], past)
        boxes = predictor.boxes([image], maps, shown)[0]
        append_jsonl(out, line(count, moment, image.shape, boxes, predictor.names(said, shown)[0], confidence[0]))
        count += 1
    if count:
        print(f"{count} frames, {count / (time.perf_counter() - started):.1f} a second", file=sys.stderr)
    return count
