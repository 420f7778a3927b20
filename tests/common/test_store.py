"""The store: geometry, broken input, kill and resume, damage."""

import json
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image

from common.data.geometry import fitted, square_about
from common.data.records import Records
from common.data.store import CHUNK, ImageStore, store_name
from common.errors import UserError

SIDE = 24


def read_mask(path: Path, photo: np.ndarray) -> np.ndarray:
    mask = (np.asarray(Image.open(path).convert("L")) >= 128).astype(np.uint8)
    if mask.shape != photo.shape[:2]:
        raise UserError(f"The mask {path} is of another size than its image.")
    return mask


def read_mask_then_die(at: int, path: Path, photo: np.ndarray) -> np.ndarray:
    """kill -9 in the middle of a build."""
    if path.stem == f"{at:03d}":
        os.kill(os.getpid(), signal.SIGKILL)
    return read_mask(path, photo)


def photos(root: Path, count: int) -> Records:
    """Noise photos of various shapes with masks (left half foreground) and boxes."""
    rng = np.random.default_rng(0)
    (root / "masks").mkdir(parents=True)
    for i in range(count):
        height, width = (int(n) for n in rng.integers(30, 60, 2))
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(root / f"{i:03d}.jpg")
        mask = np.zeros((height, width), np.uint8)
        mask[:, : width // 2] = 255
        Image.fromarray(mask).save(root / "masks" / f"{i:03d}.png")
    return Records(
        name="tiny",
        root=root,
        keys=tuple(f"{i:03d}" for i in range(count)),
        images=tuple(root / f"{i:03d}.jpg" for i in range(count)),
        labels=np.arange(count) % 2,
        classes=("a", "b"),
        test=np.zeros(count, bool),
        masks=tuple(root / "masks" / f"{i:03d}.png" for i in range(count)),
        read_mask=read_mask,
        boxes=np.tile(np.array([[10, 8, 12, 10]], np.float32), (count, 1)),
    )


def build(records: Records, folder: Path, *, workers=0, bbox_crop=False, masks=True, **options) -> ImageStore:
    return ImageStore.build(
        records, side=SIDE, bbox_crop=bbox_crop, masks=masks, folder=folder, workers=workers, **options
    )


def contents(store: ImageStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.folder.iterdir())}


def test_geometry_by_hand():
    assert fitted(500, 375, 304) == (405, 304)  # 304 * 500 / 375 = 405.33
    assert fitted(333, 500, 76) == (76, 114)  # 114.11
    # half = int(0.75 * 30) = 22, centre (int((20 + 30) / 2), int((40 + 11) / 2)) = (25, 25)
    assert square_about(np.array([10.9, 20.2, 30.7, 11.0]), 200, 200) == (3, 3, 47, 47)
    assert square_about(np.array([10.9, 20.2, 30.7, 11.0]), 40, 30) == (3, 3, 40, 30)  # clipped, so no longer square


def test_images_and_masks_are_the_resized_originals(tmp_path):
    records = photos(tmp_path / "data", 5)
    store = build(records, tmp_path)
    for row, path in enumerate(records.images):
        photo = Image.open(path)
        want = np.asarray(photo.resize(fitted(*photo.size, SIDE), Image.Resampling.BILINEAR))
        height, width = store.shape(row)
        assert min(height, width) == SIDE
        assert (height, width, 3) == want.shape
        assert np.array_equal(store.window(row, 3, 2, 16), want[3:19, 2:18])
        assert np.array_equal(store.image(row), want)
        mask = store.mask_window(row, 0, 0, max(height, width))
        assert mask.shape == (height, width)
        assert set(np.unique(mask)) == {0, 1}
        assert abs(mask.sum() / mask.size - 0.5) < 0.05
        assert mask[:, 0].all()
        assert not mask[:, -1].any()


