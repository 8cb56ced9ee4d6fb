"""Real data: published annotation files, unconverted, and the folders this field keeps them with → samples → ground truth.

A benchmark is a folder: pictures in `frames/ID.jpg`, sounds in `audio/ID.wav`, annotation files and lists of ids in
`metadata/` or beside it, as EZ-VSL, SLAVC and ACL-SSL have it. AVSBench, VPO and IS3 keep their own folders (PICTURES,
SOUNDS, MASKS); Flickr's boxes are in `Annotations/ID.xml`; a video is `frames/ID/0000.jpg …`, RATE a second.
Videos vanish from the web: `listed` is what the lists name, `load` what there is of it, and it says how many of how many.

    python -m common.benchmarks check NAME ROOT [--missing FILE]
    python -m common.benchmarks prepare NAME VIDEOS ROOT [--jobs N]
"""
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from . import annotations as a
from common.training import dist
from common.io import InputError, inside, read_image, read_json, read_lines
from common.metrics import boxes_to_map
from common.training import progress_bar

PICTURES = ("images", "visual_frames", "frames")
SOUNDS = ("audio_waw", "audio_wav", "audio")  # IS3 spells it so
MASKS = ("gt_segmentation", "gt_masks", "gray_masks")
FRAME_RATE = 4  # frames a second of a video on disk; frame k shows the time (k + 0.5) / RATE (stmnet 4.1: T = 4 in one second)
GRID = 224  # the boxes of IS3, VPO and AVSBench are pixels of a picture of this size
UNANNOTATED = ("vggsound", "flickr-soundnet", "ave")  # nobody drew boxes


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture, a sound, and what is known of where the sound comes from.

    boxes: (n, 4) float64, x0 y0 x1 y1 in [0, 1], none without area; Flickr-SoundNet: a tuple of such arrays, one an
    annotator, as annotated; None where nobody annotated. seconds: the (start, end) of the sound that belongs to the
    sample: the second of a video's frame, the event of an AVE video; None is all of it.
    """
    id: str
    image: Path  # ave: the folder of the video's frames
    audio: Path
    boxes: np.ndarray | tuple | None
    masks: tuple | None = None  # paths
    group: str = ""  # samples of one picture (IS3, VPO) or of one video share it
    label: str | None = None
    sounding: bool = True
    seconds: tuple | None = None


def load_samples(name, root, lists=None) -> list[Sample]:
    """The samples of benchmark `name` whose picture and sound are in `root`; how many of how many goes to stderr.

    lists: a file with other ids than the published default's: a path, or a name in ROOT/metadata.
    Raises InputError for a malformed annotation, and where not one sample is there.
    """
    samples = listed_samples(name, root, lists)
    found = [sample for sample, there in zip(samples, is_on_disk(name, samples)) if there]
    if not found:
        example = f": no {samples[0].image} with its sound and boxes, for one" if samples else ""
        raise InputError(root, f"none of the {len(samples)} samples of {name} is here{example}")
    if dist.rank() == 0:
        print(f"{name}: {len(found)} found / {len(samples)} listed", file=sys.stderr)
    return found


def listed_samples(name, root, lists=None) -> list[Sample]:
    """All samples that the annotations and lists name, whether their files exist or not. Raises InputError."""
    if name not in READERS:
        raise InputError(name, f"no such benchmark; there are {', '.join(READERS)}")
    root = Path(root)
    if not root.is_dir():
        raise InputError(root, "no such folder")
    reader, default = READERS[name]
    lists = lists or default
    if lists and not Path(lists).is_file():
        lists = a.metadata(root, lists)
    return list(reader(root, lists and Path(lists)))


def is_on_disk(name, samples) -> list[bool]:
    """Whether picture, sound and, but for training data, boxes are there: each folder is listed once, not asked file by file."""
    names = {}

    def there(path):
        if path.parent not in names:
            names[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else ()
        return path.name in names[path.parent]

    return [there(s.image) and there(s.audio) and (s.boxes is not None or name in UNANNOTATED) for s in samples]


def gt_map(sample, size, masks=False) -> np.ndarray:
    """(size, size) float32 ground truth in [0, 1]: the union of the boxes, or with `masks` of the masks; Flickr: the consensus
    of two annotators; zeros where nothing sounds. ValueError where nobody annotated."""
    if not sample.sounding:
        return np.zeros((size, size), np.float32)
    if (sample.masks if masks else sample.boxes) is None:
        raise ValueError(f"{sample.id}: nobody annotated {'a mask' if masks else 'boxes'}")
    if masks:
        return np.max([_mask(path, size) for path in sample.masks], axis=0)
    if isinstance(sample.boxes, tuple):  # every box votes, an annotator's second too: the published evaluators' sum
        return boxes_to_map(np.concatenate([np.zeros((0, 4)), *sample.boxes]) * size, size, consensus=2)
    return boxes_to_map(sample.boxes * size, size)


def _mask(path, size):
    """Resized, then cut at 128, as sslalign's evaluator does: masks may be JPEGs."""
    grey = Image.fromarray(read_image(path, "L")).resize((size, size), Image.Resampling.BICUBIC)
    return (np.asarray(grey) >= 128).astype(np.float32)


