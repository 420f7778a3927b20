"""Stand-in for DeepFashion's In-shop photos: drawn people in its layout, with key points, pairs and the truth beside.

deepfashion/Img/img/...                        photos, side x side, as in the official tree
deepfashion/Eval/list_eval_partition.txt       train; query or gallery
deepfashion/fasion-annotation-{train,test}.csv key points in the frame of 256x256, as Deformable GAN writes them
deepfashion/fasion-pairs-{train,test}.csv      item-disjoint pairs; a twentieth of the training pairs is left out
procedural.json, truth/truth.json, truth/parts/<key>.png as in common/data/procedural/writing.py
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.pose_pairs import Pair, drawn_pairs, held_items
from common.data.procedural import people, person_shapes
from common.data.procedural.people import CUTS, PARTS, VIEWS, Person, Pose
from common.data.procedural.writing import (
    DRAWING,
    JPEG,
    SPECIES,
    SPLIT,
    drawn,
    oversample,
    run,
    save,
    shared_out,
    write_truth,
)
from common.data.readers.fashion_csv import write_joints
from common.data.readers.fashion_names import flat, item
from common.data.records import FRAME
from common.errors import UserError

SECOND = 0.3  # share of the garments that come in a second colour
LEFT_OUT = 20  # one of so many training pairs is in no file


class Task(NamedTuple):
    """One photo to draw."""

    id: int  # from 1
    key: str  # of common.data.readers.fashion_names
    person: Person


def write_people(
    root: str | Path, *, images: int, identities: int, side: int, seed: int, workers: int | None = None
) -> None:
    """Draws people as a DeepFashion In-shop: each identity, a person in clothes, in two to eight poses. Does nothing if
    they are there already.

    root: becomes what paths.data is for the real files. side: of the square photos, in pixels. workers: processes;
    None = one for each core. Raises UserError for impossible counts or a root that holds something else.
    """
    if images > len(VIEWS) * identities:
        raise UserError(
            f"{images} photos of {identities} identities are more than {len(VIEWS)} of each, all that names are for: "
            f"ask for {-(-images // len(VIEWS))} identities or more."
        )
    arguments = {"images": images, "identities": identities, "side": side, "seed": seed}
    with drawn(Path(root), "people", arguments, groups="identities", least=2) as place:
        if place is not None:
            _write_people(place, images, identities, side, seed, workers)


def _write_people(place: Path, images: int, identities: int, side: int, seed: int, workers: int | None) -> None:
    tasks = _tasks(images, identities, seed)
    home = place / "deepfashion"
    for parent in {Path(task.key).parent for task in tasks}:
        (home / "Img/img" / parent).mkdir(parents=True)
        (place / "truth/parts" / parent).mkdir(parents=True)
    joints = run(partial(_draw, place=place, side=side, seed=seed), tasks, workers)
    held = held_items(task.key for task in tasks)
    table = {task.key: points for task, points in zip(tasks, joints, strict=True)}
    test = [key for key in table if item(key) in held]
    train = [key for key in table if item(key) not in held]
    pairs, _ = drawn_pairs(train)
    for part, keys, chosen in (
        ("train", train, pairs[: len(pairs) - len(pairs) // LEFT_OUT]),
        ("test", test, drawn_pairs(test)[0]),
    ):
        write_joints(home / f"fasion-annotation-{part}.csv", {flat(key): table[key] for key in keys})
        (home / f"fasion-pairs-{part}.csv").write_text(_pairs_text(chosen))
    status = {key: "train" for key in train} | {key: ("query", "gallery")[i % 2] for i, key in enumerate(test)}
    rows = [f"img/{key}.jpg {item(key)} {status[key]}\n" for key in table]
    (home / "Eval").mkdir()
    (home / "Eval/list_eval_partition.txt").write_text(
        f"{len(rows)}\nimage_name item_id evaluation_status\n{''.join(rows)}"
    )
    write_truth(place, PARTS, {task.key: task.person.colours for task in tasks})


def _pairs_text(pairs: list[Pair]) -> str:
    return "from,to\n" + "".join(f"{flat(source)},{flat(target)}\n" for source, target in pairs)


def _tasks(images: int, identities: int, seed: int) -> list[Task]:
    """The photos of all identities; some garments come in a second colour, on the same person."""
    rng = np.random.default_rng([seed, SPLIT])
    folders = [tuple(CUTS)[k % len(CUTS)] for k in rng.permutation(identities)]
    counts = np.bincount(shared_out(images, identities))
    tasks: list[Task] = []
    number, colour, person = 0, 1, None
    for identity, (name, count) in enumerate(zip(folders, counts, strict=True)):
        again = person is not None and colour == 1 and rng.random() < SECOND
        number, colour = (number, 2) if again else (number + 1, 1)
        own = np.random.default_rng([seed, SPECIES, identity])
        person = people.dress(person.folder if again and person else name, person if again else None, own)
        top = f"{person.folder}/id_{number:08d}/{colour:02d}"
        tasks += [Task(len(tasks) + k, f"{top}_{view}", person) for k, view in enumerate(VIEWS[:count], 1)]
    return tasks


def _draw(task: Task, *, place: Path, side: int, seed: int) -> np.ndarray:
    """Writes one photo and its map of parts. Returns its key points, 18,2 in the frame of 256x256."""
    rng = np.random.default_rng([seed, DRAWING, task.id])
    pose = Pose.draw(task.person, task.key.rpartition("/")[2][3:], rng)
    picture = person_shapes.picture(task.person, pose, side, oversample(side), rng)
    save(place, f"deepfashion/Img/img/{task.key}.jpg", picture.image, **JPEG)
    save(place, f"truth/parts/{task.key}.png", picture.parts, compress_level=1)
    return pose.joints(FRAME)
