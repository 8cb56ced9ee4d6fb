r"""The teachers, DETR and PANNs, and their hints e_v and e_a on disk (3.4; 3.6, "offline mode").

    python -m avkd.teachers --preset paper --root FLICKR --ids flickr_10k.txt --hints DIR \
        --detr FILE --panns FILE

computes the hints of all pairs once, so that no teacher runs while the students are trained. It
takes the flags of that training. DIR gets `ids.txt` (one id a line, the order of the rows),
`e_v.npy` (N, c, h, w) and `e_a.npy` (N, c), float16, each with a .json that says which teacher made
it of what. A killed command continues. On scenes the training itself makes small teachers
(small.py) and their hints, under runs/avkd/teachers.

A teacher has `view(source, i)`, what it takes of pair i, and `hint(batch)`, the hints of a batch.
"""
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from common.benchmarks.pairs import cropped_waveform, read_waveform, training_pairs
from common.io import InputError, load_published, read_json
from common.training import (Parser, add_flags, array_files, cli, dist, given_flags, resolve,
                             select_device)

from .backbones import small
from .backbones.detr import detr_r50, square_view
from .backbones.panns import cnn14, wavegram_logmel_cnn14
from .backbones.views import normalise, test_view
from .config import PRESETS
from .guidance import CONFIDENCE, confident_mean, detr_confidence

BATCH = 32
NUM_COMPARED = 200  # scenes whose hints are compared
ADVICE = "`python -m avkd.teachers` with the flags of this training makes it"


class Detr:
    """The visual teacher: DETR-R50, of which e_v is, by --visual-hint,

    attention: where its confident queries look, as released: (n, S/32, S/32), which sums to 1.
    backbone: the last map of its ResNet-50. encoder: the map of its encoder. decoder: the outputs
    of its confident queries, each laid where the query attends. The latter two have 256 channels
    and come through a fixed orthogonal projection to c. All three are averaged to the size of F_v's
    map. attention and decoder are NaN where no query is confident."""

    def __init__(self, config, path, device="cpu"):
        self.config = config
        self.net = load_published(detr_r50(), path, "model").eval().to(device)
        self.lift = torch.empty(config.channels, self.net.d)
        generator = torch.Generator().manual_seed(0)
        torch.nn.init.orthogonal_(self.lift, generator=generator)
        if config.visual_hint == "backbone" and config.channels != 2048:
            raise InputError("--channels", f"{config.channels}: the backbone of DETR has 2048")

    def view(self, source, i):
        return square_view(source.image(i), self.config.teacher_size)

    def hint(self, images):
        """(n, 3, S, S) in [0, 1] → e_v (n, c, h, w), or (n, S/32, S/32) of attention."""
        x, kind = normalise(images), self.config.visual_hint
        if kind == "backbone":
            features = self.net.backbone[0]["body"].features(x)
        else:
            output = self.net(x)
            confidence = detr_confidence(output)  # (n, Q)
            if kind == "attention":
                return attention_hint(confidence, output["attention"])
            features = output["memory"]  # (n, d, H, W)
            if kind == "decoder":
                is_confident = confidence >= CONFIDENCE
                queries = output["hs"][-1] * is_confident[..., None]  # (n, Q, d)
                features = torch.einsum("nqd,nqhw->ndhw", queries, output["attention"])
                features[~is_confident.any(1)] = torch.nan
            features = torch.einsum("cd,ndhw->nchw", self.lift.to(features), features)
        return F.adaptive_avg_pool2d(features, self.config.side)


class SmallDetector:
    """The visual teacher of scenes: attention or backbone of the small detector, as of DETR."""

    def __init__(self, config, device):
        self.config, self.net = config, small.make_network("e_v", config, device)
        self.lift = torch.empty(config.channels, self.net.body.channels)
        torch.nn.init.orthogonal_(self.lift, generator=torch.Generator().manual_seed(0))

    def view(self, source, i):
        return test_view(source.image(i), self.config.image_size)

    def hint(self, images):
        """(n, 3, H, W) in [0, 1] → e_v (n, c, h, w), or (n, h, w) of attention."""
        if self.config.visual_hint == "attention":
            return attention_hint(*self.net.detect(images))
        features = self.net.features(images)
        return torch.einsum("cd,ndhw->nchw", self.lift.to(features), features)


def attention_hint(confidence, attention):
    """`confident_mean` of (n, Q), (n, Q, h, w): (n, h, w), NaN where no query is confident."""
    maps, has_detection = confident_mean(confidence, attention)
    return torch.where(has_detection[:, None, None], maps, torch.nan)


