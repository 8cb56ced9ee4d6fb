"""The readers of TURN's corpora on small copies of the published layouts, whole and damaged."""

import json
import os
import pickle
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from common.benchmarks.corpora import COCO, audiocaps, clotho, load_corpora, refcoco
from common.io import InputError, write_audio, write_image


class Evil:
    """A pickle of this makes the file of its name when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def ref(ref_id, ann_id, image_id, split="train", sentences=("the left dog", "dog")):
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": image_id,
        "split": split,
        "category_id": 18,
        "file_name": f"COCO_train2014_{image_id:012d}_{ann_id}.jpg",
        "sent_ids": [],
        "sentences": [
            {"sent_id": 10 * ref_id + i, "sent": s, "raw": s.title(), "tokens": s.split()}
            for i, s in enumerate(sentences)
        ],
    }


REFS = [ref(1, 11, 5), ref(2, 12, 5, sentences=("red cat",)), ref(3, 13, 6, split="val")]
BOXES = {
    11: [10, 20, 50, 30],
    12: [80, 0, 40, 50],
    13: [0, 0, 20, 10],
}  # 12 leaves the image on the right


@pytest.fixture
def coco(tmp_path):
    root = tmp_path / "data"
    for name, by in (("refcocog", "google"), ("refcocog", "umd"), ("refcoco+", "unc")):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"refs({by}).p").write_bytes(pickle.dumps(REFS, protocol=2 if by == "umd" else 0))
        (folder / "instances.json").write_text(
            json.dumps(
                {
                    "images": [
                        {
                            "id": i,
                            "file_name": f"COCO_train2014_{i:012d}.jpg",
                            "width": 100,
                            "height": 50,
                        }
                        for i in (5, 6)
                    ],
                    "annotations": [
                        {"id": i, "bbox": box, "image_id": 5} for i, box in BOXES.items()
                    ],
                }
            )
        )
    (root / COCO).mkdir(parents=True)
    for i in (5, 6):
        (root / COCO / f"COCO_train2014_{i:012d}.jpg").touch()
    return root


def change(root, refs, name="refcocog/refs(google).p"):
    (root / name).write_bytes(refs if isinstance(refs, bytes) else pickle.dumps(refs, protocol=2))


@pytest.mark.parametrize("name, by", [("refcocog", None), ("refcocog", "umd"), ("refcoco+", None)])
def test_refcoco(coco, name, by):
    items = refcoco(coco, name, "train", by)
    assert [i.phrase for i in items] == ["the left dog", "dog", "red cat"]
    assert items[0].image == coco / COCO / "COCO_train2014_000000000005.jpg"
    assert items[0].box == items[1].box == pytest.approx((0.35, 0.7, 0.5, 0.6))
    assert items[2].box == pytest.approx((0.9, 0.5, 0.2, 1.0))
    assert [i.phrase for i in refcoco(coco, name, "val", by)] == ["the left dog", "dog"]


def test_refcoco_reads_what_python_2_wrote(coco):
    # protocol 0 of Python 2: plain strings (opcode S), some with bytes that are not ASCII
    change(
        coco,
        b"(lp0\n(dp1\nS'split'\nS'train'\nsS'ref_id'\nI1\nsS'ann_id'\nI11\nsS'image_id'\nI5\n"
        b"sS'sentences'\n(lp2\n(dp3\nS'sent'\nS'caf\\xc3\\xa9\\xff'\nsS'sent_id'\nI7\nsasa.",
    )
    assert [i.phrase for i in refcoco(coco)] == ["café\ufffd"]


def test_a_malicious_pickle_executes_nothing(coco, tmp_path):
    mark = tmp_path / "executed"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps([Evil(mark)], protocol)
        change(coco, data)
        with pytest.raises(InputError, match="refused: it names"):
            refcoco(coco)
        assert not mark.exists()
    pickle.loads(data)
    assert mark.exists()  # the pickle would have worked


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"cos\nsystem\n(S'true'\ntR.",
        b"ibuiltins\neval\n.",
        b"r\xff\xff\xff\x3f.",
        b"(lp0\n",
        b"\x82\x01.",
        b"}.",
        b"(dp0\na.",
        b"Pos.path\n.",
    ],
)
def test_not_a_plain_pickle(coco, data):
    change(coco, data)
    with pytest.raises(InputError) as error:
        refcoco(coco)
    assert "refs(google).p" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "broken",
    [
        {"ann_id": 99},
        {"image_id": 99},
        {"sentences": None},
        {"sentences": [{"sent_id": 1}]},
        {"sentences": [{"sent": []}]},
        {"ann_id": []},
        {"sentences": [{"sent": " ", "sent_id": 1}]},
    ],
)
def test_bad_references(coco, broken, capsys):
    change(coco, [REFS[0], REFS[1] | broken])
    with pytest.raises(InputError, match=r"train entry 2: \w+Error: .*\(1 of 2 entries are bad\)"):
        refcoco(coco)
    items = refcoco(coco, skip_bad=True)
    assert [i.phrase for i in items] == ["the left dog", "dog"]
    assert re.fullmatch(r"left out: train entry 2: \w+Error: .*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "box",
    [
        [10, 10, 0, 5],
        [200, 10, 5, 5],
        [float("inf"), 0, 5, 5],
        [1e308, 1, 1e308, 1],
        [1, 2, 3],
        None,
        ["x", 1, 1, 1],
    ],
)
def test_bad_boxes(coco, box):
    path = coco / "refcocog" / "instances.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["bbox"] = box
    path.write_text(json.dumps(content).replace("Infinity", "1e999"))
    with pytest.raises(InputError, match="train entry 2"):
        refcoco(coco)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"images": 3, "annotations": []}',
        '{"images": [{}], "annotations": []}',
        '{"images": [{"id": []}], "annotations": []}',
        '{"images": [3], "annotations": []}',
    ],
)
def test_bad_instances(coco, text):
    (coco / "refcocog" / "instances.json").write_text(text)
    with pytest.raises(InputError, match="instances"):
        refcoco(coco)


def test_missing_images(coco):
    (coco / COCO / "COCO_train2014_000000000005.jpg").unlink()
    with pytest.raises(InputError, match=r"no file COCO_train2014_000000000005.jpg .*\(2 of 2"):
        refcoco(coco)
    with pytest.raises(InputError, match="nothing usable"):
        refcoco(coco, skip_bad=True)
    shutil.rmtree(coco / "images")
    with pytest.raises(InputError, match="train2014: No such file"):
        refcoco(coco)
    with pytest.raises(InputError, match="refs"):
        refcoco(coco, "refcoco")


def test_an_image_outside_of_the_root(coco):
    path = coco / "refcocog" / "instances.json"
    (coco.parent / "secret.jpg").touch()
    path.write_text(
        path.read_text().replace("COCO_train2014_000000000005.jpg", "../../../../../secret.jpg")
    )
    with pytest.raises(InputError, match="secret"):
        refcoco(coco)
    with pytest.raises(InputError):
        refcoco(coco, split_by="/../../../secret")


def clotho_root(tmp_path, rows, names=("a b.wav", "c.wav")):
    head = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5"
    (tmp_path / "clotho_captions_development.csv").write_text(
        "\n".join([head, *rows]) + "\n", encoding="utf-8"
    )
    (tmp_path / "development").mkdir()
    for name in names:
        (tmp_path / "development" / name).touch()
    return tmp_path


def test_clotho(tmp_path):
    root = clotho_root(tmp_path, ['a b.wav,"One, two.",B,C,D,E', "c.wav,1,2,3,4,é"])
    items = clotho(root)
    assert [i.captions for i in items] == [
        ("One, two.", "B", "C", "D", "E"),
        ("1", "2", "3", "4", "é"),
    ]
    assert items[0].audio == root / "development" / "a b.wav"
    with pytest.raises(InputError, match=r"clotho_captions_validation\.csv: No such"):
        clotho(root, "val")


def test_an_image_of_another_size_than_its_annotation_is_left_out(coco, capsys):
    """With --skip-bad; without, it ends the training (test_turn_data.py)."""
    change(coco, [REFS[0], ref(4, 13, 6)])
    for i, width in ((5, 100), (6, 99)):
        image = np.zeros((50, width, 3), np.uint8)
        write_image(coco / COCO / f"COCO_train2014_{i:012d}.jpg", image)
    clotho_root(coco, ["c.wav,1,2,3,4,5"], ["c.wav"])
    write_audio(coco / "development" / "c.wav", np.zeros(800), 8000)
    config = SimpleNamespace(
        data="refcocog+clotho", root=str(coco), refcoco_split="", skip_bad=True, seconds=1.0
    )
    phrases, clips = load_corpora(config, "train")
    assert [p.phrase for p in phrases] == ["the left dog", "dog"] and len(clips) == 1
    line = r"left out: .*6\.jpg: is not of \(100, 50\) pixels, as instances.json has it\n"
    assert re.fullmatch(line, capsys.readouterr().out)


def test_the_validation_split_of_clotho_and_version_1_which_has_none(tmp_path):
    """Version 1 validates on its evaluation split, later ones on their validation split."""
    root = clotho_root(tmp_path, ["c.wav,1,2,3,4,5"])
    for part in ("evaluation", "validation"):
        shutil.copytree(root / "development", root / part)
        lists = [root / f"clotho_captions_{name}.csv" for name in ("development", part)]
        shutil.copy(*lists)
        assert [i.audio for i in clotho(root, "val")] == [root / part / "c.wav"]
    assert clotho(root)[0].audio == root / "development" / "c.wav"


def test_clotho_with_missing_files(tmp_path, capsys):
    root = clotho_root(
        tmp_path, ["x.wav,1,2,3,4,5", "c.wav,1,2,3,4,5", "y.wav,1,2,3,4,5", "../c.wav,1,2,3,4,5"]
    )
    with pytest.raises(
        InputError,
        match=r"development entry 1: LookupError: no file x.wav .*\(3 of 4 entries are bad\)",
    ):
        clotho(root)
    items = clotho(root, skip_bad=True)
    assert [i.audio.name for i in items] == ["c.wav"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1] for line in lines] == [f" development entry {n}" for n in (1, 3, 4)]


@pytest.mark.parametrize(
    "rows, reason",
    [
        (["c.wav,1,2,3,4,5", "c.wav,1,2,3,4"], "line 3"),
        (["c.wav,1,2,3,4,5,6"], "line 2"),
        (["c.wav,1,2,,4,5"], "entry 1: ValueError: an empty text"),
        ([], "nothing usable"),
        (['c.wav,1,2,3,4,"5'], "csv"),
    ],
)
def test_malformed_clotho(tmp_path, rows, reason):
    with pytest.raises(InputError, match=reason):
        clotho(clotho_root(tmp_path, rows))


def audiocaps_root(tmp_path, split, lines, names, folder="."):
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / f"{split}.csv").write_text(
        "\n".join(["audiocap_id,youtube_id,start_time,caption", *lines])
    )
    (tmp_path / "audio" / split).mkdir(parents=True)
    for name in names:
        (tmp_path / "audio" / split / name).touch()
    return tmp_path


@pytest.mark.parametrize("folder", [".", "dataset"])
def test_audiocaps_groups_the_captions_of_a_clip(tmp_path, folder):
    lines = [
        '1,-x_1,50,"A dog, barking"',
        "2,yy,0,Rain",
        "3,-x_1,50,Barks",
        "4,-x_1,60,Another second",
        "5,zz,7,Wind",
    ]
    root = audiocaps_root(
        tmp_path, "val", lines, ["-x_1_50.wav", "Yyy.wav", "-x_1_60.flac", "zz_7.wav"], folder
    )
    items = audiocaps(root, "val")
    assert [(i.captions, i.audio.name) for i in items] == [
        (("A dog, barking", "Barks"), "-x_1_50.wav"),
        (("Rain",), "Yyy.wav"),
        (("Another second",), "-x_1_60.flac"),
        (("Wind",), "zz_7.wav"),
    ]


def test_audiocaps_with_missing_and_malformed(tmp_path):
    root = audiocaps_root(tmp_path, "train", ["1,aa,0,Rain", "2,../bb,1,Wind"], ["aa_0.wav"])
    with pytest.raises(InputError, match=r"no file ../bb_1.wav .*\(1 of 2"):
        audiocaps(root)
    assert len(audiocaps(root, skip_bad=True)) == 1
    (root / "train.csv").write_text("audiocap_id,youtube_id,caption\n1,aa,Rain\n")
    with pytest.raises(InputError, match="no column start_time"):
        audiocaps(root)
    (root / "train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="train"):
        audiocaps(root)