def readable_samples(items, name: str, read) -> list:
    """The items whose file `read` can read; the others are named. Every file is tried once (--skip-bad)."""
    def reason(path):
        try:
            read(path)
        except InputError as error:
            return str(error)
    paths = sorted({getattr(item, name) for item in items})
    with ThreadPoolExecutor() as pool:
        reasons = dict(zip(paths, progress_bar(pool.map(reason, paths), total=len(paths), name=f"trying every {name}")))
    for path in paths if dist.rank() == 0 else ():
        if reasons[path]:
            print("left out:", reasons[path])
    return [item for item in items if not reasons[getattr(item, name)]]


# Readers: (root, the file with the list, or None) → samples


def _pair(root, key):
    return root / "frames" / f"{key}.jpg", root / "audio" / f"{key}.wav"


def _vggss(root, lists):
    path = a.metadata(root, "vggss.json")
    entries = {a.file_name(path, entry["file"]): entry for entry in a.entries(path, file=str, bbox=list, **{"class": str})}
    for key in a.ids(lists) if lists else entries:
        entry = entries.get(key)
        boxes = None if entry is None else a.clip(a.boxes(path, key, entry["bbox"]))
        yield Sample(key, *_pair(root, key), boxes, None, key, entry and entry["class"])


def _flickr(root, lists):
    for key in a.ids(lists):
        path = root / "Annotations" / f"{key}.xml"
        yield Sample(key, *_pair(root, key), a.annotators(path) if path.is_file() else None, None, key)


def _extended(reader, sounding):
    """The benchmark itself, and the rows of `*_plus_silent.csv`: a picture with a sound that nothing in it makes."""
    def read(root, lists):
        def place(folder, name):
            apart = root / f"extend_{folder}" / name
            return apart if apart.is_file() else root / folder / name

        for s in reader(root, sounding and a.metadata(root, sounding)):
            yield Sample(s.id, place("frames", s.image.name), place("audio", s.audio.name), s.boxes, None, s.group, s.label)
        for row in a.rows(lists):
            if len(row) != 3:
                raise InputError(lists, f"a row is video,audio,label, not {','.join(row)[:80]}")
            if row[2] == "non-sounding":
                video, audio = (a.file_name(lists, a.clip_id(key)) for key in row[:2])
                yield Sample(f"{video}+{audio}", place("frames", f"{video}.jpg"), place("audio", f"{audio}.wav"),
                             np.zeros((0, 4)), None, video, None, False)
    return read


def _instances(boxes_file, masks_file, split):
    """IS3, VPO, AVSBench: an entry an instance, with paths of the authors' machine. split: path → group[, label]."""
    def read(root, lists):
        pictures, sounds, drawn = (next((root / name for name in names if (root / name).is_dir()), root / names[0])
                                   for names in (PICTURES, SOUNDS, MASKS))
        masks = {}
        if _has(root, masks_file):
            for entry in a.entries(a.metadata(root, masks_file), image=str, gt_box=str):  # gt_box: the mask's path
                mask = inside(drawn, a.tail(entry["gt_box"], MASKS))
                masks.setdefault(a.tail(entry["image"], PICTURES), []).append(mask)
        path, wanted = a.metadata(root, boxes_file), lists and set(a.ids(lists))
        for entry in a.entries(path, image=str, audio=str, gt_box=list):
            image = a.tail(entry["image"], PICTURES)
            if wanted is None or image.stem in wanted:
                boxes = a.clip(a.from_grid(a.boxes(path, image, [entry["gt_box"]]), GRID))
                found = tuple(mask for mask in masks.get(image, ()) if mask.is_file())
                yield Sample(image.stem, inside(pictures, image), inside(sounds, a.tail(entry["audio"], SOUNDS)), boxes,
                             found or None, *split(image))
    return read


def _is3_name(path):
    """accordion_female_10438_ice cream truck → the picture, with its number, and the category, which may hold anything."""
    match = re.fullmatch(r"(.+?_\d+)_(.+)", path.stem)
    return match.groups() if match else path.stem.rpartition("_")[::2]


