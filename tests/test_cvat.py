"""common/benchmarks/cvat.py: the boxes and lists of stmnet's authors, excerpts as published."""

import numpy as np
import pytest

from common.benchmarks import cvat, prepare
from common.io import InputError
from tests.test_benchmarks import EXCERPTS, root  # noqa: F401 (a fixture)

STM = EXCERPTS / "stm"
COUNTS = {  # frames, frames with a box, boxes, opened by an annotator
    "AVE/--I2373YpgM": (300, 0, 0, False),
    "AVE/0f_iTO5t3hU": (300, 0, 0, True),
    "AVE/ALP8_z817Uw": (301, 19, 19, True),
    "AVE/7DLmBTAGLmI": (301, 27, 46, True),
    "AVE/-y7tnKy2Kgw": (251, 71, 87, True),
    "AVE/LpfewILEuUU": (301, 89, 89, True),
    "AVE/3S7H4_G4y6U": (200, 200, 200, True),
    "AVE/5aJWAISV1UU": (251, 243, 243, True),
    "AVE/AdrFi95wthc": (300, 300, 300, True),
    "AudioSet_Instrument/0Wdh45yt7tY": (250, 0, 0, False),
    "AudioSet_Instrument/kkjNpwNcMWI": (240, 0, 0, True),
    "AudioSet_Instrument/UHvYrO1IGCc": (150, 37, 37, True),
    "AudioSet_Instrument/GWxiiDBK5s8": (120, 80, 80, True),
    "AudioSet_Instrument/Ki7Bxz1CThI": (138, 138, 138, True),
    "AudioSet_Instrument/rS8oECcQBCk": (240, 144, 144, True),
    "AudioSet_Instrument/nVSDv46ARvY": (300, 138, 276, True),
}


@pytest.mark.parametrize("name", COUNTS)
def test_excerpts_have_the_published_counts(name):
    frames, boxes, is_opened = cvat.read_cvat(STM / name / "annotations.xml")
    assert (frames, len(boxes), sum(map(len, boxes.values())), is_opened) == COUNTS[name]
    assert all(0 <= k < frames for k in boxes)


def test_coordinates_and_pauses():
    found = cvat.read_cvat(STM / "AVE/ALP8_z817Uw/annotations.xml")[1]
    assert min(found) == 104 and max(found) == 104 + 18  # ended by outside="1"
    np.testing.assert_allclose(found[104], [[11.28 / 320, 0, 272.4 / 320, 158 / 240]])
    back = cvat.read_cvat(STM / "AVE/5aJWAISV1UU/annotations.xml")[1]
    assert np.diff(sorted(back)).max() > 1  # outside in the middle of a track, which comes back


def test_samples_of_frames(root, capsys):  # noqa: F811
    """A sample for each annotated frame; videos that nobody opened are counted, not silent."""
    samples = list(cvat.box_samples(root, root / "metadata" / "testSet.txt"))
    assert (
        "402 videos, 7 with boxes, 1 never opened by an annotator, 1 left empty, 393 without"
        in (capsys.readouterr().err)
    )
    assert all(len(s.boxes) for s in samples)
    one = next(s for s in samples if s.id == "3S7H4_G4y6U/7")
    assert one.image == root / "video_frames" / "3S7H4_G4y6U" / "0007.jpg"
    assert one.seconds == pytest.approx((0.35, 0.4)) and one.group == "3S7H4_G4y6U"  # 20 a second
    labels = cvat.read_labels(root / "metadata" / "testSet.txt")
    assert one.label == labels["3S7H4_G4y6U"] and len(labels) == 402
    samples = list(cvat.box_samples(root, root / "metadata" / "test.csv"))
    assert {s.label for s in samples if s.group == "nVSDv46ARvY"} == {"flute, harp"}


def test_a_training_list_of_instruments(root):  # noqa: F811
    samples = list(cvat.instrument_clips(root, root / "metadata" / "train.csv"))
    assert samples[0].label == "cello" and samples[0].seconds == (0, 10)
    path = root / "metadata" / "test-brass.csv"
    path.write_text('a,0,10,e,trumpet,0\nb,0,10,e,"flute, trumpet, trombone",1\n')
    labels = cvat.read_labels(path)  # by the names of the classes
    assert labels == {"a": "brass", "b": "flute, brass"}
    assert cvat.instruments("flute, french horn") == ["flute", "brass"]
    assert {c for s in samples for c in cvat.instruments(s.label)} <= set(cvat.INSTRUMENTS)
    assert len(cvat.INSTRUMENTS) == 13


GOOD = (STM / "AVE/ALP8_z817Uw/annotations.xml").read_text()


@pytest.mark.parametrize(
    "content, reason",
    [
        ("<!DOCTYPE a [<!ENTITY b 'c'>]>" + GOOD.partition("?>")[2], "XML declarations"),
        (GOOD[:3000], "annotations.xml"),
        ("<annotations></annotations>", "CVAT"),
        (GOOD.replace('ytl="0.00"', 'ytl="nan"'), "not a box"),
        (GOOD.replace('frame="104"', 'frame="301"'), "not a box"),
        (GOOD.replace("<size>301</size>", "<size>x</size>"), "CVAT"),
        (GOOD.replace("<width>320</width>", "<width>0</width>"), "0 × 240"),
        (GOOD.replace("<size>301</size>", "<size>999999999</size>"), "999999999 frames"),
        (GOOD + " " * 2**23, "annotations.xml"),
    ],
)
def test_malformed_files(tmp_path, content, reason):
    path = tmp_path / "annotations.xml"
    path.write_text(content)
    with pytest.raises(InputError, match=reason):
        cvat.read_cvat(path)


@pytest.mark.parametrize(
    "row", ["a,0,10,m,flute", "a,10,5,m,flute,0", "a,0,x,m,flute,0", "../a,0,10,m,flute,0",
            "a,0,10,m,kazoo,0"]
)  # fmt: skip
def test_malformed_lists(tmp_path, row):
    path = tmp_path / "train.csv"
    path.write_text(f"keyword,start,end,evt,target,multi\n{row}\n")
    with pytest.raises(InputError):
        list(cvat.instrument_clips(tmp_path, path))


def test_all_frames_are_prepared():
    assert "-vf" not in prepare.to_frames()[1] and "fps=4" in prepare.to_frames(4)[1]
