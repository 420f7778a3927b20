"""Torch7 files, pickles and masks, whole, damaged and hostile."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.data.readers.cub import CUB
from common.data.readers.masks import read_segmim, read_votes, segmim_foreground
from common.data.readers.old_formats import ALPHABET, TorchObject, decode_char, read_pickle, read_t7
from tests.worlds.layouts import (
    make_cub,
    refusal,
    t7,
)

# Torch7 and pickles


def test_t7_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.t7"
    square = np.arange(6.0).reshape(2, 3)
    value: dict[Any, Any] = {
        "a": 1,
        "b": [True, None, "text", 2.5],
        "d": square,
        "f": square.astype("f4"),
        "t": square.T,
        3: "three",
    }
    for dtype in ("u1", "i1", "i2", "i4", "i8"):
        value[dtype] = np.arange(5).astype(dtype)
    path.write_bytes(t7(value))
    read = read_t7(path)
    assert read["a"] == 1
    assert read["b"] == {1: True, 2: None, 3: "text", 4: 2.5}
    assert read[3] == "three"
    for name in ("d", "f", "t", "u1", "i1", "i2", "i4", "i8"):
        assert read[name].dtype == value[name].dtype
        assert read[name].tolist() == value[name].tolist()


def test_t7_memo_refers_to_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "x.t7"
    inner = struct.pack("<iii", 3, 2, 0)  # table 2, empty
    key = [struct.pack("<id", 1, number) for number in (1, 2, 3)]
    again, outer = struct.pack("<ii", 3, 2), struct.pack("<ii", 3, 1)
    path.write_bytes(struct.pack("<iii", 3, 1, 3) + key[0] + inner + key[1] + again + key[2] + outer)
    read = read_t7(path)
    assert read[1] is read[2]
    assert read[3] is read


def test_t7_networks_are_names_and_fields(tmp_path: Path) -> None:
    path = tmp_path / "x.t7"
    weight = np.arange(6.0).reshape(2, 3)
    layers = [TorchObject("nn.Linear", {"weight": weight, "bias": None}), TorchObject("cudnn.ReLU", {"inplace": True})]
    path.write_bytes(t7(TorchObject("nn.Sequential", {"modules": layers, "train": False})))
    read = read_t7(path)
    assert (read.kind, read.fields["train"]) == ("nn.Sequential", False)
    assert [layer.kind for layer in read.fields["modules"].values()] == ["nn.Linear", "cudnn.ReLU"]
    assert read.fields["modules"][1].fields["weight"].tolist() == weight.tolist()
    itself = struct.pack("<ii", 4, 1)  # an object whose field is that object
    name = b"".join(struct.pack("<i", len(word)) + word for word in (b"V 1", b"nn.Identity"))
    path.write_bytes(itself + name + struct.pack("<iii", 3, 2, 1) + struct.pack("<id", 1, 1) + itself)
    read = read_t7(path)
    assert read.fields[1] is read


def test_t7_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.t7"
    whole = t7({"char": np.ones((9, 2), np.uint8), "img": "jpg/x.jpg", "list": [1, True], "o": TorchObject("a.B", {})})
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert f"{path} is not a readable .t7 file" in refusal(lambda: read_t7(path))


def nested(kind: str, index: int) -> bytes:
    """The head of a torch object; what follows it is inside it."""
    words = b"".join(struct.pack("<i", len(word)) + word for word in (b"V 1", kind.encode()))
    return struct.pack("<ii", 4, index) + words


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<iii", 3, 1, 1 << 30),  # a table of a billion entries
        struct.pack("<iii", 3, 1, -1),
        struct.pack("<ii", 2, 1 << 30),  # a string of a gigabyte
        struct.pack("<ii", 2, -5),
        struct.pack("<i", 7),  # a Lua function
        b"".join(struct.pack("<iii", 3, i, 1) + struct.pack("<id", 1, 1) for i in range(5000)),  # nested 5000 deep
        struct.pack("<iii", 3, 1, 1) + struct.pack("<i", 0) * 2,  # nil as a key
        t7(np.ones(4)).replace(struct.pack("<q", 4), struct.pack("<q", 1 << 60)),  # exabytes of numbers
        t7(np.ones(4)).replace(struct.pack("<qqq", 4, 1, 1), struct.pack("<qqq", 5, 1, 1)),  # beyond the storage
        t7(np.ones(4)).replace(struct.pack("<qqq", 4, 1, 1), struct.pack("<qqq", 4, 2, 1)),
        t7(np.ones(4)).replace(struct.pack("<qqq", 4, 1, 1), struct.pack("<qqq", 4, 0, 5)),
        t7(np.ones(4)).replace(struct.pack("<qqq", 4, 1, 1), struct.pack("<qqq", 4, -1, 1)),
        t7(np.ones(4)).replace(struct.pack("<qqq", 4, 1, 1), struct.pack("<qqq", 1 << 50, 0, 1)),
        t7(np.ones(4)).replace(b"torch.DoubleTensor", b"nn.SpatialSoftMaxx"),
        b"",
        b"".join(nested("nn.Sequential", i) for i in range(5000)),
        b"".join(nested("torch.FloatTensor", i) + struct.pack("<iq", 0, 1) for i in range(5000)),  # as its own storage
        nested("nn.Sequential", 1) + struct.pack("<id", 1, 1),  # a number for fields
        nested("tds.Hash", 1) + struct.pack("<i", 0),
    ],
)
def test_hostile_t7_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.t7"
    path.write_bytes(content)
    assert str(path) in refusal(lambda: read_t7(path))


def test_char_matrix_is_read_by_columns_and_zero_is_padding(tmp_path: Path) -> None:
    char = np.zeros((201, 2), np.uint8)
    char[:5, 0] = [1, 70, 2, 0, 3]  # "a", space, "b", none, "c"
    char[:3, 1] = [37, 60, 27]  # the "-" at both of its places, "0"
    assert decode_char(char, tmp_path) == ("a bc", "--0")
    assert len(ALPHABET) == 70
    assert (ALPHABET[36], ALPHABET[59], ALPHABET[69]) == ("-", "-", " ")
    assert "shape (10, 201), not 201 x captions" in refusal(lambda: decode_char(np.ones((10, 201)), tmp_path))
    char[0, 0] = 71
    assert "outside 0..70" in refusal(lambda: decode_char(char, tmp_path))


def test_t7_of_another_image_or_without_captions(tmp_path: Path) -> None:
    keys = make_cub(tmp_path, captions="icml2016")
    path = tmp_path / "cub_icml" / f"{keys[0]}.t7"
    path.write_bytes(t7({"img": f"{keys[1]}.jpg", "char": np.ones((201, 1), np.uint8)}))
    assert f"{path} holds the captions of {keys[1].split('/')[1]}.jpg" in refusal(CUB(root=tmp_path).read)
    path.write_bytes(t7({"img": f"{keys[0]}.jpg"}))
    assert f"{path} holds no `char` matrix" in refusal(CUB(root=tmp_path).read)


# As in AttnGAN's birds/train/class_info.pickle: Python 2, protocol 0, a NumPy integer by numpy.core.multiarray.scalar.
CLASS_INFO = (
    rb"(lp0|cnumpy.core.multiarray|scalar|p1|(cnumpy|dtype|p2|(S'i8'|p3|I0|I1|tp4|Rp5|(I3|S'<'|p6|NNNI-1|I-1|I0|tp7|b"
    rb"S'\x02\x00\x00\x00\x00\x00\x00\x00'|p8|tp9|Rp10|ag10|a."
).replace(b"|", b"\n")


def test_pickles_of_python_2_and_numpy_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    for content in (CLASS_INFO, CLASS_INFO.replace(b"numpy.core", b"numpy._core")):
        path.write_bytes(content)
        assert read_pickle(path) == [2, 2]
    path.write_bytes(pickle.dumps([np.float32(1.5), np.arange(3)], protocol=4))
    number, array = read_pickle(path)
    assert number == 1.5
    assert array.tolist() == [0, 1, 2]


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, (f"open({str(self.target)!r}, 'w')",)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_cannot_run_code(tmp_path: Path, protocol: int) -> None:
    make_cub(tmp_path)
    path = tmp_path / "birds" / "train" / "filenames.pickle"
    path.write_bytes(pickle.dumps([Hostile(tmp_path / "owned")], protocol=protocol))
    message = refusal(CUB(root=tmp_path).read)
    assert str(path) in message
    assert "eval" in message
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"(lp0\nV", b"\x80\x04\x95", CLASS_INFO[:-30], b"cnumpy\nndarray\n(I-5\ntR."])
def test_damaged_pickles_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pickle"
    path.write_bytes(content)
    assert str(path) in refusal(lambda: read_pickle(path))


# Masks


def test_three_votes_of_five_are_foreground(tmp_path: Path) -> None:
    votes = np.array([[0, 51, 102, 153, 204, 255]], np.uint8)
    path, photo = tmp_path / "mask.png", np.zeros((1, 6, 3), np.uint8)
    grey = Image.fromarray(votes)
    with_alpha = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    for image in (grey, grey.convert("RGB"), grey.quantize(), with_alpha):
        image.save(path)
        assert read_votes(path, photo).tolist() == [[0, 0, 0, 1, 1, 1]], image.mode
        assert read_votes(path, photo).dtype == np.uint8
    Image.fromarray(votes >= 153).save(path)  # mode 1
    assert read_votes(path, photo).tolist() == [[0, 0, 0, 1, 1, 1]]
    pickle.dumps((read_votes, read_segmim))  # they go to worker processes


def test_mask_of_another_size_or_no_image(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.new("L", (30, 20)).save(path)
    message = refusal(lambda: read_votes(path, np.zeros((20, 31, 3), np.uint8)))
    assert f"{path} is 30x20 but its image is 31x20: " in message
    path.write_bytes(path.read_bytes()[:40])
    assert f"{path} is not a readable mask" in refusal(lambda: read_votes(path, np.zeros((20, 30, 3), np.uint8)))


def iou(ours: np.ndarray, theirs: np.ndarray) -> float:
    return (ours.astype(bool) & theirs).sum() / (ours.astype(bool) | theirs).sum()


@pytest.mark.parametrize(("quality", "bound"), [(95, 0.95), (75, 0.9)])
def test_blue_flower_on_blue_is_told_from_the_background(tmp_path: Path, quality: int, bound: float) -> None:
    disc = np.hypot(*np.mgrid[-150:150, -160:160]) <= 100
    photo, cutout = np.zeros((2, 300, 320, 3), np.uint8)
    photo[...], cutout[...] = (30, 140, 40), (0, 0, 254)
    photo[disc] = cutout[disc] = (0, 0, 254)
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=quality)
    Image.fromarray(cutout).save(tmp_path / "segmim.jpg", quality=quality)
    noisy = np.asarray(Image.open(tmp_path / "photo.jpg"))
    assert iou(read_segmim(tmp_path / "segmim.jpg", noisy), disc) >= bound


def test_segmim_of_another_size_is_resized(tmp_path: Path) -> None:
    photo = np.full((120, 160, 3), (200, 60, 60), np.uint8)
    cutout = photo[::2, ::2].copy()
    cutout[:, :40] = (0, 0, 254)
    Image.fromarray(cutout).save(tmp_path / "segmim.png")
    mask = read_segmim(tmp_path / "segmim.png", photo)
    assert mask.shape == (120, 160)
    assert not mask[:, :78].any()
    assert mask[:, 82:].all()


def test_specks_go_and_small_holes_are_filled() -> None:
    photo = np.full((100, 100, 3), (200, 60, 60), np.uint8)
    cutout = photo.copy()
    flower = np.hypot(*np.mgrid[-50:50, -50:50]) <= 30
    cutout[~flower] = (0, 0, 254)
    cutout[5, 5] = photo[5, 5]  # a speck left over
    cutout[40:45, 40:45] = (30, 30, 230)  # bluish and repainted, but no part of the background
    cutout[50:52, 50:52] = (0, 0, 254)  # 0.04 % of the area
    cutout[60:65, 50:55] = (0, 0, 254)  # 0.25 %: a gap between petals
    mask = segmim_foreground(cutout, photo)
    assert mask is not None
    assert mask[5, 5] == 0
    assert mask[50:52, 50:52].all()
    assert mask[40:45, 40:45].all()
    assert not mask[60:65, 50:55].any()


@pytest.mark.parametrize("all_blue", [True, False])
def test_segmim_without_flower_or_background_counts_as_all_flower(
    tmp_path: Path, all_blue: bool, caplog: pytest.LogCaptureFixture
) -> None:
    photo = np.full((60, 60, 3), (200, 60, 60), np.uint8)
    Image.fromarray(np.full_like(photo, (0, 0, 254)) if all_blue else photo).save(tmp_path / "segmim.png")
    assert read_segmim(tmp_path / "segmim.png", photo).all()
    assert str(tmp_path / "segmim.png") in caplog.text
