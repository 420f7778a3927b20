"""Views and guides of a data set: both jobs on tiny flowers, the file and its reader, guides of a user's photo (18)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from common.classifier import build
from common.command import composed, composed_need, plain
from common.data.readers.masks import BLUE
from common.tasks.fit import contents, run_job
from common.tasks.job import Job, load_data
from jem import guidance
from jem.extractor import guide_extractor, read_views
from jem.guidance import (
    GuidePhoto,
    both_ways,
    extract,
    extractor_of,
    guides_of_photos,
    make_views,
    read_guidance,
    segmenter_of,
)
from jem.views import components, render
from tests.worlds.layouts import make_cub, make_oxford102, refusal
from tests.worlds.tiny import call

SIDE = 64


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("flowers")
    make_oxford102(place / "data", masks=True)
    return place


def words(root: Path, job: str, *more: str) -> list[str]:
    places = [f"paths.{name}={root / name}" for name in ("data", "runs", "artifacts")]
    small = ["data=oxford102", "trainer=cpu", f"data.image_size={SIDE}"]
    return ["task=prepare", f"prepare={job}", *small, *places, *more]


def job(root: Path, name: str, *more: str, **settings: Any) -> Job:
    """A job of this name with its product under root."""
    line = words(root, name, *more)
    cfg = plain(composed(*line), line)
    cfg["prepare"] |= settings
    suffix = cfg["prepare"]["suffix"]
    return Job(cfg, root / "out" / f"{name}-{abs(hash((*more, *map(str, settings.items()))))}.{suffix}")


def told(one: Job) -> dict[str, Any]:
    return json.loads(one.path.with_suffix(".json").read_text())


# ---- views


@pytest.mark.parametrize("view", ["overlay", "foreground", "raw", "mask"])
def test_views_of_the_data_sets_own_masks(root: Path, view: str) -> None:
    one = job(root, "views", f"prepare.view={view}")
    make_views(one)
    views, data = read_views(one.path, 18), one.data
    assert views.shape == (18, SIDE, SIDE, 3)
    for row in range(18):
        photo, mask = data.store.window(row, 0, 0, SIDE), data.store.mask_window(row, 0, 0, SIDE)
        assert 0.4 < mask.mean() < 0.6  # 24 of 48 columns
        assert np.array_equal(views[row], render(view, photo, components(mask), mask))
    assert told(one) == {
        **{"view": view, "source": "official", "side": SIDE, "photos": 18, "fallbacks": {}, "iou": None},
        **{"segmenter_hash": None, "segmenter_file": None, "least_score": 0.5, "most_instances": 10},
    }


def test_a_users_own_instances_and_what_falls_back(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = root / "seg"
    folder.mkdir()
    halves = np.zeros((40, 48), np.uint8)
    halves[:, :16], halves[:, 40:] = 3, 1
    for number in range(1, 17):
        Image.fromarray(halves).save(folder / f"image_{number:05d}.png")
    Image.fromarray(np.zeros_like(halves)).save(folder / "image_00016.png")
    (folder / "image_00015.png").write_bytes(b"no picture")
    one = job(root, "views", "prepare.source=path", f"prepare.instances={folder}", "prepare.view=mask")
    make_views(one)
    views, data = read_views(one.path, 18), one.data
    assert views[0, 5, 5].tolist() == [255, 0, 0]  # the larger, whatever its number
    assert views[0, 5, 60].tolist() == [0, 74, 255]
    mask = data.store.mask_window(17, 0, 0, SIDE)
    assert np.array_equal(views[17], render("mask", views[17], components(mask), mask))
    assert told(one)["fallbacks"] == {"unreadable file": 1, "nothing found": 1, "no file": 2}
    assert 0 < told(one)["iou"] < 0.5
    assert "4 of 18 photos take the data set's mask" in caplog.text
    before = contents(one.cfg)
    Image.fromarray(halves).save(folder / "image_00017.png")
    assert contents(one.cfg) != before  # so that its product has another name
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(folder / "image_00001.png")
    assert str(folder / "image_00001.png") in refusal(lambda: make_views(one))


def test_unreadable_photos_are_left_out_where_that_is_allowed(root: Path, tmp_path: Path) -> None:
    make_oxford102(tmp_path / "data", masks=True, procedural=True)
    (tmp_path / "data/oxford102/jpg/image_00003.jpg").write_bytes(b"")
    assert "image_00003.jpg" in refusal(lambda: make_views(job(tmp_path, "views")))
    one = job(tmp_path, "views", "data.allow_missing=true")
    make_views(one)
    assert not read_views(one.path, 18)[2].any()
    codes = job(tmp_path, "guidance", "data.allow_missing=true", extractor="random_alexnet_tiny", views=str(one.path))
    extract(codes)
    found = read_guidance(codes.path, one.records)
    assert found.valid.tolist() == [row != 2 for row in range(18)]
    assert not found.features[2].any()


def test_bad_masks_are_counted_up_to_a_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Number 19's second half in a run: a sentence, exit 2, nothing written; or the whole photo, counted."""
    make_oxford102(tmp_path / "data", masks=True)
    bad = tmp_path / "data/oxford102/segmim/segmim_00002.jpg"
    Image.new("RGB", (48, 40), BLUE).save(bad)
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, words(tmp_path, "views")) == 2
    said = capsys.readouterr().err
    assert str(bad) in said
    assert "prepare.max_bad_masks=1" in said
    assert not list((tmp_path / "artifacts").glob("views*"))
    one = job(tmp_path, "views", "prepare.max_bad_masks=0.1", "prepare.view=foreground")
    make_views(one)
    assert told(one)["fallbacks"] == {"bad mask": 1}
    assert np.array_equal(read_views(one.path, 18)[1], one.data.store.window(1, 0, 0, SIDE))


