"""Readers of published benchmarks: annotation files, as published, → samples → ground truth.

A benchmark is a folder, laid out as in the repositories of this field (EZ-VSL, SLAVC, ACL-SSL):

    ROOT/metadata/                     annotation files and lists of ids (they may be in ROOT too)
    ROOT/frames/ID.jpg                 images; of a video, frames/ID/0000.jpg …, FRAME_RATE a second
    ROOT/audio/ID.wav                  or ID.flac
    ROOT/Annotations/ID.xml            Flickr-SoundNet
    ROOT/extend_frames, extend_audio   the extended sets
    ROOT/visual_frames, audio_wav, gt_masks             AVSBench, VPO (gray_masks)
    ROOT/images, audio_waw, gt_segmentation             IS3

Videos vanish from the web: `listed_samples` are those that the lists name, `load_samples` those
whose files exist. lists: a file with other ids than the published, or its name in ROOT/metadata.
"""
import os
import re
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from common.io import InputError, inside, read_json, read_lines
from common.training import dist

from .annotations import (check_name, check_rows, clip_boxes, clip_id, find_metadata, from_grid,
                          parse_boxes, read_annotators, read_entries, read_ids, read_rows,
                          relative_path)
from .is3 import ARCHIVE, GRID, mask_to_box, read_archive, read_mask
from .cvat import box_samples, instrument_clips
from .samples import Sample

_inside = partial(inside, is_trusted=True)  # the user's ROOT: its links may lead out
IMAGES = ("images", "visual_frames", "frames")
AUDIO = ("audio_waw", "audio_wav", "audio")  # IS3's spelling
MASKS = ("gt_segmentation", "gt_masks", "gray_masks")
FRAME_RATE = 4  # of videos on disk: stmnet 4.2; frame k shows the time (k + 0.5) / FRAME_RATE
IS3_LISTS = ("synthetic3240_bbox.json", ARCHIVE)  # the first that is there
UNANNOTATED = ("vggsound", "flickr-soundnet", "ave", "audioset-instrument-clips")  # no boxes


def load_samples(name: str, root, lists=None, listed=None) -> list[Sample]:
    """The samples of benchmark `name` whose files are in `root`. Prints to stderr how many of how
    many those are. listed: what `listed_samples` returned for the same, if it was called before.
    Raises InputError if there is none or none has a box, or an annotation is malformed."""
    samples = listed_samples(name, root, lists) if listed is None else listed
    found = [sample for sample in find_on_disk(name, samples) if sample]
    if not found:
        text = f"none of the {len(samples)} samples of {name} is here"
        text += f", which are those of {lists}" if lists else ""
        for s in samples[:1]:
            lost = [path for path in (s.image, s.audio) if not file_finder()(path)]
            text += f", for example {lost[0] if lost else f'the boxes of {s.id}'}"
        raise InputError(root, text)
    bare = sum(s.lacks_box() for s in found)
    if bare == len(found):
        raise InputError(root, f"no box of {name} is inside its image: are they in pixels?")
    if dist.rank() == 0:
        path = find_metadata(root, *IS3_LISTS, optional=True) if name == "is3" else None
        masks = sum(bool(s.masks) for s in found)
        print(f"{name}: {len(found)} found / {len(samples)} listed"
              f"{f' in {path.name}' if path else ''}{f', {masks} with masks' if masks else ''}"
              f"{f', {bare} without a box inside the image' if bare else ''}",
              file=sys.stderr)
    return found


def listed_samples(name: str, root, lists=None) -> list[Sample]:
    """All samples that annotations and lists name, on disk or not. Raises InputError."""
    if name not in READERS:
        raise InputError(name, f"no such benchmark; there are {', '.join(READERS)}")
    if not root or not Path(root).is_dir():
        raise InputError(root or "--root", "no such folder" if root else f"is needed for {name}")
    root = Path(root)
    reader, default = READERS[name]
    lists = lists or default
    if lists and not Path(lists).is_file():
        names = [Path(lists).with_suffix(x).name for x in (".txt", ".csv")]  # published as either
        lists = find_metadata(root, lists, *names)
    try:
        return list(reader(root, lists and Path(lists)))
    except ValueError as error:  # a number of 5000 digits
        raise InputError(lists or root, error) from None


def file_finder():
    """→ a function of a path that returns it, or the path of the same sample under another name
    that `clip_id` knows, audio as FLAC too, or None. Each folder is listed once."""
    @cache
    def names(folder):  # name or id → name
        files = os.listdir(folder) if folder.is_dir() else ()
        return {clip_id(x): x for x in files if "." in x} | {x: x for x in files}

    def find(path):
        file = names(path.parent).get(path.name) or names(path.parent).get(path.stem)
        return file and path.with_name(file)
    return find


