"""common.io: images in every mode that Pillow writes, upright and whole."""

import numpy as np
import pytest
import torch
from PIL import Image

from common.io import image as image_module
from common.io import read_image, write_image
from tests.test_io import refused


def saved(path, array, mode=None, **options):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def test_rgb_and_grey(tmp_path, image):
    for name in ("a.png", "a.bmp", "a.tiff", "a.ppm", "a.webp"):
        path = saved(tmp_path / name, image, **({"lossless": True} if name == "a.webp" else {}))
        assert np.array_equal(read_image(path), image) and read_image(path).dtype == np.uint8
        assert (
            read_image(path, "RGBA").shape == (9, 7, 4)
            and (read_image(path, "RGBA")[..., 3] == 255).all()
        )
    grey = read_image(tmp_path / "a.png", "L")
    assert np.abs(grey - image @ [0.299, 0.587, 0.114]).max() <= 1
    path = saved(tmp_path / "grey.png", grey)
    assert np.array_equal(read_image(path), np.repeat(grey[..., None], 3, 2)) and np.array_equal(
        read_image(path, "L"), grey
    )
    bits = image[..., 0] > 99
    assert np.array_equal(read_image(saved(tmp_path / "bits.png", bits), "L"), bits * np.uint8(255))
    smooth = np.tile(np.arange(0, 200, 4, dtype=np.uint8)[None, :, None], (40, 1, 3))
    assert (
        np.abs(read_image(saved(tmp_path / "a.jpg", smooth, quality=95)).astype(int) - smooth).max()
        <= 3
    )
    assert (
        np.abs(
            read_image(saved(tmp_path / "cmyk.jpg", smooth, "CMYK", quality=95)).astype(int)
            - smooth
        ).max()
        <= 4
    )


def test_transparency_is_white_unless_it_is_asked_for(tmp_path, image):
    alpha = np.random.default_rng(1).integers(0, 256, (9, 7, 1), dtype=np.uint8)
    alpha[0], alpha[1] = 0, 255
    path = saved(tmp_path / "a.png", np.concatenate([image, alpha], 2))
    assert np.array_equal(read_image(path, "RGBA")[..., 3:], alpha)
    want = image * (alpha / 255) + 255 * (1 - alpha / 255)
    assert np.abs(read_image(path) - want).max() <= 1
    assert (read_image(path)[0] == 255).all() and np.array_equal(read_image(path)[1], image[1])
    assert (read_image(path, "L")[0] == 255).all()
    path = saved(tmp_path / "la.png", np.concatenate([image[..., :1], alpha], 2))  # grey and alpha
    assert (
        np.abs(
            read_image(path) - np.repeat(image[..., :1] * (alpha / 255) + 255 - alpha, 3, 2)
        ).max()
        <= 1
    )


def test_palettes(tmp_path, image):
    indices = image[..., 0] // 64
    image = Image.frombytes("P", (7, 9), indices.tobytes())
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], np.uint8)
    image.putpalette(colours.tobytes())
    want = colours[indices]
    assert np.array_equal(read_image(saved(tmp_path / "p.png", image)), want)
    assert np.array_equal(read_image(saved(tmp_path / "p.gif", image)), want)
    clear = read_image(saved(tmp_path / "t.png", image, transparency=1))
    assert np.array_equal(clear, np.where(indices[..., None] == 1, 255, want))
    assert set(np.unique(read_image(tmp_path / "t.png", "RGBA")[..., 3])) == {0, 255}


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
def test_sixteen_bits_are_scaled(tmp_path, name):
    deep = np.array([[0, 255, 257 * 7, 20000, 257 * 200 + 128, 65535]], np.uint16)
    got = read_image(saved(tmp_path / name, deep), "L")
    assert got.tolist() == [[0, 1, 7, 78, 200, 255]]
    assert read_image(tmp_path / name).shape == (1, 6, 3)


def test_pixels_of_unknown_range(tmp_path):
    refused(saved(tmp_path / "f.tiff", np.ones((4, 4), np.float32)), "16 bits", read_image)
    refused(saved(tmp_path / "i.tiff", np.full((4, 4), 70000, np.int32)), "16 bits", read_image)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tiff", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, name, orientation):
    up = np.zeros(
        (16, 32, 3), np.uint8
    )  # the image as it should look: a bright top left corner, a grey top right one
    up[:8, :8], up[:8, 24:] = 255, 128
    stored = {
        1: up,
        2: up[:, ::-1],
        3: up[::-1, ::-1],
        4: up[::-1],
        5: up.swapaxes(0, 1),
        6: np.rot90(up),
        7: np.rot90(up, 2).swapaxes(0, 1),
        8: np.rot90(up, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    exact = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path / name, np.ascontiguousarray(stored), exif=exif.tobytes(), **exact)
    got = read_image(path).astype(int)
    assert got.shape == up.shape and np.abs(got - up).max() < 16


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_files_that_are_not_images(tmp_path, image, monkeypatch):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image" * 99)
    refused(tmp_path / "empty.png", "empty", read_image)
    refused(tmp_path / "text.png", "not an image", read_image)
    refused(tmp_path / "absent.png", "No such file", read_image)
    refused(tmp_path, "regular file", read_image)
    saved(tmp_path / "a.eps", image)
    refused(tmp_path / "a.eps", "not an image", read_image)
    big = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tiff", "a.ppm"):
        data = saved(tmp_path / name, big).read_bytes()
        for cut in (len(data) * 9 // 10, len(data) // 2, len(data) // 5, 30, 5):
            (tmp_path / "cut").write_bytes(data[:cut])
            refused(tmp_path / "cut", ".", read_image)
    monkeypatch.setattr(image_module, "MAX_PIXELS", 90 * 90 - 1)
    monkeypatch.setattr(
        Image.Image, "load", lambda self: pytest.fail("decoded before it was bounded")
    )
    refused(tmp_path / "a.png", "pixels", read_image)


def test_write_image(tmp_path, image):
    alpha = np.concatenate([image, image[..., :1]], 2)
    for array, mode in (
        (image, "RGB"),
        (alpha, "RGBA"),
        (image[..., 0], "L"),
        (torch.from_numpy(image), "RGB"),
    ):
        write_image(tmp_path / "a.png", array)
        assert np.array_equal(read_image(tmp_path / "a.png", mode), np.asarray(array))
    write_image(tmp_path / "a.JPG", image)
    assert Image.open(tmp_path / "a.JPG").format == "JPEG"
    with pytest.raises(ValueError):
        write_image(tmp_path / "b.png", image / 255)
    assert not (tmp_path / "b.png").exists()