class Panns:
    """The audio teacher: Cnn14 or Wavegram-Logmel-Cnn14, of the student's part of the audio, which
    is read at 32 kHz: at the student's rate the upper mel bands would be empty."""

    def __init__(self, config, path, device="cpu"):
        self.config = config
        make = {"cnn14": cnn14, "wavegram_logmel_cnn14": wavegram_logmel_cnn14}
        net = make[config.audio_teacher]()
        self.net = load_published(net, path, "model").eval().to(device)
        if config.channels != net.embedding_size:
            raise InputError("--channels", f"{config.channels}: embeddings of PANNs have "
                             f"{net.embedding_size}")

    def view(self, source, i):
        config = replace(self.config, sample_rate=self.net.sample_rate)
        return cropped_waveform(read_waveform(source.samples[i].audio, config), config)

    def hint(self, waveforms):
        """(n, samples) in [-1, 1] → e_a (n, 2048)."""
        return self.net(waveforms)["embedding"]


def fingerprint(config, name: str) -> dict:
    """What tells hints `name`, e_v or e_a, from others, besides the pairs and the weights."""
    if config.data == "scenes":
        hint = {"e_v": config.visual_hint, "e_a": "embedding"}[name]
        return {"teacher": "small", "hint": hint, **small.fingerprint(config)}
    if name == "e_v":
        return {"teacher": "detr_r50", "hint": config.visual_hint, "size": config.teacher_size}
    audio = ("channel", "seconds", "crop")
    return {"teacher": config.audio_teacher, **{key: getattr(config, key) for key in audio}}


