"""The store: every image of a dataset decoded once into one flat uint8 file, out of which the loop cuts its windows.

A store is a folder: `images.u8` (the images one after another, row-major H,W,3), `masks.u8` (the same without the 3),
`shapes.npy` (N,2: H, W) and `store.json`. It is built in `<name>.partial` and renamed when complete; a build that was
killed goes on from its journal. The shorter side of an image is `side`, its aspect is kept (papers: Sec. 4 of each), or
with `Records.squash` both sides are.
"""

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.data.geometry import Box, fitted, framed, orientation, square_about, to_rgb, upright
from common.data.records import FRAME, MaskReader, Records
from common.errors import UserError
from common.files import UNREADABLE, locked, open_image
from common.processes import end_with
from common.progress import bar

log = logging.getLogger(__name__)

VERSION = 2  # of the format, of the geometry and of how colours are read: part of the hash
CHUNK = 32  # images decoded between two lines of the journal
FEW = 64  # below this many images starting processes costs more than it saves


@dataclass(frozen=True)
class _Item:
    """One image's way into the store."""

    row: int
    image: Path
    mask: Path | None
    crop: Box | None
    height: int
    width: int
    offset: int  # pixels before it in the flat file


@dataclass(frozen=True)
class _Work:
    """What the decoding processes need to know besides their items."""

    folder: Path
    read_mask: MaskReader | None
    turn: bool  # obey EXIF; not in a dataset with boxes, which are given in the pixels as stored
    framing: str  # Records.framing
    background: str  # Records.background
    allow_missing: bool

    def run(self, items: list[_Item]) -> dict[int, str]:
        """Decode items into the flat files and force them to disk. Returns the rows left out with the reason."""
        bad: dict[int, str] = {}
        with open(self.folder / "images.u8", "r+b") as images, open(self.folder / "masks.u8", "r+b") as masks:
            for item in items:
                try:
                    image, full = self.decode(item)
                except UNREADABLE as error:
                    bad[item.row] = unreadable(item.image, error)
                    if not self.allow_missing:
                        raise UserError(bad[item.row]) from error
                    continue
                images.seek(3 * item.offset)
                images.write(image.tobytes())
                if item.mask is not None:
                    masks.seek(item.offset)
                    masks.write(self.decode_mask(item.mask, full, item))
            for file in (images, masks):
                file.flush()
                os.fsync(file.fileno())  # before the journal says so: a power cut must not leave zeros behind
        return bad

    def decode(self, item: _Item) -> tuple[np.ndarray, np.ndarray]:
        """The image H,W,3 as it lies in the store, and the whole photo for the reader of its mask."""
        with open_image(item.image) as file:
            rgb = upright(file, self.background) if self.turn else to_rgb(file, self.background)
        photo = framed(rgb, self.framing)
        small = photo.crop(item.crop).resize((item.width, item.height), Image.Resampling.BILINEAR)
        return np.asarray(small), np.asarray(photo)

    def decode_mask(self, path: Path, photo: np.ndarray, item: _Item) -> bytes:
        """H,W in {0, 1}: cut and resized like its image (bilinear on 0/255, which jags less than nearest), >= 0.5."""
        assert self.read_mask is not None
        try:
            mask = Image.fromarray(self.read_mask(path, photo) * np.uint8(255))
        except UNREADABLE as error:
            raise UserError(f"The mask {path} cannot be read ({error}): put a whole copy there.") from error
        mask = mask.crop(item.crop).resize((item.width, item.height), Image.Resampling.BILINEAR)
        return (np.asarray(mask) >= 128).astype(np.uint8).tobytes()


def unreadable(path: Path, error: BaseException) -> str:
    """The sentence about an image that Pillow cannot decode."""
    what = "is absent" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
    return f"The image {path} {what}: put a whole copy there, or leave such images out with data.allow_missing=true."


