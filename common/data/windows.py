"""How windows leave the store, and what happens to them on the device.

N images, B batch, S side of an image, W of the image that a window is cut from.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.poses import flipped, in_window
from common.data.records import Records, Sample
from common.data.sampling import Draws


class Store(Protocol):
    """What windows are cut from: `common.data.store.ImageStore`."""

    side: int

    def shape(self, row: int) -> tuple[int, int]: ...

    def window(self, row: int, top: int, left: int, size: int) -> np.ndarray: ...

    def mask_window(self, row: int, top: int, left: int, size: int) -> np.ndarray: ...


class Windows:
    """Turns draws into a batch: S windows copied out of the store, at floor(u (W - S + 1)) of a side W."""

    def __init__(self, records: Records, store: Store | None, size: int, reads: Sequence[str]) -> None:
        self.store, self.size, self.reads = store, size, reads
        self.labels = records.labels
        self.attributes = records.attributes if "attributes" in reads else None
        self.joints = records.joints if "joints" in reads else None
        self.pinned = torch.cuda.is_available()

    def batch(self, draws: Draws) -> dict[str, Tensor]:
        """image, other, target B,S,S,3 uint8, mask B,S,S uint8 in {0, 1}, attributes B,A uint8, joints, target_joints
        B,18,2 int64 before any flip; columns of the draws as they are."""
        rows, size = draws["row"], self.size
        batch = {name: torch.tensor(column) for name, column in draws.items() if name not in ("u", "v")}
        batch["label"] = torch.from_numpy(self.labels[rows])
        if self.attributes is not None:
            batch["attributes"] = torch.from_numpy(self.attributes[rows])
        if self.store is None:
            return batch
        places = self._places(rows, draws)
        if "image" in self.reads:
            batch["image"] = self._stack(self.store.window, places, (size, size, 3))
        if "other" in self.reads and "other_row" in draws:
            batch["other"] = self._stack(self.store.window, self._places(draws["other_row"], draws), (size, size, 3))
        if "mask" in self.reads:
            batch["mask"] = self._stack(self.store.mask_window, places, (size, size))
        if self.joints is not None:
            batch["joints"] = self._poses(self.joints, places)
        if "target" in self.reads and "target_row" in draws:
            places = self._places(draws["target_row"], draws)
            batch["target"] = self._stack(self.store.window, places, (size, size, 3))
            if self.joints is not None:
                batch["target_joints"] = self._poses(self.joints, places)
        return batch

    def _places(self, rows: np.ndarray, draws: Draws) -> list[tuple[int, int, int, int]]:
        """Row, top, left and size of each window."""
        assert self.store is not None
        places, size = [], self.size
        for row, u, v in zip(rows.tolist(), draws["u"].tolist(), draws["v"].tolist(), strict=True):
            height, width = self.store.shape(row)
            places.append((row, int(v * (height - size + 1)), int(u * (width - size + 1)), size))
        return places

    def _poses(self, joints: np.ndarray, places: list[tuple[int, int, int, int]]) -> Tensor:
        assert self.store is not None
        rows, tops, lefts, _ = np.array(places).T
        return torch.from_numpy(in_window(joints[rows], self.store.side, lefts, tops, self.size))

    def _stack(self, view: Callable[..., np.ndarray], places: list[tuple], shape: tuple[int, ...]) -> Tensor:
        out = torch.empty((len(places), *shape), dtype=torch.uint8, pin_memory=self.pinned)
        for window, place in zip(out.numpy(), places, strict=True):
            window[...] = view(*place)
        return out


class Loader:
    """The batches of a batch sampler, in its order, made up to 2 * `workers` ahead by as many threads.

    Threads rather than a DataLoader's processes: numpy copies without the GIL, while handing a batch over in shared
    memory costs seven times the copy. Nothing is drawn before the first batch is asked for: Lightning makes a resumed
    run's iterator before it calls set_epoch. `done` gives the batches of the epoch that the run had done before then.
    """

    def __init__(
        self, windows: Windows, batch_sampler: Any, workers: int = 0, done: Callable[[], int] = lambda: 0
    ) -> None:
        self.windows, self.batch_sampler, self.workers, self.done = windows, batch_sampler, workers, done

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        draws = islice(self.batch_sampler, self.done(), None)
        if not self.workers:
            yield from map(self.windows.batch, draws)
            return
        with ThreadPoolExecutor(self.workers, "loader") as pool:
            ahead = deque(pool.submit(self.windows.batch, each) for each in islice(draws, 2 * self.workers))
            while ahead:
                batch = ahead.popleft().result()
                ahead.extend(pool.submit(self.windows.batch, each) for each in islice(draws, 1))
                yield batch


def prepare(batch: dict[str, Tensor]) -> Sample:
    """A loader's batch as the model reads it (see Sample), on the batch's device.

    Image, mask, target and joints are flipped alike, image and mask turned alike; a turned image is filled up by its
    reflection at the border, its mask is cut at >= 0.5. image: B,S,S,3 uint8 -> B,3,S,S float, x / 127.5 - 1.
    """
    batch = dict(batch)
    flip, angle = batch.get("flip"), batch.pop("angle", None)
    for name in {"joints", "target_joints"} & batch.keys():
        if flip is not None:
            batch[name] = flipped(batch[name], batch["image"].shape[1], flip)
    for name in {"image", "other", "target", "mask"} & batch.keys():
        x = batch[name][:, None] if name == "mask" else batch[name].permute(0, 3, 1, 2).contiguous()
        if flip is not None:
            x = torch.where(flip.view(-1, 1, 1, 1), x.flip(3), x)
        x = x.to(torch.get_default_dtype())
        if angle is not None:
            x = rotate(x, angle)
        batch[name] = (x >= 0.5).to(x.dtype) if name == "mask" else x.div_(127.5).sub_(1)
    if "attributes" in batch:
        batch["attributes"] = batch["attributes"].to(torch.get_default_dtype())
    return cast(Sample, batch)


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """B,C,S,S in [0, 255] turned about the centre by B angles in degrees, counterclockwise; reflected at the border."""
    cos, sin, zero = angle.deg2rad().cos(), angle.deg2rad().sin(), torch.zeros_like(angle)
    theta = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    turned = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return turned.clamp_(0, 255)  # its weights sum to 1 only up to round-off
