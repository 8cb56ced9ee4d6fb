"""The embedded data: reproducible, of the sizes it documents, and labelled correctly."""

import colorsys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from common.scenes import Scenes
from common.scenes.composition import COUNTS, PLACES, background, place
from common.scenes.objects import COLOURS, tight_boxes
from tests.test_bank import write_folder

pytestmark = pytest.mark.slow

KINDS = ("pair", "interactive", "extended", "grounding", "caption", "video")


def same(a, b):
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b) and getattr(a, "dtype", None) == getattr(b, "dtype", None)


def naive_box(mask):
    """The box of a mask (S, S), pixel by pixel."""
    ys, xs = np.nonzero(mask)
    return (
        np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / len(mask)
        if len(xs)
        else np.zeros(4)
    )


def replay(scenes, kind, index, count=None):
    """The scene that a sample of `kind` was made from."""
    rng = scenes.rng(kind, index)
    return scenes.scene(rng, scenes.classes(rng, count)[: scenes.objects])


# The same everywhere ------------------------------------------------------------------------------


class Everything:
    """A dataset of all kinds of samples."""

    def __len__(self):
        return len(KINDS)

    def __getitem__(self, i):
        return getattr(Scenes(3, size=48), KINDS[i])(5)


def test_a_sample_does_not_depend_on_what_was_drawn_before():
    scenes = Scenes(3, size=48)
    for kind in KINDS:
        draw = getattr(scenes, kind)
        forward = [draw(i) for i in range(4)]
        assert same(tuple(forward), tuple(draw(i) for i in reversed(range(4)))[::-1])
        assert not same(forward[0], forward[2])
        assert not same(forward[0], getattr(Scenes(4, size=48), kind)(0))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_another_process_makes_the_same(start):
    loader = DataLoader(
        Everything(),
        None,
        sampler=range(len(KINDS))[::-1],
        num_workers=1,
        multiprocessing_context=start,
    )
    for i, sample in zip(reversed(range(len(KINDS))), loader):
        assert same(
            tuple(np.asarray(x) for x in sample), tuple(np.asarray(x) for x in Everything()[i])
        ), KINDS[i]


def test_the_kinds_do_not_share_images():
    scenes = Scenes(0, size=32)
    images = [
        getattr(scenes, kind)(i).image.tobytes()
        for kind in ("pair", "extended", "grounding")
        for i in range(20)
    ]
    images += [scenes.interactive(2 * i).image.tobytes() for i in range(20)]
    assert len(set(images)) == len(images)


# Images -------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 24),
    st.integers(1, 3),
    st.sampled_from([16000, 22050]),
    st.sampled_from([1, 2.5, 10]),
    st.integers(0, 99),
)
def test_every_size_rate_and_length(size, objects, rate, seconds, index):
    size *= 16
    sample = Scenes(1, size, rate, seconds, objects).pair(index)
    assert sample.image.shape == (size, size, 3) and sample.image.dtype == np.uint8
    assert sample.waveform.shape == (round(seconds * rate),) and sample.waveform.dtype == np.float32
    assert sample.mask.shape == (size, size) and sample.mask.dtype == bool and sample.mask.any()
    np.testing.assert_allclose(sample.box, naive_box(sample.mask), atol=1e-6)
    assert sample.box.dtype == np.float32 and np.abs(sample.waveform).max() <= 1


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_boxes_are_tight_around_what_is_visible(objects):
    scenes = Scenes(2, objects=objects)
    hidden = 0
    for i in range(60):
        scene = replay(scenes, 0, i)
        assert len(set(scene.classes.tolist())) == objects == len(scene.boxes)
        assert scene.masks.sum(0).max() <= 1  # a pixel belongs to one object
        for box, mask in zip(scene.boxes, scene.masks):
            np.testing.assert_allclose(box, naive_box(mask), atol=1e-6)
            assert mask.mean() > 0.002
        hidden += objects > 1 and any(
            (scene.masks[k] & _region(scene.boxes[1 - k], 96)).any() for k in range(2)
        )
    assert objects == 1 or hidden > 3  # so objects do overlap, and the above is a test


def _region(box, size):
    x0, y0, x1, y1 = np.rint(box * size).astype(int)
    region = np.zeros((size, size), bool)
    region[y0:y1, x0:x1] = True
    return region


def test_masks_are_where_the_image_differs_from_its_background():
    scenes = Scenes(2, objects=2)
    for i in range(20):
        rng = scenes.rng(0, i)
        classes = scenes.classes(rng)
        scene, rng = scenes.scene(rng, classes), scenes.rng(0, i)
        scenes.classes(rng)
        changed = (scene.image != background(rng, 96)).any(-1)
        union = scene.masks.any(0)
        assert not changed[~union].any()
        assert changed[union].mean() > 0.97  # the colours agree in a few pixels


