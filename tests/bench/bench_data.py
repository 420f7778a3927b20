"""Speed of what stands before the first step: batches out of the store, and the drawing of procedural birds."""

from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from common.data.module import ImageData, Reader
from common.data.procedural.write_cub import write_birds
from common.data.readers.cub import CUB
from tests.bench.timing import Row, alternate, now


def birds(folder: Path, images: int, **needs: Any) -> Reader:
    """Drawn birds of the size of CUB's photos, about 440 x 375; drawn once for a folder. needs: see CUB."""
    root = folder / f"birds-{images}"
    write_birds(root, images=images, classes=max(4, images // 20), side=375, seed=0)
    return CUB(root=root, **needs)


class DecodeEveryEpoch(Dataset[Tensor]):
    """A photo is opened, decoded, resized, cut, flipped and normalised each time that it is asked for."""

    def __init__(self, paths: list[Path], *, side: int, load_side: int) -> None:
        self.paths = paths
        steps = [transforms.Resize(load_side), transforms.RandomCrop(side), transforms.RandomHorizontalFlip()]
        steps += [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        return self.transform(Image.open(self.paths[row]).convert("RGB"))


def store(folder: Path, *, device: torch.device, quick: bool) -> list[Row]:
    """Shuffled batches of 256 px windows out of images of 304 px. The other way is the loader of the public code: PIL
    open, RGB, resize, random crop, flip, tensor, normalise in a DataLoader whose workers live on between epochs. The
    JPEGs are drawn at the size of CUB's and lie in the page cache; they decode in two thirds of the time of a CUB
    photo, which favours the other way. The store hands over uint8 and leaves flip and normalise to the device; the rows
    "ready on" count them in.
    """
    data = birds(folder, 24 if quick else 320)
    return [row for workers in (0, 2) for row in store_rows(data, folder / "stores", workers, device, quick)]


def store_rows(reader: Reader, folder: Path, workers: int, device: torch.device, quick: bool) -> list[Row]:
    side, batch, epochs, few, rounds = (64, 4, 1, 1, 1) if quick else (256, 32, 20, 5, 3)
    data = ImageData(dataset=reader, image_size=side, batch_size=batch, workers=workers, store=folder)
    loader = data.train_dataloader()
    paths = [data.records.images[row] for row in data.rows("train")]
    dataset = DecodeEveryEpoch(paths, side=side, load_side=data.load_size)
    peer = DataLoader(dataset, batch, True, num_workers=workers, drop_last=True, persistent_workers=workers > 0)

    def from_store() -> None:
        for epoch in range(epochs):
            loader.batch_sampler.set_epoch(epoch)
            for _ in loader:
                pass

    def ready() -> None:
        for epoch in range(few):
            loader.batch_sampler.set_epoch(epoch)
            for each in loader:
                data.move(each, device)

    def decoded() -> None:
        for _ in peer:
            pass

    ready()
    decoded()  # workers are up and all files in the page cache
    images = len(loader) * batch
    seconds, slow = alternate(from_store, decoded, rounds=rounds, device=device)
    seconds_ready, slow_again = alternate(ready, decoded, rounds=rounds, device=device)
    what = f"{side} px, batch {batch}, {workers} workers"
    return [
        Row(f"from the store, {what}", images * epochs / seconds, images / slow, at_least=5000, times=20),
        Row(f"ready on the {device.type}, {what}", images * few / seconds_ready, images / slow_again),
    ]


def draw(folder: Path, *, device: torch.device, quick: bool) -> list[Row]:
    """Procedural birds of 64 px with masks, attributes and captions, written as CUB by one process for each core."""
    images, rounds = (12, 1) if quick else (240, 3)
    seconds = []
    for number in range(rounds):
        start = now(device)
        write_birds(folder / f"drawn-{number}", images=images, classes=12, side=64, seed=number)
        seconds.append(now(device) - start)
    return [Row("drawing birds, 64 px", images / median(seconds), at_least=200)]
