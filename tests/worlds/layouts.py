"""Tiny data sets in the layouts of the original distributions, for the real readers to read."""

import pickle
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from common.data.readers.cub import TEST_CLASSES
from common.data.readers.old_formats import ALPHABET, LONGEST, TorchObject
from common.errors import UserError

FLOWER_TEST = frozenset({2, 5})  # a split of `make_oxford102` by class number
COLOURS = ("red", "blue", "yellow", "brown", "white", "black", "grey", "orange", "pink", "olive")


def refusal(act: Callable[[], object]) -> str:
    """The one sentence of the UserError that act raises."""
    with pytest.raises(UserError) as error:
        act()
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def sentences(name: str, count: int = 10) -> tuple[str, ...]:
    """Captions that tell one image from another; within the alphabet of the `char` matrices, some upper case."""
    return tuple(
        f"This {name.lower()} has a {COLOURS[(i + len(name)) % 10]} crown, it's no. {i}, from {COLOURS[i % 10]} wings."
        for i in range(count)
    )


def write_photo(path: Path, *, width: int = 48, height: int = 40, seed: int = 0) -> None:
    """A smooth picture of random colours, grey for every fifth seed, as some of CUB's are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    corners = np.random.default_rng(seed).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    photo = Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC)
    (photo.convert("L") if seed % 5 == 4 else photo).save(path, quality=95)


def make_cub(
    root: Path,
    *,
    classes: int = 6,
    images: int = 3,
    photos: int | None = None,
    captions: str | None = "attngan",
    split: str | None = "pickles",
    masks: bool = False,
    attributes: int = 0,
    procedural: bool = True,
    place: str = "CUB_200_2011",
) -> list[str]:
    """Birds, `images` of each of `classes` classes; photos (and captions) only of the first `photos` classes. -> keys.

    captions: a source of captions.py, or "attngan-pickle"; split: "pickles", "classes", "ids" or None; attributes: how
    many; procedural: mark it as drawn, so that the counts of the full CUB are not demanded; place: of the lists.
    """
    folder = root / place
    names = [f"{i:03d}.Bird_{i}" for i in range(1, classes + 1)]
    keys = [f"{name}/Bird_{i}_{j:04d}_{7 * i + j}" for i, name in enumerate(names, 1) for j in range(images)]
    numbers = {key: int(key[:3]) for key in keys}
    shown = [key for key in keys if numbers[key] <= (photos or classes)]
    for row, key in enumerate(shown):
        write_photo(folder / "images" / f"{key}.jpg", width=48 + row % 5, seed=row)
    if procedural:
        (root / "procedural.json").write_text("{}")
    _write(folder / "classes.txt", [f"{i} {name}" for i, name in enumerate(names, 1)])
    _write(folder / "images.txt", [f"{i} {key}.jpg" for i, key in enumerate(keys, 1)])
    _write(folder / "image_class_labels.txt", [f"{i} {numbers[key]}" for i, key in enumerate(keys, 1)])
    _write(folder / "bounding_boxes.txt", [f"{i} {i % 7}.0 2.0 30.5 25.0" for i in range(1, len(keys) + 1)])
    if captions:
        write_captions(root, captions, "birds", {key: numbers[key] for key in shown})
    if split:
        write_split(root, split, "birds", numbers, TEST_CLASSES)
    if masks:
        for row, key in enumerate(shown):
            votes = np.zeros((40, 48 + row % 5), np.uint8)
            votes[10:30, 10:30] = 255
            votes[10:30, 8:10] = 153  # three of five votes
            votes[10:30, 6:8] = 102
            path = root / "segmentations" / f"{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(votes).save(path)
    if attributes:
        _write(root / "attributes.txt", [f"{a} has_part_{a}::red" for a in range(1, attributes + 1)])
        cells = ((i, a) for i in range(1, len(keys) + 1) for a in range(1, attributes + 1))
        lines = [f"{i} {a} {(i + a) % 2} {1 + (i * a) % 4} {i + a / 8}" for i, a in cells]
        _write(folder / "attributes" / "image_attribute_labels.txt", lines)
    return keys


def make_oxford102(
    root: Path,
    *,
    labels: Sequence[int] = (1, 2, 3, 4, 5, 6) * 3,
    photos: int | None = None,
    captions: str | None = "cvpr2016",
    split: str | None = "classes",
    masks: bool = False,
    procedural: bool = True,
    place: str = "oxford102",
) -> list[str]:
    """Flowers of these classes (numbers from 1), photos and captions of the first `photos`. -> keys. As `make_cub`."""
    folder = root / place
    folder.mkdir(parents=True, exist_ok=True)
    keys = [f"image_{i:05d}" for i in range(1, len(labels) + 1)]
    numbers = dict(zip(keys, labels, strict=True))
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    savemat(folder / "setid.mat", {"trnid": np.array([[1, 2]]), "valid": np.array([[3]]), "tstid": np.array([[4]])})
    for row, key in enumerate(keys[:photos]):
        write_photo(folder / "jpg" / f"{key}.jpg", seed=row)
        if masks:
            photo = np.asarray(Image.open(folder / "jpg" / f"{key}.jpg").convert("RGB")).copy()
            photo[:, :12] = photo[:, 36:] = (0, 0, 254)
            (folder / "segmim").mkdir(exist_ok=True)
            Image.fromarray(photo).save(folder / "segmim" / f"segmim_{key[6:]}.jpg", quality=95)
    if procedural:
        (root / "procedural.json").write_text("{}")
    if captions:
        write_captions(root, captions, "flowers", {key: numbers[key] for key in keys[:photos]})
    if split:
        write_split(root, split, "flowers", numbers, FLOWER_TEST)
    return keys


def make_folder(root: Path, images: Mapping[str, Sequence[str]], *, table: bool = True, masks: bool = False) -> None:
    """A user's images by name, as "robin/one", and captions in captions.csv, or with table=False beside each."""
    for row, (name, captions) in enumerate(images.items()):
        write_photo(root / "images" / f"{name}.jpg", seed=row)
        if not table:
            (root / "images" / f"{name}.txt").write_text("\n".join(captions))
        if masks:
            path = root / "masks" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(40, 48, dtype=np.uint8) * 255).save(path)
    if table:
        rows = [f'{name}.jpg,"{caption}"' for name, captions in images.items() for caption in captions]
        _write(root / "captions.csv", ["image,caption", *rows])


