"""The readers on excerpts of the published files, against the published rasterisation."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.benchmarks import (
    READERS,
    UNANNOTATED,
    gt_map,
    find_on_disk,
    listed_samples,
    load_samples,
)
from common.benchmarks.annotations import clip_id, from_grid
from common.io import InputError, write_image

pytestmark = pytest.mark.slow

EXCERPTS = Path(__file__).parent / "annotations"
GOLDENS = Path(__file__).parent / "goldens" / "metrics.npz"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def xml(people):
    """Flickr-SoundNet's annotation with the boxes of each annotator."""
    persons = ""
    for boxes in people:
        persons += "<person>"
        for box in boxes:
            edges = zip(("xmin", "ymin", "xmax", "ymax"), box)
            edges = "".join(f"<{name}>{value}</{name}>" for name, value in edges)
            persons += f"<bbox><name>x</name>{edges}</bbox>"
        persons += "</person>"
    return f"<annotation>{persons}</annotation>"


@pytest.fixture
def root(tmp_path):
    """All excerpts, in the place where users put the full files."""
    shutil.copytree(EXCERPTS, tmp_path / "metadata")
    for name, content in (
        ("flickr_144k.txt", "100\n200\n"),
        ("vggsound.csv", '---g-f_I2yQ,1,"donkey, ass braying",train\nabcdefghijk,20,hail,test\n'),
        (
            "ave_box.json",
            '{"RUhOCu3LNXM/3": {"bbox": [{"category": 0, "normbox": [0.1, 0.2, 0.3, 0.4]}]}}',
        ),
    ):
        (tmp_path / "metadata" / name).write_text(content)
    for path in (EXCERPTS / "stm").glob("*"):
        if path.is_dir():
            shutil.copytree(path, tmp_path / "metadata" / "annotations", dirs_exist_ok=True)
        else:
            shutil.copy(path, tmp_path / "metadata")
    (tmp_path / "Annotations").mkdir()
    for line in (EXCERPTS / "flickr_test.csv").read_text().split():
        (tmp_path / "Annotations" / f"{line.split(',')[0]}.xml").write_text(
            xml([[(0, 0, 128, 128)], [(64, 0, 128, 256)]])
        )
    return tmp_path


LISTED = {
    "vggss": 30,
    "vggss-heard": 40,
    "vggss-unheard": 40,
    "flickr": 40,
    "vggss-extended": 30 + 39,
    "flickr-extended": 40 + 39,
    "is3": 40,
    "vpo-ss": 40,
    "vpo-ms": 40,
    "avsbench-s4": 40,
    "avsbench-ms3": 40,
    "ave": 40,
    "ave-boxes": 1,
    "audioset-instrument": 30,
    "ave-stm": 949,
    "audioset-instrument-stm": 537,
    "audioset-instrument-clips": 40,
    "music-solo": 30,
    "music-duet": 30,
    "vggsound": 1,
    "flickr-soundnet": 2,
}


@pytest.mark.parametrize("name", READERS)
def test_excerpts(name, root, capsys):
    """Published files are read unchanged; samples on disk are loaded, and their number printed."""
    samples = listed_samples(name, root)
    assert len(samples) == LISTED[name]
    assert len({sample.id for sample in samples}) == len(samples)
    with pytest.raises(InputError, match=f"none of the {len(samples)} samples"):
        load_samples(name, root)
    for sample in samples:
        assert root in sample.image.parents and root in sample.audio.parents
        touch(sample.image)
        touch(sample.audio)
        if name not in UNANNOTATED and sample.boxes is not None:
            assert gt_map(sample, 32).shape == (32, 32)
    annotated = [s for s in samples if s.boxes is not None or name in UNANNOTATED]
    assert [s.id for s in load_samples(name, root)] == [s.id for s in annotated]
    assert f"{name}: {len(annotated)} found / {len(samples)} listed" in capsys.readouterr().err
    lost = annotated[-1]
    lost.audio.unlink()
    rest = [s.id for s in annotated if s.audio != lost.audio]
    if rest:
        assert [s.id for s in load_samples(name, root)] == rest