def _ave(root, lists):
    """A sample a video; `seconds` is its event. lists: a split, as lines of Annotations.txt, ids, or line numbers from 0."""
    path = a.metadata(root, "Annotations.txt", "ave_Annotations.txt")
    rows = [line.rsplit("&", 4) for line in read_lines(path)]
    rows = rows[1:] if rows and rows[0][-1] == "EndTime" else rows
    for row in rows:
        if len(row) != 5 or not (row[3].isdecimal() and row[4].isdecimal()):
            raise InputError(path, f"a line is category&id&quality&start&end, not {'&'.join(row)[:80]}")
    if lists:
        chosen = read_lines(lists)
        if all(line.isdecimal() for line in chosen):
            if beyond := [line for line in chosen if int(line) >= len(rows)]:
                raise InputError(lists, f"line {beyond[0]} of {path.name}, which has {len(rows)}")
            rows = [rows[int(line)] for line in chosen]
        else:
            chosen = {line.rsplit("&", 4)[1] if line.count("&") > 3 else line for line in chosen}
            rows = [row for row in rows if row[1] in chosen]
    for category, key, _, start, end in rows:
        a.file_name(path, key)
        yield Sample(key, root / "frames" / key, root / "audio" / f"{key}.wav", None, None, key, category, True,
                     (float(start), float(end)))


def _frames(root, lists):
    """Boxes of single frames (DSOL's form): `id/second`, or MUSIC's `video/frame_second/number.jpg` → boxes as x y w h."""
    entries = read_json(lists)
    if not isinstance(entries, dict):
        raise InputError(lists, "not an object of frames")
    for key, entry in entries.items():
        match = re.fullmatch(r"([^/]+)/(?:(\d{1,5})|frame_(\d{1,5})/\d{1,7}\.jpg)", key)
        drawn = entry.get("bbox") if isinstance(entry, dict) else None
        if not match or not isinstance(drawn, list) or not all(isinstance(box, dict) and "normbox" in box for box in drawn):
            raise InputError(lists, f"{key[:80]}: not a frame whose bbox has normboxes")
        video, second = a.file_name(lists, match[1]), int(match[2] or match[3])
        boxes = a.boxes(lists, key, [box["normbox"] for box in drawn])
        boxes = a.clip(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
        labels = {str(box.get("category", box.get("category_id"))) for box in drawn}
        image = f"{video}/{second * FRAME_RATE:04d}.jpg" if match[2] else key
        yield Sample(key, root / "frames" / image, root / "audio" / f"{video}.wav", boxes, None, video,
                     ",".join(sorted(labels)), True, (float(second), second + 1.0))


def _vggsound(root, lists):
    """Without a list the train rows of vggsound.csv (id, start, label, split); with one its ids, with the labels of both."""
    table = {}
    if not lists or _has(root, "vggsound.csv"):
        path = a.metadata(root, "vggsound.csv")
        for row in a.rows(path):
            if len(row) != 4 or not row[1].isdecimal():
                raise InputError(path, f"a row is id,start,label,split, not {','.join(row)[:80]}")
            table[a.file_name(path, f"{row[0]}_{int(row[1]):06d}")] = row[2:]
    if lists:
        own = {a.clip_id(row[0]): row[1] for row in a.rows(lists) if len(row) == 2}  # vggsound_test.csv: id.mp4,label
        labels = {key: own.get(key) or table.get(key, [None])[0] for key in a.ids(lists)}
    else:
        labels = {key: label for key, (label, split) in table.items() if split == "train"}
    for key, label in labels.items():
        yield Sample(key, *_pair(root, key), None, None, key, label)


def _flickr_soundnet(root, lists):
    for key in a.ids(lists):
        yield Sample(key, *_pair(root, key), None, None, key)


def _has(root, name):
    return any((base / name).is_file() for base in (root / "metadata", root))


READERS = {  # name: reader, the published list in metadata/ (None: everything in the annotation file)
    "vggss": (_vggss, None),
    "vggss-heard": (_vggss, "vggss_heard_test.csv"),
    "vggss-unheard": (_vggss, "vggss_unheard_test.csv"),
    "flickr": (_flickr, "flickr_test.csv"),
    "vggss-extended": (_extended(_vggss, None), "vggss_test_plus_silent.csv"),
    "flickr-extended": (_extended(_flickr, "flickr_test.csv"), "flickr_test_plus_silent.csv"),
    "is3": (_instances("synthetic3240_bbox.json", "synthetic3240_seg.json", _is3_name), None),
    "vpo-ss": (_instances("vpo_ss_bbox.json", "vpo_ss_seg.json", lambda path: [path.stem.rpartition("_")[0]]), None),
    "vpo-ms": (_instances("vpo_ms_bbox.json", "vpo_ms_seg.json", lambda path: [path.stem.rpartition("_")[0]]), None),
    "avsbench-s4": (_instances("s4_box.json", "s4_seg.json", lambda path: [path.parent.name, path.parent.parent.name]), None),
    "avsbench-ms3": (_instances("ms3_box.json", "ms3_seg.json", lambda path: [path.parent.name]), None),
    "ave": (_ave, None),
    "ave-boxes": (_frames, "ave_box.json"),  # the user's own, in audioset_box.json's form
    "audioset-instrument": (_frames, "audioset_box.json"),
    "music-solo": (_frames, "solotest.json"),
    "music-duet": (_frames, "duettest.json"),
    "vggsound": (_vggsound, None),
    "flickr-soundnet": (_flickr_soundnet, "flickr_144k.txt"),
}
