"""Embedded scenes (common.scenes) on disk, in the folders and annotation files of real benchmarks, so that the readers of
common.benchmarks can be tried on whole data sets that nobody had to download.

What a scene does not have is invented as plainly as possible: a second annotator who agrees with the first (Flickr-SoundNet),
masks of videos that fill the box (AVSBench), starting times of 30 s (VGG-SS).
"""
import csv
import io
from functools import partial
from pathlib import Path

import numpy as np

from common.benchmarks.readers import FRAME_RATE, GRID
from common.io import atomic, write_audio, write_image, write_json

ELSEWHERE = "/data/authors"  # annotation files hold paths of their authors' machine


def write(scenes, root, layout, count) -> None:
    """`count` samples of `scenes` (a common.scenes.Scenes) in the layout of benchmark `layout`, one of LAYOUTS, under `root`.

    Boxes come back from the readers to the precision of the published format: pixels of 224 (IS3, VPO, AVSBench) or of 256
    (Flickr-SoundNet), else exactly. ave is written together with ave-boxes. ValueError for a layout that is not one.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    LAYOUTS[layout](scenes, Path(root), count)


def _put(scenes, sample, image, audio):
    write_image(image, sample.image)
    write_audio(audio, sample.waveform, scenes.sample_rate)


def _rows(path, rows):
    with atomic(path) as file:
        buffer = io.StringIO(newline="")
        csv.writer(buffer, lineterminator="\n").writerows(rows)
        file.write(buffer.getvalue().encode())


def _exact(scenes, box):
    """float32 pixel/size → the same ratio in float64."""
    return (np.rint(np.float64(box) * scenes.size) / scenes.size).tolist()


def _normbox(scenes, box):
    x0, y0, x1, y1 = _exact(scenes, box)
    return [x0, y0, x1 - x0, y1 - y0]


def _vggss(scenes, root, count, kind="pair"):
    """VGG-SS, its heard (even classes) and unheard ids; kind="extended": with silent samples in folders of their own."""
    boxes, silent = [], []
    for n in range(count):
        sample, key = getattr(scenes, kind)(n), f"scene{n:06d}_{30:06d}"
        where = "" if sample.sounding else "extend_"
        _put(scenes, sample, root / f"{where}frames/{key}.jpg", root / f"{where}audio/{key}.wav")
        if sample.sounding:
            boxes.append(
                {
                    "file": key,
                    "class": sample.name,
                    "bbox": [_exact(scenes, sample.box)],
                    "cls": sample.cls,
                }
            )
        else:
            silent.append([key, key, "non-sounding"])
    for name, rows in (("test", boxes), ("heard_test", [b for b in boxes if b["cls"] % 2 == 0]),
                       ("unheard_test", [b for b in boxes if b["cls"] % 2])):
        _rows(root / f"metadata/vggss_{name}.csv", [[row["file"]] for row in rows])
    write_json(
        root / "metadata/vggss.json",
        [{key: row[key] for key in ("file", "class", "bbox")} for row in boxes],
    )
    if kind == "extended":
        _rows(root / "metadata/vggss_test_plus_silent.csv", [["video", "audio", "label"], *silent])


def _flickr(scenes, root, count, kind="pair"):
    listed, silent = [], []
    for n in range(count):
        sample, key = getattr(scenes, kind)(n), str(10_000_000_000 + n)
        where = "" if sample.sounding else "extend_"
        _put(scenes, sample, root / f"{where}frames/{key}.jpg", root / f"{where}audio/{key}.wav")
        if not sample.sounding:
            silent.append([key, key, "non-sounding"])
            continue
        listed.append([key, 0])
        edges = zip(
            ("xmin", "ymin", "xmax", "ymax"), np.rint(np.float64(sample.box) * 256).astype(int)
        )
        box = (
            "<bbox><object>0</object>"
            + "".join(f"<{name}>{edge}</{name}>" for name, edge in edges)
            + "</bbox>"
        )
        with atomic(root / f"Annotations/{key}.xml", "w") as file:
            file.write(
                f"<annotation><annotator>{box}</annotator><annotator>{box}</annotator></annotation>\n"
            )
    _rows(root / "metadata/flickr_test.csv", listed)
    if kind == "extended":
        _rows(root / "metadata/flickr_test_plus_silent.csv", [["video", "audio", "label"], *silent])


def _instances(scenes, root, count, names, folders, kind="interactive"):
    """IS3 and VPO: each instance with a picture, a sound and a mask of its own, named after the picture it is of."""
    boxes, masks = [], []
    for n in range(count):
        sample = getattr(scenes, kind)(n)
        stem = (
            f"{sample.group:012d}_{n}"
            if names[0].startswith("vpo")
            else f"scene_{sample.group}_{sample.name}"
        )
        _put(scenes, sample, root / folders[0] / f"{stem}.jpg", root / folders[1] / f"{stem}.wav")
        write_image(root / folders[2] / f"{stem}.jpg", sample.mask.astype(np.uint8) * 255)
        files = {
            "image": f"{ELSEWHERE}/visual_frames/{stem}.jpg",
            "audio": f"{ELSEWHERE}/audio_wav/{stem}.wav",
        }
        boxes.append({**files, "gt_box": np.rint(np.float64(sample.box) * GRID).tolist()})
        masks.append({**files, "gt_box": f"{ELSEWHERE}/gt_masks/{stem}.jpg", "offset": 1})
    write_json(root / "metadata" / names[0], boxes)
    write_json(root / "metadata" / names[1], masks)


def _avsbench(scenes, root, count, split):
    """Five frames a video, one a second; an all-zero box where nothing sounds."""
    boxes, masks = [], []
    for n in range(count):
        video, key = scenes.video(n, fps=1, seconds=5), f"scene{n:06d}"
        single = split == "s4"
        folder = f"test/{video.name}/{key}" if single else key
        sound = f"audio_wav/test/{video.name}/{key}.wav" if single else f"audio_wav/test/{key}.wav"
        write_audio(root / sound, video.waveform, scenes.sample_rate)
        for t, (frame, box) in enumerate(zip(video.frames, video.boxes), 1):
            picture = f"visual_frames/{folder}/{key}{'' if single else '.mp4'}_{t}.png"
            mask = f"gt_masks/{folder if single else f'test/{key}'}/{key}_{t}.png"
            x0, y0, x1, y1 = np.rint(np.float64(box) * scenes.size).astype(int)
            filled = np.zeros(frame.shape[:2], np.uint8)
            filled[y0:y1, x0:x1] = 255
            write_image(root / picture, frame)
            write_image(root / mask, filled)
            files = {"image": f"{ELSEWHERE}/{picture}", "audio": f"{ELSEWHERE}/{sound}"}
            boxes.append({**files, "gt_box": np.rint(np.float64(box) * GRID).tolist()})
            masks.append({**files, "gt_box": f"{ELSEWHERE}/{mask}", "offset": 1})
    write_json(root / f"metadata/{split}_box.json", boxes)
    write_json(root / f"metadata/{split}_seg.json", masks)


def _videos(scenes, root, count, boxes_file, seconds=10):
    """AVE and AudioSet-Instrument: FRAME_RATE frames a second, the boxes of the seconds' first frames where something sounds."""
    boxes, lines = {}, []
    for n in range(count):
        video, key = scenes.video(n, fps=FRAME_RATE, seconds=seconds), f"scene{n:06d}"
        write_audio(root / f"audio/{key}.wav", video.waveform, scenes.sample_rate)
        for t, frame in enumerate(video.frames):
            write_image(root / f"frames/{key}/{t:04d}.jpg", frame)
        for second in np.flatnonzero(video.sounding[::FRAME_RATE]).tolist():
            boxes[f"{key}/{second}"] = {
                "bbox": [
                    {
                        "category": int(video.labels[second * FRAME_RATE]),
                        "normbox": _normbox(scenes, video.boxes[second * FRAME_RATE]),
                    }
                ]
            }
        heard = np.flatnonzero(video.sounding) / FRAME_RATE
        lines.append(f"{video.name}&{key}&good&{int(heard[0])}&{int(heard[-1]) + 1}\n")
    write_json(root / "metadata" / boxes_file, boxes)
    if boxes_file == "ave_box.json":
        for name, part in (
            ("Annotations", slice(None)),
            ("trainSet", slice(None, None, 2)),
            ("testSet", slice(1, None, 2)),
        ):
            with atomic(root / f"metadata/{name}.txt", "w") as file:
                file.writelines(lines[part])


