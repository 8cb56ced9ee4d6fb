"""Videos: a folder of numbered images with audio, or a video file."""
import re
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from common.io import InputError, atomic, numbered_images, read_audio, read_image

from .prepare import VIDEOS, extract, require_ffmpeg, to_audio, to_frames
from .readers import UNANNOTATED, listed_samples, load_samples
from .samples import readable_samples

AUDIO = ".wav", ".flac", ".ogg"
GIF_WIDTH = 480  # pixels, at most
AROUND = 1.0  # seconds
ANNOTATED = [name for name in VIDEOS if name not in UNANNOTATED]


@contextmanager
def open_video(path, fps: float):
    """The paths of the frames, of which number k is shown at (k + 0.5) / fps seconds, and of the
    audio, of a folder or a file; what ffmpeg extracts is deleted at the end."""
    path = Path(path)
    if path.is_dir():
        frames = numbered_images(path)
        audio = sorted(p for p in path.iterdir() if p.suffix.lower() in AUDIO)
        if len(audio) != 1:
            raise InputError(path, f"{len(audio) or 'no'} audio files in it, one is expected")
        yield frames, audio[0]
        return
    if not path.is_file():
        raise InputError(path, "no such file or folder")
    require_ffmpeg()
    with tempfile.TemporaryDirectory() as folder:
        frames, audio = Path(folder) / "frames", Path(folder) / "audio.wav"
        for target, flags, name in (audio, to_audio(), "audio"), (frames, to_frames(fps), "images"):
            try:
                extract(path.resolve(), target, *flags)
            except InputError as error:
                is_missing = re.search("any stream|no streams|opening output", error.reason)
                raise InputError(path, f"has no {name}" if is_missing else error.reason) from None
        yield numbered_images(frames), audio


def write_video(path, images, fps, audio) -> None:
    """An iterable of images (H, W, 3) uint8, resized to the first → a GIF, or .mp4 with audio."""
    with tempfile.TemporaryDirectory() as folder:
        paths, size, made = [], None, f"{folder}/made"
        for image in map(Image.fromarray, images):
            size = size or image.size
            paths.append(f"{folder}/{len(paths):06d}.png")
            (image if image.size == size else image.resize(size)).save(paths[-1], compress_level=1)
        if path.suffix.lower() == ".mp4":
            command = ["ffmpeg", "-v", "error", "-nostdin", "-framerate", f"{fps:g}", "-i",
                       f"{folder}/%06d.png", "-i", str(audio), "-pix_fmt", "yuv420p", "-vf",
                       "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-f", "mp4", made]  # even sides
            ended = subprocess.run(command, capture_output=True, text=True, errors="replace")
            if ended.returncode:
                raise InputError(path, (ended.stderr.strip() or "ffmpeg failed").splitlines()[-1])
        else:
            first, *rest = (Image.open(p).reduce(-(-size[0] // GIF_WIDTH)) for p in paths)
            first.save(made, format="GIF", save_all=True, append_images=rest,
                       duration=round(1000 / fps), loop=0)
        with atomic(path) as file:
            file.write(Path(made).read_bytes())


class ImageFiles:
    """A list of images (H, W, 3) uint8 that are read when they are asked for."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, k):
        return ImageFiles(self.paths[k]) if isinstance(k, slice) else read_image(self.paths[k])


class AnnotatedVideos:
    """The videos of a benchmark of which frames have boxes, by `ids`. Raises InputError."""

    def __init__(self, name: str, root, skip_bad=False, lists=None):
        if name not in ANNOTATED:
            raise InputError(name, f"none of {', '.join(ANNOTATED)}, which have boxes of frames")
        self.fps, self.groups = VIDEOS[name], {}
        listed = listed_samples(name, root, lists)
        self.num_listed = len(listed)
        samples = load_samples(name, root, lists, listed)
        for field, read in (("image", read_image), ("audio", read_audio)) if skip_bad else ():
            samples = readable_samples(samples, field, read)
        self.events = {}  # labels of AVE's videos: ave_box.json has numbers
        if name == "ave-boxes" and (Path(root) / "metadata" / "Annotations.txt").is_file():
            self.events = {s.id: s.label for s in listed_samples("ave", root)}
        for sample in samples:
            self.groups.setdefault(sample.group, []).append(sample)
        self.ids = sorted(self.groups)

    def video(self, i) -> tuple:
        """→ frames, from AROUND seconds before the first annotated one to the last; the number of
        the first; frames a second; of the annotated ones: numbers among these, Samples, labels."""
        samples = sorted(self.groups[self.ids[i]], key=lambda s: s.seconds)
        fps = self.fps or 1 / (samples[0].seconds[1] - samples[0].seconds[0])
        paths = numbered_images(samples[0].image.parent)
        rows = np.array([paths.index(s.image) for s in samples])
        first = max(0, rows[0] - round(AROUND * fps))
        labels = [self.events.get(s.group, s.label) for s in samples]
        return ImageFiles(paths[first:rows[-1] + 1]), first, fps, rows - first, samples, labels
