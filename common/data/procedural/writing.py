"""What the stand-ins for real data sets share: drawn here, written in the real layouts, with the truth beside.

The same arguments give the same bytes, whatever the number of worker processes. Beside the real layout lie

    procedural.json            what was drawn: kind, version, arguments
    truth/parts/<key>.png      grey, 0 = background, else the number of the part that is seen (size of the image)
    truth/truth.json           "parts": names by number; "anchors": colour name -> RGB; "images": key -> part -> colour
"""

import json
import logging
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from common.data.procedural.colours import ANCHORS
from common.errors import UserError, choose
from common.files import locked
from common.processes import end_with

log = logging.getLogger(__name__)

VERSION = 1  # of the drawings: part of procedural.json
FEW = 48  # below this many pictures starting processes costs more than it saves
CHOICES = {"colours": ("species", "picture"), "shapes": ("species", "one")}  # what has its own; the first: as in nature
TRAIN_SHARE = 0.75  # of the classes: 150 of CUB's 200
JPEG = {"quality": 93, "subsampling": 0}  # colours stay with their parts
# streams of random numbers: default_rng([seed, stream, ...])
SPECIES, DRAWING, WORDS, NOISE, SPLIT, COLOURS = range(6)

T = TypeVar("T")
Work = TypeVar("Work")


class Task(NamedTuple):
    """One picture to draw."""

    id: int  # from 1
    key: str
    class_dir: str
    species: Any


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
    for name, known in CHOICES.items():
        if choose(f"data.procedural.{name}", arguments.get(name, known[0]), known) == known[0]:
            arguments = {key: value for key, value in arguments.items() if key != name}  # as before there was a choice
    marker = json.dumps({"kind": kind, "version": VERSION, "arguments": arguments}, indent=1) + "\n"
    root = root.expanduser().absolute()
    with locked(root):
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


def invent_classes(
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


def photo_size(side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Width and height of a photo: most lie, some stand, a few are square; the shorter side is `side`."""
    longer = round(side * rng.uniform(1.0, 1.4))
    return (longer, side) if rng.random() < 0.7 else (side, longer)


def save(folder: Path, name: str, image: Image.Image | np.ndarray, **options: Any) -> None:
    """Writes an image into the folder; options of Pillow's `save`."""
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


def oversample(side: int) -> int:
    """How many times as large as its side a picture is rendered, before it is made smaller."""
    return 3 if side < 128 else 2


def lines(path: Path, rows: Sequence[Sequence[object]]) -> None:
    """Writes rows, the values of each with a space between."""
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))


def write_truth(folder: Path, parts: Sequence[str], colours: Mapping[str, Any]) -> None:
    """truth/truth.json. colours: key of each image -> part -> colour."""
    truth = {"parts": list(parts), "anchors": ANCHORS, "images": dict(colours)}
    (folder / "truth/truth.json").write_text(json.dumps(truth, indent=0) + "\n")


def recoloured(tasks: Sequence[Task], recolour: Callable[[Any, np.random.Generator], Any], seed: int) -> list[Task]:
    """The same pictures, each in colours of its own."""
    rngs = (np.random.default_rng([seed, COLOURS, task.id]) for task in tasks)
    return [task._replace(species=recolour(task.species, rng)) for task, rng in zip(tasks, rngs, strict=True)]
