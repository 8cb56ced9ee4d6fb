"""What is there of a benchmark, and how downloaded videos become what the readers want: `python -m common.benchmarks`."""
import argparse
import os
import shutil
import subprocess
import sys
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from .readers import FRAME_RATE, READERS, listed_samples, is_on_disk
from common.io import InputError, atomic, read_audio, read_image
from common.training import cli

CLIPS = ("vggss", "vggss-heard", "vggss-unheard", "vggss-extended", "vggsound")  # one picture, at CLIP_SECOND
CLIP_SECOND = 5.0  # VGG-SS boxes were drawn on frame 125 at 25 fps, not on the exact middle frame
VIDEOS = ("ave", "ave-boxes", "audioset-instrument")  # all frames, FRAME_RATE a second
NUMBERED = ("music-solo", "music-duet")  # the pictures' names are numbers of frames, FPS a second
FPS = 30
TIMEOUT = 900  # seconds that ffmpeg may take for one file

# What ffmpeg is told before its input, and after it.
SOUND = [], ["-vn", "-ac", "1", "-ar", "16000", "-c:a", "pcm_s16le"]
# The fps filter keeps the last frame before k/FRAME_RATE + half a step: the time (k + 0.5) / FRAME_RATE.
FRAMES = [], ["-vf", f"fps={FRAME_RATE}", "-start_number", "0", "-q:v", "2"]


def _frame(second):
    return ["-ss", f"{second:.3f}"], ["-frames:v", "1", "-update", "1", "-q:v", "2"]


def main(argv=None):
    """The command line. Exit status 0: usable, or all made; 1: it is not; 2: wrong input, or no ffmpeg."""
    parser = argparse.ArgumentParser(prog="python -m common.benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checks = commands.add_parser("check", help="count what is listed, found, missing and unreadable")
    makes = commands.add_parser("prepare", help="extract pictures and sounds from downloaded videos with ffmpeg")
    for command in (checks, makes):
        command.add_argument("name", choices=list(READERS), metavar="NAME", help=", ".join(READERS))
        if command is makes:
            command.add_argument("videos", metavar="VIDEOS", help="folder with ID.mp4 (or .mkv, .webm …), searched recursively")
        command.add_argument("root", metavar="ROOT", help="the benchmark's folder, with its annotations in ROOT/metadata")
        command.add_argument("--list", metavar="FILE", help="other ids than the published ones: a path, or a name in metadata")
        command.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="files at a time (%(default)s)")
    checks.add_argument("--missing", metavar="FILE", help="write the ids of the missing samples there, one a line")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error("--jobs is at least 1")
    with cli(parser.prog):
        good = (check(args.name, args.root, args.list, args.missing, args.jobs) if args.command == "check"
                else prepare(args.name, args.videos, args.root, args.list, args.jobs))
        sys.exit(0 if good else 1)


def check(name, root, lists=None, missing=None, jobs=4) -> bool:
    """Open every picture, mask and sound, print what is there, and write the ids of what is not to the file `missing`.

    True if something is there and all of it can be read; what cannot is listed on stderr.
    """
    samples = listed_samples(name, root, lists)
    here = is_on_disk(name, samples)
    found = [sample for sample, there in zip(samples, here) if there]
    lost = [sample.id for sample, there in zip(samples, here) if not there]
    if missing:
        with atomic(missing, "w") as file:
            file.writelines(f"{key}\n" for key in lost)
    pictures = {path for s in found for path in (s.image, *(s.masks or ()))}
    sounds = {s.audio for s in found}
    results, bad = _each({path: partial(_picture if path in pictures else _sound, path) for path in sorted(pictures | sounds)},
                         jobs, "reading")
    unreadable = [s for s in found if bad.keys() & {s.image, s.audio, *(s.masks or ())}]
    print(f"{name} in {root}\nlisted      {len(samples)}\nfound       {len(found)}")
    print(f"missing     {len(lost)}" + (f"  → {missing}" if missing else ""))
    print(f"unreadable  {len(unreadable)}")
    if any(s.masks for s in found):
        print(f"with masks  {sum(bool(s.masks) for s in found)}")
    if durations := [results[path] for path in sounds if path in results]:
        print(f"sound       {np.mean(durations):.2f} s on average")
    if sizes := [results[path] for path in {s.image for s in found} if path in results]:
        width, height = np.mean(sizes, axis=0)
        print(f"picture     {width:.0f}x{height:.0f} on average")
    return bool(found) and not unreadable