def areas(**options):
    boxes = np.concatenate([replay(Scenes(0, **options), 0, i).boxes for i in range(500)])
    return np.quantile(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), [0.25, 0.5, 0.75])


@pytest.mark.slow
def test_areas_are_those_of_is3_and_the_scale_shifts_them():
    middle = areas(size=48)
    np.testing.assert_allclose(middle, [0.16, 0.30, 0.46], atol=0.04)
    small, large = areas(size=48, object_scale=0.5), areas(size=48, object_scale=1.4)
    np.testing.assert_allclose(small / middle, 0.5, atol=0.07)
    assert (large > 1.15 * middle).all() and (large < 1.45 * middle).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6), st.lists(st.floats(0.4, 2.5), min_size=1, max_size=3), st.floats(0.2, 2)
)
def test_places_are_in_the_image(seed, aspects, scale):
    boxes = place(np.random.default_rng(seed), np.array(aspects), scale)
    assert boxes.shape == (len(aspects), 4) and boxes.min() >= 0 and boxes.max() <= 1
    assert (boxes[:, 2:] - boxes[:, :2] > 0.059).all()


def test_places_are_chosen_for_little_overlap():
    covered = {1: [], 48: []}
    for tries, shares in covered.items():
        for i in range(200):
            a, b = place(np.random.default_rng(i), np.ones(2), tries=tries)
            inner = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0).prod()
            shares.append(inner / min((x[2:] - x[:2]).prod() for x in (a, b)))
    chance, chosen = (np.array(covered[tries]) for tries in (1, 48))
    assert (chosen < 0.25).mean() > 2 * (chance < 0.25).mean()
    assert chosen.mean() < 0.5 * chance.mean()


def test_most_of_every_object_is_visible():
    whole, visible = {}, []

    class Counting(type(Scenes(0).bank)):
        def cutout(self, cls, rng, width, height, tone):
            cutout = super().cutout(cls, rng, width, height, tone)
            whole[cls] = cutout[1].sum()
            return cutout

    scenes = Scenes(0)
    scenes.bank = Counting()
    for i in range(150):
        scene = replay(scenes, 0, i)
        visible += [mask.sum() / whole[cls] for cls, mask in zip(scene.classes, scene.masks)]
    assert max(visible) == 1 and min(visible) > 0.1 and np.quantile(visible, 0.05) > 0.5


def test_tight_boxes_of_nothing_and_of_a_pixel():
    masks = np.zeros((3, 8, 8), bool)
    masks[1, 2, 5] = masks[2, 0, 0] = masks[2, 7, 3] = True
    np.testing.assert_array_equal(
        tight_boxes(masks), np.array([[0, 0, 0, 0], [5, 2, 6, 3], [0, 0, 4, 8]], np.float32) / 8
    )


# Samples ------------------------------------------------------------------------------------------


def test_the_audio_of_a_pair_is_of_either_object():
    scenes, chosen = Scenes(4, size=48), []
    for i in range(60):
        sample, scene = scenes.pair(i), replay(scenes, 0, i)
        k = scene.classes.tolist().index(sample.cls)
        assert sample.sounding and sample.group == i and sample.name == scenes.names[sample.cls]
        assert same(
            (sample.image, sample.mask, sample.box), (scene.image, scene.masks[k], scene.boxes[k])
        )
        chosen.append(k)
    assert 0.25 < np.mean(chosen) < 0.75


@pytest.mark.parametrize("objects", [2, 3])
def test_interactive_members_share_the_image_and_differ_in_audio(objects):
    scenes = Scenes(4, size=48, objects=objects)
    for group in range(6):
        members = [scenes.interactive(objects * group + k) for k in range(objects)]
        assert all(
            m.group == group and (m.image == members[0].image).all() and m.sounding for m in members
        )
        assert (
            len({m.cls for m in members}) == len({m.waveform.tobytes() for m in members}) == objects
        )
        assert sum(m.mask.astype(int) for m in members).max() == 1