def test_details_of_the_excerpts(root):
    first = {name: listed_samples(name, root)[0] for name in READERS}
    assert first["vggss"].label == "elk bugling" and first["vggss"].id == "zpWuikVorYg_000032"
    assert first["is3"].group == "accordion_female_10438" and first["is3"].label == "accordion"
    assert first["vpo-ms"].group == "000000489267"
    s4, ms3 = first["avsbench-s4"], first["avsbench-ms3"]
    assert (s4.group, s4.label) == ("0d9u2CymIxc", "helicopter") and ms3.group == "rq5RDUm2Hnk_1"
    assert s4.image == root / "images/test/helicopter/0d9u2CymIxc/0d9u2CymIxc_1.png"
    assert s4.audio == root / "audio_waw/test/helicopter/0d9u2CymIxc.wav"
    assert ms3.boxes.shape == (0, 4) and not gt_map(ms3, 224).any() and ms3.sounding
    assert (first["ave"].label, first["ave"].seconds) == ("Church bell", (0, 10))
    frame = first["audioset-instrument"]
    assert (
        frame.image == root / "frames/8LYWfpPUokc/0012.jpg"
        and frame.seconds == (3, 4)
        and len(frame.boxes) == 10
    )
    np.testing.assert_allclose(
        frame.boxes[0], [0.7875, 0.53888889, 0.7875 + 0.0859375, 0.53888889 + 0.09305556]
    )
    assert first["music-duet"].label == "1, 3" and first["music-duet"].seconds == (175, 176)
    assert first["music-duet"].image == root / "frames/HnUOaSfTA6c_0_1000/frame_175/05257.jpg"
    assert (
        first["vggsound"].id == "---g-f_I2yQ_000001"
        and first["vggsound"].label == "donkey, ass braying"
    )
    silent = [s for s in listed_samples("flickr-extended", root) if not s.sounding]
    assert silent[0].image.name == "10000130166.jpg" and silent[0].audio.name == "10437048305.wav"
    assert all(not gt_map(s, 16).any() for s in silent)
    assert sum(not s.sounding for s in listed_samples("vggss-extended", root)) == 39


@pytest.mark.parametrize(
    "name,file",
    [
        ("is3", "synthetic3240_bbox.json"),
        ("vpo-ss", "vpo_ss_bbox.json"),
        ("vpo-ms", "vpo_ms_bbox.json"),
        ("avsbench-s4", "s4_box.json"),
        ("avsbench-ms3", "ms3_box.json"),
    ],
)
def test_pixel_boxes_as_published(name, file, root):
    for sample, entry in zip(
        listed_samples(name, root), json.loads((EXCERPTS / file).read_text()), strict=True
    ):
        x0, y0, x1, y1 = map(int, entry["gt_box"])
        expected = np.zeros((224, 224))
        expected[y0:y1, x0:x1] = 1
        np.testing.assert_array_equal(gt_map(sample, 224), expected)


def test_vggss_boxes_as_published(root):
    """With edges of -2.9e16, boxes without area or beyond the image; at 224 and 384 pixels."""
    golden = np.load(GOLDENS)
    boxes = [
        b[:n].tolist() for b, n in zip(golden["raster_vggss_boxes"], golden["raster_vggss_count"])
    ]
    assert min(b[2] for bs in boxes for b in bs) < -2e16
    entries = [{"file": f"v{n}", "class": "c", "bbox": b} for n, b in enumerate(boxes)]
    (root / "metadata/vggss.json").write_text(json.dumps(entries))
    samples = listed_samples("vggss", root)
    for size, key in ((224, "raster_vggss_maps_packed"), (384, "raster_turn384_maps_packed")):
        np.testing.assert_array_equal(
            [gt_map(s, size) for s in samples], np.unpackbits(golden[key], axis=-1)
        )
    assert all(
        (s.boxes >= 0).all() and (s.boxes <= 1).all() and (s.boxes[:, 2:] > s.boxes[:, :2]).all()
        for s in samples
    )


def test_flickr_boxes_as_published(root):
    """Every box votes for half; negative edges are what the published slices make of them."""
    golden = np.load(GOLDENS)
    maps = golden["raster_flickr_maps_times2"]
    lines = []
    for n, (boxes, count) in enumerate(
        zip(golden["raster_flickr_boxes256"], golden["raster_flickr_count"])
    ):
        (root / "Annotations" / f"{n}.xml").write_text(
            xml([[box] for box in boxes[:count].tolist()])
        )
        lines.append(f"{n},0\n")
    (root / "metadata/flickr_test.csv").write_text("".join(lines))
    samples = listed_samples("flickr", root)
    np.testing.assert_array_equal([gt_map(s, 224) * 2 for s in samples], maps)
    assert [len(s.boxes) for s in samples] == golden["raster_flickr_count"].tolist()