def _music(scenes, root, count, boxes_file):
    """One frame of each video. A duet is a picture of which all objects sound at once."""
    boxes = {}
    together = scenes.objects if boxes_file == "duettest.json" else 1
    for n in range(count):
        samples = [scenes.interactive(n * scenes.objects + k) for k in range(together)]
        key = f"scene{n:06d}_0_1000"
        picture = f"{key}/frame_000/00000.jpg"
        write_image(root / "frames" / picture, samples[0].image)
        write_audio(
            root / f"audio/{key}.wav",
            np.mean([s.waveform for s in samples], axis=0),
            scenes.sample_rate,
        )
        boxes[picture] = {
            "bbox": [{"normbox": _normbox(scenes, s.box), "category_id": s.cls} for s in samples],
            "wdith": scenes.size,
            "height": scenes.size,
        }  # spelt so
    write_json(root / "metadata" / boxes_file, boxes)


def _training(scenes, root, count, lists):
    """Every id is in each of `lists`; for VGGSound every fourth is of the test split."""
    rows = []
    for n in range(count):
        sample = scenes.pair(n)
        key = f"scene{n:06d}_{30:06d}" if "vggss_10k.txt" in lists else str(10_000_000_000 + n)
        _put(scenes, sample, root / f"frames/{key}.jpg", root / f"audio/{key}.wav")
        rows.append([key, sample.name])
    for name in lists:
        _rows(root / "metadata" / name, [row[:1] for row in rows])
    if "vggss_10k.txt" in lists:
        _rows(
            root / "metadata/vggsound.csv",
            [
                [key[:11], int(key[12:]), name, "train" if n % 4 else "test"]
                for n, (key, name) in enumerate(rows)
            ],
        )