def test_half_of_the_extended_samples_have_no_source_in_view():
    scenes = Scenes(4, size=48)
    silent, steady, elsewhere = 0, 0, 0
    for i in range(120):
        sample, scene = scenes.extended(i), replay(scenes, 3, i, 3)
        assert (sample.image == scene.image).all() and sample.sounding == (i % 2 == 0)
        if sample.sounding:
            assert sample.cls in scene.classes and sample.mask.any() and sample.waveform.any()
            continue
        assert sample.cls == -1 and sample.name == sample.phrase == ""
        assert not sample.mask.any() and not sample.box.any()
        rng = scenes.rng(3, i)
        absent = scenes.classes(rng, 3)[-1]
        assert absent not in scene.classes
        zeros = (np.abs(sample.waveform) < 1e-9).mean()
        silent += zeros == 1
        steady += zeros < 0.01
        elsewhere += 0.01 <= zeros < 1
    assert min(silent, steady, elsewhere) > 8 and silent + steady + elsewhere == 60


def test_audio_from_off_screen_is_of_a_class_that_is_not_in_the_image():
    class Named(type(Scenes(0).bank)):
        def waveform(self, cls, rng, samples, rate, tone):  # audio that is its class
            return np.full(samples, cls + 1, np.float32), 1

    scenes, elsewhere = Scenes(4, size=32), 0
    scenes.bank = Named()
    for i in range(1, 121, 2):
        values = set(scenes.extended(i).waveform.tolist())
        if len(values) == 1 and values != {0.0}:
            elsewhere += 1
            assert int(values.pop()) - 1 not in replay(scenes, 3, i, 3).classes
    assert elsewhere > 8
    for i in range(0, 40, 2):
        assert set(scenes.extended(i).waveform.tolist()) == {scenes.extended(i).cls + 1}
    for i in range(20):
        assert set(scenes.pair(i).waveform.tolist()) == {scenes.pair(i).cls + 1}
        assert set(scenes.interactive(i).waveform.tolist()) == {scenes.interactive(i).cls + 1}


# Phrases ------------------------------------------------------------------------------------------


def claims(phrase, names):
    """A phrase → its words before the class, the class, the words of place after it."""
    name = max((n for n in names if n in phrase), key=len)
    before, after = phrase.split(name)
    return before.split()[1:], names.index(name), after.strip()


@pytest.mark.slow
@pytest.mark.parametrize("objects", [2, 3])
def test_a_phrase_is_true_of_one_object_alone(objects):
    scenes = Scenes(6, objects=objects)
    all_words = set()
    for i in range(500):
        sample = scenes.grounding(i)
        if sample.exclusive:
            continue
        scene = replay(scenes, 4, i)
        words, cls, where = claims(sample.phrase, scenes.names)
        matches = np.flatnonzero(scene.classes == cls)
        assert len(matches) == 1, "one object of that class"
        k = int(matches[0])
        np.testing.assert_array_equal(sample.box, scene.boxes[k])
        area = np.prod(scene.boxes[:, 2:] - scene.boxes[:, :2], axis=1)
        centre = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
        others = [j for j in range(objects) if j != k]
        for word in words:
            all_words.add(word)
            if word == "small":
                assert all(area[k] < 0.75 * area[j] for j in others)
            elif word == "large":
                assert all(area[k] > 1.35 * area[j] for j in others)
            else:
                hsv = np.asarray(Image.fromarray(scene.image).convert("HSV"))
                hue = hsv[..., 0][scene.masks[k]] / 255
                assert np.median(np.abs((hue - COLOURS[word] + 0.5) % 1 - 0.5)) < 0.05
        if where:
            all_words.add(where)
            axis, sign = PLACES[where]
            # for "on the left": the leftmost of all objects, and in the left half
            assert all(sign * (centre[k, axis] - centre[j, axis]) > 0.1 for j in others)
            assert sign * (centre[k, axis] - 0.5) > 0
    assert all_words == {"small", "large", *COLOURS, *PLACES}


@pytest.mark.parametrize("style", ["refcoco+", "refcoco"])
def test_a_short_phrase_is_true_of_one_object_alone(style):
    """A place, but not in the kind of RefCOCO+; or the last word of a name that no other has."""
    scenes, plain, kinds = Scenes(6, size=48), Scenes(6, size=48), Counter()
    scenes.style = style
    for i in range(300):
        sample, full, scene = scenes.grounding(i), plain.grounding(i), replay(scenes, 4, i)
        np.testing.assert_array_equal(sample.image, full.image)
        np.testing.assert_array_equal(sample.box, full.box)
        if sample.exclusive:
            assert sample.phrase == full.phrase
            continue
        k = int(np.flatnonzero((scene.boxes == sample.box).all(1))[0])
        names = [scenes.names[cls] for cls in scene.classes]
        centre = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
        if sample.phrase.startswith("the one "):
            axis, sign = PLACES[sample.phrase.removeprefix("the one ")]
            assert sign * (centre[k, axis] - centre[1 - k, axis]) > 0.1
            kinds["place"] += 1
        else:
            said = sample.phrase.removeprefix("the ")
            assert [name.endswith(said) for name in names] == [k == 0, k == 1]
            assert (said == names[k]) == (names[0].split()[-1] == names[1].split()[-1])
            kinds["name" if said == names[k] else "noun"] += 1
    assert set(kinds) == {"noun", "name"} | ({"place"} if style == "refcoco" else set())
    assert 100 < kinds["place"] < 160 or style == "refcoco+"


