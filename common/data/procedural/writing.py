"""Stand-ins for CUB and Oxford-102: drawn here, written in the real layouts, with the truth about each picture beside.

The same arguments give the same bytes, whatever the number of worker processes. Beside the real layout lie

    procedural.json            what was drawn: kind, version, arguments
    truth/parts/<key>.png      grey, 0 = background, else the number of the part that is seen (size of the image)
    truth/truth.json           "parts": names by number; "anchors": colour name -> RGB; "images": key -> part -> colour
    truth/attributes.npz       birds: true, labelled: N,312 bool in the order of images.txt; visible: N,312 bool; names
"""

import io
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from filelock import FileLock
from PIL import Image
from scipy.io import savemat

from common.data.procedural import attributes, bird_shapes, birds, flowers, sentences
from common.data.procedural.canvas import Picture
from common.data.procedural.colours import ANCHORS, NAMES
from common.errors import UserError
from common.processes import end_with

log = logging.getLogger(__name__)

VERSION = 1  # of the drawings: part of procedural.json
FEW = 48  # below this many pictures starting processes costs more than it saves
TRAIN_SHARE = 0.75  # of the classes: 150 of CUB's 200
JPEG = {"quality": 93, "subsampling": 0}  # colours stay with their parts
SPECIES, DRAWING, WORDS, NOISE, SPLIT = range(5)  # streams of random numbers: default_rng([seed, stream, ...])

T = TypeVar("T")
Work = TypeVar("Work")


class Task(NamedTuple):
    """One picture to draw."""

    id: int  # from 1
    key: str
    class_dir: str
    species: Any


def write_birds(
    root: str | Path,
    *,
    images: int,
    classes: int,
    side: int,
    seed: int,
    label_noise: float = 0.2,
    workers: int | None = None,
) -> None:
    """Draws birds as a CUB-200-2011 with masks, attributes, captions and class-disjoint split. Does nothing if they are
    there already.

    root: becomes what paths.data is for the real files (CUB_200_2011/, attributes.txt, segmentations/, birds/). side:
    shorter side in pixels. label_noise: share of wrong ones among an attribute's labelled positives; a quarter as many
    true ones are missing. workers: processes; None = one for each core. Raises UserError for impossible counts or a
    root that holds something else.
    """
    if not 0 <= label_noise < 0.9:
        raise UserError(f"label_noise={label_noise} is no share that labels can have: choose it from 0 to 0.9.")
    arguments = {"images": images, "classes": classes, "side": side, "seed": seed, "label_noise": label_noise}
    with drawn(Path(root), "birds", arguments) as folder:
        if folder is not None:
            _write_birds(folder, images, classes, side, seed, label_noise, workers)


def write_flowers(
    root: str | Path, *, images: int, classes: int, side: int, seed: int, workers: int | None = None
) -> None:
    """Draws flowers as an Oxford-102 with segmim, captions and class-disjoint split (oxford102/, cvpr2016_flowers/).

    Arguments and errors as for `write_birds`.
    """
    arguments = {"images": images, "classes": classes, "side": side, "seed": seed}
    with drawn(Path(root), "flowers", arguments) as folder:
        if folder is not None:
            _write_flowers(folder, images, classes, side, seed, workers)


@contextmanager
def drawn(
    root: Path, kind: str, arguments: dict[str, Any], *, groups: str = "classes", least: int = 1
) -> Iterator[Path | None]:
    """A folder to draw into that becomes `root` when all is done; None if root holds just these pictures already.

    groups: what the images are of, an argument; least: how many images each of them needs.
    """
    images, count, side = arguments["images"], arguments[groups], arguments["side"]
    if count < 3 or images < least * count or side < 16:
        raise UserError(
            f"{images} {kind} of {count} {groups} with side {side} cannot be drawn: ask for 3 {groups} or more, "
            f"{least} images or more of each, and a side of 16 or more."
        )
    marker = json.dumps({"kind": kind, "version": VERSION, "arguments": arguments}, indent=1) + "\n"
    root = root.expanduser().absolute()
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):
        if root.is_dir() and any(root.iterdir()):
            if not (root / "procedural.json").is_file() or (root / "procedural.json").read_text() != marker:
                raise UserError(f"{root} holds something else than these {kind}: choose another folder or delete it.")
            yield None
            return
        folder = root.with_name(f"{root.name}.partial")
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir()
        yield folder
        (folder / "procedural.json").write_text(marker)
        if root.is_dir():
            root.rmdir()
        folder.rename(root)