def find_on_disk(name: str, samples) -> list:
    """The samples with the paths of their files, or None where image, audio or (except for
    UNANNOTATED) boxes are missing."""
    find = file_finder()
    found = [replace(s, image=find(s.image), audio=find(s.audio)) for s in samples]
    return [s if s.image and s.audio and (s.boxes is not None or name in UNANNOTATED) else None
            for s in found]


def _files(root, name):
    return root / "frames" / f"{name}.jpg", root / "audio" / f"{name}.wav"


def _vggss(root, lists):
    path = find_metadata(root, "vggss.json")
    entries = read_entries(path, file=str, bbox=list, **{"class": str})
    entries = {check_name(path, entry["file"]): entry for entry in entries}
    for name in read_ids(lists) if lists else entries:
        entry = entries.get(name, {})
        boxes = clip_boxes(parse_boxes(path, name, entry["bbox"])) if entry else None
        yield Sample(name, *_files(root, name), boxes, group=name, label=entry.get("class"))


def _flickr(root, lists):
    for name in read_ids(lists):
        path = root / "Annotations" / f"{name}.xml"
        boxes = read_annotators(path) if path.is_file() else None
        yield Sample(name, *_files(root, name), boxes, group=name, consensus=2)


def _extended(reader, sounding, root, lists):
    """The benchmark, and from `lists` images with audio that nothing in them makes."""
    find = file_finder()

    def extend(path):
        return find(root / f"extend_{path.parent.name}" / path.name) or path
    for s in reader(root, sounding and find_metadata(root, sounding)):
        yield replace(s, image=extend(s.image), audio=extend(s.audio))
    for video, audio, label in check_rows(lists, read_rows(lists), "video,audio,label"):
        if label == "non-sounding":
            video, audio = (check_name(lists, clip_id(name)) for name in (video, audio))
            yield Sample(f"{video}+{audio}", extend(_files(root, video)[0]),
                         extend(_files(root, audio)[1]), np.zeros((0, 4)), group=video,
                         sounding=False)


def _instances(name, boxes_files, masks_file, root, lists):
    """IS3, VPO, AVSBench: an entry for each instance, with paths of the authors' machine.
    Without the list of boxes, they are those of the archive (IS3), or of the masks."""
    image_dir, audio_dir, mask_dir = (
        next((root / folder for folder in folders if (root / folder).is_dir()), root / folders[0])
        for folders in (IMAGES, AUDIO, MASKS))
    masks_path, ids = find_metadata(root, masks_file, optional=True), lists and set(read_ids(lists))
    path, masks = find_metadata(root, *boxes_files, optional=masks_path), {}
    is_archive = path is not None and path.name == ARCHIVE
    for entry in read_entries(masks_path, image=str, gt_box=str) if masks_path else ():
        mask = _inside(mask_dir, relative_path(entry["gt_box"], MASKS))  # spelt gt_box
        masks.setdefault(relative_path(entry["image"], IMAGES), []).append(mask)
    if is_archive:
        entries = read_archive(path)
    else:
        entries = read_entries(path or masks_path, image=str, audio=str,
                               gt_box=list if path else str)
    for entry in entries:
        image = relative_path(entry["image"], IMAGES)
        if ids is None or image.stem in ids:
            audio = _inside(audio_dir, relative_path(entry["audio"], AUDIO))
            here = masks.get(image) or [_inside(mask_dir, f"{image.stem}{suffix}")
                                        for suffix in (".png", ".jpg") if is_archive]
            here = tuple(mask for mask in here if os.path.isfile(mask))
            boxes = [entry["gt_box"]] if path else [mask_to_box(read_mask(m), GRID) for m in here]
            boxes = clip_boxes(from_grid(parse_boxes(path or masks_path, image, boxes), GRID))
            group, label = _group_and_label(name, image)
            yield Sample(image.stem, _inside(image_dir, image), audio,
                         boxes if path or here else None, here or None, group,
                         entry.get("category", label) if is_archive else label)


def _group_and_label(name, image):
    """What an image belongs to (IS3, VPO: an image, AVSBench: a video), and the category."""
    if name == "is3":  # accordion_female_10438_ice cream truck: an image with its number, category
        match = re.fullmatch(r"(.+?_\d+)_(.+)", image.stem)
        return match.groups() if match else image.stem.rpartition("_")[::2]
    if name == "vpo":
        return image.stem.rpartition("_")[0], None
    return image.parent.name, image.parent.parent.name if name == "s4" else None


