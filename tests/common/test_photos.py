"""Photos and masks as people have them: 16 bits, transparent, turned, no file at all; ordinary ones bit by bit."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from common.data.geometry import centre_crop, orientation, to_grey, to_rgb, upright
from common.data.module import ImageData
from common.data.readers.folder import Folder
from common.data.readers.masks import read_votes
from common.errors import UserError
from common.files import UNREADABLE, open_image
from common.pictures import read_photo
from tests.worlds.layouts import make_folder

RAMP = np.arange(256)


def png(path: Path, pixels: np.ndarray, colour: int, chunks: tuple[bytes, ...] = ()) -> Path:
    """A PNG of 16 bits. pixels: H,W,C; colour: PNG's type, 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", head), *(chunk(c[:4], c[4:]) for c in chunks), chunk(b"IDAT", zlib.compress(rows)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    return path


def shown(path: Path, background: str = "white") -> np.ndarray:
    """H,W,3 as integers."""
    with open_image(path) as image:
        return np.asarray(upright(image, background), int)


# ---- 16 bits


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bits_keeps_its_ramp(tmp_path: Path, colour: int, channels: int) -> None:
    pixels = np.repeat(RAMP[None, :, None] * 257, channels, 2)
    if colour & 4:
        pixels[..., -1] = 65535
    found = shown(png(tmp_path / "ramp.png", pixels, colour))
    assert np.abs(found - RAMP[None, :, None]).max() <= 1


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I"])
def test_grey_of_16_bits_in_every_mode(tmp_path: Path, kind: str) -> None:
    values = (RAMP[None] * 257).astype({"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[kind])
    image = Image.frombytes(kind, (256, 1), values.tobytes())
    assert np.array_equal(np.asarray(to_rgb(image))[0, :, 1], RAMP)
    image.save(tmp_path / "ramp.tiff")
    assert np.array_equal(shown(tmp_path / "ramp.tiff")[0, :, 1], RAMP)


def test_a_mask_of_16_bits_is_half_foreground(tmp_path: Path) -> None:
    path = png(tmp_path / "mask.png", RAMP[None, :, None] * 257, 0)
    assert read_votes(path, np.zeros((1, 256, 3), np.uint8)).sum() == 128


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.new("F", (4, 4), 0.5).save(tmp_path / "f.tiff")
    with pytest.raises(UNREADABLE, match="point"):
        shown(tmp_path / "f.tiff")


# ---- transparency


def hidden_noise(mode: str) -> Image.Image:
    """A dark square, opaque, in the middle of noise that is transparent."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 250, (16, 16, 4), np.uint8)
    pixels[..., 3] = 0
    pixels[4:12, 4:12] = 40, 40, 40, 255
    image = Image.fromarray(pixels)
    if mode == "LA":
        return image.convert("LA")
    if mode == "P":  # colour 0 is transparent
        palette = Image.fromarray(np.where(pixels[..., 3] > 0, 1, 0).astype(np.uint8))
        palette.putpalette([200, 30, 90, 40, 40, 40])
        palette.info["transparency"] = 0
        return palette
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("background", "colour"), [("white", 255), ("black", 0), ("#7f7f7f", 127)])
def test_what_is_transparent_shows_the_background(tmp_path: Path, mode: str, background: str, colour: int) -> None:
    path = tmp_path / "disc.png"
    hidden_noise(mode).save(path)
    found = shown(path, background)
    assert (found[4:12, 4:12] == 40).all()
    found[4:12, 4:12] = colour
    assert (found == colour).all()


def test_a_colour_that_a_png_declares_transparent_is(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[9, 9, 9], [8, 8, 8]]], np.uint8)).save(tmp_path / "a.png", transparency=(9, 9, 9))
    assert shown(tmp_path / "a.png").tolist() == [[[255] * 3, [8] * 3]]


def test_a_mask_is_black_where_it_is_transparent(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), 255, np.uint8)
    pixels[:, :4, 3] = 0
    with Image.fromarray(pixels) as image:
        assert np.asarray(to_grey(image))[:, [0, 7]].tolist() == [[0, 255]] * 8


def test_the_data_module_trains_on_the_background_that_is_asked_for(tmp_path: Path) -> None:
    make_folder(tmp_path / "own", {f"{name}/{i}": ("a bird",) for name in "abcd" for i in range(2)})
    for path in (tmp_path / "own/images").rglob("*.jpg"):
        path.unlink()
        Image.new("RGBA", (16, 16), (90, 20, 250, 0)).save(path.with_suffix(".png"))
    options = {"image_size": 8, "batch_size": 4, "store": tmp_path / "stores", "reads": ("image",)}
    for background, value in (("white", 1.0), ("black", -1.0)):
        data = ImageData(dataset=Folder(root=tmp_path / "own"), background=background, **options)  # type: ignore[arg-type]
        batch = data.move(next(iter(data.eval_loader("all"))), "cpu")
        assert (batch["image"] == value).all()
        assert (read_photo(str(data.records.images[0]), data) == value).all()
    with pytest.raises(UserError, match=r"data\.background=pnik .*white"):
        ImageData(dataset=Folder(root=tmp_path / "own"), background="pnik", **options)  # type: ignore[arg-type]


# ---- EXIF


def exif(*fields: tuple[int, int, int, bytes], order: str = "<", count: int | None = None) -> bytes:
    """An EXIF block of these fields: tag, type, number of values, value or what lies beyond the table."""
    start = 8 + 2 + 12 * len(fields) + 4
    table, beyond = b"", b""
    for tag, kind, number, value in fields:
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack(order + "I", start + len(beyond))
        beyond += value if len(value) > 4 else b""
        table += struct.pack(order + "HHI", tag, kind, number) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    number = len(fields) if count is None else count
    return b"Exif\0\0" + head + struct.pack(order + "H", number) + table + bytes(4) + beyond


TURNED = (0x0112, 3, 1, b"\x06\0")
ODD = {
    "plain": (),
    "signed rational over 0": ((0x9204, 10, 1, struct.pack("<ii", -1, 0)),),
    "rational over 0": ((0x829A, 5, 1, bytes(8)),),
    "resolution as BYTE": ((0x011A, 1, 1, b"\x48"),),
    "resolution and unit as BYTE": ((0x011A, 1, 1, b"\x48"), (0x0128, 1, 1, b"\x02")),
    "resolution as text": ((0x011A, 2, 3, b"72\0"),),
    "a float for a short": ((0x0128, 11, 1, struct.pack("<f", 1e30)),),
    "a field of an unknown type": ((0x0110, 99, 1, b"\x01"),),
    "text that is no ASCII": ((0x010F, 2, 4, b"\xff\xfe\xe9\0"),),
    "a value that lies behind the end": ((0x010F, 2, 5000, b"\0\x10\0\0"),),
    "a place for the camera's own that is none": ((0x8769, 4, 1, b"\xff\xff\xff\x7f"),),
    "GPS as text": ((0x8825, 2, 4, b"abc\0"),),
    "the camera's own as rational": ((0x8769, 5, 1, struct.pack("<II", 1, 0)),),
    "minus one of a short": ((0x0100, 8, 1, b"\xff\xff"),),
}


@pytest.mark.parametrize("name", ODD)
def test_the_orientation_is_read_alone(tmp_path: Path, name: str) -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :8] = 255
    path = tmp_path / "turned.jpg"
    Image.fromarray(pixels).save(path, exif=exif(*sorted((TURNED, *ODD[name]))), quality=95)
    found = shown(path)
    assert found.shape == (32, 16, 3)
    assert found[:6].min() > 200  # what was the left is above: turned clockwise
    assert found[10:].max() < 60


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (exif((0x0112, 3, 1, b"\0\x08"), order=">"), 8),
        (exif((0x0112, 1, 1, b"\x03")), 3),
        (exif((0x0112, 4, 1, b"\x05")), 5),
        (exif((0x0112, 3, 1, b"\x09\0")), 1),
        (exif((0x0112, 2, 2, b"6\0")), 1),
        (exif((0x0112, 5, 1, bytes(8))), 1),
        (exif(TURNED, count=900), 6),
        (exif(TURNED)[:16], 1),
        (b"Exif\0\0nonsense", 1),
        (b"", 1),
    ],
)
def test_orientations_that_cameras_write_and_such_that_are_none(tmp_path: Path, block: bytes, expected: int) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg", exif=block)
    with open_image(tmp_path / "photo.jpg") as image:
        assert orientation(image) == expected


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_ordinary_photos_are_as_pillow_has_them_bit_by_bit(tmp_path: Path, turn: int, ending: str) -> None:
    rng, block = np.random.default_rng(turn), Image.Exif()
    block[0x0112] = turn
    for shape in ((20, 30, 3), (20, 30)):
        path = tmp_path / f"photo{len(shape)}.{ending}"
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(path, exif=block)
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        assert np.array_equal(shown(path), expected)


# ---- no file


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link to a pipe"])
def test_only_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo.jpg"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to("pipe")
    with pytest.raises(UNREADABLE, match="not a file"):
        open_image(path)
    with pytest.raises(UserError, match=rf"{path} is not a readable mask"):
        read_votes(path, np.zeros((4, 4, 3), np.uint8))


def test_the_window_in_the_middle() -> None:
    pixels = np.arange(5 * 4).reshape(5, 4)
    assert centre_crop(pixels, 3).tolist() == pixels[1:4, 1:4].tolist()
    assert centre_crop(pixels, 2).tolist() == pixels[2:4, 1:3].tolist()