@pytest.mark.parametrize(
    ("settings", "words_of_it"),
    [
        ({"view": "cutout"}, ["prepare.view=cutout", "overlay"]),
        ({"source": "coco"}, ["prepare.source=coco", "official"]),
        ({"view": "foreground_pred"}, ["prepare.view=foreground_pred", "prepare.source=maskrcnn"]),
        ({"source": "path"}, ["prepare.instances=FOLDER"]),
        ({"source": "path", "instances": "/nowhere"}, ["prepare.instances=/nowhere"]),
        ({"source": "maskrcnn", "segmenter": "/nowhere.pth"}, ["/nowhere.pth", "maskrcnn_resnet50_fpn_coco"]),
    ],
)
def test_what_no_views_can_be_made_of(root: Path, settings: dict[str, Any], words_of_it: list[str]) -> None:
    one = job(root, "views", **settings)
    message = refusal(lambda: make_views(one))
    assert all(word in message for word in words_of_it)
    assert not one.path.exists()


# ---- guides


class MeanColumn(nn.Module):
    """Where the light is: the mean column, in a code of one number."""

    def forward(self, views: Tensor) -> Tensor:
        light = views.double().sum((1, 3))
        return ((light * torch.arange(light.shape[1])).sum(1) / light.sum(1))[:, None]


def test_number_18_the_mirrored_photo_has_the_mirrored_guide() -> None:
    views = np.zeros((3, 8, 8, 3), np.uint8)
    views[0, :, 1], views[1, 2:4, 6], views[2] = 200, 90, 10
    codes = both_ways(MeanColumn(), torch.from_numpy(views))
    assert codes[..., 0].tolist() == [[1, 6], [6, 1], [3.5, 3.5]]
    rows, flip = torch.tensor([1, 0, 0]), torch.tensor([True, True, False])
    found = guidance.Guidance(codes.half(), torch.ones(3, dtype=torch.bool), codes[0, 0], {}, {})
    assert found.features[rows, flip.long(), 0].tolist() == [1, 6, 1]
    assert found.features[rows, 0, 0].tolist() == [6, 1, 1]


@pytest.fixture(scope="module")
def made(root: Path) -> Job:
    """Guides by an untrained network: what prepare=guidance makes, its views made on the way."""
    line = words(root, "guidance", "prepare.extractor=random_alexnet_tiny", "prepare.layer=conv5", "prepare.view=mask")
    cfg = plain(composed(*line), line)
    return Job(cfg, run_job(cfg))