def _ave(root, lists):
    """A sample for each video; `seconds` is its event.
    lists: a split, as lines of Annotations.txt, ids, or numbers of its lines, from 0."""
    path = find_metadata(root, "Annotations.txt", "ave_Annotations.txt")
    rows = [line.rsplit("&", 4) for line in read_lines(path)]
    rows = rows[1:] if rows and rows[0][-1] == "EndTime" else rows
    check_rows(path, rows, "category&id&quality&start&end", (3, 4), "&")
    split = read_lines(lists) if lists else ()
    if lists and all(line.isdecimal() for line in split):
        if beyond := [line for line in split if int(line) >= len(rows)]:
            raise InputError(lists, f"line {beyond[0]} of {path.name}, which has {len(rows)}")
        rows = [rows[int(line)] for line in split]
    elif lists:
        ids = {line.rsplit("&", 4)[1] if line.count("&") > 3 else line for line in split}
        if unknown := sorted(ids - {row[1] for row in rows}):
            raise InputError(lists, f"{len(unknown)} of {len(ids)} ids are not in {path.name}, for "
                             f"example {unknown[0][:80]!r}")
        rows = [row for row in rows if row[1] in ids]
    for label, name, _, start, end in rows:
        yield Sample(check_name(path, name), root / "frames" / name, _files(root, name)[1], None,
                     group=name, label=label, seconds=(float(start), float(end)))


def _frames(root, lists):
    """Boxes of single frames, as x, y, w, h, in the format of DSOL.
    A frame is `id/second` (AudioSet), or `video/frame_second/number.jpg` (MUSIC)."""
    entries = read_json(lists, dict)
    for key, entry in entries.items():
        match = re.fullmatch(r"([^/]+)/(?:(\d{1,5})|frame_(\d{1,5})/\d{1,7}\.jpg)", key)
        found = entry.get("bbox") if isinstance(entry, dict) else None
        is_frame = match and isinstance(found, list)
        if not is_frame or not all(isinstance(b, dict) and "normbox" in b for b in found):
            raise InputError(lists, f"{key[:80]}: not a frame whose bbox has normboxes")
        video, second = check_name(lists, match[1]), int(match[2] or match[3])
        boxes = parse_boxes(lists, key, [box["normbox"] for box in found])
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
        labels = {str(box.get("category", box.get("category_id"))) for box in found}
        image = f"{video}/{second * FRAME_RATE:04d}.jpg" if match[2] else key
        yield Sample(key, root / "frames" / image, _files(root, video)[1], clip_boxes(boxes),
                     group=video, label=", ".join(sorted(labels)),
                     seconds=(float(second), second + 1.0))


def _vggsound(root, lists):
    """The train rows of vggsound.csv, or the ids of `lists` with the labels of both files."""
    table = {}  # id: label, split
    path = find_metadata(root, "vggsound.csv", optional=bool(lists))
    for row in check_rows(path, read_rows(path), "id,start,label,split", (1,)) if path else ():
        table[check_name(path, f"{row[0]}_{int(row[1]):06d}")] = row[2:]
    if lists:
        in_list = {clip_id(row[0]): row[1] for row in read_rows(lists) if len(row) == 2}
        labels = {name: in_list.get(name) or table.get(name, [None])[0] for name in read_ids(lists)}
    else:
        labels = {name: label for name, (label, split) in table.items() if split == "train"}
    for name, label in labels.items():
        yield Sample(name, *_files(root, name), None, group=name, label=label)


def _flickr_soundnet(root, lists):
    for name in read_ids(lists):
        yield Sample(name, *_files(root, name), None, group=name)


READERS = {  # name: reader (root, path of a list or None) → samples; the published list, or None
    "vggss": (_vggss, None),
    "vggss-heard": (_vggss, "vggss_heard_test.csv"),
    "vggss-unheard": (_vggss, "vggss_unheard_test.csv"),
    "flickr": (_flickr, "flickr_test.csv"),
    "vggss-extended": (partial(_extended, _vggss, None), "vggss_test_plus_silent.csv"),
    "flickr-extended": (partial(_extended, _flickr, "flickr_test.csv"),
                        "flickr_test_plus_silent.csv"),
    "is3": (partial(_instances, "is3", IS3_LISTS, "synthetic3240_seg.json"), None),
    "vpo-ss": (partial(_instances, "vpo", ["vpo_ss_bbox.json"], "vpo_ss_seg.json"), None),
    "vpo-ms": (partial(_instances, "vpo", ["vpo_ms_bbox.json"], "vpo_ms_seg.json"), None),
    "avsbench-s4": (partial(_instances, "s4", ["s4_box.json"], "s4_seg.json"), None),
    "avsbench-ms3": (partial(_instances, "ms3", ["ms3_box.json"], "ms3_seg.json"), None),
    "ave": (_ave, None),
    "ave-boxes": (_frames, "ave_box.json"),  # the user's own, in the format of audioset_box.json
    "audioset-instrument": (_frames, "audioset_box.json"),
    "ave-stm": (box_samples, "testSet.txt"),  # boxes of every frame, by stmnet's authors
    "audioset-instrument-stm": (box_samples, "test.csv"),
    "audioset-instrument-clips": (instrument_clips, "train.csv"),
    "music-solo": (_frames, "solotest.json"),
    "music-duet": (_frames, "duettest.json"),
    "vggsound": (_vggsound, None),
    "flickr-soundnet": (_flickr_soundnet, "flickr_144k.txt"),
}
