"""Makes a benchmark like IS3 (4.1.1): images of two objects, a box, a mask and audio of each.

`python -m sslalign.is3 prompts classes.txt > prompts.jsonl`: Eq. (6), for a text-to-image program
`python -m sslalign.is3 assemble --images DIR --masks DIR --audio DIR --keep kept.txt --out ROOT`
`python -m sslalign.is3 compose --objects DIR --out ROOT`: of cut-outs and recordings, no download

An image NAME.png or .jpg has a mask NAME_CLASS.png of each object, of any segmenter, white on black
or transparent around the object; audio is in DIR/CLASS/. `python -m sslalign.evaluate --data is3
--root ROOT` evaluates on what is written. Its layout: common/benchmarks/is3.py.
"""
import json
import sys
from itertools import permutations
from pathlib import Path

import numpy as np

from common.benchmarks import load_samples
from common.benchmarks.annotations import read_entries
from common.benchmarks.is3 import (RATE, AudioPool, Object, category_name, check_objects,
                                   find_images, read_mask, statistics, write_is3)
from common.io import InputError, atomic, read_image, read_lines
from common.scenes import Scenes
from common.training import Parser, cli, markdown_table, progress_bar

PROMPTS = "a photo of a {0} and {1}", "{0} is next to {1}", "{0} is playing a {1}"
SEED = 10**6 + 5  # of composed scenes: no seed of training, validation or test


def prompts(classes) -> list[dict]:
    """The prompts of Eq. (6), 3 n (n − 1) for n classes, and the name of the image of each.

        Prompt = { "a photo of a (c₁) and (c₂)", "(c₁) is next to (c₂)", "(c₁) is playing a (c₂)" }
        for all pairs of different classes c₁, c₂

    >>> prompts(["cat", "fire truck"])[1]["prompt"]
    'cat is next to fire truck'
    """
    pairs = [(pair, prompt) for pair in permutations(classes, 2) for prompt in PROMPTS]
    return [{"name": f"{'_'.join(pair).replace(' ', '')}_{n:06d}", "classes": pair,
             "prompt": prompt.format(*pair)} for n, (pair, prompt) in enumerate(pairs)]


def read_classes(path) -> list[str]:
    """The classes in a list, one a line, or in VGG-SS's vggss.json. Raises InputError."""
    is_vggss = Path(path).suffix == ".json"
    names = ([entry["class"] for entry in read_entries(path, **{"class": str})] if is_vggss
             else read_lines(path))
    names = list(dict.fromkeys(category_name(path, name) for name in names))
    if len(names) < 2:
        raise InputError(path, "two classes or more make a pair")
    return names


def kept_images(path, found: dict) -> list:
    """The images that a list names, one name a line. Without the list, asks for each image whether
    it shows its objects, and writes the list. Raises InputError."""
    if not Path(path).exists():
        try:
            kept = [image.stem for image in found if input(
                f"{image}: {' and '.join(found[image])}? [y/N] ").lower().startswith("y")]
        except EOFError:
            print()  # the line of the question ends
            raise InputError(path, "no such list of images, and no answer which to keep") from None
        with atomic(path) as file:
            file.writelines(f"{name}\n".encode() for name in kept)
    names, by_name = read_lines(path), {image.stem: image for image in found}
    if unknown := [name for name in names if name not in by_name]:
        raise InputError(path, f"no image has the name {unknown[0][:80]!r}")
    return [by_name[name] for name in dict.fromkeys(names)]


def assemble(args):
    """Images with their masks, and audio drawn at random by class (4.1.1) → what `write_is3` takes.
    Raises InputError."""
    found, pool = find_images(args.images, args.masks), AudioPool(args.audio, args.seed)
    for path in progress_bar(kept_images(args.keep, found), name="images"):
        try:
            image = read_image(path)
            objects = [Object(category, read_mask(mask), pool.draw(path, category))
                       for category, mask in found[path].items()]
            check_objects(path, image, objects)
        except InputError as error:
            if not args.skip_bad:
                raise
            print(f"left out: {error}", file=sys.stderr)
            continue
        yield path, image, objects


def compose(args):
    """Scenes of two objects → what `write_is3` takes. Raises InputError."""
    scenes = Scenes(args.seed, args.size, RATE, args.seconds, 2, args.objects or None)
    for n in progress_bar(range(args.count), name="images"):
        samples = [scenes.interactive(2 * n + k) for k in range(2)]
        yield f"scene {n}", samples[0].image, [
            Object(category_name(args.objects, s.name[:60]), s.mask, s.waveform) for s in samples]


FLAGS = {  # command → flag → default (None: it must be given), help
    "prompts": {"count": (0, "so many at random (0: all)"), "seed": (0, "of the choice")},
    "assemble": {"images": (None, "folder of images"), "masks": (None, "folder of masks"),
                 "audio": (None, "folder with a folder of audio for each class"),
                 "keep": (None, "list of the images to keep; if it is missing, they are asked for"),
                 "out": (None, "new folder"), "seed": (0, "of the audio")},
    "compose": {"objects": ("", "folder of NAME.png + NAME.wav|ogg|flac (none: built-in)"),
                "out": (None, "new folder"), "count": (300, "images"),
                "size": (224, "pixels a side"), "seconds": (3.0, "of audio"),
                "seed": (SEED, "of the scenes")}}


def main(argv=None):
    parser = Parser(prog="python -m sslalign.is3", description=__doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for command, flags in FLAGS.items():
        sub = commands.add_parser(command)
        for name, (default, text) in flags.items():
            sub.add_argument(f"--{name}", default=default, required=default is None, help=text,
                             type=str if default is None else type(default))
    commands.choices["prompts"].add_argument("classes", help="list of classes, or vggss.json")
    commands.choices["assemble"].add_argument("--skip-bad", action="store_true",
                                              help="leave out and list what is bad")
    args = parser.parse_args(argv)
    ranges = {"seed": (0, 2**32), "size": (32, 4096), "seconds": (0.1, 600),
              "count": (int(args.command == "compose"), 10**6)}
    for name, (low, high) in ranges.items():
        if not low <= getattr(args, name, low) <= high:
            parser.error(f"--{name} is from {low} to {high}")
    with cli(parser.prog):
        if args.command == "prompts":
            lines = prompts(read_classes(args.classes))
            if args.count:
                order = np.random.default_rng(args.seed).permutation(len(lines))
                lines = [lines[n] for n in order[:args.count]]
            return sys.stdout.writelines(f"{json.dumps(x, ensure_ascii=False)}\n" for x in lines)
        write_is3(args.out, {"assemble": assemble, "compose": compose}[args.command](args))
        row = statistics(load_samples("is3", args.out))
        print(f"{args.out}\n{markdown_table([list(row.values())], list(row))}")


if __name__ == "__main__":
    main()
