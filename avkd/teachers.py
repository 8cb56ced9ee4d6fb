"""The teachers' hints, e_v and e_a, computed once and kept on disk (3.6, "offline mode"): no teacher runs while a student learns.

    python -m avkd.teachers --preset paper --root FLICKR --ids flickr_10k.txt --hints DIR --detr FILE --panns FILE

takes the flags of the training that will read them. DIR gets `ids.txt` (an id a line: the order of the rows), `e_v.npy`
(N, c, h, w) and `e_a.npy` (N, c), float16, and beside each a .json that says which teacher made it of what. A command that was killed
continues. On embedded scenes the training itself makes small teachers and their hints (avkd/small.py), under runs/avkd/teachers.
"""
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from common.training import array_files, dist
from common.training import given_flags, parser, resolve
from common.io import InputError, read_json
from common.io import resample
from common.training import cli, select_device
from common.io import load_published

from . import small
from .config import PRESETS
from .backbones.detr import detr_r50
from common.benchmarks.pairs import cropped_waveform, training_pairs
from .backbones.panns import cnn14, wavegram_logmel_cnn14
from .backbones.views import normalise, test_view

BATCH = 32
FILES = {"e_v": "e_v.npy", "e_a": "e_a.npy"}


class Detr:
    """The visual teacher: DETR-R50. A picture → e_v, by `visual_hint`: the backbone's map, the encoder's, or the decoder's, each
    query's output laid where it attends; the latter two have 256 channels and come through a fixed projection to c. All are averaged to
    the size of F_v's map."""

    def __init__(self, config, path, device="cpu"):
        self.config = config
        self.net = load_published(detr_r50(), path, "model").eval().to(device)
        self.lift = torch.empty(config.channels, self.net.d)
        torch.nn.init.orthogonal_(self.lift, generator=torch.Generator().manual_seed(0))
        if config.visual_hint == "backbone" and config.channels != 2048:
            raise InputError("--channels", f"{config.channels}: the backbone of DETR has 2048")

    def view(self, source, i):
        return test_view(source.image(i), self.config.teacher_size)

    def hint(self, images):
        """(n, 3, S, S) in [0, 1] → e_v (n, c, h, w)."""
        x = normalise(images)
        if self.config.visual_hint == "backbone":
            found = self.net.backbone[0]["body"].features(x)
        else:
            answer = self.net(x)
            found = answer["memory"] if self.config.visual_hint == "encoder" else torch.einsum(
                "nqd,nqhw->ndhw", answer["hs"][-1], answer["attention"])
            found = torch.einsum("cd,ndhw->nchw", self.lift.to(found), found)
        return F.adaptive_avg_pool2d(found, self.config.side)


class Panns:
    """The audio teacher: Cnn14 or Wavegram-Logmel-Cnn14. What the student hears, at 32 kHz → e_a (n, 2048)."""

    def __init__(self, config, path, device="cpu"):
        self.config = config
        net = {"cnn14": cnn14, "wavegram_logmel_cnn14": wavegram_logmel_cnn14}[config.audio_teacher]()
        self.net = load_published(net, path, "model").eval().to(device)
        if config.channels != self.net.embedding_size:
            raise InputError("--channels", f"{config.channels}: embeddings of PANNs have {self.net.embedding_size}")

    def view(self, source, i):
        return resample(cropped_waveform(source.waveform(i), self.config), self.config.sample_rate, self.net.sample_rate)

    def hint(self, waveforms):
        return self.net(waveforms)["embedding"]


def made_of(config) -> dict:
    """What tells one file of hints from another, besides ids and weights: {"e_v": …, "e_a": …}."""
    sound = {name: getattr(config, name) for name in ("sample_rate", "channel", "seconds", "crop")}
    if config.data == "scenes":
        own = small.made_of(config)
        return {"e_v": {"teacher": "detector", **own}, "e_a": {"teacher": "listener", **own}}
    return {"e_v": {"teacher": "detr_r50", "hint": config.visual_hint, "size": config.teacher_size},
            "e_a": {"teacher": config.audio_teacher, **sound}}


def wants(config) -> dict:
    """Which hints a training reads."""
    return {"e_v": config.teach_image, "e_a": config.teach_audio}


def shapes(config, count: int) -> dict:
    return {"e_v": (count, config.channels, config.side, config.side), "e_a": (count, config.channels)}


class Views(Dataset):
    def __init__(self, teacher, source, first):
        self.teacher, self.source, self.first = teacher, source, first

    def __len__(self):
        return len(self.source.ids) - self.first

    def __getitem__(self, i):
        return self.teacher.view(self.source, self.first + i)