def test_seven_boxes_and_two_of_one_annotator(root):
    boxes = [[k / 8, 0, k / 8 + 0.05, 1] for k in range(7)]
    (root / "metadata/vggss.json").write_text(
        json.dumps([{"file": "a", "class": "c", "bbox": boxes}])
    )
    assert len(listed_samples("vggss", root)[0].boxes) == 7
    key = listed_samples("flickr", root)[0].id
    (root / f"Annotations/{key}.xml").write_text(
        xml([[(0, 0, 256, 128), (0, 0, 128, 256)], [(0, 0, 256, 256)], []])
    )
    sample = listed_samples("flickr", root)[0]
    assert len(sample.boxes) == 3
    assert gt_map(sample, 2).tolist() == [[1, 1], [1, 0.5]]


@given(st.integers(0, 224), st.integers(1, 600))
@settings(max_examples=300, deadline=None)
def test_pixels_survive(v, size):
    """Unlike v / 224: 61 / 224 * 224 truncates to 60. Other sizes floor the exact product."""
    assert int(from_grid(np.float64(v), 224).clip(0, 1) * size) == v * size // 224


def test_all_pixels_survive():
    pixels = np.arange(225)
    assert (np.trunc(pixels / 224 * 224) != pixels).any()  # the reason
    np.testing.assert_array_equal(np.trunc(from_grid(pixels, 224).clip(0, 1) * 224), pixels)


@pytest.mark.parametrize(
    "stem,group,label",
    [
        ("accordion_female_10438_ice cream truck", "accordion_female_10438", "ice cream truck"),
        ("a_b_7_police_car", "a_b_7", "police_car"),
        ("fireworks_subwaytrain_10415_subway", "fireworks_subwaytrain_10415", "subway"),
        ("plain_cat", "plain", "cat"),
    ],
)
def test_is3_groups(stem, group, label, tmp_path):
    entry = {
        "image": f"/mnt/x/visual_frames/{stem}.jpg",
        "audio": f"C:\\data\\audio_wav\\{stem}.wav",
        "gt_box": [0.0, 0, 9, 9],
    }
    (tmp_path / "synthetic3240_bbox.json").write_text(json.dumps([entry]))
    (sample,) = listed_samples("is3", tmp_path)
    assert (sample.group, sample.label) == (group, label)
    assert sample.audio == tmp_path / f"audio_waw/{stem}.wav" and sample.masks is None
    with pytest.raises(ValueError, match="has no mask"):
        gt_map(sample, 8, masks=True)


def test_jpeg_masks_are_cut_at_128(root):
    entry = json.loads((EXCERPTS / "synthetic3240_seg.json").read_text())[0]
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :20], mask[:, 20:40] = 255, 120  # grey of a JPEG is not part of the mask
    write_image(root / "gt_segmentation" / Path(entry["gt_box"]).name, mask)
    first, second = listed_samples("is3", root)[:2]
    assert second.masks is None
    expected = np.zeros((64, 64))
    expected[:, :20] = 1
    np.testing.assert_array_equal(gt_map(first, 64, masks=True), expected)
    share = gt_map(first, 224, masks=True).mean()  # resized before it is binarized
    assert share == pytest.approx(20 / 64, abs=0.02)


def test_lists(root):
    """A list is a path or a name in metadata/; ids without annotations are missing, not errors."""
    (root / "own.txt").write_text(
        "gEvCUcZ6w88_000030\nzpWuikVorYg_32000_42000\nzpWuikVorYg_000032.mp4\nnowhere0000_000001\n"
    )
    samples = listed_samples("vggss", root, root / "own.txt")
    assert [s.id for s in samples] == [
        "gEvCUcZ6w88_000030",
        "zpWuikVorYg_000032",
        "nowhere0000_000001",
    ]
    for sample in samples:
        touch(sample.image)
        touch(sample.audio)
    found = find_on_disk("vggss", samples)
    assert [s and s.image for s in found] == [samples[0].image, samples[1].image, None]
    assert len(listed_samples("vggss", root, "vggss_10k.txt")) == 40
    assert [s.label for s in listed_samples("vggsound", root, "vggsound_test.csv")][:2] == [
        "playing hammond organ",
        "parrot talking",
    ]
    assert len(listed_samples("vggsound", root, "vggss_10k.txt")) == 40
    (root / "one.txt").write_text("000000062491_432356\n")
    assert [s.group for s in listed_samples("vpo-ss", root, root / "one.txt")] == ["000000062491"]
    assert clip_id("7XQN9XDnRm4_80000_90000") == "7XQN9XDnRm4_000080"