def write_captions(root: Path, source: str, kind: str, numbers: Mapping[str, int]) -> None:
    """Ten captions for each image as a distribution stores them; numbers: key -> class number."""
    reed = "cub" if kind == "birds" else "flowers"
    if source == "attngan-pickle":
        return _write_captions_pickle(root / kind, numbers)
    base = {
        "cvpr2016": root / f"cvpr2016_{reed}" / "text_c10",
        "icml2016": root / f"{reed}_icml",
        "attngan": root / kind / "text",
        "stackgan": root / "Data" / kind / "text_c10",
    }[source]
    for key, number in numbers.items():
        class_dir, _, name = key.rpartition("/")
        path = base / (class_dir or f"class_{number:05d}") / name
        if source == "icml2016":
            char = encode(sentences(name)).T  # a transposed view, as Torch stores it: strides (1, 201)
            image = f"jpg/{name}.jpg" if kind == "flowers" else f"{key}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            table = {"char": char, "txt": np.zeros((10, 4)), "img": image}
            path.with_name(f"{name}.t7").write_bytes(t7(table))
        else:
            _write(path.with_name(f"{name}.txt"), sentences(name))


def _write_captions_pickle(folder: Path, numbers: Mapping[str, int]) -> None:
    """AttnGAN's captions.pickle; needs the {train,test}/filenames.pickle that `write_split` writes, in their order."""
    words: dict[str, int] = {"<end>": 0}
    lists = []
    for part in ("train", "test"):
        keys = _split_keys(numbers, TEST_CLASSES, part)
        texts = [re.findall(r"\w+", text.lower()) for key in keys for text in sentences(key.rpartition("/")[2])]
        lists.append([[words.setdefault(word, len(words)) for word in text] + [0] for text in texts])
    folder.mkdir(parents=True, exist_ok=True)
    content = [*lists, {i: word for word, i in words.items()}, words]
    (folder / "captions.pickle").write_bytes(pickle.dumps(content, protocol=2))


