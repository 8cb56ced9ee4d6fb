"""Videos of a user: frames and audio from a folder or a video file, and an animation as output."""
import re
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from common.benchmarks.prepare import SOUND, extract, ffmpeg
from common.io import InputError, atomic, read_audio, read_image

from .backbones.vggish import RATE

IMAGES, AUDIO = (".jpg", ".jpeg", ".png", ".webp", ".bmp"), (".wav", ".flac", ".ogg")
GIF_WIDTH = 480  # pixels, at most


class VideoFile:
    """`frames`: paths of the images, of which number k is shown at (k + 0.5) / fps seconds.

    `audio`: path of the audio, `waveform` (n,): at 16 kHz.
    """

    def __init__(self, frames: list, audio, fps: float):
        self.frames, self.audio, self.fps = frames, audio, fps
        self.waveform = read_audio(audio, RATE)[0]

    def image(self, k):
        return read_image(self.frames[k])

    def times(self, first, count):
        return (np.arange(first, first + count) + 0.5) / self.fps


@contextmanager
def open_video(path, fps):
    """A VideoFile of a folder with numbered images and one audio file, or of a video file.

    What ffmpeg extracts of a file is deleted at the end of the block. Raises InputError.
    """
    path = Path(path)
    if path.is_dir():
        yield VideoFile(numbered_images(path), only_audio(path), fps)
        return
    if not path.is_file():
        raise InputError(path, "no such file or folder")
    with tempfile.TemporaryDirectory() as folder:
        frames, audio = Path(folder) / "frames", Path(folder) / "audio.wav"
        to_images = [], ["-vf", f"fps={fps:g}", "-start_number", "0", "-q:v", "2"]
        for target, flags, track in ((audio, SOUND, "sound track"), (frames, to_images, "images")):
            try:
                extract(ffmpeg(), path.resolve(), target, flags)
            except InputError as error:
                is_missing = re.search("not contain any stream|matches no streams", error.reason)
                raise InputError(path, f"has no {track}" if is_missing else error.reason) from None
        yield VideoFile(numbered_images(frames), audio, fps)


def numbered_images(folder) -> list:
    """The images of a folder, sorted by the last number in their names.

    Raises InputError if one is missing in the middle, or if two have the same number.
    """
    paths = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES):
        digits = re.findall(r"\d+", path.stem)
        if not digits:
            raise InputError(path, "a frame's name has its number in it, as 0012.jpg")
        if int(digits[-1]) in paths:
            raise InputError(path, f"has the number of {paths[int(digits[-1])].name}")
        paths[int(digits[-1])] = path
    if not paths:
        raise InputError(folder, f"no frame in it ({', '.join(IMAGES)})")
    for number in range(min(paths), max(paths)):
        if number not in paths:
            raise InputError(folder, f"frame {number} is missing, between {min(paths)} and "
                             f"{max(paths)}")
    return [paths[number] for number in sorted(paths)]


def only_audio(folder) -> Path:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in AUDIO)
    if len(paths) != 1:
        names = ", ".join(p.name for p in paths[:3])
        raise InputError(folder, f"{len(paths)} audio files in it: {names}" if paths else
                         f"no audio in it ({', '.join(AUDIO)})")
    return paths[0]


def write_video(path, images, fps, audio) -> None:
    """An iterable of images (H, W, 3) uint8 → an animated GIF, or an .mp4 with the audio.

    All images get the size of the first. Raises InputError.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, paths, size = Path(name), [], None
        for image in map(Image.fromarray, images):
            size = size or image.size
            paths.append(folder / f"{len(paths):06d}.png")
            (image if image.size == size else image.resize(size)).save(paths[-1], compress_level=1)
        made = folder / "made"
        if path.suffix.lower() == ".mp4":
            run_ffmpeg(path, "-framerate", f"{fps:g}", "-i", f"{folder}/%06d.png", "-i", audio,
                       "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-f", "mp4",
                       made)  # most players need even sides
        else:
            first, *rest = (Image.open(p).reduce(-(-size[0] // GIF_WIDTH)) for p in paths)
            first.save(made, format="GIF", save_all=True, append_images=rest,
                       duration=round(1000 / fps), loop=0)
        with atomic(path) as file:
            file.write(made.read_bytes())


def run_ffmpeg(path, *flags) -> None:
    """Raises InputError about `path` with the last line that ffmpeg prints."""
    ended = subprocess.run([ffmpeg(), "-v", "error", "-nostdin", *map(str, flags)], text=True,
                           capture_output=True, errors="replace", check=False)
    if ended.returncode:
        raise InputError(path, (ended.stderr.strip().splitlines() or ["ffmpeg failed"])[-1])
