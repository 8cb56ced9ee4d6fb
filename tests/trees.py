"""RefCOCO and Clotho on disk in the published layouts, made of embedded scenes."""

import csv
import json
import pickle

import numpy as np
from PIL import Image

from common.benchmarks.corpora import COCO
from common.io import write_audio
from common.scenes import Scenes

RATE = 8000


def refcoco(root, name="refcocog", by="google", train=12, val=4, size=(80, 60)):
    """ROOT/NAME/refs(BY).p, instances.json and COCO's images: scenes with a phrase each.

    size: (width, height) of the images.
    """
    scenes, (width, height) = Scenes(5, 64), size
    images, annotations, refs = [], [], []
    (root / COCO).mkdir(parents=True, exist_ok=True)
    for i in range(train + val):
        item, file = scenes.grounding(i), f"COCO_train2014_{i:012d}.jpg"
        Image.fromarray(item.image).resize(size).save(root / COCO / file, quality=90)
        x0, y0, x1, y1 = (item.box * [width, height, width, height]).tolist()
        images.append({"id": i, "file_name": file, "width": width, "height": height})
        annotations.append({"id": 100 + i, "image_id": i, "bbox": [x0, y0, x1 - x0, y1 - y0]})
        sentences = [{"sent": item.phrase, "sent_id": i}]
        ref = {"ref_id": i, "ann_id": 100 + i, "image_id": i, "sentences": sentences}
        refs.append({**ref, "split": "train" if i < train else "val"})
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / f"refs({by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    instances = {"images": images, "annotations": annotations}
    (root / name / "instances.json").write_text(json.dumps(instances))
    return root


def clotho(root, train=8, val=4, seconds=0.5):
    """ROOT/development/*.wav, ROOT/validation/*.wav, and their lists of five captions a clip."""
    scenes = Scenes(6, 32, RATE, seconds)
    for split, clips in (("development", range(train)), ("validation", range(train, train + val))):
        (root / split).mkdir(parents=True, exist_ok=True)
        with open(root / f"clotho_captions_{split}.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["file_name", *(f"caption_{i}" for i in range(1, 6))])
            for i in clips:
                item = scenes.caption(i)
                write_audio(root / split / f"clip {i}.wav", np.asarray(item.waveform), RATE)
                rows.writerow([f"clip {i}.wav", *item.captions])
    return root