def test_guides_are_the_extractors_codes_of_the_views(root: Path, made: Job) -> None:
    found = read_guidance(made.path, made.records, layer="conv5", view="mask", source="official", side=SIDE)
    (file,) = (root / "artifacts").glob("views-*.npy")
    views = torch.from_numpy(read_views(file, 18).copy())
    extractor = guide_extractor(None, "random_alexnet_tiny", "conv5")
    assert found.features.shape == (18, 2, 32, 3, 3)
    assert torch.equal(found.features[:, 0], extractor(views).half())
    assert torch.equal(found.features[:, 1], extractor(views.flip(2)).half())
    train = torch.from_numpy(~made.records.test)
    mean = extractor(views)[train].double().mean(0)
    torch.testing.assert_close(found.mean.double(), mean, atol=0, rtol=2.0**-23)  # rounded to float32 once
    assert found.settings["extractor_hash"] == extractor.hash
    assert found.settings["extractor_info"]["arch"] == "alexnet_tiny"
    assert found.fallbacks == {}
    assert found.valid.all()


def test_what_made_the_guides_is_found_again(
    made: Job, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    settings = read_guidance(made.path, made.records).settings
    assert extractor_of(settings).hash == settings["extractor_hash"]
    assert segmenter_of(settings) is None
    torch.manual_seed(0)
    for name, scale in (("one.pth", 1.0), ("two.pth", 2.0)):
        torch.save({k: scale * v for k, v in build("alexnet_tiny", 1000).state_dict().items()}, tmp_path / name)
    views = next((root / "artifacts").glob("views-*.npy"))
    one = job(
        root, "guidance", extractor="alexnet_tiny", views=str(views), weights=str(tmp_path / "one.pth"), view="mask"
    )
    extract(one)
    own = read_guidance(one.path, one.records).settings
    assert extractor_of(own).hash == own["extractor_hash"] != settings["extractor_hash"]
    (tmp_path / "one.pth").rename(tmp_path / "moved.pth")
    assert extractor_of(own, tmp_path / "moved.pth").hash == own["extractor_hash"]
    assert "one.pth" in refusal(lambda: extractor_of(own))
    message = refusal(lambda: extractor_of(own, tmp_path / "two.pth"))
    assert all(word in message for word in ("two.pth", own["extractor_hash"]))
    assert "absent.pth" in refusal(lambda: segmenter_of(own, "absent.pth"))


def test_one_command_from_nothing_to_guides(tmp_path: Path) -> None:
    """Drawn flowers, views, a trained extractor, codes; asked a second time it makes nothing."""
    line = ["task=prepare", "prepare=guidance", "data=oxford102", "preset=toy", "trainer=cpu"]
    line += [f"paths.{name}={tmp_path / name}" for name in ("data", "runs", "artifacts")]
    line += [f"data.procedural.{key}={value}" for key, value in {"images": 30, "classes": 6, "side": 40}.items()]

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}

    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, line) == 0
        first = times()
        assert call(patch, line) == 0
    assert times() == first
    (path,) = (tmp_path / "artifacts").glob("guidance-*.pt")
    content = torch.load(path, weights_only=True)
    assert content["features"].shape == (30, 2, 128)
    assert content["settings"]["extractor_info"]["provenance"].startswith("model=guide_cls on oxford102")
    assert 0 <= content["settings"]["extractor_info"]["accuracy"] <= 1


def test_guides_of_other_settings_or_photos_are_refused(made: Job, tmp_path: Path) -> None:
    for wanted in ({"view": "overlay"}, {"extractor_hash": "12345678"}, {"layer": "fc7"}):
        ((name, value),) = wanted.items()
        message = refusal(lambda wanted=wanted: read_guidance(made.path, made.records, **wanted))  # type: ignore[misc]
        assert all(word in message for word in (str(made.path), name, value, "model.guidance"))
    fewer = made.records.take(np.arange(17))
    assert "18" in refusal(lambda: read_guidance(made.path, fewer))
    torch.save({"kind": "vse", "format": 1}, tmp_path / "vse.pt")
    assert "vse" in refusal(lambda: read_guidance(tmp_path / "vse.pt", fewer))
    torch.save({"kind": "guidance", "format": 1, "features": torch.zeros(2, 2)}, tmp_path / "cut.pt")
    assert "features" in refusal(lambda: read_guidance(tmp_path / "cut.pt", fewer))