@pytest.mark.parametrize("content", ["Church bell&MH3m4AwEcRY&good&6&8\n", "1\n", "MH3m4AwEcRY\n"])
@pytest.mark.parametrize("header", ["", "Category&VideoID&Quality&StartTime&EndTime\n"])
def test_ave_splits(content, header, root):
    path = root / "metadata/ave_Annotations.txt"
    path.write_text(header + path.read_text())
    (root / "metadata/testSet.txt").write_text(content)
    (sample,) = listed_samples("ave", root, "testSet.txt")
    assert (sample.id, sample.seconds) == ("MH3m4AwEcRY", (6, 8))


def test_ids_of_ave_that_are_in_no_annotation(root):
    (root / "metadata/testSet.txt").write_text("Bark,MH3m4AwEcRY,good,0,4\nMH3m4AwEcRY\n")
    with pytest.raises(InputError, match=r"testSet\.txt: 1 of 2 ids are not in .* 'Bark,MH3m4AwE"):
        listed_samples("ave", root, "testSet.txt")


@pytest.mark.parametrize("in_pixels", [1, 2])
def test_boxes_in_pixels_are_said(in_pixels, tmp_path, capsys):
    """Clipped to the image, they have no area: a sample of which nothing can be found."""
    boxes = [[[20, 20, 100, 80]], [[20, 20, 100, 80]] if in_pixels == 2 else [[0.2, 0.2, 0.5, 0.5]]]
    entries = [{"file": f"a{i}", "class": "c", "bbox": box} for i, box in enumerate(boxes)]
    (tmp_path / "vggss.json").write_text(json.dumps(entries))
    for sample in listed_samples("vggss", tmp_path):
        touch(sample.image)
        touch(sample.audio)
    if in_pixels == 2:
        with pytest.raises(InputError, match="no box of vggss is inside its image"):
            load_samples("vggss", tmp_path)
    else:
        assert len(load_samples("vggss", tmp_path)) == 2
        assert "2 listed, 1 without a box inside the image\n" in capsys.readouterr().err


def test_what_is_missing_is_named(root):
    for sample in listed_samples("flickr", root):
        touch(sample.image)
    audio = listed_samples("flickr", root)[0].audio
    with pytest.raises(InputError, match=f"is here, for example {re.escape(str(audio))}$"):
        load_samples("flickr", root)
    (root / "metadata/own.txt").write_text("a\n")
    with pytest.raises(InputError, match=r"which are those of own\.txt, for example .*a\.jpg$"):
        load_samples("flickr", root, "own.txt")


BAD = [
    ("vggss", "vggss.json", "[", "JSON"),
    ("vggss", "vggss.json", "{}", "not a list"),
    ("vggss", "vggss.json", "[[]]", "entry 0"),
    ("vggss", "vggss.json", '[{"file": "a", "class": "c"}]', "entry 0 has no bbox"),
    ("vggss", "vggss.json", '[{"file": "../a", "class": "c", "bbox": []}]', "not an id"),
    ("vggss", "vggss.json", '[{"file": "a\\u0000", "class": "c", "bbox": []}]', "not an id"),
    *[
        (
            "vggss",
            "vggss.json",
            '[{"file": "a", "class": "c", "bbox": ' + box + "}]",
            "a: a box is four finite numbers",
        )
        for box in (
            "[[0, 0, 1]]",
            "[0, 0, 1, 1]",
            '[["x", 0, 1, 1]]',
            "[[0, 0, 1, 1e999]]",
            "[[[0, 0], [1, 1]]]",
            "[null]",
            "[[0, 0, 1, 1" + "0" * 400 + "]]",
            "[" + ",".join(["[0, 0, 1, 1]"] * 1001) + "]",
        )
    ],
    (
        "vggss",
        "vggss.json",
        '[{"file": "a", "class": "c", "bbox": [[0, 0, 1, NaN]]}]',
        "NaN is not JSON",
    ),
    ("vggss", "vggss.json", "[" * 100_000, "recursion"),
    ("vggss-heard", "vggss_heard_test.csv", "../../etc/passwd\n", "not an id"),
    ("vggss-heard", "vggss_heard_test.csv", b"\xff\xfe\x00", "decode"),
    ("vggss-extended", "vggss_test_plus_silent.csv", "a,b\n", "video,audio,label"),
    (
        "is3",
        "synthetic3240_bbox.json",
        '[{"image": "visual_frames/../../../x.jpg", "audio": "b.wav", "gt_box": [0, 0, 1, 1]}]',
        "leaves",
    ),
    (
        "is3",
        "synthetic3240_bbox.json",
        '[{"image": "a.jpg", "audio": "b.wav", "gt_box": [0, 0, 1]}]',
        "four finite",
    ),
    (
        "is3",
        "synthetic3240_seg.json",
        '[{"image": "a.jpg", "gt_box": [0, 0, 1, 1]}]',
        "no gt_box that is a str",
    ),
    (
        "is3",
        "synthetic3240_seg.json",
        '[{"image": "a.jpg", "gt_box": "gt_masks/../../x.jpg"}]',
        "leaves",
    ),
    ("ave", "ave_Annotations.txt", "Church bell&abc&good&0\n", "category&id"),
    ("ave", "ave_Annotations.txt", "Church bell&abc&good&0&ten\n", "category&id"),
    ("ave", "ave_Annotations.txt", "Church bell&../abc&good&0&10\n", "not an id"),
    ("audioset-instrument", "audioset_box.json", "[]", "not a dict"),
    ("audioset-instrument", "audioset_box.json", '{"../x/3": {"bbox": []}}', "not a frame"),
    ("audioset-instrument", "audioset_box.json", '{"../3": {"bbox": []}}', "not an id"),
    ("audioset-instrument", "audioset_box.json", '{"x/3": {"bbox": [{"category": 1}]}}', "normbox"),
    ("music-solo", "solotest.json", '{"v/frame_001/../1.jpg": {"bbox": []}}', "not a frame"),
    ("vggsound", "vggsound.csv", "abc,start,label,train\n", "id,start,label,split"),
    ("flickr-soundnet", "flickr_144k.txt", "a\\b\n", "not an id"),
]