def pairs_of_colours(
    first: Sequence[str], second: Sequence[str], train: int, test: int, rng: np.random.Generator
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Two colours for each class: no test class has a pair of a training class, but both its colours occur in training.

    Colours are taken from the front of the lists, about half as many as there are training classes, so that most come
    back in several classes. No two classes have the same pair until there are more classes than pairs (13 colours:
    169); then training classes share pairs, and differ in build and other parts. Twice the same colour comes last.
    """
    most = min(train, max(3, (train + 1) // 2))
    first, second = first[:most], second[:most]
    covering = max(len(first), len(second))
    covers = [
        [(first[i % len(first)], second[(i + k) % len(second)]) for i in range(covering)] for k in range(len(second))
    ]
    covers = [cover for cover in covers if all(a != b for a, b in cover)]
    cover = covers[int(rng.integers(len(covers)))]
    rest = [(a, b) for a in first for b in second if (a, b) not in cover]
    rest = [rest[k] for k in rng.permutation(len(rest))]
    rest.sort(key=lambda pair: pair[0] == pair[1])
    unseen, known = rest[:test], cover + rest[test:]
    return [known[i % len(known)] for i in range(train)], unseen


def _invent(
    first: Sequence[str],
    second: Sequence[str],
    invent: Callable[[str, str, np.random.Generator], T],
    classes: int,
    seed: int,
) -> tuple[list[T], np.ndarray]:
    """A species for each class, and which classes are for testing (bool)."""
    rng = np.random.default_rng([seed, SPLIT])
    test = np.zeros(classes, bool)
    test[rng.permutation(classes)[: classes - min(classes - 1, round(TRAIN_SHARE * classes))]] = True
    trained, unseen = pairs_of_colours(first, second, int((~test).sum()), int(test.sum()), rng)
    train_pairs, test_pairs = iter(trained), iter(unseen)
    pairs = [next(test_pairs if is_test else train_pairs) for is_test in test]
    return [invent(*pair, np.random.default_rng([seed, SPECIES, k])) for k, pair in enumerate(pairs)], test


def shared_out(images: int, classes: int) -> np.ndarray:
    """Class of each image, ascending: as many of each class as can be."""
    return np.sort(np.arange(images) % classes)


def _size(side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Width and height of a photo: most lie, some stand, a few are square; the shorter side is `side`."""
    longer = round(side * rng.uniform(1.0, 1.4))
    return (longer, side) if rng.random() < 0.7 else (side, longer)


def save(folder: Path, name: str, image: Image.Image | np.ndarray, **options: Any) -> None:
    path = folder / name
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)


def run(draw: Callable[[Work], T], tasks: Sequence[Work], workers: int | None) -> list[T]:
    """draw(task) for each, in order, by as many processes as asked for."""
    workers = multiprocessing.cpu_count() if workers is None else workers
    if workers <= 1 or len(tasks) < FEW:
        return list(_told(map(draw, tasks), len(tasks)))
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, initializer=end_with, initargs=(os.getpid(),)) as pool:
        return list(_told(pool.map(draw, tasks, chunksize=8), len(tasks)))


def _told(results: Iterable[T], total: int) -> Iterator[T]:
    """The results as they come, with a log line every few seconds."""
    shown = time.monotonic()
    for done, result in enumerate(results, 1):
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            log.info("drew %d of %d pictures", done, total)
        yield result


def _draw_bird(task: Task, *, folder: Path, side: int, seed: int) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """Writes one bird with mask, parts and captions. Returns its box, and its attributes: present, visible."""
    rng = np.random.default_rng([seed, DRAWING, task.id])
    pose = birds.Pose.draw(task.species, rng)
    picture = bird_shapes.picture(task.species, pose, _size(side, rng), oversample(side), rng)
    save(folder, f"CUB_200_2011/images/{task.key}.jpg", picture.image, **JPEG)
    save(folder, f"segmentations/{task.key}.png", picture.votes, compress_level=1)
    save(folder, f"truth/parts/{task.key}.png", picture.parts, compress_level=1)
    said = sentences.of_bird(task.species, pose, np.random.default_rng([seed, WORDS, task.id]))
    (folder / f"birds/text/{task.key}.txt").write_text("\n".join(said) + "\n")
    return _box(picture.votes), *attributes.true_attributes(task.species, pose)


