"""Stand-in for CUB-200-2011: drawn birds in its layout, with masks, attributes, captions and the truth beside.

CUB_200_2011/, attributes.txt, segmentations/     as in common/data/readers/cub.py
birds/text, birds/{train,test}/filenames.pickle   captions and class-disjoint split, as AttnGAN gives them out
truth/attributes.npz                              true, labelled: N,312 bool in the order of images.txt; visible: N,312
                                                  bool; names
procedural.json, truth/truth.json, truth/parts/<key>.png as in common/data/procedural/writing.py
"""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from common.data.procedural import attributes, bird_shapes, birds, sentences
from common.data.procedural.colours import NAMES
from common.data.procedural.writing import (
    DRAWING,
    JPEG,
    NOISE,
    SPLIT,
    WORDS,
    Task,
    drawn,
    invent_classes,
    lines,
    oversample,
    photo_size,
    recoloured,
    run,
    save,
    shared_out,
    write_truth,
)
from common.errors import UserError


def write_birds(
    root: str | Path,
    *,
    images: int,
    classes: int,
    side: int,
    seed: int,
    label_noise: float = 0.2,
    colours: str = "species",
    shapes: str = "species",
    workers: int | None = None,
) -> None:
    """Draws birds as a CUB-200-2011 with masks, attributes, captions and class-disjoint split. Does nothing if they are
    there already.

    root: becomes what paths.data is for the real files (CUB_200_2011/, attributes.txt, segmentations/, birds/). side:
    shorter side in pixels. label_noise: share of wrong ones among an attribute's labelled positives; a quarter as many
    true ones are missing. colours: "species", or "picture": each picture has colours of its own and its species gives
    the build alone, so that no class tells a colour. shapes: "species", or "one": all birds are of one build, in one
    pose and without patterns, so that they differ in colours alone. workers: processes; None = one for each core.
    Raises UserError for impossible counts or a root that holds something else.
    """
    if not 0 <= label_noise < 0.9:
        raise UserError(f"label_noise={label_noise} is no share that labels can have: choose it from 0 to 0.9.")
    arguments = {
        **{"images": images, "classes": classes, "side": side, "seed": seed},
        **{"label_noise": label_noise, "colours": colours, "shapes": shapes},
    }
    with drawn(Path(root), "birds", arguments) as folder:
        if folder is not None:
            _write_birds(folder, images, classes, side, seed, label_noise, colours, shapes, workers)


def _draw_bird(
    task: Task, *, folder: Path, side: int, seed: int, still: bool
) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """Writes one bird with mask, parts and captions. Returns its box, and its attributes: present, visible."""
    rng = np.random.default_rng([seed, DRAWING, task.id])
    pose = birds.Pose.draw(task.species, rng)
    if still:
        pose = pose.still(task.species)
    picture = bird_shapes.picture(task.species, pose, photo_size(side, rng), oversample(side), rng)
    save(folder, f"CUB_200_2011/images/{task.key}.jpg", picture.image, **JPEG)
    save(folder, f"segmentations/{task.key}.png", picture.votes, compress_level=1)
    save(folder, f"truth/parts/{task.key}.png", picture.parts, compress_level=1)
    said = sentences.of_bird(task.species, pose, np.random.default_rng([seed, WORDS, task.id]))
    (folder / f"birds/text/{task.key}.txt").write_text("\n".join(said) + "\n")
    return _box(picture.votes), *attributes.true_attributes(task.species, pose)


def _box(votes: np.ndarray) -> tuple[int, ...]:
    """x, y, width, height of what three of five annotators call foreground."""
    rows, columns = (np.flatnonzero((votes >= 153).any(axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


def _write_birds(
    folder: Path,
    images: int,
    classes: int,
    side: int,
    seed: int,
    label_noise: float,
    colours: str,
    shapes: str,
    workers: int | None,
) -> None:
    species, test = invent_classes(NAMES, NAMES, birds.invent, classes, seed)
    if colours == "picture":
        species = [replace(kind, name=kind.name.rpartition("_")[2]) for kind in species]  # without its colours
    if shapes == "one":
        species = [birds.plain(kind) for kind in species]
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
    if colours == "picture":
        tasks = recoloured(tasks, birds.recoloured, seed)
    done = run(partial(_draw_bird, folder=folder, side=side, seed=seed, still=shapes == "one"), tasks, workers)
    boxes, true, visible = zip(*done, strict=True)
    _write_lists(folder / "CUB_200_2011", tasks, class_dirs, labels, boxes, seed)
    _write_attributes(folder, labels, np.array(true), np.array(visible), label_noise, seed)
    write_truth(folder, birds.PARTS, {task.key: task.species.colours for task in tasks})
    for part, rows in (("train", np.flatnonzero(~test[labels])), ("test", np.flatnonzero(test[labels]))):
        (folder / "birds" / part).mkdir()
        for name, values in (
            ("filenames", [tasks[r].key for r in rows]),
            ("class_info", [int(labels[r]) + 1 for r in rows]),
        ):
            (folder / "birds" / part / f"{name}.pickle").write_bytes(pickle.dumps(values, protocol=2))


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
    lines(folder / "images.txt", [(task.id, f"{task.key}.jpg") for task in tasks])
    lines(folder / "image_class_labels.txt", [(task.id, c + 1) for task, c in zip(tasks, labels, strict=True)])
    lines(folder / "classes.txt", list(enumerate(class_dirs, 1)))
    lines(folder / "bounding_boxes.txt", [(task.id, *map(float, box)) for task, box in zip(tasks, boxes, strict=True)])
    lines(folder / "train_test_split.txt", [(task.id, int(h)) for task, h in zip(tasks, half, strict=True)])


def _write_attributes(
    folder: Path, labels: np.ndarray, true: np.ndarray, visible: np.ndarray, label_noise: float, seed: int
) -> None:
    rng = np.random.default_rng([seed, NOISE])
    labelled, certainty = attributes.with_noise(true, visible, label_noise, rng)
    seconds = 1 + rng.exponential(3.0, (len(labels), len(attributes.GROUPS)))
    lines(folder / "attributes.txt", list(enumerate(attributes.NAMES, 1)))
    beside = folder / "CUB_200_2011/attributes"
    beside.mkdir()
    lines(beside / "certainties.txt", list(enumerate(attributes.CERTAINTIES, 1)))
    with open(beside / "image_attribute_labels.txt", "w") as file:
        for id, row in enumerate(zip(labelled, certainty, seconds, strict=True), 1):
            file.write(attributes.label_lines(id, *row))
    table = [100 * labelled[labels == c].mean(0) for c in range(labels.max() + 1)]
    lines(beside / "class_attribute_labels_continuous.txt", [[f"{v:.12g}" for v in row] for row in table])
    np.savez(
        folder / "truth/attributes.npz",
        true=true,
        labelled=labelled,
        visible=visible,
        names=np.array(attributes.NAMES),
    )