def test_views_of_another_kind_are_refused(root: Path) -> None:
    views = job(root, "views", "prepare.view=raw")
    make_views(views)
    one = job(root, "guidance", extractor="random_alexnet_tiny", views=str(views.path))
    assert "prepare.view=raw" in refusal(lambda: extract(one))
    views.path.with_suffix(".json").unlink()
    assert "prepare=views" in refusal(lambda: extract(one))
    assert not one.path.exists()


def test_codes_too_large_for_the_file_are_refused(root: Path, tmp_path: Path) -> None:
    views = job(root, "views", "prepare.view=overlay")
    make_views(views)
    torch.manual_seed(0)
    state = {k: 1e3 * v for k, v in build("alexnet_tiny", 1000).state_dict().items()}
    torch.save(state, tmp_path / "large.pth")
    one = job(root, "guidance", extractor="alexnet_tiny", views=str(views.path), weights=str(tmp_path / "large.pth"))
    assert "large.pth" in refusal(lambda: extract(one))
    assert not one.path.exists()


def test_other_weights_make_another_file(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(*more: str) -> list[str]:
        line = words(root, "guidance", *more)
        return contents(plain(composed(*line), line))

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    first = of("prepare.extractor=alexnet")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/alexnet-owt-7be5be79.pth").write_bytes(b"weights")
    assert of("prepare.extractor=alexnet") != first
    (tmp_path / "own.pt").write_bytes(b"one")
    before = of(f"prepare.weights={tmp_path / 'own.pt'}")
    (tmp_path / "own.pt").write_bytes(b"two")
    assert of(f"prepare.weights={tmp_path / 'own.pt'}") != before
    assert of("prepare.extractor=random_alexnet")[0] == ""  # which has no weights


def test_another_recipe_makes_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is trained or made first: a preset, or a line of its own file, changes it."""

    def of(*more: str) -> list[str]:
        line = ["task=prepare", "prepare=guidance", "data=oxford102", "prepare.extractor=alexnet_tiny", *more]
        return contents(plain(composed(*line), line))

    plainly = of()
    assert plainly == of("data.workers=2")
    assert all(ours != theirs for ours, theirs in zip(plainly[:2], of("preset=toy")[:2], strict=True))
    assert plainly[2:] == ["", ""]
    theirs = of("prepare.segmenter=x.pth", "prepare.source=maskrcnn")
    assert theirs[1] != plainly[1]


@pytest.mark.parametrize(("extractor", "arch"), [("vgg16", "vgg16_bn"), ("alexnet_tiny", "alexnet_tiny")])
def test_what_is_trained_for_an_extractor(extractor: str, arch: str) -> None:
    line = ["task=prepare", "prepare=guidance", "data=cub", f"prepare.extractor={extractor}", "prepare.view=mask"]
    cfg = plain(composed(*line), line)
    own = composed_need(cfg["prepare"]["needs"]["weights"], line)
    assert own["model"]["arch"] == arch
    assert (own["model"]["view"], own["model"]["instances"], own["chosen"]["data"]) == ("mask", None, "cub")
    views = composed_need(own["needs"]["views"], own["words"])
    mine = composed_need(cfg["prepare"]["needs"]["views"], line)
    assert views["prepare"] == mine["prepare"]
    assert views["data"] == mine["data"]


def test_a_jobs_drawn_pictures_are_its_askers() -> None:
    """Also where another model's preset draws more of them."""
    line = ["model=simgan", "data=oxford102", "preset=toy", "data.procedural.side=40"]
    asker = plain(composed(*line), line)["data"]["procedural"]
    job = composed_need({"prepare": "guidance"}, line)
    assert job["data"]["procedural"] == asker
    assert composed_need(job["prepare"]["needs"]["weights"], job["words"])["data"]["procedural"] == asker


# ---- a user's photo


def test_a_users_photo_guides(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    mask = np.zeros((20, 30), np.uint8)
    mask[:, :15] = 1
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    extractor = guide_extractor(None, "random_alexnet_tiny", "fc7")
    settings = {"side": SIDE, "view": "overlay"}
    bare, masked = (GuidePhoto.read(f"{tmp_path}/photo.png{more}") for more in ("", f"::{tmp_path}/mask.png"))
    codes, views, notes = guides_of_photos([bare, masked], settings, extractor, None)
    small = np.asarray(Image.fromarray(photo).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    assert np.array_equal(views[0], small)
    assert np.array_equal(views[1][:, 32:], small[:, 32:])
    assert views[1][0, 0].tolist() == [255, 0, 0]
    assert torch.equal(codes, extractor(torch.from_numpy(views)))
    assert len(notes) == 1
    assert "photo.png::MASK.png" in notes[0]
    assert guides_of_photos([bare], settings | {"view": "raw"}, extractor, None)[2] == []
    for word in ("absent.jpg", f"{tmp_path}/photo.png::{tmp_path}/absent.png"):
        assert "absent" in refusal(lambda word=word: GuidePhoto.read(word))  # type: ignore[misc]
    assert "colour" in refusal(lambda: GuidePhoto.read(f"{tmp_path}/photo.png::{tmp_path}/photo.png"))


def test_a_photo_in_which_nothing_is_found_is_refused(tmp_path: Path) -> None:
    class Blind(nn.Module):
        path = tmp_path / "coco.pth"

        def forward(self, photos: list[np.ndarray]) -> list[np.ndarray]:
            return [np.zeros(photo.shape[:2], np.uint8) for photo in photos]

    photo = GuidePhoto("garden.jpg", Image.new("RGB", (30, 20)))
    extractor = guide_extractor(None, "random_alexnet_tiny", "fc7")
    settings = {"side": SIDE, "view": "overlay"}
    message = refusal(lambda: guides_of_photos([photo], settings, extractor, Blind()))  # type: ignore[arg-type]
    assert "garden.jpg::MASK.png" in message
    assert "coco.pth" in message


def test_load_data_sees_the_whole_photo(root: Path) -> None:
    data = load_data(job(root, "views").cfg)
    assert {data.store.shape(row) for row in range(18)} == {(SIDE, SIDE)}


def test_without_masks_the_photos_themselves_guide(root: Path, tmp_path: Path) -> None:
    make_oxford102(tmp_path / "data")
    raw = ["prepare.view=raw", "data.reads=[image]"]
    one = job(tmp_path, "views", *raw)
    make_views(one)
    assert np.array_equal(read_views(one.path, 18)[3], one.data.store.window(3, 0, 0, SIDE))
    line = ["task=prepare", "prepare=guidance", *raw]
    cfg = plain(composed(*line), line)
    for need in cfg["prepare"]["needs"].values():
        assert composed_need(need, line)["data"]["reads"] == ["image"]
    message = refusal(lambda: make_views(job(root, "views", "data.reads=[image]")))
    assert "data.reads=[image]" in message
    assert "prepare.view=overlay" in message


def test_birds_have_views_too(tmp_path: Path) -> None:
    """Grey masks of votes, keys with a folder in them, and boxes that are not cut to; an empty mask is a bad one."""
    keys = make_cub(tmp_path / "data", masks=True)
    empty = tmp_path / "data/segmentations" / f"{keys[4]}.png"
    Image.fromarray(np.zeros_like(np.asarray(Image.open(empty)))).save(empty)
    assert str(empty) in refusal(lambda: make_views(job(tmp_path, "views", "data=cub")))
    one = job(tmp_path, "views", "data=cub", "prepare.max_bad_masks=0.1", "prepare.view=overlay")
    make_views(one)
    assert told(one)["fallbacks"] == {"bad mask": 1}
    views, data = read_views(one.path, len(keys)), one.data
    instances = components(data.store.mask_window(1, 0, 0, SIDE))
    assert instances.max() == 1
    assert np.array_equal(views[1], render("overlay", data.store.window(1, 0, 0, SIDE), instances, instances))
    own = tmp_path / "seg" / f"{data.records.keys[2]}.png"
    own.parent.mkdir(parents=True)
    Image.fromarray(np.full((40, 50), 2, np.uint8)).save(own)
    mine = job(tmp_path, "views", "data=cub", "prepare.source=path", f"prepare.instances={tmp_path / 'seg'}")
    make_views(mine)
    assert told(mine)["fallbacks"] == {"no file": len(keys) - 1}
    assert read_views(mine.path, len(keys))[2, 0, 0].tolist() == [255, 0, 0]