def test_exclusive_phrases_name_no_object():
    scenes, exclusive, corners = Scenes(6, size=48), 0, 0
    for i in range(600):
        sample = scenes.grounding(i)
        named = any(name in sample.phrase for name in scenes.names)
        assert named != sample.exclusive
        exclusive += sample.exclusive
        if "corner" in sample.phrase:
            corners += 1
            taken = replay(scenes, 4, i).masks.any(0)
            x0, y0, x1, y1 = (48 * sample.box).astype(int)
            assert taken[y0:y1, x0:x1].mean() <= 0.1  # an empty corner
            assert sample.phrase.endswith(
                f"{'bottom' if y0 else 'top'} {'right' if x0 else 'left'}"
            )
        elif sample.exclusive:
            assert sample.phrase.endswith("wall") and sample.box.tolist() == [0, 0, 1, 1]
    assert 45 < exclusive < 110 and corners > 5


def test_captions_name_the_class_and_the_number_of_events():
    scenes, exclusive = Scenes(6), 0
    for i in range(300):
        sample = scenes.caption(i)
        assert len(sample.captions) == 5 and sample.waveform.shape == (16000,)
        exclusive += sample.exclusive
        named = [name for name in scenes.names if name in sample.captions[0]]
        if sample.exclusive:
            assert not named and np.abs(sample.waveform.reshape(10, -1)).max(1).min() > 0
            continue
        assert len(named) == 1 and all(named[0] in text for text in sample.captions)
        if named[0] != scenes.names[10]:  # noise in bursts has pauses within an event
            times = 1 + (np.diff(np.flatnonzero(sample.waveform)) > 100).sum()
            assert {
                count for count in COUNTS for text in sample.captions if text.endswith(f" {count}")
            } == {COUNTS[times]}
    assert 20 < exclusive < 60


def test_captions_of_recordings_have_no_count(tmp_path):
    scenes = Scenes(0, size=32, folder=write_folder(tmp_path))
    for i in range(20):
        assert not any(count in text for text in scenes.caption(i).captions for count in COUNTS[1:])


def test_every_kind_from_a_folder(tmp_path):
    scenes = Scenes(0, size=64, folder=write_folder(tmp_path))
    for kind in KINDS:
        for i in range(4):
            assert same(
                getattr(scenes, kind)(i), getattr(Scenes(0, size=64, folder=tmp_path), kind)(i)
            )
    for i in range(20):
        sample = scenes.pair(i)
        np.testing.assert_allclose(sample.box, naive_box(sample.mask), atol=1e-6)
        assert sample.name in sample.phrase and sample.name.startswith("big thing")


# Videos -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("fps, seconds", [(4, 4), (1, 10)])
def test_videos_sound_when_they_are_labelled(turns, fps, seconds):
    scenes = Scenes(8, size=48)
    for i in range(12):
        video = scenes.video(i, fps, seconds, turns)
        frames = fps * seconds
        assert video.frames.shape == (frames, 48, 48, 3)
        assert video.waveform.shape == (16000 * seconds,)
        sounding = video.labels >= 0
        assert (sounding == video.sounding).all()
        assert sounding.any() and not sounding.all()  # there are gaps
        classes = set(video.labels[sounding].tolist())
        assert len(classes) == 1 + turns and video.cls in classes
        assert video.name == scenes.names[video.cls]
        assert (video.boxes[~sounding] == 0).all()
        assert (video.boxes[sounding, 2:] > video.boxes[sounding, :2]).all()
        # the half second around the middle of each frame is within one tick of the schedule
        middle = ((np.arange(frames) + 0.5) / fps * 16000).astype(int)
        ticks = (middle // 8000) * 8000
        level = np.array([np.sqrt(np.mean(video.waveform[t + 400 : t + 7600] ** 2)) for t in ticks])
        assert level[sounding].min() > 0.02 > 0.003 > level[~sounding].max()


@pytest.mark.slow
@pytest.mark.parametrize("turns", [False, True])
def test_what_sounds_in_a_video_is_a_little_smaller_than_in_is3(turns):
    scenes = Scenes(0, size=48)
    videos = [scenes.video(i, 1, 10, turns) for i in range(250)]
    boxes = np.concatenate([video.boxes[video.sounding] for video in videos])
    quartiles = np.quantile(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), [0.25, 0.5, 0.75])
    assert (quartiles < [0.16, 0.30, 0.46]).all(), quartiles
    np.testing.assert_allclose(quartiles, [0.13, 0.24, 0.37], atol=0.03)


