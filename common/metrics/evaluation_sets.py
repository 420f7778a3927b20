"""The evaluation sets that several papers share: edits of the test images, and images from their conditions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.data.edit_pairs import Pairs, make_pairs, read_csv, write_csv
from common.data.module import ImageData
from common.files import cached, short_hash
from common.gan import EvaluationSet


def edits(data: ImageData, options: Mapping[str, Any]) -> EvaluationSet:
    """`pairs_per_image` edits of each test image, against all test images. options: see `GANModule.evaluation_set`.

    The pairs are made once for a data set and a seed, or are a user's own: every method is scored on the same file.
    """
    records, count, seed = data.records, options["pairs_per_image"], options["seed"]
    if options["pairs"]:
        path = Path(options["pairs"])
        pairs = read_csv(path, records)
    else:
        pairs = make_pairs(records, "test", count, seed)
        path = (
            options["folder"]
            / f"pairs_{records.name}_test-{short_hash([records.fingerprint(('caption',)), count, seed])}.csv"
        )
        cached(path, lambda part: write_csv(pairs, records, part))
    return of_test_images("pairs", data, options, pairs, path)


def images_from_conditions(data: ImageData, options: Mapping[str, Any]) -> EvaluationSet:
    """`images` images from the conditions of the test images, against all test images: see `passes`."""
    return of_test_images("passes", data, options, passes(data, options["images"]), None)


def of_test_images(
    kind: str, data: ImageData, options: Mapping[str, Any], pairs: Pairs, path: Path | None
) -> EvaluationSet:
    """Pairs of test images, without those that cannot be read, held against all of the test split."""
    batches = data.pair_loader(pairs, options["batch_size"])
    reference = f"{data.records.name} test, centre crop {data.image_size}"
    text = [words for words, whole in zip(pairs.text, data.store.ok[pairs.row], strict=True) if whole]
    return EvaluationSet(kind, batches, text, data.rows("test"), reference, path)


def passes(data: ImageData, images: int | None) -> Pairs:
    """The usable test images in file order, over and over until there are `images` (null: once); the caption of pass p
    is the p-th, in turn. Each item is its own target and has noise of its own."""
    rows = data.rows("test")
    number = np.arange(images or len(rows))
    row, turn = rows[number % len(rows)], number // len(rows)
    captions = data.records.captions
    caption = turn % np.array([len(captions[r]) for r in row]) if captions else np.zeros_like(turn)
    text = tuple(captions[r][k] for r, k in zip(row, caption, strict=True)) if captions else ("",) * len(row)
    return Pairs(pair_id=number, row=row, caption=caption, other_row=row, other_caption=caption, text=text)