def write(source, config, name: str, teacher, weights, folder, workers=0, device="cpu") -> np.memmap:
    """Hints `name`, "e_v" or "e_a", of all pairs of a source by a teacher, whose weights are in a file → the array, memory-mapped.
    Raises InputError."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    array_files.write_ids(folder / "ids.txt", source.ids)

    @torch.inference_mode()
    def blocks(first):
        for x in DataLoader(Views(teacher, source, first), BATCH, num_workers=workers):
            yield teacher.hint(x.to(device)).half().cpu().numpy()

    of = {**made_of(config)[name], "ids": array_files.file_crc32(folder / "ids.txt"), "weights": array_files.file_crc32(weights)}
    return array_files.fill_array(folder / FILES[name], shapes(config, len(source.ids))[name], np.float16, of, blocks, f"hints {name}")


def load(config, ids) -> tuple:
    """e_v, e_a of these pairs from config.hints, memory-mapped, each None without its teacher. Raises InputError where they are
    of other pairs, another teacher or another preprocessing, not finished, or not there."""
    folder, found = Path(config.hints), []
    for name, wanted in wants(config).items():
        if not wanted:
            found.append(None)
            continue
        path = folder / FILES[name]
        advice = "`python -m avkd.teachers` with the flags of this training makes it"
        if not (folder / "ids.txt").is_file():
            raise InputError(folder / "ids.txt", f"no such file: {advice}")
        array_files.check_ids(folder / "ids.txt", ids)
        if path.with_name(path.name + ".part").exists():
            raise InputError(path, "is not finished; the same `python -m avkd.teachers` continues it")
        array = array_files.open_array(path, advice)
        record = path.with_name(path.name + ".json")
        if not record.is_file():
            raise InputError(record, "is missing: nobody knows which teacher made the hints")
        saved, ours = read_json(record), {**made_of(config)[name], "shape": list(shapes(config, len(ids))[name]), "dtype": "<f2"}
        saved = saved if isinstance(saved, dict) else {}
        for key, value in ours.items():
            if saved.get(key) != value:
                raise InputError(path, f"its {key} is {saved.get(key)!r}, this training's {value!r}: {advice}")
        if array.shape != tuple(ours["shape"]) or array.dtype != np.float16:
            raise InputError(path, f"{array.dtype} {array.shape}: not what {record.name} says")
        found.append(array)
    return tuple(found)


def training_hints(config, source, device="cpu") -> tuple:
    """e_v, e_a for a training: of files from --hints, of scenes by small teachers, which the main process makes where they are
    not there yet. Raises InputError."""
    if config.data == "scenes":
        folder = small.folder(config) / f"hints-{zlib.crc32(chr(10).join(source.ids).encode()):08x}"
        if dist.rank() == 0:
            with array_files.exclusive_lock(folder.parent):  # other trainings may want the same teachers
                for name in [name for name, wanted in wants(config).items() if wanted]:
                    write(source, config, name, small.teacher(name, config, device), small.weights(name, config), folder, device=device)
        dist.gather_objects(None)  # the files are there
        config = replace(config, hints=str(folder))
    return load(config, source.ids)


def main(argv=None):
    prog = "python -m avkd.teachers"
    args_parser = parser(PRESETS, prog, __doc__.splitlines()[0])
    args_parser.add_argument("--detr", default="", help="detr-r50-e632da11.pth: writes e_v")
    args_parser.add_argument("--panns", default="", help="the file of --audio-teacher: writes e_a")
    args = args_parser.parse_args(argv)
    try:
        config = resolve(PRESETS, given_flags(type(PRESETS["tiny"]), args))
    except ValueError as error:
        args_parser.error(str(error))
    if config.data == "scenes":
        args_parser.error("scenes need no command: their training makes small teachers")
    if not (args.detr or args.panns):
        args_parser.error("name the teachers' weights: --detr, --panns or both")
    with cli(prog):
        device = select_device(config.device)
        teachers = {name: make(config, path, device) for name, make, path in
                    (("e_v", Detr, args.detr), ("e_a", Panns, args.panns)) if path}  # before anything is read or written
        source, _ = training_pairs(config)
        for name, teacher in teachers.items():
            path = {"e_v": args.detr, "e_a": args.panns}[name]
            array = write(source, config, name, teacher, path, config.hints, config.workers, device)
            print(f"{Path(config.hints) / FILES[name]}: {array.shape}, {array.nbytes / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