def test_box_crop_cuts_image_and_mask_before_the_resize(tmp_path):
    records = photos(tmp_path / "data", 3)
    records = replace(records, masks=records.images, read_mask=_bright)  # the image as its own mask
    store = build(records, tmp_path, bbox_crop=True)
    assert "-box-mask-" in store.folder.name
    for row, path in enumerate(records.images):
        photo = Image.open(path)
        crop = photo.crop(square_about(records.boxes[row], *photo.size))
        want = np.asarray(crop.resize(fitted(*crop.size, SIDE), Image.Resampling.BILINEAR))
        assert np.array_equal(store.window(row, 0, 0, SIDE), want[:SIDE, :SIDE])
        whole = np.asarray(photo.convert("RGB"))[..., 0]
        mask = Image.fromarray(((whole >= 128) * 255).astype(np.uint8)).crop(
            square_about(records.boxes[row], *photo.size)
        )
        mask = np.asarray(mask.resize(fitted(*crop.size, SIDE), Image.Resampling.BILINEAR)) >= 127.5
        assert np.array_equal(store.mask_window(row, 0, 0, SIDE), mask[:SIDE, :SIDE])


def _bright(path: Path, photo: np.ndarray) -> np.ndarray:
    return (photo[..., 0] >= 128).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_any_mode_becomes_rgb(tmp_path, mode):
    records = photos(tmp_path / "data", 1)
    path = tmp_path / f"odd.{'jpg' if mode == 'CMYK' else 'png'}"
    Image.open(records.images[0]).convert(mode).save(path)
    store = build(replace(records, images=(path,)), tmp_path, masks=False)
    want = Image.open(path).convert("RGB")
    want = np.asarray(want.resize(fitted(*want.size, SIDE), Image.Resampling.BILINEAR))
    assert np.array_equal(store.window(0, 0, 0, SIDE), want[:SIDE, :SIDE])


