"""Embedded scenes on disk, in the folders and annotation files of published benchmarks.

With them the readers of common.benchmarks are tested on whole data sets without a download. What
scenes lack is invented as simply as possible: a second annotator who agrees with the first
(Flickr-SoundNet), masks of videos that fill the box (AVSBench), a start at 30 s (VGG-SS).
"""

import csv
import io
from functools import partial
from pathlib import Path

import numpy as np

from common.benchmarks import FRAME_RATE
from common.benchmarks.readers import GRID
from common.io import atomic, write_audio, write_image, write_json

ELSEWHERE = "/data/authors"  # annotation files have paths of their authors' machine


def write(scenes, root, layout, count) -> None:
    """`count` samples of `scenes` (a Scenes) in the layout of a benchmark, one of LAYOUTS.

    The readers give the boxes back to the precision of the published format: pixels of 224 (IS3,
    VPO, AVSBench) or of 256 (Flickr-SoundNet), else exactly. ave comes with ave-boxes. Raises
    ValueError for another layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    LAYOUTS[layout](scenes, Path(root), count)


def _write_pair(scenes, sample, image, audio):
    write_image(image, sample.image)
    write_audio(audio, sample.waveform, scenes.sample_rate)


def _write_csv(path, rows):
    with atomic(path) as file:
        buffer = io.StringIO(newline="")
        csv.writer(buffer, lineterminator="\n").writerows(rows)
        file.write(buffer.getvalue().encode())


def _pixels(box, size):
    """A box in [0, 1] → integers of a size × size grid."""
    return np.rint(np.float64(box) * size).astype(int)


def _exact(scenes, box):
    """float32 pixel / size → the same ratio in float64."""
    return (_pixels(box, scenes.size) / scenes.size).tolist()


def _normbox(scenes, box):
    x0, y0, x1, y1 = _exact(scenes, box)
    return [x0, y0, x1 - x0, y1 - y0]


def _vggss_id(n):
    return f"scene{n:06d}_{30:06d}"


def _flickr_id(n):
    return str(10_000_000_000 + n)


def _vggss(scenes, root, count, kind="pair"):
    """VGG-SS with its heard (even classes) and unheard ids.

    kind="extended": also non-sounding samples, in folders of their own.
    """
    entries, ids, silent = [], {"test": [], "heard_test": [], "unheard_test": []}, []
    for n in range(count):
        sample, name = getattr(scenes, kind)(n), _vggss_id(n)
        prefix = "" if sample.sounding else "extend_"
        files = root / f"{prefix}frames/{name}.jpg", root / f"{prefix}audio/{name}.wav"
        _write_pair(scenes, sample, *files)
        if not sample.sounding:
            silent.append([name, name, "non-sounding"])
            continue
        box = _exact(scenes, sample.box)
        entries.append({"file": name, "class": sample.name, "bbox": [box]})
        ids["test"].append([name])
        ids["unheard_test" if sample.cls % 2 else "heard_test"].append([name])
    write_json(root / "metadata/vggss.json", entries)
    for name, rows in ids.items():
        _write_csv(root / f"metadata/vggss_{name}.csv", rows)
    if kind == "extended":
        header = ["video", "audio", "label"]
        _write_csv(root / "metadata/vggss_test_plus_silent.csv", [header, *silent])


def _flickr(scenes, root, count, kind="pair"):
    """Flickr-SoundNet; kind="extended": also non-sounding samples, in folders of their own."""
    ids, silent = [], []
    for n in range(count):
        sample, name = getattr(scenes, kind)(n), _flickr_id(n)
        prefix = "" if sample.sounding else "extend_"
        files = root / f"{prefix}frames/{name}.jpg", root / f"{prefix}audio/{name}.wav"
        _write_pair(scenes, sample, *files)
        if not sample.sounding:
            silent.append([name, name, "non-sounding"])
            continue
        ids.append([name, 0])
        edges = zip(("xmin", "ymin", "xmax", "ymax"), _pixels(sample.box, 256))
        edges = "".join(f"<{edge}>{value}</{edge}>" for edge, value in edges)
        annotator = f"<annotator><bbox><object>0</object>{edges}</bbox></annotator>"
        with atomic(root / f"Annotations/{name}.xml") as file:
            file.write(f"<annotation>{annotator}{annotator}</annotation>\n".encode())
    _write_csv(root / "metadata/flickr_test.csv", ids)
    if kind == "extended":
        header = ["video", "audio", "label"]
        _write_csv(root / "metadata/flickr_test_plus_silent.csv", [header, *silent])


def _instances(scenes, root, count, lists, folders, kind="interactive"):
    """IS3 and VPO: an image, audio and a mask for each instance, named after its group."""
    boxes, masks = [], []
    for n in range(count):
        sample = getattr(scenes, kind)(n)
        name = f"scene_{sample.group}_{sample.name}"
        if lists[0].startswith("vpo"):
            name = f"{sample.group:012d}_{n}"
        images, audio, gt_masks = (root / folder for folder in folders)
        _write_pair(scenes, sample, images / f"{name}.jpg", audio / f"{name}.wav")
        write_image(gt_masks / f"{name}.jpg", sample.mask.astype(np.uint8) * 255)
        files = {
            "image": f"{ELSEWHERE}/visual_frames/{name}.jpg",
            "audio": f"{ELSEWHERE}/audio_wav/{name}.wav",
        }
        boxes.append({**files, "gt_box": _pixels(sample.box, GRID).astype(float)})
        masks.append({**files, "gt_box": f"{ELSEWHERE}/gt_masks/{name}.jpg", "offset": 1})
    write_json(root / "metadata" / lists[0], boxes)
    write_json(root / "metadata" / lists[1], masks)


def _avsbench(scenes, root, count, split):
    """Five frames of each video, one a second; the box is 0, 0, 0, 0 if nothing sounds."""
    boxes, masks = [], []
    for n in range(count):
        video, name = scenes.video(n, fps=1, seconds=5), f"scene{n:06d}"
        if split == "s4":
            folder = mask_folder = f"test/{video.name}/{name}"
            audio, suffix = f"audio_wav/{folder}.wav", ""
        else:
            folder, mask_folder = name, f"test/{name}"
            audio, suffix = f"audio_wav/test/{name}.wav", ".mp4"
        write_audio(root / audio, video.waveform, scenes.sample_rate)
        for t, (frame, box) in enumerate(zip(video.frames, video.boxes), 1):
            image = f"visual_frames/{folder}/{name}{suffix}_{t}.png"
            mask = f"gt_masks/{mask_folder}/{name}_{t}.png"
            x0, y0, x1, y1 = _pixels(box, scenes.size)
            pixels = np.zeros(frame.shape[:2], np.uint8)
            pixels[y0:y1, x0:x1] = 255
            write_image(root / image, frame)
            write_image(root / mask, pixels)
            files = {"image": f"{ELSEWHERE}/{image}", "audio": f"{ELSEWHERE}/{audio}"}
            boxes.append({**files, "gt_box": _pixels(box, GRID).astype(float)})
            masks.append({**files, "gt_box": f"{ELSEWHERE}/{mask}", "offset": 1})
    write_json(root / f"metadata/{split}_box.json", boxes)
    write_json(root / f"metadata/{split}_seg.json", masks)


def _videos(scenes, root, count, boxes_file, seconds=10):
    """AVE and AudioSet-Instrument: FRAME_RATE frames a second.

    The boxes are of the first frame of each second, if something sounds in it.
    """
    boxes, lines = {}, []
    for n in range(count):
        video, name = scenes.video(n, fps=FRAME_RATE, seconds=seconds), f"scene{n:06d}"
        write_audio(root / f"audio/{name}.wav", video.waveform, scenes.sample_rate)
        for t, frame in enumerate(video.frames):
            write_image(root / f"frames/{name}/{t:04d}.jpg", frame)
        for second in np.flatnonzero(video.sounding[::FRAME_RATE]).tolist():
            t = second * FRAME_RATE
            box = {"category": int(video.labels[t]), "normbox": _normbox(scenes, video.boxes[t])}
            boxes[f"{name}/{second}"] = {"bbox": [box]}
        times = np.flatnonzero(video.sounding) / FRAME_RATE
        lines.append(f"{video.name}&{name}&good&{int(times[0])}&{int(times[-1]) + 1}\n")
    write_json(root / "metadata" / boxes_file, boxes)
    if boxes_file == "ave_box.json":
        splits = {"Annotations": lines, "trainSet": lines[::2], "testSet": lines[1::2]}
        for name, split in splits.items():
            with atomic(root / f"metadata/{name}.txt") as file:
                file.write("".join(split).encode())


def _music(scenes, root, count, boxes_file):
    """A frame of each video. In a duet all objects of the image sound at once."""
    boxes, sources = {}, scenes.objects if boxes_file == "duettest.json" else 1
    for n in range(count):
        samples = [scenes.interactive(n * scenes.objects + k) for k in range(sources)]
        name = f"scene{n:06d}_0_1000"
        frame = f"{name}/frame_000/00000.jpg"
        waveform = np.mean([sample.waveform for sample in samples], axis=0)
        write_image(root / "frames" / frame, samples[0].image)
        write_audio(root / f"audio/{name}.wav", waveform, scenes.sample_rate)
        normboxes = [
            {"normbox": _normbox(scenes, sample.box), "category_id": sample.cls}
            for sample in samples
        ]
        size = {"wdith": scenes.size, "height": scenes.size}  # the published spelling
        boxes[frame] = {"bbox": normboxes, **size}
    write_json(root / "metadata" / boxes_file, boxes)


def _training(scenes, root, count, make_id, lists):
    """All ids are in each of `lists`; every fourth clip of VGGSound is in its test split."""
    ids, table = [], []
    for n in range(count):
        sample, name = scenes.pair(n), make_id(n)
        _write_pair(scenes, sample, root / f"frames/{name}.jpg", root / f"audio/{name}.wav")
        ids.append([name])
        table.append([name[:11], 30, sample.name, "train" if n % 4 else "test"])
    for name in lists:
        _write_csv(root / "metadata" / name, ids)
    if make_id is _vggss_id:
        _write_csv(root / "metadata/vggsound.csv", table)


IS3 = ("synthetic3240_bbox.json", "synthetic3240_seg.json")
IS3_FOLDERS = ("images", "audio_waw", "gt_segmentation")
VPO_SS, VPO_MS = (("vpo_ss_bbox.json", "vpo_ss_seg.json"), ("vpo_ms_bbox.json", "vpo_ms_seg.json"))
VPO_FOLDERS = ("visual_frames", "audio_wav", "gray_masks")
VGGSOUND, FLICKR = ("vggss_10k.txt", "vggss_144k.txt"), ("flickr_10k.txt", "flickr_144k.txt")
LAYOUTS = {
    "vggss": _vggss,
    "vggss-extended": partial(_vggss, kind="extended"),
    "flickr": _flickr,
    "flickr-extended": partial(_flickr, kind="extended"),
    "is3": partial(_instances, lists=IS3, folders=IS3_FOLDERS),
    "vpo-ss": partial(_instances, lists=VPO_SS, folders=VPO_FOLDERS, kind="pair"),
    "vpo-ms": partial(_instances, lists=VPO_MS, folders=VPO_FOLDERS),
    "avsbench-s4": partial(_avsbench, split="s4"),
    "avsbench-ms3": partial(_avsbench, split="ms3"),
    "ave": partial(_videos, boxes_file="ave_box.json"),
    "audioset-instrument": partial(_videos, boxes_file="audioset_box.json"),
    "music-solo": partial(_music, boxes_file="solotest.json"),
    "music-duet": partial(_music, boxes_file="duettest.json"),
    "vggsound": partial(_training, make_id=_vggss_id, lists=VGGSOUND),
    "flickr-soundnet": partial(_training, make_id=_flickr_id, lists=FLICKR),
}