class ImageStore:
    """N images (and masks) in one memory-mapped file each. `ok`: N bool, False = unreadable and left out.

    Rows are those of the Records that it was built from. Views are read-only and cost no copy; processes share them.
    """

    def __init__(self, folder: Path, meta: dict[str, Any], shapes: np.ndarray) -> None:
        self.folder, self.side, self.bad = folder, int(meta["side"]), {int(k): v for k, v in meta["bad"].items()}
        self.ok = np.ones(len(shapes), bool)
        self.ok[list(self.bad)] = False
        heights, widths = shapes.T.astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(heights * widths)])
        self._table = list(zip(starts.tolist(), heights.tolist(), widths.tolist(), strict=False))
        # np.asarray: slices of np.memmap itself are several times slower to make
        self._images = np.asarray(np.memmap(folder / "images.u8", np.uint8, "r"))
        self._masks = np.asarray(np.memmap(folder / "masks.u8", np.uint8, "r")) if meta["masks"] else None

    @classmethod
    def open(cls, folder: Path) -> "ImageStore":
        """A finished store. Raises UserError for a half-built or damaged one."""
        folder = Path(folder)
        try:
            meta = json.loads((folder / "store.json").read_text())
            shapes = np.load(folder / "shapes.npy")
            pixels = int(shapes.astype(np.int64).prod(1).sum())
            sizes = [(folder / name).stat().st_size for name in ("images.u8", "masks.u8")]
            whole = [meta["version"], meta["images"], meta["pixels"], *sizes]
            if whole != [VERSION, len(shapes), pixels, 3 * pixels, pixels if meta["masks"] else 0]:
                raise ValueError("its files are not of the sizes that its store.json gives")
            return cls(folder, meta, shapes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
            raise UserError(
                f"{folder} is not a whole image store ({error}): delete this folder and run again to build it anew."
            ) from error

    @classmethod
    def build(
        cls,
        records: Records,
        *,
        side: int,
        bbox_crop: bool,
        masks: bool,
        folder: Path | None,
        workers: int,
        spare: str | Path = "artifacts/stores",
        allow_missing: bool = False,
    ) -> "ImageStore":
        """The store of these records in `folder`/<name>: opened when it is there, else built by `workers` processes.

        side: shorter side of the images in the store. bbox_crop: `square_about` each box first. folder None: .store
        beside the data, or the spare folder where that cannot be written.
        Raises UserError for an image that cannot be read (unless allow_missing: then `ok` is False there), for a mask
        that does not fit, and for a folder that cannot be written or is full.
        """
        name = store_name(records, side=side, bbox_crop=bbox_crop, masks=masks)
        final = Path(folder or _home(records.root, name, Path(spare))) / name
        elsewhere = "choose another folder with data.store=PATH"
        try:
            if not final.exists():
                # another process may be at it: wait, then use its work
                with locked(final, f"make {final.parent} a folder that can be written, or {elsewhere}"):
                    if not final.exists():
                        _build(records, side, bbox_crop, masks, final, workers, allow_missing)
        except BrokenProcessPool as error:
            raise UserError(
                f"A process that decoded images for {final} was killed, most likely for want of memory: "
                "run again to go on from there, with data.workers=0 if it happens again."
            ) from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            raise UserError(
                f"The image store {final} cannot be written ({error.strerror or error}): "
                f"{'free space there' if full else 'make the folder writable'}, or {elsewhere}."
            ) from error
        store = cls.open(final)
        if store.bad and not allow_missing:
            raise UserError(next(iter(store.bad.values())))
        return store

    def __len__(self) -> int:
        return len(self.ok)

    def __reduce__(self) -> tuple:
        return ImageStore.open, (self.folder,)  # a loader's process maps the files itself

    def shape(self, row: int) -> tuple[int, int]:
        """H, W of an image in the store."""
        return self._table[row][1:]

    def image(self, row: int) -> np.ndarray:
        """A view of the whole image, H,W,3 uint8 RGB."""
        start, height, width = self._table[row]
        return self._images[3 * start : 3 * (start + height * width)].reshape(height, width, 3)

    def window(self, row: int, top: int, left: int, size: int) -> np.ndarray:
        """A view of size,size,3 uint8 RGB."""
        return self.image(row)[top : top + size, left : left + size]

    def mask_window(self, row: int, top: int, left: int, size: int) -> np.ndarray:
        """A view of size,size uint8 in {0, 1}: the mask under the same window of the image."""
        assert self._masks is not None, "the store was built without masks"
        start, height, width = self._table[row]
        return self._masks[start : start + height * width].reshape(height, width)[top : top + size, left : left + size]


def store_name(records: Records, *, side: int, bbox_crop: bool, masks: bool) -> str:
    """<dataset>-<side>[-box][-mask]-<hash8>. The hash covers keys, sizes and times of the files, and the geometry."""
    if bbox_crop and records.boxes is None:
        raise UserError(f"{records.name} in {records.root} has no bounding boxes: leave data.bbox_crop=false.")
    if masks and not records.masks:
        raise UserError(f"{records.name} in {records.root} has no masks: add them, or choose a model that needs none.")
    digest = hashlib.sha256(repr((VERSION, side, bbox_crop, masks, records.boxes is None)).encode())
    digest.update(f"{records.framing} {records.background}{' squash' * records.squash}".encode())
    if bbox_crop and records.boxes is not None:
        digest.update(np.ascontiguousarray(records.boxes, np.float32).tobytes())
    for paths in (records.images, records.masks if masks else ()):
        for key, path in zip(records.keys, paths, strict=False):
            digest.update(f"{key}\0{_stamp(path)}\n".encode())
    tags = "-box" * bbox_crop + "-mask" * masks
    return f"{records.name}-{side}{tags}-{digest.hexdigest()[:8]}"


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "absent"
    return f"{found.st_size} {found.st_mtime_ns}"


def _home(root: Path, name: str, spare: Path) -> Path:
    """Beside the data where that can be written, else the spare folder."""
    beside = root / ".store"
    if (beside / name).exists():
        return beside
    target = beside if beside.exists() else root
    # a folder without a single write bit is read-only on purpose, also for root, whom os.access lets pass
    if target.is_dir() and target.stat().st_mode & 0o222 and os.access(target, os.W_OK):
        try:
            beside.mkdir(exist_ok=True)
            return beside
        except OSError:
            pass  # a share that says one thing and does another
    log.warning("%s cannot be written: the image store goes to %s (data.store=PATH: elsewhere)", target, spare)
    return spare.absolute()


def _plan(records: Records, side: int, bbox_crop: bool, masks: bool) -> tuple[list[_Item], np.ndarray, dict[int, str]]:
    """From the headers alone: items in file order, shapes N,2 (0 where the header is unreadable) and the bad rows."""
    turn = records.boxes is None

    def measure(row: int) -> tuple[Box | None, tuple[int, int]] | str:
        try:
            with open_image(records.images[row]) as image:
                width, height = image.size
                if turn and orientation(image) in (5, 6, 7, 8):  # which swap the sides
                    width, height = height, width
        except UNREADABLE as error:
            return unreadable(records.images[row], error)
        if records.framing:
            width = height = FRAME
        if not bbox_crop:
            return None, fitted(width, height, side, squash=records.squash)
        assert records.boxes is not None
        crop = square_about(records.boxes[row], width, height)
        if crop[0] >= crop[2] or crop[1] >= crop[3]:
            return f"The bounding box of {records.images[row]} lies outside it: correct bounding_boxes.txt."
        return crop, fitted(crop[2] - crop[0], crop[3] - crop[1], side, squash=records.squash)

    items, bad, shapes, offset = [], {}, np.zeros((len(records), 2), np.int32), 0
    with ThreadPoolExecutor(8) as pool:  # the headers wait for the disk, not for the processor
        for row, found in enumerate(pool.map(measure, range(len(records)))):
            if isinstance(found, str):
                bad[row] = found
                continue
            crop, (width, height) = found
            mask = records.masks[row] if masks else None
            items.append(_Item(row, records.images[row], mask, crop, height, width, offset))
            shapes[row] = height, width
            offset += height * width
    return items, shapes, bad


def _build(
    records: Records, side: int, bbox_crop: bool, masks: bool, final: Path, workers: int, allow_missing: bool
) -> None:
    items, shapes, bad = _plan(records, side, bbox_crop, masks)
    if bad and not allow_missing:
        raise UserError(next(iter(bad.values())))
    if not items:
        raise UserError(f"None of the {len(records)} images of {records.name} in {records.root} can be read.")
    pixels = sum(item.height * item.width for item in items)
    meta = {"version": VERSION, "dataset": records.name, "side": side, "bbox_crop": bbox_crop, "masks": masks}
    meta |= {"images": len(records), "pixels": pixels}

    partial = final.with_name(f"{final.name}.partial")
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    done = _resume(partial, meta, {"images.u8": 3 * pixels, "masks.u8": pixels if masks else 0})
    left = {number: chunk for number, chunk in enumerate(chunks) if number not in done}
    _check_space(partial, sum(item.height * item.width for chunk in left.values() for item in chunk) * (3 + masks))
    look = records.boxes is None, records.framing, records.background
    work = _Work(partial, records.read_mask, *look, allow_missing)

    told = (final, len(items), pixels * (3 + masks) / 2**30)
    log.info("building the image store %s (data.store=PATH: elsewhere): %d images, %.2f GiB", *told)
    silent = len(items) < FEW or not sys.stderr.isatty()
    with open(partial / "journal", "a") as journal, bar(transient=True, disable=silent) as progress:
        task = progress.add_task("decoding images once", total=len(items), numbers="images")
        progress.advance(task, sum(len(chunks[number]) for number in done))
        for number, found in _decode(work, left, workers if len(items) >= FEW else 0):
            done[number] = found
            journal.write(json.dumps({"chunk": number, "bad": found}) + "\n")
            journal.flush()
            progress.advance(task, len(chunks[number]))

    bad |= {int(row): why for found in done.values() for row, why in found.items()}
    np.save(partial / "shapes.npy", shapes)
    with open(partial / "store.json", "w") as file:
        json.dump(meta | {"bad": bad}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    (partial / "journal").unlink()
    os.replace(partial, final)


def _resume(partial: Path, meta: dict[str, Any], sizes: dict[str, int]) -> dict[int, dict]:
    """Chunks that a killed build of this very store had finished, with their bad rows; lays out a new one if none."""
    try:
        same = json.loads((partial / "plan.json").read_text()) == meta
        if same and all((partial / name).stat().st_size == size for name, size in sizes.items()):
            lines = (partial / "journal").read_text().split("\n")[:-1]
            done = {entry["chunk"]: entry["bad"] for entry in map(json.loads, lines)}
            (partial / "journal").write_text("".join(f"{line}\n" for line in lines))  # the last may have been cut off
            log.info("going on with %s: %d chunks of %d images are there", partial, len(done), CHUNK)
            return done
    except (OSError, ValueError, KeyError):
        pass
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, size in sizes.items():
        with open(partial / name, "wb") as file:
            file.truncate(size)
    (partial / "plan.json").write_text(json.dumps(meta))
    return {}


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"it needs {needed / 2**30:.2f} GiB and {free / 2**30:.2f} GiB are free")


def _decode(work: _Work, left: dict[int, list[_Item]], workers: int) -> Iterator[tuple[int, dict[int, str]]]:
    """Chunk numbers as they are finished, with the rows left out."""
    if workers == 0:
        for number, chunk in left.items():
            yield number, work.run(chunk)
        return
    # forked processes start at once; Pillow and numpy hold no locks across a fork, which torch's loaders rely on too
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(workers, context, initializer=_serve, initargs=(os.getpid(),)) as pool:
        numbers = {pool.submit(work.run, chunk): number for number, chunk in left.items()}
        try:
            for future in as_completed(numbers):
                yield numbers[future], future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _serve(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    end_with(parent)