def write_split(root: Path, form: str, kind: str, numbers: Mapping[str, int], test: frozenset[int]) -> None:
    """A class-disjoint split as AttnGAN's pickles (lists in an order of their own), or as Reed's class or id lists."""
    if form == "pickles":
        for part in ("train", "test"):
            prefix = "jpg/" if kind == "flowers" else ""
            keys = [prefix + key for key in _split_keys(numbers, test, part)]
            path = root / kind / part / "filenames.pickle"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps(keys, protocol=0))
        return
    folder = root / ("cub_icml" if kind == "birds" else "flowers_icml")
    names = {number: key.rpartition("/")[0] or f"class_{number:05d}" for key, number in numbers.items()}
    for part in ("trainval", "test"):
        chosen = [n for n in sorted(names) if (n in test) == (part == "test")]
        _write(folder / f"{part}{form}.txt", [names[n] if form == "classes" else str(n) for n in chosen])


def _split_keys(numbers: Mapping[str, int], test: frozenset[int], part: str) -> list[str]:
    return [key for key, number in reversed(list(numbers.items())) if (number in test) == (part == "test")]


def encode(captions: Sequence[str]) -> np.ndarray:
    """captions -> N,201 uint8, as Reed et al. wrote them: lower case, 1-based, cut, 0-padded."""
    char = np.zeros((len(captions), LONGEST), np.uint8)
    for row, text in enumerate(captions):
        codes = [ALPHABET.rfind(letter) + 1 for letter in text.lower()[:LONGEST]]
        char[row, : len(codes)] = codes
    return char


def t7(value: Any) -> bytes:
    """Torch7's binary serialisation of dicts, lists, strings, numbers, bools, None, objects and numpy arrays, whose
    strides are kept and whose storage is shared as it is."""
    memo = iter(range(1, 1 << 20))
    storages: dict[int, bytes] = {}
    names = {"u1": "Byte", "i1": "Char", "i2": "Short", "i4": "Int", "i8": "Long", "f4": "Float", "f8": "Double"}

    def text(string: str) -> bytes:
        return struct.pack("<i", len(string.encode())) + string.encode()

    def encoded(value: Any) -> bytes:
        if value is None:
            return struct.pack("<i", 0)
        if isinstance(value, bool):
            return struct.pack("<ii", 5, value)
        if isinstance(value, int | float):
            return struct.pack("<id", 1, value)
        if isinstance(value, str):
            return struct.pack("<i", 2) + text(value)
        if isinstance(value, np.ndarray):
            name = names[value.dtype.str[1:]]
            flat = value if value.base is None else value.base
            shape = [*value.shape, *(stride // value.itemsize for stride in value.strides)]
            head = struct.pack("<ii", 4, next(memo)) + text("V 1") + text(f"torch.{name}Tensor")
            first = (value.__array_interface__["data"][0] - flat.__array_interface__["data"][0]) // value.itemsize
            head += struct.pack(f"<i{len(shape)}qq", value.ndim, *shape, first + 1)
            if id(flat) in storages:
                return head + storages[id(flat)]
            storages[id(flat)] = again = struct.pack("<ii", 4, next(memo))
            storage = again + text("V 1") + text(f"torch.{name}Storage")
            return head + storage + struct.pack("<q", flat.size) + flat.tobytes()
        if isinstance(value, TorchObject):
            return struct.pack("<ii", 4, next(memo)) + text("V 1") + text(value.kind) + encoded(value.fields)
        items = value.items() if isinstance(value, dict) else enumerate(value, 1)
        head = struct.pack("<iii", 3, next(memo), len(value))
        return head + b"".join(encoded(key) + encoded(content) for key, content in items)

    return encoded(value)


def _write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
