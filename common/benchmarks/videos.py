"""Videos: a folder of numbered images with audio, or a video file."""
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from common.io import InputError

from .prepare import extract, to_audio, to_frames

IMAGES, AUDIO = (".jpg", ".jpeg", ".png", ".webp", ".bmp"), (".wav", ".flac", ".ogg")


class VideoFile(NamedTuple):
    frames: list  # paths; number k is shown at (k + 0.5) / fps seconds
    audio: Path
    fps: float


@contextmanager
def open_video(path, fps: float):
    """The VideoFile of a folder or a file; what ffmpeg extracts is deleted at the end."""
    path = Path(path)
    if path.is_dir():
        frames = numbered_images(path)
        audio = sorted(p for p in path.iterdir() if p.suffix.lower() in AUDIO)
        if len(audio) != 1:
            raise InputError(path, f"{len(audio) or 'no'} audio files in it, one is expected")
        yield VideoFile(frames, audio[0], fps)
        return
    if not path.is_file():
        raise InputError(path, "no such file or folder")
    with tempfile.TemporaryDirectory() as folder:
        frames, audio = Path(folder) / "frames", Path(folder) / "audio.wav"
        for target, flags, name in (audio, to_audio(), "audio"), (frames, to_frames(fps), "images"):
            try:
                extract("ffmpeg", path.resolve(), target, *flags)
            except InputError as error:
                is_missing = re.search("any stream|no streams|opening output", error.reason)
                raise InputError(path, f"has no {name}" if is_missing else error.reason) from None
        yield VideoFile(numbered_images(frames), audio, fps)


def numbered_images(folder) -> list:
    """The images of a folder, sorted by the last number in their names. Raises InputError."""
    paths = {}
    for path in sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in IMAGES):
        digits = re.findall(r"\d+", path.stem)
        if not digits:
            raise InputError(path, "a frame's name has its number in it, as 0012.jpg")
        if (number := int(digits[-1])) in paths:
            raise InputError(path, f"has the number of {paths[number].name}")
        paths[number] = path
    if not paths:
        raise InputError(folder, f"no frame in it ({', '.join(IMAGES)})")
    if missing := set(range(min(paths), max(paths))) - set(paths):
        raise InputError(folder, f"frame {min(missing)} is missing, before {max(paths)}")
    return [paths[number] for number in sorted(paths)]