def hint_shape(config, name: str, count: int) -> tuple:
    side = config.side
    if name == "e_a":
        return count, config.channels
    if config.visual_hint != "attention":
        return count, config.channels, side, side
    side = side if config.data == "scenes" else -(-config.teacher_size // 32)
    return count, side, side


def is_taught(config, name: str) -> bool:
    return {"e_v": config.teach_image, "e_a": config.teach_audio}[name]


class Views(Dataset):
    """What a teacher takes of the pairs of a source, from pair `first` on."""

    def __init__(self, teacher, source, first):
        self.teacher, self.source, self.first = teacher, source, first

    def __len__(self):
        return len(self.source.ids) - self.first

    def __getitem__(self, i):
        return self.teacher.view(self.source, self.first + i)


def write_hints(source, config, name: str, teacher, weights, folder, workers=0, device="cpu"):
    """Write hints `name`, e_v or e_a, of all pairs of a source to `folder`; the array, mapped.

    weights: the file of the teacher. Raises InputError."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    array_files.write_ids(folder / "ids.txt", source.ids)

    @torch.inference_mode()
    def blocks(first):
        for x in DataLoader(Views(teacher, source, first), BATCH, num_workers=workers):
            yield teacher.hint(x.to(device)).half().cpu().numpy()

    made_of = {"ids": array_files.file_crc32(folder / "ids.txt"),
               "weights": array_files.file_crc32(weights)}
    return array_files.fill_array(
        folder / f"{name}.npy", hint_shape(config, name, len(source.ids)), np.float16,
        {**fingerprint(config, name), **made_of}, blocks, f"hints {name}")


def read_hints(config, name: str, ids) -> np.memmap:
    """Hints `name` of these pairs from config.hints, memory-mapped.

    Raises InputError if they are of other pairs, another teacher or another preprocessing, not
    finished, or missing."""
    folder, path = Path(config.hints), Path(config.hints) / f"{name}.npy"
    if not (folder / "ids.txt").is_file():
        raise InputError(folder / "ids.txt", f"no such file: {ADVICE}")
    array_files.check_ids(folder / "ids.txt", ids)
    if path.with_name(path.name + ".part").exists():
        raise InputError(path, "is not finished; the same `python -m avkd.teachers` continues it")
    array, record = array_files.open_array(path, ADVICE), path.with_name(path.name + ".json")
    if not record.is_file():
        raise InputError(record, "is missing: it says which teacher made the hints")
    saved, shape = read_json(record), hint_shape(config, name, len(ids))
    saved = saved if isinstance(saved, dict) else {}
    ours = {**fingerprint(config, name), "shape": list(shape), "dtype": "<f2"}
    for key, value in ours.items():
        if saved.get(key) != value:
            raise InputError(path, f"its {key} is {saved.get(key)!r}, this training's {value!r}: "
                             f"{ADVICE}")
    if array.shape != shape or array.dtype != np.float16:
        raise InputError(path, f"{array.dtype} {array.shape}: not what {record.name} says")
    return array


def load_hints(config, ids) -> tuple:
    """e_v, e_a of these pairs from config.hints, each None without that teacher."""
    return tuple(read_hints(config, name, ids) if is_taught(config, name) else None
                 for name in ("e_v", "e_a"))


def training_hints(config, source, device="cpu") -> tuple:
    """e_v, e_a for a training, from --hints; scenes have small teachers, made here if missing."""
    if config.data == "scenes":
        pairs = zlib.crc32("\n".join(source.ids).encode())
        folder = small.folder(config) / f"{config.visual_hint}-{pairs:08x}"
        if dist.rank() == 0:
            with array_files.exclusive_lock(folder.parent):  # other trainings share the teachers
                for name in ("e_v", "e_a"):
                    if is_taught(config, name):
                        teacher = (SmallDetector(config, device) if name == "e_v" else
                                   small.make_network("e_a", config, device))
                        weights = small.weights_path(name, config)
                        write_hints(source, config, name, teacher, weights, folder, device=device)
        dist.gather_objects(None)  # the files are there
        config = replace(config, hints=str(folder))
    return load_hints(config, source.ids)


def hint_cosines(e_v, e_a, source) -> dict:
    """Whether both hints pull one way: the mean cosine of e_a with e_v at positions of an object of
    its class, of an object of another class, and of nothing, in scenes of one object.

    Attention (N, h, w) asks for f_v^xy · (1, …, 1) = c · e_v^xy, see losses.py: as much of f_v^xy
    lies along (1, …, 1), so e_v^xy (1, …, 1) stands for the features. {} without such scenes or
    without one of the hints."""
    rows = np.flatnonzero(source.is_alone)[:NUM_COMPARED]
    if e_v is None or e_a is None or not len(rows):
        return {}
    e_v, e_a = (torch.from_numpy(np.array(x[rows], np.float32)) for x in (e_v, e_a))
    e_a, is_attention = F.normalize(e_a, dim=1), e_v.ndim == 3
    e_v = e_v[:, None].expand(-1, e_a.shape[1], -1, -1) if is_attention else F.normalize(e_v, dim=1)
    cosine = torch.einsum("nchw,mc->nmhw", e_v, e_a)
    masks = torch.from_numpy(np.array([source.samples[i].mask for i in rows], np.float32))
    share = F.adaptive_avg_pool2d(masks[:, None], e_v.shape[2:])  # (n, 1, h, w), of the object
    classes = torch.tensor([source.samples[i].cls for i in rows])
    is_own = (classes[:, None] == classes)[..., None, None]  # (n, n, 1, 1)
    where = {"own_class": is_own & (share > 0.5), "other_classes": ~is_own & (share > 0.5),
             "nothing": (share == 0).expand_as(cosine)}
    values = {name: cosine[x & cosine.isfinite()] for name, x in where.items()}
    return {f"hints/{name}": x.mean().item() for name, x in values.items() if len(x)}


def main(argv=None):
    prog = "python -m avkd.teachers"
    parser = Parser(prog=prog, description=__doc__.splitlines()[0])
    add_flags(parser, PRESETS)
    parser.add_argument("--panns", default="", help="file of --audio-teacher: writes e_a")
    flags = given_flags(parser.parse_args(argv))
    detr, panns = flags.pop("detr", ""), flags.pop("panns")  # here they write e_v and e_a
    try:
        config = resolve(PRESETS, flags)
    except ValueError as error:
        parser.error(str(error))
    if config.data == "scenes":
        parser.error("scenes need no command: their training makes small teachers")
    if not (detr or panns):
        parser.error("name the teachers' weights: --detr, --panns or both")
    with cli(prog):
        device = select_device(config.device)
        makers = {"e_v": (Detr, detr), "e_a": (Panns, panns)}
        teachers = {name: (make(config, path, device), path)  # before anything is read or written
                    for name, (make, path) in makers.items() if path}
        source, _ = training_pairs(config)
        for name, (teacher, path) in teachers.items():
            array = write_hints(source, config, name, teacher, path, config.hints, config.workers,
                                device)
            file = Path(config.hints) / f"{name}.npy"
            print(f"{file}: {array.shape}, {array.nbytes / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