def _picture(path):
    """→ width, height; of a folder of frames, the first one's."""
    if path.is_dir():
        frames = sorted(path.glob("*.jpg"))
        if not frames:
            raise InputError(path, "a folder without frames")
        path = frames[0]
    return read_image(path).shape[1::-1]


def _sound(path):
    """→ seconds."""
    read_audio(path, seconds=0.05)  # the header, and that what it declares is there
    return soundfile.info(str(path)).duration


def prepare(name, videos, root, lists=None, jobs=4) -> bool:
    """Make the pictures and sounds that the list names from VIDEOS/ID.*, a file at a time and each whole or not at all, so that
    an interrupted run goes on where it was. True if nothing failed and something is there; what failed goes to stderr."""
    if name not in CLIPS + VIDEOS + NUMBERED:
        raise InputError(name, "comes as pictures and sounds, there is nothing to extract")
    program = ffmpeg()
    if not Path(videos).is_dir():
        raise InputError(videos, "no such folder")
    sources = {path.stem: path.resolve() for path in sorted(Path(videos).rglob("*"))
               if path.suffix.lower() in (".mp4", ".mkv", ".webm", ".mov", ".avi", ".flv", ".m4v", ".3gp", ".mpg")}
    wanted = {}  # what to make: the video it comes from, what ffmpeg is told
    for sample in listed_samples(name, root, lists):
        wanted[sample.audio] = sample.audio.stem, SOUND
        if name in VIDEOS:
            folder = sample.image if name == "ave" else sample.image.parent
            wanted[folder] = folder.name, FRAMES
        elif name in NUMBERED:
            wanted[sample.image] = sample.group, _frame(int(sample.image.stem) / FPS)
        else:
            wanted[sample.image] = sample.image.stem, _frame(CLIP_SECOND)
    done = [target for target in wanted if target.exists()]
    todo = {target: partial(extract, program, sources[source], target, told)
            for target, (source, told) in wanted.items() if source in sources and not target.exists()}
    made, failed = _each(todo, jobs, "ffmpeg")
    absent = {source for target, (source, _) in wanted.items() if source not in sources and not target.exists()}
    print(f"{name}: {len(made)} files made, {len(done)} were there, {len(failed)} failed, {len(absent)} videos missing")
    return not failed and bool(made or done)


def ffmpeg() -> str:
    """The program. Raises InputError."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise InputError("ffmpeg", "not on PATH; it is needed to read videos: install it with your system's package manager")
    return program


def extract(program, video, target, told):
    """Run ffmpeg into a temporary name beside `target`, then rename: `target` is a .wav, a .jpg or a folder of frames."""
    folder = target.suffix not in (".wav", ".jpg")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.absolute().with_name(f".{target.name}.part{target.suffix}")
    _remove(part)  # of a run that was killed
    if folder:
        part.mkdir()
    before, after = told
    command = [program, "-v", "error", "-nostdin", "-y", "-protocol_whitelist", "file", *before, "-i", str(video), *after,
               "%04d.jpg" if folder else part.name]
    try:
        ended = subprocess.run(command, cwd=part if folder else part.parent, capture_output=True, text=True, errors="replace",
                               timeout=TIMEOUT, check=False)
        if ended.returncode:
            raise InputError(video, (ended.stderr.strip().splitlines() or [f"ffmpeg ended with {ended.returncode}"])[-1])
        if not part.exists() or (folder and not any(part.iterdir())):
            raise InputError(video, f"ffmpeg made no {target.name}: the video ends before")
        os.replace(part, target)
    except subprocess.TimeoutExpired as error:
        raise InputError(video, f"ffmpeg took more than {TIMEOUT} s") from error
    finally:
        _remove(part)


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _each(tasks, jobs, label):
    """Call the values of `tasks` in threads → {key: result}, {key: InputError}; the errors also go to stderr."""
    def attempt(item):
        try:
            return item[0], item[1](), None
        except InputError as error:
            return item[0], None, error

    results, failed = {}, {}
    with ThreadPool(jobs) as pool:
        for key, result, error in tqdm(pool.imap_unordered(attempt, tasks.items()), label, len(tasks), disable=None, unit="file"):
            if error is None:
                results[key] = result
            else:
                failed[key] = error
                tqdm.write(str(error), file=sys.stderr)
    return results, failed
