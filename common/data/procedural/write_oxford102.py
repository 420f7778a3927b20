"""Stand-in for Oxford-102: drawn flowers in its layout, with segmentations, captions and the truth beside.

oxford102/jpg, oxford102/segmim, oxford102/{imagelabels,setid}.mat    as in common/data/readers/oxford102.py
cvpr2016_flowers/                                                     captions and class-disjoint split, as Reed's
procedural.json, truth/truth.json, truth/parts/<key>.png as in common/data/procedural/writing.py
"""

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from common.data.procedural import flowers, sentences
from common.data.procedural.canvas import Picture
from common.data.procedural.writing import (
    DRAWING,
    JPEG,
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


def write_flowers(
    root: str | Path,
    *,
    images: int,
    classes: int,
    side: int,
    seed: int,
    colours: str = "species",
    shapes: str = "species",
    workers: int | None = None,
) -> None:
    """Draws flowers as an Oxford-102 with segmim, captions and class-disjoint split (oxford102/, cvpr2016_flowers/).

    Arguments and errors as for `write_birds`.
    """
    arguments: dict[str, Any] = {"images": images, "classes": classes, "side": side, "seed": seed}
    arguments |= {"colours": colours, "shapes": shapes}
    with drawn(Path(root), "flowers", arguments) as folder:
        if folder is not None:
            _write_flowers(folder, images, classes, side, seed, colours, shapes, workers)


def _draw_flower(task: Task, *, folder: Path, side: int, seed: int) -> None:
    """Writes one flower with segmim, parts and captions."""
    rng = np.random.default_rng([seed, DRAWING, task.id])
    picture: Picture = flowers.picture(task.species, photo_size(side, rng), oversample(side), rng)
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


def _write_flowers(
    folder: Path, images: int, classes: int, side: int, seed: int, colours: str, shapes: str, workers: int | None
) -> None:
    species, test = invent_classes(flowers.PETAL_COLOURS, flowers.CENTRE_COLOURS, flowers.invent, classes, seed)
    if shapes == "one":
        species = [flowers.plain(kind) for kind in species]
    rng = np.random.default_rng([seed, SPLIT, 1])
    labels = rng.permutation(classes)[shared_out(images, classes)]  # one class after the other, in no order of theirs
    class_dirs = [f"class_{k:05d}" for k in range(1, classes + 1)]
    tasks = [Task(id, f"image_{id:05d}", class_dirs[c], species[c]) for id, c in enumerate(labels.tolist(), 1)]
    if colours == "picture":
        tasks = recoloured(tasks, flowers.recoloured, seed)
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
        lines(words / f"{name}classes.txt", [(class_dirs[c],) for c in np.flatnonzero(chosen)])
        lines(words / f"{name}ids.txt", [(c + 1,) for c in np.flatnonzero(chosen)])
    write_truth(folder, flowers.PARTS, {task.key: task.species.colours for task in tasks})