@pytest.mark.parametrize(
    "name,file,content,message", BAD, ids=[f"{n}-{k}" for k, (n, *_) in enumerate(BAD)]
)
def test_malformed_annotations(name, file, content, message, root):
    (root / "metadata" / file).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    with pytest.raises(InputError, match=message) as caught:
        listed_samples(name, root)
    assert "\n" not in str(caught.value)
    assert caught.value.path.endswith(file) or "leaves" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<a>",
        "<a><b><bbox><n/><x>1</x></bbox></b></a>",
        "<a><b><bbox><n/><x/><x/><x/><x/></bbox></b></a>",
        "<a><b><bbox><n/><x>1.5</x><x>1</x><x>2</x><x>2</x></bbox></b></a>",
        '<!DOCTYPE a [<!ENTITY b "c">]><a/>',
        "<a>" + " " * 2**20 + "</a>",
    ],
)
def test_malformed_xml(content, root):
    path = root / "Annotations" / "10000130166.xml"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        listed_samples("flickr", root)
    assert caught.value.path == str(path)


@given(
    st.sampled_from(
        [
            ("vggss.json", "vggss"),
            ("synthetic3240_bbox.json", "is3"),
            ("audioset_box.json", "audioset-instrument"),
            ("ave_Annotations.txt", "ave"),
            ("vggss_test_plus_silent.csv", "vggss-extended"),
        ]
    ),
    st.integers(0, 2**31),
    st.binary(max_size=8),
)
@settings(max_examples=80, deadline=None)
def test_mutated_annotations(tmp_path_factory, which, at, noise):
    """Some bytes of a published file replaced: it is read, or one InputError."""
    file, name = which
    root = tmp_path_factory.mktemp("mutated")
    data = bytearray((EXCERPTS / file).read_bytes())
    if file == "vggss_test_plus_silent.csv":
        shutil.copy(EXCERPTS / "vggss.json", root)
    at %= len(data)
    data[at : at + len(noise)] = noise
    (root / file).write_bytes(data)
    try:
        for sample in listed_samples(name, root):
            assert root in sample.image.parents and root in sample.audio.parents
    except InputError:
        pass


def test_wrong_names(root):
    for name, where, lists in (
        ("imagenet", root, None),
        ("vggss", root / "nowhere", None),
        ("vggss", root, "no.csv"),
    ):
        with pytest.raises(InputError):
            listed_samples(name, where, lists)


def test_links_of_a_trusted_root_may_lead_out_of_it(root, tmp_path_factory):
    disk, store = tmp_path_factory.mktemp("disk"), tmp_path_factory.mktemp("store")
    (root / "visual_frames").symlink_to(disk)
    image = listed_samples("is3", root)[0].image
    assert image.parent.resolve() == disk
    write_image(store / "elsewhere.png", np.zeros((8, 8, 3), np.uint8))
    (disk / image.name).symlink_to(store / "elsewhere.png")
    assert listed_samples("is3", root)[0].image.resolve() == store / "elsewhere.png"