IS3 = (
    ("synthetic3240_bbox.json", "synthetic3240_seg.json"),
    ("images", "audio_waw", "gt_segmentation"),
)
VPO = ("visual_frames", "audio_wav", "gray_masks")
LAYOUTS = {
    "vggss": _vggss,
    "vggss-extended": partial(_vggss, kind="extended"),
    "flickr": _flickr,
    "flickr-extended": partial(_flickr, kind="extended"),
    "is3": partial(_instances, names=IS3[0], folders=IS3[1]),
    "vpo-ss": partial(
        _instances, names=("vpo_ss_bbox.json", "vpo_ss_seg.json"), folders=VPO, kind="pair"
    ),
    "vpo-ms": partial(_instances, names=("vpo_ms_bbox.json", "vpo_ms_seg.json"), folders=VPO),
    "avsbench-s4": partial(_avsbench, split="s4"),
    "avsbench-ms3": partial(_avsbench, split="ms3"),
    "ave": partial(_videos, boxes_file="ave_box.json"),
    "audioset-instrument": partial(_videos, boxes_file="audioset_box.json"),
    "music-solo": partial(_music, boxes_file="solotest.json"),
    "music-duet": partial(_music, boxes_file="duettest.json"),
    "vggsound": partial(_training, lists=("vggss_10k.txt", "vggss_144k.txt")),
    "flickr-soundnet": partial(_training, lists=("flickr_10k.txt", "flickr_144k.txt")),
}