def test_a_turned_photo_stands_upright_unless_boxes_are_given_in_its_pixels(tmp_path):
    records = photos(tmp_path / "data", 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to show
    Image.new("RGB", (60, 30)).save(tmp_path / "turned.jpg", exif=exif)
    records = replace(records, images=(tmp_path / "turned.jpg",))
    assert build(records, tmp_path, masks=False).shape(0) == (24, 48)
    assert build(replace(records, boxes=None), tmp_path, masks=False).shape(0) == (48, 24)


def test_processes_build_the_same_bytes(tmp_path):
    records = photos(tmp_path / "data", 70)  # more than FEW
    one, two = build(records, tmp_path / "one"), build(records, tmp_path / "two", workers=2)
    assert contents(one) == contents(two)
    assert one.folder.name == two.folder.name == store_name(records, side=SIDE, bbox_crop=False, masks=True)


def test_killed_builds_go_on_to_identical_bytes(tmp_path, caplog):
    records = photos(tmp_path / "data", 3 * CHUNK + 10)
    for chunks_done in (1, 2):
        dying = replace(records, read_mask=partial(read_mask_then_die, chunks_done * CHUNK + 5))
        process = multiprocessing.get_context("fork").Process(target=build, args=(dying, tmp_path / "stores"))
        process.start()
        process.join(20)
        assert process.exitcode == -signal.SIGKILL
        (half,) = (tmp_path / "stores").glob("*.partial")
        assert len((half / "journal").read_text().splitlines()) == chunks_done
        with pytest.raises(UserError, match="not a whole image store"):
            ImageStore.open(half)
        with open(half / "journal", "a") as file:
            file.write('{"chunk": 1, "b')  # cut off in the middle of a line

    with caplog.at_level(logging.INFO):
        resumed = build(records, tmp_path / "stores")
    assert f"2 chunks of {CHUNK} images are there" in caplog.text
    assert not half.exists()
    assert contents(resumed) == contents(build(records, tmp_path / "clean"))


def test_a_partial_store_of_another_plan_is_begun_anew(tmp_path):
    records = photos(tmp_path / "data", 3)
    half = tmp_path / "stores" / (store_name(records, side=SIDE, bbox_crop=False, masks=True) + ".partial")
    half.mkdir(parents=True)
    (half / "plan.json").write_text("{}")
    (half / "journal").write_text('{"chunk": 0, "bad": {}}\n')
    assert contents(build(records, tmp_path / "stores")) == contents(build(records, tmp_path / "clean"))


def test_a_finished_store_is_opened_not_built(tmp_path):
    records = photos(tmp_path / "data", 3)
    first = build(records, tmp_path)
    before = (first.folder / "images.u8").stat().st_mtime_ns
    again = build(replace(records, read_mask=_bright), tmp_path)
    assert (again.folder / "images.u8").stat().st_mtime_ns == before
    assert contents(again) == contents(first)


def test_a_changed_file_or_geometry_asks_for_another_store(tmp_path):
    records = photos(tmp_path / "data", 3)

    def name(of: Records = records, side: int = SIDE, box: bool = False, masks: bool = True) -> str:
        return store_name(of, side=side, bbox_crop=box, masks=masks)

    names = {name(box=box, masks=masks) for box in (True, False) for masks in (True, False)} | {name(side=SIDE + 1)}
    assert len(names) == 5
    moved = replace(records, boxes=records.boxes + 1)
    assert name(moved) in names
    assert name(moved, box=True) not in names
    os.utime(records.images[1], (1, 1))
    names.add(name())
    os.utime(records.masks[1], (1, 1))
    names.add(name())
    assert len(names) == 7


def test_damage_is_refused_in_a_sentence(tmp_path):
    records = photos(tmp_path / "data", 3)
    store = build(records, tmp_path)
    for name in ("images.u8", "masks.u8", "shapes.npy", "store.json"):
        path, whole = store.folder / name, (store.folder / name).read_bytes()
        for broken in (whole[:-7], b""):
            path.write_bytes(broken)
            with pytest.raises(UserError, match=r"not a whole image store .*delete this folder"):
                build(records, tmp_path)
        path.unlink()
        with pytest.raises(UserError, match="not a whole image store"):
            ImageStore.open(store.folder)
        path.write_bytes(whole)
    meta = json.loads((store.folder / "store.json").read_text())
    (store.folder / "store.json").write_text(json.dumps(meta | {"images": 4}))
    with pytest.raises(UserError, match="not a whole image store"):
        ImageStore.open(store.folder)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("harm", ["body", "header", "absent"])
def test_unreadable_image_is_named_or_left_out(tmp_path, harm, workers):
    records = photos(tmp_path / "data", 70 if workers else 4)
    path, whole = records.images[2], records.images[2].read_bytes()
    if harm == "absent":
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2] if harm == "body" else whole[:10])
    with pytest.raises(UserError, match=r"002\.jpg .*data\.allow_missing=true"):
        build(records, tmp_path, workers=workers)
    store = build(records, tmp_path, workers=workers, allow_missing=True)
    assert np.flatnonzero(~store.ok).tolist() == [2]
    assert store.shape(3)[0] >= SIDE
    clean = build(records.take(np.array([3])), tmp_path)
    assert np.array_equal(store.window(3, 0, 0, SIDE), clean.window(0, 0, 0, SIDE))
    with pytest.raises(UserError, match=r"002\.jpg"):  # the finished store remembers
        build(records, tmp_path, workers=workers)


def test_wrong_or_broken_mask_is_refused_even_when_images_may_be_missing(tmp_path):
    records = photos(tmp_path / "data", 3)
    Image.new("L", (5, 5)).save(records.masks[1])
    with pytest.raises(UserError, match="another size than its image"):
        build(records, tmp_path, allow_missing=True)
    records.masks[1].write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"The mask .*001\.png cannot be read"):
        build(records, tmp_path, allow_missing=True)


def test_absent_boxes_or_masks_are_a_sentence(tmp_path):
    records = photos(tmp_path / "data", 2)
    with pytest.raises(UserError, match=r"no bounding boxes"):
        build(replace(records, boxes=None), tmp_path, bbox_crop=True)
    with pytest.raises(UserError, match=r"no masks"):
        build(replace(records, masks=()), tmp_path)


