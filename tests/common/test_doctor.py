"""task=doctor on an empty machine, on tiny data sets and beside broken packages."""

import hashlib
import os
import socket
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from PIL import Image

from common.tasks import doctor
from common.weights import KnownFile
from tests.worlds.layouts import make_cub, make_folder, make_oxford102

HERE = Path(__file__).resolve().parents[2]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without keys and weights, and no network: a socket is an error."""
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("task=doctor opened a socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(doctor, "LITTLE", 0)  # whatever this disk has
    return tmp_path


def config(place: Path, **data: str) -> dict:
    paths = {"data": str(place / "data"), "runs": str(place / "runs"), "artifacts": str(place / "artifacts")}
    return {"paths": paths, "data": {"name": "cub"} | data}


def row(text: str, what: str) -> str:
    """The row of the table that is about something, unwrapped, from its mark on."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if f"{line[11:]} ".startswith(f"{what} "))
    rest = takewhile(lambda line: line.startswith(" " * 38), lines[start + 1 :])
    return " ".join(line.strip() for line in (lines[start], *rest))


def test_an_empty_machine(bare: Path) -> None:
    text = doctor.examine(config(bare))
    assert row(text, "torchvision").startswith("ok")
    assert row(text, "paths.data").startswith("ok")
    assert "made when needed" in row(text, "paths.data")
    assert row(text, "W&B key").startswith("absent")
    for name, way in (("cub", "task=prepare data=cub"), ("oxford102", "data=oxford102"), ("deepfashion", "InShop")):
        assert row(text, name).startswith("absent")
        assert way in row(text, name)
        assert "preset=toy" in row(text, name)
    assert row(text, "Inception 2015-12-05").startswith("absent")
    assert f"weights in {bare}/torch/hub/checkpoints" in text
    assert not (bare / "data").exists()  # it looks, and makes nothing
    assert max(map(len, text.splitlines())) <= doctor.WIDTH + len(str(bare))


def test_what_is_wanting_of_partial_data(bare: Path) -> None:
    make_cub(bare / "data", classes=6, images=3, photos=2, procedural=False)
    make_oxford102(bare / "data", captions=None, split=None, procedural=False)
    text = doctor.examine(config(bare))
    cub, flowers = row(text, "cub"), row(text, "oxford102")
    assert cub.startswith("partial")
    assert "images 6 of 11,788, masks 0 of 11,788, captions 6 of 11,788" in cub
    assert "no attributes/image_attribute_labels.txt" in cub
    assert "has 6 classes, not 200" in cub  # what the reader says
    assert flowers.startswith("partial")
    assert "images 18 of 8,189, masks 0 of 8,189, captions 0 of 8,189, no split by class" in flowers


def test_deepfashion_is_counted(bare: Path) -> None:
    photos = bare / "data/deepfashion/Img/img/WOMEN/Dresses/id_00000001"
    photos.mkdir(parents=True)
    for view in ("1_front", "2_side", "3_back"):
        Image.new("RGB", (256, 256)).save(photos / f"01_{view}.jpg")
    told = row(doctor.examine(config(bare)), "deepfashion")
    assert told.startswith("partial")
    assert "photos 3 of 52,712, no key points, no pairs" in told


def test_drawn_data_and_own_images(bare: Path) -> None:
    make_cub(bare / "data", classes=6, images=3)
    make_folder(bare / "mine", {f"{kind}/{i}": ("a bird",) for kind in ("robin", "wren") for i in range(3)})
    (bare / "artifacts/procedural/cub-0123").mkdir(parents=True)
    (bare / "artifacts/procedural/cub-0123/procedural.json").write_text("{}")
    text = doctor.examine(config(bare, name="folder", root=str(bare / "mine")))
    assert row(text, "cub").startswith("ok")
    assert "18 images, drawn (procedural)" in row(text, "cub")
    assert row(text, "folder").startswith("ok")
    assert "6 images of 2 classes" in row(text, "folder")
    assert "cub-0123" in row(text, "procedural")
    absent = row(doctor.examine(config(bare, name="folder", root=str(bare / "none"))), "folder")
    assert absent.startswith("absent")


def test_a_partial_copy_that_can_be_used(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with the lists of all birds and the photos of some."""
    from common.data.readers import cub

    make_cub(bare / "data", classes=6, images=3, photos=3, procedural=False)
    monkeypatch.setattr(cub, "CLASSES", 6)
    told = row(doctor.examine(config(bare)), "cub")
    assert told.startswith("partial")
    assert "images 9 of 11,788" in told
    assert "6 for training, 3 for testing" in told  # of the classes 1, 2 and 3 the first is one of Reed's test classes
    assert "data.allow_missing=true goes on" in told


def test_keys_of_wandb(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.tracking().mark == "absent"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert doctor.tracking().mark == "ok"
    monkeypatch.delenv("WANDB_API_KEY")
    (bare / "home").mkdir()
    (bare / "home/.netrc").write_text("machine api.wandb.ai login user password " + "0" * 40)
    os.chmod(bare / "home/.netrc", 0o600)
    assert doctor.tracking().mark == "ok"
    assert "0000" not in doctor.tracking().told


def test_weights_are_whole_or_broken(bare: Path) -> None:
    content = b"weights"
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    net = KnownFile("Net", ("other-00000000.pth", name), "its page", "a number", "there is none")
    assert doctor.weights(net, bare) == (
        "absent",
        "Net",
        "other-00000000.pth (its page), for a number: without it there is none",
    )
    (bare / name).write_bytes(content)
    assert doctor.weights(net, bare).mark == "ok"
    (bare / name).write_bytes(content[:-1])
    assert doctor.weights(net, bare).mark == "broken"


def test_little_disk_is_partial(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.disk("data", bare / "a" / "b").mark == "ok"
    monkeypatch.setattr(doctor, "LITTLE", 2**40)
    assert doctor.disk("data", bare).mark == "partial"


@pytest.mark.parametrize(("found", "mark"), [("2.6.3", "broken"), ("2.6.2", "broken"), ("2.6.6", "ok")])
def test_malicious_lightning_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str, mark: str) -> None:
    folder = tmp_path / f"lightning-{found}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lightning\nVersion: {found}\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = next(line for line in doctor.lightning() if line.what == "lightning")
    assert line.mark == mark
    assert ("malicious" in line.told) == (mark == "broken")


def test_torchvision_of_another_torch_is_said_before_lightning_is_imported(bare: Path) -> None:
    (bare / "torchvision").mkdir()
    (bare / "torchvision/__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    facts = (
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 9.9\nRequires-Dist: numpy\nRequires-Dist: torch==9.8.7\n"
    )
    (bare / "torchvision-9.9.dist-info").mkdir()
    (bare / "torchvision-9.9.dist-info/METADATA").write_text(facts)
    code = f"import sys; from common.tasks import doctor; print(doctor.examine({config(bare)!r}), *sys.modules)"
    path = os.pathsep.join((str(bare), str(HERE)))
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, cwd=bare
    )
    assert done.returncode == 0, done.stderr
    told = row(done.stdout, "torchvision")
    assert told.startswith("broken")
    assert "9.9 needs torch==9.8.7 and found" in told
    assert "operator torchvision::nms does not exist" in told
    assert "reinstall both from one source" in told
    assert "GiB free" in row(done.stdout, "paths.data")  # the rest is still told
    modules = done.stdout.splitlines()[-1].split()
    assert not {"pytorch_lightning", "torchmetrics"} & set(modules)
