"""Check which files of a benchmark exist, and make them from downloaded videos with ffmpeg."""
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from common.io import InputError, atomic, numbered_images, read_audio, read_image
from common.training import Parser, cli

from .annotations import clip_id
from .readers import (FRAME_RATE, READERS, UNANNOTATED, file_finder, find_on_disk, listed_samples)
from .samples import attempt_all

CLIPS = ("vggss", "vggss-heard", "vggss-unheard", "vggss-extended", "vggsound")  # one frame, at
CLIP_SECOND = 5.0  # VGG-SS was annotated on frame 125 at 25 fps, which is not quite the middle
VIDEOS = {  # name: frames a second, or None: all, at the video's own rate
    "ave": FRAME_RATE, "audioset-instrument-clips": FRAME_RATE, "ave-boxes": FRAME_RATE,
    "audioset-instrument": FRAME_RATE, "ave-stm": None, "audioset-instrument-stm": None}
NUMBERED = ("music-solo", "music-duet")  # frames whose numbers are their names, at
NUMBERED_FPS = 30
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".flv", ".m4v", ".3gp", ".mpg")
RATE = 32000  # of PANNs, the highest that a network of these methods reads
TIMEOUT = 900  # seconds that ffmpeg may take for one file
MAX_AUDIO, MAX_FRAMES = 2**27, 20_000  # of a video: bytes, an hour at 16 kHz; frames
# A playlist named .mp4 would make ffmpeg read the files that it names.
DEMUXERS = "mov,matroska,avi,flv,asf,mpeg,mpegts,mpegvideo,ogg,wav"


# Arguments of ffmpeg before its input, and behind it.
def to_audio(rate=RATE):
    return [], ["-vn", "-ac", "1", "-ar", str(rate), "-c:a", "pcm_s16le", "-fs", str(MAX_AUDIO)]


def to_frames(fps=None):
    """The last frame before each (k + 0.5) / fps; None: all frames, at the video's own rate."""
    rate = ["-vf", f"fps={fps:g}"] if fps else []
    return [], [*rate, "-start_number", "0", "-q:v", "2", "-frames:v", str(MAX_FRAMES + 1)]


def _to_frame(second):
    return ["-ss", f"{second:.3f}"], ["-frames:v", "1", "-update", "1", "-q:v", "2"]


def main(argv=None):
    """The command line. Exit status 0: usable, or all made; 1: not; 2: bad input, or no ffmpeg."""
    parser = Parser(prog="python -m common.benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("check", "count the samples: listed, found, missing, unreadable"),
                       ("prepare", "extract images and audio from downloaded videos")):
        add = commands.add_parser(name, help=text).add_argument
        add("name", choices=list(READERS), metavar="NAME", help=", ".join(READERS))
        if name == "prepare":
            add("videos", metavar="VIDEOS", help="folder with ID.mp4 (.mkv, .webm …), at any depth")
            add("--rate", type=int, default=RATE, help="audio samples a second (%(default)s)")
        add("root", metavar="ROOT", help="the benchmark's folder; annotations are in ROOT/metadata")
        add("--list", metavar="FILE", help="other ids: a path, or a name in ROOT/metadata")
        add("--jobs", type=int, default=min(8, os.cpu_count() or 1),
            help="files at a time (%(default)s)")
        if name == "check":
            add("--missing", metavar="FILE", help="write the ids of missing samples, one a line")
    args = parser.parse_args(argv)
    if min(args.jobs, vars(args).get("rate", 1)) < 1:
        parser.error("--jobs and --rate are at least 1")
    with cli(parser.prog):
        if args.command == "check":
            is_good = check(args.name, args.root, args.list, args.missing, args.jobs)
        else:
            is_good = prepare(args.name, args.videos, args.root, args.list, args.jobs, args.rate)
        sys.exit(0 if is_good else 1)


def check(name, root, lists, missing, jobs) -> bool:
    """Read every image, mask and audio file, and print how many samples there are.
    missing: a file for the ids of missing samples, or None. True if all that exist can be read."""
    samples = listed_samples(name, root, lists)
    on_disk = find_on_disk(name, samples)
    found = [sample for sample in on_disk if sample]
    lost = [sample.id for sample, here in zip(samples, on_disk) if not here]
    if missing:
        with atomic(missing) as file:
            file.writelines(f"{sample_id}\n".encode() for sample_id in lost)
    masks = {mask for s in found for mask in s.masks or ()}
    read_all = partial(attempt_all, file=sys.stderr, jobs=jobs)
    sizes, bad = read_all(_image_size, {s.image for s in found}, "images")
    durations, bad_audio = read_all(_duration, {s.audio for s in found}, "audio")
    bad |= bad_audio | read_all(_image_size, masks, "masks")[1]
    bad = [s for s in found if bad & {s.image, s.audio, *(s.masks or ())}]
    print(f"{name} in {root}\nlisted      {len(samples)}\nfound       {len(found)}")
    print(f"missing     {len(lost)}" + (f"  → {missing}" if missing else ""))
    print(f"unreadable  {len(bad)}")
    if bare := sum(s.lacks_box() for s in found):
        print(f"without box {bare}")
    if masks:
        print(f"with masks  {sum(bool(s.masks) for s in found)}")
    if durations:
        print(f"audio       {np.mean(durations):.2f} s on average")
    if sizes:
        width, height = np.mean(sizes, axis=0)
        print(f"image       {width:.0f}x{height:.0f} on average")
    return bool(found) and not bad