def test_full_disk_is_a_sentence_and_leaves_no_store(tmp_path):
    """A process that may write no file beyond 20 kB meets the same error path as one on a full disk."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            build(records, tmp_path / "stores")
        except UserError as error:
            os.write(write, str(error).encode())

    records = photos(tmp_path / "data", 20)
    read, write = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=limited)
    process.start()
    process.join(20)
    os.close(write)
    assert "free space there, or choose another folder with data.store=PATH" in os.read(read, 1000).decode()
    assert not [path for path in (tmp_path / "stores").iterdir() if path.is_dir() and path.suffix != ".partial"]


def test_too_little_space_is_said_before_anything_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(UserError, match=r"GiB are free.*free space there"):
        build(photos(tmp_path / "data", 2), tmp_path)


def test_store_goes_beside_the_data_unless_that_is_read_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = photos(tmp_path / "data", 2)
    records.root.chmod(0o555)
    assert build(records, None).folder.parent == tmp_path / "artifacts" / "stores"
    records.root.chmod(0o755)
    assert build(records, None).folder.parent == records.root / ".store"
    records.root.chmod(0o555)
    (records.root / ".store").chmod(0o555)
    assert build(records, None).folder.parent == records.root / ".store"  # it is there: nothing needs writing


def test_where_the_store_lies_is_said_with_the_key_that_moves_it(tmp_path, caplog):
    records = photos(tmp_path / "data", 2)
    with caplog.at_level(logging.INFO):
        folder = build(records, None).folder
    assert f"{folder} (data.store=PATH" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        build(records, None)
    assert caplog.text == ""  # it is there


@pytest.mark.parametrize("odd", ["file", "read-only"])
def test_a_store_goes_to_the_spare_folder_where_it_cannot_lie_beside_the_data(tmp_path, caplog, odd):
    records = photos(tmp_path / "data", 2)
    beside = records.root / ".store"
    beside.touch() if odd == "file" else beside.mkdir(0o555)
    store = build(records, None, spare=tmp_path / "spare")
    assert store.folder.parent == tmp_path / "spare"
    assert f"{beside} cannot be written" in caplog.text
    assert "data.store=PATH" in caplog.text


def test_unwritable_folder_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written.*data\.store=PATH"):
        build(photos(tmp_path / "data", 2), tmp_path / "file")


def test_two_processes_build_it_once(tmp_path):
    records = photos(tmp_path / "data", 20)
    counting = replace(records, read_mask=_counted)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=build, args=(counting, tmp_path)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (records.root / "count").stat().st_size == 20


def _counted(path: Path, photo: np.ndarray) -> np.ndarray:
    with open(path.parents[1] / "count", "a") as file:
        file.write(".")
    return read_mask(path, photo)


def test_decoding_processes_end_when_the_builder_is_killed(tmp_path):
    """Else they would live for ever and hold the lock."""
    records = replace(photos(tmp_path / "data", 70), read_mask=_slow_with_pid)
    process = multiprocessing.get_context("fork").Process(target=build, args=(records, tmp_path), kwargs={"workers": 2})
    process.start()
    while not (found := list(records.root.glob("pid-*"))):
        assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join(20)
    store = build(replace(records, read_mask=read_mask), tmp_path)  # would wait for the lock without end
    assert store.ok.all()
    workers = [int(path.name.split("-")[1]) for path in found]
    deadline = time.monotonic() + 10
    while any(map(_runs, workers)):
        assert time.monotonic() < deadline


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _slow_with_pid(path: Path, photo: np.ndarray) -> np.ndarray:
    (path.parents[1] / f"pid-{os.getpid()}").touch()
    signal.sigtimedwait([], 0.05)
    return read_mask(path, photo)


def test_store_travels_to_other_processes_by_name(tmp_path):
    store = build(photos(tmp_path / "data", 2), tmp_path)
    wire = pickle.dumps(store)
    assert len(wire) < 1000
    assert np.array_equal(pickle.loads(wire).window(1, 0, 0, SIDE), store.window(1, 0, 0, SIDE))
    with pytest.raises(ValueError, match="read-only"):
        store.window(0, 0, 0, SIDE)[0, 0] = 0
