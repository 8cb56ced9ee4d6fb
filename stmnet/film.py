"""A video of one's own, as frames and a sound: a folder with numbered pictures and one sound, or a file, through ffmpeg."""
import re
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from common.io import InputError, read_audio, read_image
from common.benchmarks.prepare import SOUND, extract, ffmpeg

from .backbones.vggish import RATE

PICTURES, SOUNDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp"), (".wav", ".flac", ".ogg")
WIDEST = 480  # pixels of an animated GIF


class Film:
    """`frames` are the paths of its pictures in order, `fps` a second of them; frame k is shown at (k + 0.5) / fps. `sound` is the
    path of its sound, `waveform` (n,) at 16 kHz; where it ends before the pictures do, there is silence."""

    def __init__(self, frames, sound, fps):
        self.frames, self.sound, self.fps = frames, sound, fps
        self.waveform = read_audio(sound, RATE)[0]

    def image(self, k):
        return read_image(self.frames[k])

    def times(self, first, count):
        return (np.arange(first, first + count) + 0.5) / self.fps


@contextmanager
def opened(path, fps):
    """A Film of a folder or a video file; what ffmpeg makes of a file is gone when the block ends. Raises InputError."""
    path = Path(path)
    if path.is_dir():
        yield Film(numbered(path), only_sound(path), fps)
        return
    if not path.is_file():
        raise InputError(path, "no such file or folder")
    program = ffmpeg()
    with tempfile.TemporaryDirectory() as folder:
        frames, sound = Path(folder) / "frames", Path(folder) / "sound.wav"
        pictures = ([], ["-vf", f"fps={fps:g}", "-start_number", "0", "-q:v", "2"])
        for target, flags, track in ((sound, SOUND, "sound track"), (frames, pictures, "pictures")):
            try:
                extract(program, path.resolve(), target, flags)
            except InputError as error:
                missing = "does not contain any stream" in str(error) or "matches no streams" in str(error)
                raise InputError(path, f"has no {track}" if missing else error.reason) from None
        yield Film(numbered(frames), sound, fps)


def numbered(folder) -> list:
    """The pictures of a folder by the last number in their names. Raises InputError where one is missing in the middle, or twice there."""
    found = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES):
        digits = re.findall(r"\d+", path.stem)
        if not digits:
            raise InputError(path, "a frame's name has its number in it, as 0012.jpg")
        if int(digits[-1]) in found:
            raise InputError(path, f"has the number of {found[int(digits[-1])].name}")
        found[int(digits[-1])] = path
    if not found:
        raise InputError(folder, f"no frame in it ({', '.join(PICTURES)})")
    for number in range(min(found), max(found)):
        if number not in found:
            raise InputError(folder, f"frame {number} is missing, between {min(found)} and {max(found)}")
    return [found[number] for number in sorted(found)]


def only_sound(folder) -> Path:
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SOUNDS)
    if len(found) != 1:
        which = ", ".join(p.name for p in found[:3])
        raise InputError(folder, f"{len(found)} sounds in it: {which}" if found else f"no sound in it ({', '.join(SOUNDS)})")
    return found[0]


def write(path, pictures, fps, sound) -> None:
    """An iterable of pictures (H, W, 3) uint8 as an animated GIF or, where the name ends in .mp4, as a video with its sound. All get
    the size of the first. The name is free until the file is whole. Raises InputError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem[:100]}.part{path.suffix}")
    try:
        (_write_mp4 if path.suffix.lower() == ".mp4" else _write_gif)(part, iter(pictures), fps, sound)
        part.replace(path)
    except subprocess.CalledProcessError as error:
        raise InputError(path, error.stderr) from None
    finally:
        part.unlink(missing_ok=True)


def _write_gif(path, pictures, fps, sound):
    first, *others = (Image.fromarray(p).reduce(-(-p.shape[1] // WIDEST)) for p in pictures)
    others = [p if p.size == first.size else p.resize(first.size) for p in others]
    first.save(path, format="GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0)


def _write_mp4(path, pictures, fps, sound):
    first = next(pictures)
    height, width = first.shape[:2]
    command = [ffmpeg(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-",
               "-i", str(Path(sound).resolve()), "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p", "-f", "mp4",
               str(path.resolve())]  # most players want even sides
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said) as process:
            try:
                process.stdin.write(first.tobytes())
                for picture in pictures:
                    same = picture.shape == first.shape
                    process.stdin.write((picture if same else np.asarray(Image.fromarray(picture).resize((width, height)))).tobytes())
                process.stdin.close()
            except BrokenPipeError:
                pass  # what ffmpeg says of it is below
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            said.seek(0)
            reason = (said.read().decode(errors="replace").strip().splitlines() or ["ffmpeg failed"])[-1]
            raise subprocess.CalledProcessError(process.returncode, "ffmpeg", stderr=reason)