def oversample(side: int) -> int:
    return 3 if side < 128 else 2


def _box(votes: np.ndarray) -> tuple[int, ...]:
    """x, y, width, height of what three of five annotators call foreground."""
    rows, columns = (np.flatnonzero((votes >= 153).any(axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


def _write_birds(
    folder: Path, images: int, classes: int, side: int, seed: int, label_noise: float, workers: int | None
) -> None:
    species, test = _invent(NAMES, NAMES, birds.invent, classes, seed)
    class_dirs = [f"{k:03d}.{kind.name}" for k, kind in enumerate(species, 1)]
    labels = shared_out(images, classes)
    within = np.arange(images) - np.searchsorted(labels, labels)
    tasks = [
        Task(id, f"{class_dirs[c]}/{species[c].name}_{k + 1:04d}_{id}", class_dirs[c], species[c])
        for id, (c, k) in enumerate(zip(labels.tolist(), within.tolist(), strict=True), 1)
    ]
    for top in ("CUB_200_2011/images", "segmentations", "truth/parts", "birds/text"):
        for class_dir in class_dirs:
            (folder / top / class_dir).mkdir(parents=True)
    done = run(partial(_draw_bird, folder=folder, side=side, seed=seed), tasks, workers)
    boxes, true, visible = zip(*done, strict=True)
    _write_lists(folder / "CUB_200_2011", tasks, class_dirs, labels, boxes, seed)
    _write_attributes(folder, labels, np.array(true), np.array(visible), label_noise, seed)
    _write_truth(folder, birds.PARTS, tasks)
    for part, rows in (("train", np.flatnonzero(~test[labels])), ("test", np.flatnonzero(test[labels]))):
        (folder / "birds" / part).mkdir()
        for name, values in (
            ("filenames", [tasks[r].key for r in rows]),
            ("class_info", [int(labels[r]) + 1 for r in rows]),
        ):
            (folder / "birds" / part / f"{name}.pickle").write_bytes(pickle.dumps(values, protocol=2))


def _lines(path: Path, rows: Sequence[Sequence[object]]) -> None:
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))


def _write_lists(
    folder: Path,
    tasks: Sequence[Task],
    class_dirs: list[str],
    labels: np.ndarray,
    boxes: Sequence[tuple[int, ...]],
    seed: int,
) -> None:
    """CUB's own lists; train_test_split.txt splits each class in halves, as there."""
    half = np.random.default_rng([seed, SPLIT, 1]).permutation(len(tasks)) % 2
    _lines(folder / "images.txt", [(task.id, f"{task.key}.jpg") for task in tasks])
    _lines(folder / "image_class_labels.txt", [(task.id, c + 1) for task, c in zip(tasks, labels, strict=True)])
    _lines(folder / "classes.txt", list(enumerate(class_dirs, 1)))
    _lines(folder / "bounding_boxes.txt", [(task.id, *map(float, box)) for task, box in zip(tasks, boxes, strict=True)])
    _lines(folder / "train_test_split.txt", [(task.id, int(h)) for task, h in zip(tasks, half, strict=True)])


def _write_attributes(
    folder: Path, labels: np.ndarray, true: np.ndarray, visible: np.ndarray, label_noise: float, seed: int
) -> None:
    rng = np.random.default_rng([seed, NOISE])
    labelled, certainty = attributes.with_noise(true, visible, label_noise, rng)
    seconds = 1 + rng.exponential(3.0, (len(labels), len(attributes.GROUPS)))
    _lines(folder / "attributes.txt", list(enumerate(attributes.NAMES, 1)))
    beside = folder / "CUB_200_2011/attributes"
    beside.mkdir()
    _lines(beside / "certainties.txt", list(enumerate(attributes.CERTAINTIES, 1)))
    with open(beside / "image_attribute_labels.txt", "w") as file:
        for id, row in enumerate(zip(labelled, certainty, seconds, strict=True), 1):
            file.write(attributes.label_lines(id, *row))
    table = [100 * labelled[labels == c].mean(0) for c in range(labels.max() + 1)]
    _lines(beside / "class_attribute_labels_continuous.txt", [[f"{v:.12g}" for v in row] for row in table])
    np.savez(
        folder / "truth/attributes.npz",
        true=true,
        labelled=labelled,
        visible=visible,
        names=np.array(attributes.NAMES),
    )


def _write_truth(folder: Path, parts: Sequence[str], tasks: Sequence[Task]) -> None:
    colours = {task.key: task.species.colours for task in tasks}
    truth = {"parts": list(parts), "anchors": ANCHORS, "images": colours}
    (folder / "truth/truth.json").write_text(json.dumps(truth, indent=0) + "\n")


def _draw_flower(task: Task, *, folder: Path, side: int, seed: int) -> None:
    """Writes one flower with segmim, parts and captions."""
    rng = np.random.default_rng([seed, DRAWING, task.id])
    picture: Picture = flowers.picture(task.species, _size(side, rng), oversample(side), rng)
    save(folder, f"oxford102/jpg/{task.key}.jpg", picture.image, **JPEG)
    cutout = np.where(picture.votes[..., None] >= 153, np.asarray(picture.image), np.array((0, 0, 254), np.uint8))
    save(folder, f"oxford102/segmim/{task.key.replace('image', 'segmim')}.jpg", cutout, **JPEG)
    save(folder, f"truth/parts/{task.key}.png", picture.parts, compress_level=1)
    said = sentences.of_flower(task.species, np.random.default_rng([seed, WORDS, task.id]))
    (folder / f"cvpr2016_flowers/text_c10/{task.class_dir}/{task.key}.txt").write_text("\n".join(said) + "\n")


def _write_mat(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """A MATLAB 5 file whose header does not tell the time, so that the same arrays give the same bytes."""
    file = io.BytesIO()
    savemat(file, arrays)
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + file.getvalue()[116:])


def _write_flowers(folder: Path, images: int, classes: int, side: int, seed: int, workers: int | None) -> None:
    species, test = _invent(flowers.PETAL_COLOURS, flowers.CENTRE_COLOURS, flowers.invent, classes, seed)
    rng = np.random.default_rng([seed, SPLIT, 1])
    labels = rng.permutation(classes)[shared_out(images, classes)]  # one class after the other, in no order of theirs
    class_dirs = [f"class_{k:05d}" for k in range(1, classes + 1)]
    tasks = [Task(id, f"image_{id:05d}", class_dirs[c], species[c]) for id, c in enumerate(labels.tolist(), 1)]
    words = folder / "cvpr2016_flowers"
    for sub in ("oxford102/jpg", "oxford102/segmim", "truth/parts"):
        (folder / sub).mkdir(parents=True)
    for class_dir in class_dirs:
        (words / "text_c10" / class_dir).mkdir(parents=True)
    run(partial(_draw_flower, folder=folder, side=side, seed=seed), tasks, workers)
    _write_mat(folder / "oxford102/imagelabels.mat", {"labels": (labels + 1).astype(np.min_scalar_type(classes))[None]})
    sixths = np.empty(images, int)  # of each class a sixth for training, a sixth for validation
    for c in range(classes):
        rows = np.flatnonzero(labels == c)
        sixths[rng.permutation(rows)] = np.arange(len(rows)) * 6 // len(rows)
    parts = {"trnid": sixths == 0, "valid": sixths == 1, "tstid": sixths > 1}
    _write_mat(
        folder / "oxford102/setid.mat",
        {k: np.flatnonzero(v).astype(np.uint16)[None] + np.uint16(1) for k, v in parts.items()},
    )
    for name, chosen in (("all", test | True), ("trainval", ~test), ("test", test)):
        _lines(words / f"{name}classes.txt", [(class_dirs[c],) for c in np.flatnonzero(chosen)])
        _lines(words / f"{name}ids.txt", [(c + 1,) for c in np.flatnonzero(chosen)])
    _write_truth(folder, flowers.PARTS, tasks)