def _image_size(path):
    """→ width, height; of a folder of frames, all of which are read, the first one's."""
    frames = numbered_images(path) if path.is_dir() else [path]
    sizes = [read_image(frame).shape[1::-1] for frame in frames]
    return sizes[0]


def _duration(path):
    """→ seconds."""
    read_audio(path, seconds=0.05)  # checks the header, and that the file is complete
    return soundfile.info(str(path)).duration


def prepare(name, videos, root, lists, jobs, rate) -> bool:
    """Make the listed images and audio from VIDEOS/ID.*, and print how many there are. What exists,
    audio as FLAC too, is skipped. True if nothing failed and there are files. Raises InputError."""
    if name not in (*CLIPS, *VIDEOS, *NUMBERED):
        raise InputError(name, "is published as images and audio, there is nothing to extract")
    require_ffmpeg()
    if not Path(videos).is_dir():
        raise InputError(videos, "no such folder")
    sources = {name: path.resolve() for path in sorted(Path(videos).rglob("*"))
               if path.suffix.lower() in SUFFIXES for name in (clip_id(path.stem), path.stem)}
    targets = {}  # file or folder to make: id of its video, arguments
    for sample in listed_samples(name, root, lists):
        targets[sample.audio] = sample.audio.stem, to_audio(rate)
        if name in VIDEOS:
            folder = sample.image if name in UNANNOTATED else sample.image.parent
            targets[folder] = folder.name, to_frames(VIDEOS[name])
        elif name in NUMBERED:
            targets[sample.image] = sample.group, _to_frame(int(sample.image.stem) / NUMBERED_FPS)
        else:
            targets[sample.image] = sample.image.stem, _to_frame(CLIP_SECOND)
    find = file_finder()
    todo = [target for target in targets if not find(target)]
    missing = {targets[target][0] for target in todo} - set(sources)

    def make(target):
        video, arguments = targets[target]
        extract(sources[video], target, *arguments)

    paths = [target for target in todo if targets[target][0] in sources]
    made, failed = attempt_all(make, paths, "ffmpeg", file=sys.stderr, jobs=jobs)
    existing = len(targets) - len(todo)
    print(f"{name}: {len(made)} files made, {existing} existed, {len(failed)} failed, "
          f"{len(missing)} videos missing")
    return not failed and bool(made or existing)


def require_ffmpeg():
    if shutil.which("ffmpeg") is None:
        raise InputError("ffmpeg", "not on PATH; install it with your system's package manager")


def extract(video, target, before, behind):
    """Run ffmpeg with these arguments before and behind its input; target: .wav, .jpg or a folder.
    It writes to a temporary folder beside `target`. Raises InputError."""
    part = target.absolute().with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    part.mkdir(parents=True)
    is_folder = target.suffix not in (".wav", ".jpg")
    output = "%04d.jpg" if is_folder else f"output{target.suffix}"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-protocol_whitelist", "file",
               "-format_whitelist", DEMUXERS, *before, "-i", str(video), *behind, output]
    try:
        ended = subprocess.run(command, cwd=part, text=True, capture_output=True, errors="replace",
                               timeout=TIMEOUT, check=False)
        if ended.returncode:
            lines = ended.stderr.strip().splitlines() or [f"ffmpeg: status {ended.returncode}"]
            raise InputError(video, lines[-1])
        if not any(part.iterdir()):
            raise InputError(video, f"ffmpeg made no {target.name}: the video ends before")
        if is_folder and len(os.listdir(part)) > MAX_FRAMES:
            raise InputError(video, f"more than {MAX_FRAMES} frames")
        if not is_folder and (part / output).stat().st_size > MAX_AUDIO - 2**16:
            raise InputError(video, f"more than {MAX_AUDIO} bytes of audio")
        os.replace(part if is_folder else part / output, target)
    except subprocess.TimeoutExpired as error:
        raise InputError(video, f"ffmpeg took more than {TIMEOUT} s") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
