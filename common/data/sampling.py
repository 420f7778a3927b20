"""What an epoch shows: every image, or every pair of poses, once in an order of its own, with all that is drawn for it.

An epoch's draws are one function of (seed, epoch), made in the main process: the stream is the same for any number of
workers and ranks, and after a resume.
"""

from collections.abc import Iterator

import numpy as np

from common.errors import UserError

Draws = dict[str, np.ndarray]  # columns of equal length: row; u, v in [0, 1), flip, angle; caption, other_row, ...


class EpochSampler:
    """A batch sampler whose whole epoch is drawn at once from default_rng([seed, epoch]).

    Each epoch visits every row once in a new order (the rest that fills no batch is dropped) and draws for each:
    caption k ~ U of its own; a mismatched row, uniform over the images of another class, and one of its captions; crop
    offsets u, v ~ U[0, 1); flip, p = 0.5; angle ~ U(-rotate_deg, rotate_deg).
    `batch_size` is global: each rank takes its slice, so an epoch is the same for any number of ranks.
    """

    def __init__(
        self,
        *,
        rows: np.ndarray,
        labels: np.ndarray,
        captions: np.ndarray | None,
        batch_size: int,
        seed: int,
        flip: bool,
        rotate_deg: float,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.rows, self.labels, self.captions = rows, labels, captions
        self.batch_size, self.seed, self.flip, self.rotate_deg = batch_size, seed, flip, rotate_deg
        self.rank, self.world = rank, world
        self.epoch = 0
        self.sampler = self  # Lightning calls loader.batch_sampler.sampler.set_epoch

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's draws are made next; Lightning calls it."""
        self.epoch = epoch

    def draw(self) -> Draws:
        """All draws of the epoch, in order. Every kind is always drawn, so a switch never shifts another's numbers."""
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = rng.permutation(self.rows)
        u, v, flip, angle = rng.random((4, len(rows)))
        draws = {"row": rows, "u": u, "v": v}
        if self.flip:
            draws["flip"] = flip < 0.5
        if self.rotate_deg:
            draws["angle"] = ((2 * angle - 1) * self.rotate_deg).astype(np.float32)
        if self.captions is not None:
            draws["caption"] = rng.integers(0, self.captions[rows])
            draws["other_row"] = other_class(rng, self.labels, self.rows, rows)
            draws["other_caption"] = rng.integers(0, self.captions[draws["other_row"]])
        return draws

    def __len__(self) -> int:
        return len(self.rows) // self.batch_size

    def __iter__(self) -> Iterator[Draws]:
        draws, share = self.draw(), self.batch_size // self.world
        for batch in range(len(self)):
            start = batch * self.batch_size + self.rank * share
            yield {name: column[start : start + share] for name, column in draws.items()}


class PairSampler(EpochSampler):
    """An epoch over pairs of photos: each pair once in a new order, with the crop and the flip that both photos get.

    pairs: P,2 rows of source and target, drawn as `row` and `target_row`. mirrored: each pair comes twice, as it is and
    with both photos mirrored (PG2), instead of by `flip`.
    """

    def __init__(
        self,
        *,
        pairs: np.ndarray,
        mirrored: bool,
        batch_size: int,
        seed: int,
        flip: bool,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        rows = np.arange(len(pairs) * (1 + mirrored))  # places in the list of pairs; from P on mirrored
        super().__init__(
            rows=rows,
            labels=np.zeros(0),
            captions=None,
            batch_size=batch_size,
            seed=seed,
            flip=flip,
            rotate_deg=0.0,
            rank=rank,
            world=world,
        )
        self.pairs, self.mirrored = pairs, mirrored

    def draw(self) -> Draws:
        draws = super().draw()
        again, place = np.divmod(draws["row"], len(self.pairs))
        draws["row"], draws["target_row"] = self.pairs[place].T
        if self.mirrored:
            draws["flip"] = again > 0
        return draws


def other_class(rng: np.random.Generator, labels: np.ndarray, pool: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """For each of `rows` a row of `pool`, uniform over the images of pool whose class differs. labels: N, rows: R -> R.

    Exact and without rejection: pool sorted by class, the run of the own class skipped.
    Raises UserError when pool holds one class only.
    """
    ordered = pool[np.argsort(labels[pool], kind="stable")]
    first = np.searchsorted(labels[ordered], labels[rows], "left")
    own = np.searchsorted(labels[ordered], labels[rows], "right") - first
    if (own == len(pool)).any():
        raise UserError(
            f"The {len(pool)} images to draw sentences from are all of one class, so none is of another class: "
            "use a dataset or a split with two classes or more."
        )
    drawn = rng.integers(0, len(pool) - own)
    return ordered[np.where(drawn >= first, drawn + own, drawn)]