def test_boxes_follow_the_object_that_sounds():
    scenes, moved = Scenes(8), 0
    for i in range(10):
        video = scenes.video(i)
        sounding = np.flatnonzero(video.sounding)
        boxes = video.boxes[sounding]
        is_interval = len(set(np.diff(sounding))) == 1
        assert np.abs(np.diff(boxes, axis=0)).max() < 0.2 or not is_interval  # no jumps
        moved += np.ptp(boxes[:, 0]) > 0.02
    assert moved >= 5


@pytest.mark.parametrize("index", range(6))
def test_a_box_in_a_video_is_of_the_sounding_object(index):
    """In the same video with the sounding object repainted, only what is in the box changes."""
    scenes = Scenes(9)
    video, bank = scenes.video(index), scenes.bank

    class Repainted(type(bank)):
        def cutout(self, cls, rng, width, height):
            rgb, opaque, colour = super().cutout(cls, rng, width, height)
            return (255 - rgb if cls == video.cls else rgb), opaque, colour

    scenes.bank = Repainted()
    other = scenes.video(index)
    assert (other.labels == video.labels).all() and (other.boxes == video.boxes).all()
    for t in np.flatnonzero(video.sounding):
        changed = (video.frames[t] != other.frames[t]).any(-1)
        np.testing.assert_allclose(naive_box(changed), video.boxes[t], atol=1.01 / 96)


def test_confusable_classes_share_a_timbre_and_never_an_image():
    audible, visible = [], []

    class Recording(type(Scenes(0).bank)):
        def waveform(self, cls, rng, samples, rate):
            audible.append(cls)
            return super().waveform(cls, rng, samples, rate)

        def cutout(self, cls, rng, width, height):
            visible.append(int(cls))
            return super().cutout(cls, rng, width, height)

    scenes, labels = Scenes(8, size=32, objects=3), set()
    scenes.bank = Recording()
    for i in range(60):
        audible.clear()
        visible.clear()
        video = scenes.video(i, turns=i % 2 == 0)
        assert len({cls // 2 for cls in visible}) == 3
        classes = set(video.labels[video.sounding].tolist())
        assert classes <= set(visible)
        assert sorted(audible) == sorted(cls // 2 * 2 for cls in classes)
        labels |= classes
    assert labels == set(range(12))  # both of every two are labels


def test_an_odd_length_and_rate_keeps_audio_and_labels_together():
    for i in range(6):
        video = Scenes(8, size=32, sample_rate=22050).video(i, fps=4, seconds=3.7)
        assert len(video.waveform) == round(3.7 * 22050) and len(video.labels) == 15
        for t in range(14):  # the last frame may reach past the end
            tick = int((t + 0.5) / 4 / 0.5) * 0.5
            part = video.waveform[round((tick + 0.03) * 22050) : round((tick + 0.47) * 22050)]
            if len(part) > 4000:
                assert (np.sqrt(np.mean(part**2)) > 0.01) == (video.labels[t] >= 0)


def test_linked_instances():
    """Hue goes with pitch, and the light of the background with the noise; else nothing changes."""
    linked, plain = (Scenes(3, 48, 8000, 0.5, objects=1, link=x) for x in (True, False))
    tones, pitches, hues, lights, noises = [], [], [], [], []
    for i in range(60):
        rng = linked.rng(0, i)
        scene = linked.scene(rng, [3])  # tremolo at four times the pitch
        sample = linked._sample(scene, 0, rng, i)
        spectrum = np.abs(np.fft.rfft(linked.waveform(3, rng, tone=scene.tones[0])[0]))
        pitches.append(np.fft.rfftfreq(4000, 1 / 8000)[spectrum.argmax()])
        colour = sample.image[sample.mask].mean(0) / 255
        hues.append(colorsys.rgb_to_hsv(*colour)[0])
        tones += scene.tones
        lights.append(scene.light)
        high = np.abs(np.fft.rfft(sample.waveform))[1600:]  # above the tones
        noises.append(np.log(high.mean() / np.abs(sample.waveform).mean()))
    assert np.corrcoef(tones, hues)[0, 1] > 0.8 and np.corrcoef(tones, pitches)[0, 1] > 0.5
    assert np.corrcoef(lights, noises)[0, 1] > 0.2
    assert plain.scene(plain.rng(0, 0), [2]).tones == [None]
