"""Interactive benchmarks of one's own: boxes of masks, IS3's layout, prompts, assembly, scenes."""

import fnmatch
import json
import multiprocessing
import os
import re
import time
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from common.benchmarks import Sample, gt_map, listed_samples, load_samples
from common.benchmarks.is3 import (
    GRID,
    RATE,
    AudioPool,
    Object,
    category_name,
    check_objects,
    mask_to_box,
    read_archive,
    read_mask,
    statistics,
    write_is3,
)
from common.evaluation import FileTestSet
from common.io import InputError, read_audio, read_image, read_json, write_audio, write_image
from common.scenes.objects import tight_boxes
from sslalign import evaluate
from sslalign.config import TINY
from sslalign.is3 import main, prompts

ROOT = Path(__file__).parents[1]
MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40))
SQUARES = arrays(bool, st.integers(1, 40).map(lambda n: (n, n)))
TONE = np.sin(np.arange(RATE // 4) / 9).astype(np.float32) / 2


# Boxes of masks -----------------------------------------------------------------------------------


@given(SQUARES)
def test_the_box_of_a_mask_is_the_smallest(mask):
    x0, y0, x1, y1 = mask_to_box(mask, len(mask))
    assert mask[y0:y1, x0:x1].sum() == mask.sum()
    if mask.any():
        edges = mask[y0, x0:x1], mask[y1 - 1, x0:x1], mask[y0:y1, x0], mask[y0:y1, x1 - 1]
        assert all(edge.any() for edge in edges)
    else:
        assert (x0, y0, x1, y1) == (0, 0, 0, 0)


@given(MASKS, st.integers(1, 300))
def test_the_box_on_a_grid_is_the_smallest(mask, side):
    (y, x), (height, width) = mask.nonzero(), mask.shape
    edges = [x.min(), y.min(), x.max() + 1, y.max() + 1] if mask.any() else [0, 0, 0, 0]
    box = np.array(edges)
    scaled = box * side / np.array([width, height] * 2)
    grid = mask_to_box(mask, side)
    inner = grid + np.where(grid[2:].any(), [1, 1, -1, -1], 0)
    assert (grid[:2] <= scaled[:2] + 1e-9).all() and (grid[2:] >= scaled[2:] - 1e-9).all()
    if mask.any():
        assert (inner[:2] > scaled[:2] - 1e-9).all() and (inner[2:] < scaled[2:] + 1e-9).all()
    if width == height == side:
        np.testing.assert_array_equal(grid, box)


@given(SQUARES)
def test_boxes_of_masks_agree_with_those_of_scenes(mask):
    box = tight_boxes(mask) * len(mask)
    np.testing.assert_allclose(mask_to_box(mask, len(mask)), box, atol=1e-4)


@pytest.mark.parametrize("mode", ("L", "RGB", "cut-out"))
def test_masks_are_white_or_opaque(mode, tmp_path):
    mask = np.random.default_rng(0).random((9, 13)) < 0.5
    grey = mask.astype(np.uint8) * 255
    rgb = np.repeat(grey[..., None], 3, 2)
    image = {"L": grey, "RGB": rgb, "cut-out": np.dstack([255 - rgb, grey])}[mode]
    path = tmp_path / "m.png"
    write_image(path, image)
    np.testing.assert_array_equal(read_mask(path), mask)
    larger = Image.fromarray(grey).resize((20, 20), Image.Resampling.BICUBIC)
    sample = Sample("m", path, path, np.zeros((0, 4)), masks=(path,))
    np.testing.assert_array_equal(gt_map(sample, 20, masks=True), np.asarray(larger) >= 128)


# The layout ---------------------------------------------------------------------------------------


def draw_images(count=3, height=96, width=128, classes=("dog", "fire truck"), seed=0):
    """Images of two rectangles, as `write_is3` takes them."""
    rng = np.random.default_rng(seed)
    for n in range(count):
        image = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
        objects = []
        for k, category in enumerate(classes):
            x, y = k * width // 2 + rng.integers(0, 20), rng.integers(0, height // 2)
            mask = np.zeros((height, width), bool)
            mask[y : y + rng.integers(5, 40), x : x + rng.integers(5, 40)] = True
            image[mask] = rng.integers(0, 256, 3)
            objects.append(Object(category, mask, (TONE * rng.uniform(0.1, 1)).astype(np.float32)))
        yield f"image {n}", image, objects


@pytest.fixture
def root(tmp_path):
    write_is3(tmp_path / "is3", draw_images())
    return tmp_path / "is3"


@pytest.mark.parametrize("lists", ("repository", "archive", "masks"))
def test_what_is_written_is_read_back(lists, root, capsys):
    """By the repository's lists, by the archive's file, and with boxes of the masks alone."""
    if lists != "repository":
        (root / "metadata/synthetic3240_bbox.json").unlink()
        (root / "metadata/IS3_annotation.json").unlink()
    if lists == "archive":
        (root / "metadata/synthetic3240_seg.json").unlink()
    if lists == "masks":
        (root / "IS3_annotation.json").unlink()
    samples = iter(load_samples("is3", root))
    file = {"repository": " in synthetic3240_bbox.json", "archive": " in IS3_annotation.json"}
    text = f"is3: 6 found / 6 listed{file.get(lists, '')}, 6 with masks\n"
    assert capsys.readouterr().err == text
    for n, (_, image, objects) in enumerate(draw_images()):
        for category, mask, waveform in objects:
            sample = next(samples)
            assert (sample.group, sample.label) == (f"dog_firetruck_{n:05d}", category)
            assert np.abs(read_image(sample.image).astype(int) - image).mean() < 5  # JPEG
            np.testing.assert_array_equal(read_mask(*sample.masks), mask)
            box = gt_map(sample, GRID)
            np.testing.assert_array_equal(mask_to_box(box > 0, GRID), mask_to_box(mask, GRID))
            assert box.sum() == np.prod(np.diff(mask_to_box(mask, GRID).reshape(2, 2), axis=0))
            found, rate = read_audio(sample.audio)
            assert rate == RATE
            np.testing.assert_allclose(found, waveform, atol=2**-15)
    assert next(samples, None) is None


def test_other_evaluators_read_it(root, monkeypatch):
    """What the evaluators of the authors (e7ae3c5) and of Juanola et al. do, with ROOT as the
    working directory: folders of the first entry, ids up to the first dot, images whose names begin
    like the group's."""
    monkeypatch.chdir(root)
    entries = json.loads(Path("metadata/synthetic3240_bbox.json").read_text())
    masks = json.loads(Path("metadata/synthetic3240_seg.json").read_text())
    image_dir, audio_dir = (entries[0][key].rpartition("/")[0] for key in ("image", "audio"))
    ids = [entry["image"].split("/")[-1].split(".")[0] for entry in entries]
    assert len(set(ids)) == 6 and [m["image"] for m in masks] == [e["image"] for e in entries]
    for entry, mask, name in zip(entries, masks, ids):
        assert os.path.isfile(f"{image_dir}/{name}.jpg") and os.path.isfile(mask["gt_box"])
        assert os.path.isfile(f"{audio_dir}/{name}.wav")
        assert [int(x) for x in entry["gt_box"]] == entry["gt_box"]
        prefix = "_".join(name.split("_")[:-1])
        assert len(fnmatch.filter(os.listdir("images"), f"{prefix}*")) == 2
        assert os.path.isfile(f"audio_wav/{name}.wav")
    classes = json.loads(Path("metadata/IS3_class_files_dict.json").read_text())
    assert sorted(name for names in classes.values() for name in names) == sorted(ids)
    for path in ("IS3_annotation.json", "metadata/IS3_annotation.json"):
        archive = json.loads(Path(path).read_text())
        assert [e["gt_box"] for e in archive] == [e["gt_box"] for e in entries]
        assert {e["category"] for e in archive} == set(classes)


@given(st.text(max_size=30), st.text(max_size=30))
@example("st. bernard", "sea_lion")
@settings(max_examples=200)
def test_names_give_back_the_group_and_the_class(first, second):
    try:
        names = [category_name("list", text) for text in (first, second)]
    except InputError:
        return
    group = "_".join(name.replace(" ", "") for name in names) + "_00012"
    for name in names:
        stem = f"{group}_{name}"
        assert stem.rpartition("_") == (group, "_", name) and stem.split(".")[0] == stem
        assert re.fullmatch(r"(.+?_\d+)_(.+)", stem).groups() == (group, name)


@pytest.mark.parametrize(
    "text",
    ("", "..", "7", "1 2", "a/b", "../a", "/etc/passwd", "a\\b", "a\0b", "a\x1bb", "x" * 201),
)
def test_hostile_classes(text):
    with pytest.raises(InputError) as caught:
        category_name("list.txt", text)
    assert str(caught.value).startswith("list.txt: ") and "\n" not in str(caught.value)


def test_the_table_of_the_published_lists(tmp_path):
    """Table I of the excerpt in tests/annotations: 40 objects, of as many images, without masks."""
    for name in ("synthetic3240_bbox.json", "synthetic3240_seg.json"):
        (tmp_path / name).write_bytes((ROOT / "tests/annotations" / name).read_bytes())
    samples = listed_samples("is3", tmp_path)
    assert statistics(samples) == {
        "# Data": len({s.group for s in samples}),
        "# Classes": len({s.image.stem.rpartition("_")[2] for s in samples}),
        "Multi-Object": "yes" if len({s.group for s in samples}) < 40 else "no",
        "# Instance": 40,
        "BBox": "yes",
        "Seg.": "no",
    }


ARCHIVE = {"image": "images/a_b_1_b.jpg", "audio": "b.wav", "bbox": [0, 0, 100, 224]}


def test_the_archive_with_other_keys_and_masks(tmp_path):
    (tmp_path / "IS3_annotation.json").write_text(json.dumps([ARCHIVE]))
    (tmp_path / "gt_segmentation").mkdir()
    write_image(tmp_path / "gt_segmentation/a_b_1_b.jpg", np.full((8, 8), 255, np.uint8))
    (sample,) = listed_samples("is3", tmp_path)
    assert (sample.group, sample.label, len(sample.masks)) == ("a_b_1", "b", 1)
    assert gt_map(sample, GRID).sum() == 100 * 224
    long = {**ARCHIVE, "image": f"a_1_{'9' * 5000}.jpg"}  # longer than a file system allows
    (tmp_path / "IS3_annotation.json").write_text(json.dumps([long]))
    assert listed_samples("is3", tmp_path)[0].masks is None


@pytest.mark.parametrize(
    "content, message",
    (
        ({"a": ARCHIVE}, "not a list"),
        ([{"image": "a.jpg", "audio": "a.wav", "xywh": 1}], "entry 0 has image, audio, xywh"),
        ([{**ARCHIVE, "bbox": [0, 0, 512, 512]}], "beyond 224"),
        ([{**ARCHIVE, "bbox": [0, 0, 1]}], "four finite"),
        ([{**ARCHIVE, "category": 1}], "category a string"),
        ([{**ARCHIVE, "image": "images/../../x.jpg"}], "leaves"),
        ([{**ARCHIVE, "audio": "audio_wav/../../x.wav"}], "leaves"),
    ),
)
def test_malformed_archives(content, message, tmp_path):
    (tmp_path / "IS3_annotation.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        listed_samples("is3", tmp_path)
        read_archive(tmp_path / "IS3_annotation.json")


def test_boxes_of_avsbench_are_those_of_its_masks(tmp_path):
    """With the list of masks alone; nothing sounds where a mask is empty."""
    box = [20, 30, 120, 90]
    for k in range(2):
        mask = np.zeros((GRID, GRID), np.uint8)
        mask[box[1] : box[3], box[0] : box[2]] = 255 * (1 - k)
        write_image(tmp_path / f"gt_masks/test/v/v_{k}.png", mask)
    entries = [
        {
            "image": f"/data/visual_frames/v/v.mp4_{k}.png",
            "audio": "/data/audio_wav/test/v.wav",
            "gt_box": f"/data/gt_masks/test/v/v_{k}.png",
        }
        for k in range(3)
    ]
    (tmp_path / "ms3_seg.json").write_text(json.dumps(entries))
    first, empty, lost = listed_samples("avsbench-ms3", tmp_path)
    np.testing.assert_array_equal(mask_to_box(gt_map(first, GRID) > 0, GRID), box)
    assert len(empty.boxes) == 0 and lost.boxes is None  # the file of the last one is missing


# Faults, and what is left of an interrupted assembly ----------------------------------------------


def change(k, **fields):
    """The objects of an image, the k-th of them changed."""
    objects = next(draw_images())[2]
    objects[k] = objects[k]._replace(**fields)
    return objects


FULL, NOTHING = np.ones((96, 128), bool), np.zeros((96, 128), bool)
FAULTS = (
    (change(1, mask=np.ones((96, 127), bool)), "fire truck has 127×96 pixels, not 128×96"),
    (change(0, mask=NOTHING), "mask of dog is empty"),
    (change(0, mask=FULL), "masks of dog and fire truck overlap wholly"),
    (change(1, category="dog"), "different classes"),
    (change(1)[:1], "different classes are needed .found: dog."),
    ([], "found: none"),
)


@pytest.mark.parametrize("objects, message", FAULTS, ids=[m[:20] for _, m in FAULTS])
def test_faults_of_an_image_leave_nothing(objects, message, tmp_path):
    images = [*draw_images(1), ("b.png", np.zeros((96, 128, 3), np.uint8), objects)]
    with pytest.raises(InputError, match=message) as caught:
        write_is3(tmp_path / "is3", images)
    assert caught.value.path == "b.png" and list(tmp_path.iterdir()) == []
    check_objects("a.png", images[0][1], images[0][2])


def test_what_a_killed_assembly_left_is_removed(tmp_path):
    (tmp_path / ".is3.part" / "images").mkdir(parents=True)
    write_is3(tmp_path / "is3", draw_images(1))
    assert [path.name for path in tmp_path.iterdir()] == ["is3"]


@pytest.mark.parametrize("error", (KeyboardInterrupt, InputError("a", "b"), OSError, MemoryError))
def test_an_interrupted_assembly_leaves_nothing(error, tmp_path):
    def images():
        yield from draw_images(2)
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        write_is3(tmp_path / "is3", images())
    assert list(tmp_path.iterdir()) == []


def test_a_killed_assembly_leaves_no_benchmark(tmp_path):
    args = ["compose", "--count", "9999", "--size", "32", "--out", str(tmp_path / "is3")]
    process = multiprocessing.get_context("fork").Process(target=main, args=(args,))
    process.start()
    try:
        while process.is_alive() and not list(tmp_path.glob(".is3.*/images/*.jpg")):
            time.sleep(0.01)
    finally:
        process.kill()
        process.join()
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]


def test_a_folder_that_exists_is_left_alone(root):
    before = sorted(root.rglob("*"))
    with pytest.raises(InputError, match="exists already"):
        write_is3(root, draw_images(1))
    (root.parent / "link").symlink_to("nowhere")
    with pytest.raises(InputError, match="exists already"):
        write_is3(root.parent / "link", draw_images(1))
    with pytest.raises(InputError, match="no image"):
        write_is3(root.parent / "new", [])
    assert sorted(root.rglob("*")) == before and len(list(root.parent.iterdir())) == 2


# Audio of a class ---------------------------------------------------------------------------------


def test_each_recording_is_drawn_once_before_any_is_drawn_again(tmp_path):
    for n in range(5):
        write_audio(tmp_path / f"Fire_truck/{n}.wav", np.full(8000, 0.1 * (n + 1)), 8000)
    draws = [AudioPool(tmp_path, seed).draw for seed in (0, 0, 1)]
    levels = [[round(float(draw("x", "fire truck")[4000]), 1) for _ in range(10)] for draw in draws]
    assert sorted(levels[0][:5]) == sorted(levels[0][5:]) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert levels[0] == levels[1] != levels[2]


def test_faults_of_audio(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        AudioPool(tmp_path / "gone")
    write_audio(tmp_path / "dog/a.wav", np.zeros(800), 8000)
    with pytest.raises(InputError, match=r"a\.png: no audio of the class 'cat'"):
        AudioPool(tmp_path).draw("a.png", "cat")
    with pytest.raises(InputError, match=r"a\.wav: the audio is silent"):
        AudioPool(tmp_path).draw("a.png", "dog")


# The commands -------------------------------------------------------------------------------------


def test_the_prompts_are_those_of_eq_6():
    classes = ["cat", "fire truck", "violin"]
    rows = prompts(classes)
    assert len(rows) == 3 * 3 * 2 and len({row["name"] for row in rows}) == 18
    expected = [
        text
        for c1, c2 in permutations(classes, 2)
        for text in (f"a photo of a {c1} and {c2}", f"{c1} is next to {c2}")
    ]
    assert {row["prompt"] for row in rows} >= set(expected)
    assert "cat is playing a violin" in {row["prompt"] for row in rows}


def test_prompts_of_vggss(capsys, tmp_path):
    annotations = ROOT / "tests/annotations/vggss.json"
    classes = {category_name("", entry["class"]) for entry in read_json(annotations)}
    main(["prompts", str(annotations)])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 3 * len(classes) * (len(classes) - 1)
    assert {name for row in rows for name in row["classes"]} == classes
    main(["prompts", str(annotations), "--count", "5", "--seed", "1"])
    some = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(some) == 5 and all(row in rows for row in some)


def run(capsys, *args):
    """Exit status, stdout, the last line of stderr."""
    status = 0
    try:
        main([str(arg) for arg in args])
    except SystemExit as ended:
        status = ended.code
    out, err = capsys.readouterr()
    return status, out, (err.splitlines() or [""])[-1]


@pytest.fixture
def folders(tmp_path):
    """Images, masks and audio as `assemble` takes them → the command."""
    for n, (_, image, objects) in enumerate(draw_images()):
        name = f"dog_firetruck_{n:06d}" if n else "dog"  # one name is the beginning of the others
        write_image(tmp_path / f"images/{name}.{('png', 'jpg')[n % 2]}", image)
        for category, mask, _ in objects:
            file = tmp_path / f"masks/{name}_{category.replace(' ', '_')}.png"
            write_image(file, mask.astype(np.uint8) * 255)
    for n, category in enumerate(("dog", "dog", "fire truck")):
        write_audio(tmp_path / f"audio/{category}/{n}.wav", TONE / (n + 1), RATE)
    flags = [(f"--{name}", tmp_path / name) for name in ("images", "masks", "audio", "keep")]
    return ["assemble", *(x for flag in flags for x in flag), "--out", tmp_path / "out"]


def test_assemble(folders, tmp_path, capsys, monkeypatch):
    """The list of images is asked for once; then the same command needs no answers."""
    answers = iter(("y", "n", "Yes"))
    monkeypatch.setattr("builtins.input", lambda text: next(answers))
    status, out, _ = run(capsys, *folders)
    assert status == 0 and "| 2      | 2         | yes          | 4          | yes" in out
    assert (tmp_path / "keep").read_text() == "dog\ndog_firetruck_000002\n"
    kept = [objects for _, _, objects in draw_images()][::2]
    samples = iter(load_samples("is3", tmp_path / "out"))
    for objects in kept:
        for category, mask, _ in objects:
            sample = next(samples)
            assert sample.label == category and np.array_equal(read_mask(*sample.masks), mask)
    assert run(capsys, *folders[:-1], tmp_path / "again")[0] == 0
    one, two = (sorted((tmp_path / name).rglob("*.*")) for name in ("out", "again"))
    assert [a.read_bytes() for a in one] == [b.read_bytes() for b in two] and len(one) == 17


FOLDER_FAULTS = {
    "a mask of another size": ("masks/dog_dog.png", "has 9×9 pixels"),
    "a mask without image": ("masks/cat_dog.png", "no image in"),
    "two masks of a class": ("masks/dog_fire truck.png", "another mask is of"),
    "a class without audio": ("masks/dog_cat.png", "no audio of the class 'cat'"),
    "two images of a name": ("images/dog.jpg", "different names"),
}


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_faults_of_folders(fault, folders, tmp_path, capsys):
    file, message = FOLDER_FAULTS[fault]
    shape = (9, 9) if "size" in fault else (96, 128)
    write_image(tmp_path / file, np.full(shape, 255, np.uint8))
    (tmp_path / "keep").write_text("dog\n")
    status, out, line = run(capsys, *folders)
    assert status == 2 and message in line and not out and not (tmp_path / "out").exists()
    if fault in ("a mask of another size", "a class without audio"):
        (tmp_path / "keep").write_text("dog\ndog_firetruck_000001\n")
        assert run(capsys, *folders, "--skip-bad")[0] == 0
        assert len(listed_samples("is3", tmp_path / "out")) == 2


@pytest.mark.parametrize("name", ("../images/dog", "cat", "/etc/passwd", ".."))
def test_a_list_names_images_only(name, folders, tmp_path, capsys):
    (tmp_path / "keep").write_text(f"dog\n{name}\n")
    status, _, line = run(capsys, *folders)
    assert status == 2 and "no image has the name" in line and not (tmp_path / "out").exists()


def test_without_answers_no_list_is_written(folders, tmp_path, capsys, monkeypatch):
    def no_answer(text):
        raise EOFError

    monkeypatch.setattr("builtins.input", no_answer)
    status, _, line = run(capsys, *folders)
    assert status == 2 and "no such list" in line
    assert not (tmp_path / "keep").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "args", ("compose --out x --count 0", "compose --out x --seconds nan", "compose", "assemble",
             "prompts", "prompts x --seed -1", "compose --out x --size 8", "")
)  # fmt: skip
def test_bad_flags(args, capsys):
    status, out, line = run(capsys, *args.split())
    assert status == 2 and "error: " in line and not out


def test_compose_and_evaluate(tmp_path, capsys):
    """Drawn objects, and maps of the ground truth: every image is solved."""
    args = ["compose", "--count", "4", "--size", "64", "--seconds", "0.5", "--out"]
    status, out, _ = run(capsys, *args, tmp_path / "is3")
    assert status == 0 and "| 4      |" in out and "| 8          | yes  | yes  |" in out
    assert run(capsys, *args, tmp_path / "again")[0] == 0
    for path in (tmp_path / "is3").rglob("*.*"):
        same = tmp_path / "again" / path.relative_to(tmp_path / "is3")
        assert path.read_bytes() == same.read_bytes()
    test_set = FileTestSet(TINY, "is3", tmp_path / "is3")
    assert {"pairs", "interactive", "masks"} <= set(test_set.metric_groups)
    for i, name in enumerate(test_set.ids):
        inner = test_set.gt_mask(i) * test_set.gt_map(i)
        np.testing.assert_array_equal(inner, test_set.gt_mask(i))  # a mask lies in its box
        noise = np.random.default_rng(i).random(inner.shape) / 2  # no two pixels are equal
        np.save(tmp_path / f"{name}.npy", test_set.gt_map(i) + inner + noise)
    flags = ["--maps", tmp_path, "--data", "is3", "--root", tmp_path / "is3", "--out", tmp_path]
    evaluate.main([str(flag) for flag in flags])
    found = read_json(tmp_path / "metrics-is3.json")
    assert found["interactive/iiou_adaptive"] == found["masks/ciou_adaptive@0.5"] == 1
    assert found["masks/miou_adaptive"] > 0.98
