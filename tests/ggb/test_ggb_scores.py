"""The scorer of published result images: every layout, numbers as ours of the same images, and what is refused."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor

from common.data.module import ImageData
from common.data.poses import pose_mask
from common.data.procedural.write_deepfashion import write_people
from common.data.readers.deepfashion import DeepFashion
from common.data.readers.fashion_names import flat
from common.errors import UserError
from common.metrics.extractors import InceptionExtractor, extract
from common.metrics.functions import SEED, inception_score, to_uint8
from ggb.measures import Measures, ssim_dsc, ssim_patn, ssim_pg2
from ggb.published_images import batches, listed
from ggb.scores import scores
from tests.peers.fidelity import write_inception
from tests.worlds.tiny import call
from tests.worlds.tiny_pairs import S, make

CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {
    **{"extractor": "auto", "inception": None, "pixels": "round", "masked": True, "splits": 2, "allow_few": True},
    **{"kid_subset_size": 3, "kid_subsets": 2},
}
WOMAN = "fasionWOMENDressesid00000002{}"
FLAT = [WOMAN.format(end) for end in ("02_1front", "02_3back", "03_1front")]


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has on disk."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))


def save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def photos(count: int, *size: int) -> np.ndarray:
    """count,*size smooth noise, uint8."""
    height, width = size[:2]
    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    grown = [np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC)) for c in coarse]
    return np.stack(grown)


def tensors(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2)


# ---- the same images, the same numbers


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    root = tmp_path_factory.mktemp("people")
    write_people(root / "people", images=240, identities=48, side=S, seed=3, workers=0)
    reads = ("image", "target", "joints")
    sizes: dict[str, Any] = {"image_size": S, "batch_size": 8, "load_ratio": 1.0}
    return ImageData(dataset=DeepFashion(root=root / "people"), reads=reads, flip=False, store=root / "store", **sizes)


@pytest.fixture(scope="module")
def ours(data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Measures, Path]:
    """`Measures` on what a model drew, and the same images as files in the layouts pg2 and pairs, whose
    order by name is another one."""
    folder, model = tmp_path_factory.mktemp("people"), make().eval()
    measures = Measures(model=model, data=data, options=OPTIONS, files={})
    number = 0
    for loaded in data.pose_pair_loader("test", 8):
        batch = data.move(loaded, "cpu")
        images = model.sample(batch)
        measures.update(batch, images, [""] * len(images))
        mask = pose_mask(batch["target_joints"], S, radius=4 * S / 256).to(torch.uint8)[:, 0] * 255
        shown = {"G": images, "x": batch["image"], "x_target": batch["target"]}
        arrays = {name: to_uint8(image).permute(0, 2, 3, 1).numpy() for name, image in shown.items()}
        for i, (row, target) in enumerate(zip(batch["row"].tolist(), batch["target_row"].tolist(), strict=True)):
            for name, array in (arrays | {"mask_target": mask.numpy()}).items():
                save(array[i], folder / f"pg2/test_result/{name}/{number:05d}.png")
            pair = "_".join(flat(data.records.keys[end]) for end in (row, target))
            save(arrays["G"][i], folder / f"generated/{pair}.png")
            save(arrays["x_target"][i], folder / f"targets/{pair}.png")
            number += 1
    return measures, folder


def test_files_score_as_the_same_images_in_memory(ours: tuple[Measures, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ggb.measures.FEWEST", 2)
    found, folder = ours[0].compute(None), ours[1]
    told, protocol = scores(listed("pg2", folder / "pg2"), "pg2", OPTIONS, CPU)
    names = "ssim ssim_pg2 ssim_dsc ssim_patn ssim_std ssim_body mask_ssim l1 generated_in_one_colour".split()
    for name in [*names, "ssim_of_source", "l1_of_source", "mask_ssim_of_source"]:
        assert told[name] == pytest.approx(found[name], abs=1e-12)
    assert told["lpips"] is None
    assert "not on disk" in protocol["not_measured"]["lpips"]
    told, protocol = scores(listed("pairs", None, folder / "generated", folder / "targets"), "pairs", OPTIONS, CPU)
    ways = [name for name in found if "_to_" in name]
    assert len(ways) > 2
    for name in ["ssim", "ssim_dsc", "ssim_patn", "ssim_std", "l1", *ways]:
        assert told[name] == pytest.approx(found[name], abs=1e-12)
    assert not [name for name in told if "mask" in name or "source" in name]
    assert "no masks" in protocol["not_measured"]["mask_ssim, mask_is"]
    names = sorted(path.name for path in (folder / "generated").iterdir())
    assert protocol["names_sha256"] == hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    assert protocol["images"] == len(names)
    assert protocol["size"] == f"{S}x{S}"


# ---- strips


def write_strips(folder: Path, layout: str, x: np.ndarray, y: np.ndarray, generated: np.ndarray) -> None:
    grey = np.full_like(x, 128)
    panels = [x, y, generated] if layout == "dsc" else [x, grey, y, grey, generated]
    for i, strip in enumerate(np.concatenate(panels, 2)):
        name = (
            f"{FLAT[0]}.jpg_{FLAT[1 + i % 2]}.jpg" if layout == "dsc" else f"{FLAT[0]}.jpg___{FLAT[1 + i % 2]}.jpg_vis"
        )
        save(strip, folder / f"{name}.png")


@pytest.mark.parametrize("layout", ["dsc", "patn"])
def test_panels_are_told_apart(layout: str, tmp_path: Path) -> None:
    whole = photos(6, 256, 256)
    cut = whole if layout == "dsc" else whole[:, :, 40:216]
    x, y, generated = cut[:2], cut[2:4], cut[4:]
    write_strips(tmp_path, layout, x, y, generated)
    (tmp_path / "index.html").write_text("no image")
    results = listed(layout, tmp_path)
    assert [result.way for result in results] == ["front_to_back", "front_to_front"]
    (batch,) = batches(results, 8)
    for role, images in (("source", x), ("target", y), ("generated", generated)):
        assert torch.equal(batch[role], tensors(images))
    found, _ = scores(results, layout, OPTIONS, CPU)
    a, b = tensors(generated), tensors(y)
    assert found["ssim"] == pytest.approx(ssim_pg2(a, b).mean().item(), abs=1e-12)
    each = [structural_similarity(t, d, channel_axis=2) for t, d in zip(y, generated, strict=True)]
    assert found["ssim"] == pytest.approx(np.mean(each), abs=1e-6)
    assert found["ssim_dsc"] == pytest.approx(ssim_dsc(a, b).mean().item(), abs=1e-12)
    assert found["ssim_of_source"] == pytest.approx(ssim_pg2(tensors(x), b).mean().item(), abs=1e-12)
    # what PATN cuts off is white before and after: bare and whole photos have one value
    white = ssim_patn(tensors(whole[4:]), tensors(whole[2:4])).mean().item()
    assert found["ssim_patn"] == pytest.approx(white, abs=1e-12)


def test_names_are_in_their_order_whatever_the_file_system_says(tmp_path: Path) -> None:
    images = photos(4, 32, 32)
    for number in (2, 0, 3, 1):
        for name in ("generated", "targets"):
            save(images[number], tmp_path / name / f"{number}.{'png' if name == 'generated' else 'jpg'}")
    results = listed("pairs", None, tmp_path / "generated", tmp_path / "targets")
    assert [result.name for result in results] == ["0.png", "1.png", "2.png", "3.png"]
    assert [result.files["target"].name for result in results] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert {result.way for result in results} == {""}


# ---- networks


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inception(tmp_path_factory.mktemp("inception") / "inception.pth")


@pytest.fixture(scope="module")
def network(inception: Path) -> InceptionExtractor:
    return InceptionExtractor(inception)


def test_bodies_and_targets_are_scored_by_the_same_network(
    inception: Path, network: InceptionExtractor, tmp_path: Path
) -> None:
    images = photos(8, 40, 40)
    mask = np.zeros((4, 40, 40), np.uint8)
    mask[:, 10:30, 5:25] = 255
    for name, many in (("G", images[:4]), ("x_target", images[4:]), ("mask_target", mask)):
        for i, image in enumerate(many):
            save(image, tmp_path / name / f"{i:05d}.png")
    options = OPTIONS | {"inception": str(inception)}
    found, told = scores(listed("pg2", tmp_path), "pg2", options, CPU)
    body = tensors(images[:4]) * (torch.from_numpy(mask)[:, None] > 0)
    logits = extract(network, [torch.cat([tensors(images), body])]).logits.split(4)
    for key, own, seed in zip(
        ("is_mean", "is_of_targets", "mask_is_mean", "is_mean_shuffled"),
        (*logits, logits[0]),
        (None, None, None, SEED),
        strict=True,
    ):
        score = inception_score(own, splits=2, seed=seed)[0]
        assert found[f"{key}@{network.name}"] == pytest.approx(score, rel=1e-4)
    assert found[f"is_mean_shuffled@{network.name}"] != pytest.approx(found[f"is_mean@{network.name}"], rel=1e-3)
    assert found[f"fid@{network.name}"] > 0  # type: ignore[operator]
    assert told["pixels"] == "as published"
    assert told["n_fake"] == told["n_real"] == 4
    kept, told = scores(listed("pg2", tmp_path), "pg2", options | {"splits": 9}, CPU)
    assert kept["is_mean"] is kept["fid"] is None
    assert "too few for 9 splits" in told["not_measured"]["fid, kid, is"]


def test_patns_images_are_seen_with_the_margins_that_its_script_gives_them(
    inception: Path, network: InceptionExtractor, tmp_path: Path
) -> None:
    cut = photos(6, 256, 176)
    for i, strip in enumerate(np.concatenate([cut[:4], cut[:4], cut[:4], cut[:4], cut[:4]], 2)):
        save(strip, tmp_path / f"{i}___{i}_vis.png")
    found, told = scores(listed("patn", tmp_path), "patn", OPTIONS | {"inception": str(inception)}, CPU)
    padded = torch.full((4, 3, 256, 256), 255, dtype=torch.uint8)
    padded[..., 40:216] = tensors(cut[:4])
    score = inception_score(extract(network, [padded]).logits, splits=2, seed=None)[0]
    assert found[f"is_mean@{network.name}"] == pytest.approx(score, rel=1e-4)
    assert found[f"is_of_targets@{network.name}"] == pytest.approx(score, rel=1e-4)
    assert found[f"fid@{network.name}"] == pytest.approx(0, abs=1e-3)
    assert found["ssim"] == pytest.approx(1)
    assert "40 white columns" in told["shown_to_networks"]


# ---- the command


def test_one_command_writes_a_file_a_line_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = photos(6, 256, 256)
    write_strips(tmp_path / "strips", "dsc", whole[:2], whole[2:4], whole[4:])
    places = [f"paths.{name}={tmp_path / name}" for name in ("data", "runs", "artifacts")]
    job = ["task=prepare", "prepare=scores", "model=ggb", "data=deepfashion", "trainer=cpu", *places]
    own = [f"prepare.folder={tmp_path / 'strips'}", "prepare.layout=dsc", "prepare.method=dsc"]
    assert call(monkeypatch, [*job, *own, "metrics.extractor=classifier"]) == 0
    table = capsys.readouterr().out
    (line,) = [json.loads(text) for text in (tmp_path / "runs/results.jsonl").read_text().splitlines()]
    (path,) = (tmp_path / "artifacts").glob("scores-deepfashion-*.json")
    assert json.loads(path.read_text()) == line
    assert line["row"] == "ggb_t1_dsc"
    assert line["data_source"] == "others' images"
    assert line["protocol"]["layout"] == "dsc"
    assert line["numbers"]["is_mean"] is line["numbers"]["fid"] is None
    assert "not on disk" in line["protocol"]["not_measured"]["fid, kid, is"]
    assert f"{line['numbers']['ssim_dsc']:.4f}" in table
    (absent,) = [text for text in table.splitlines() if "not measured: is_mean, fid, kid: " in text]
    assert "Inception is not on disk" in absent
    assert call(monkeypatch, ["task=report", "rows=ggb_t1_dsc", *places]) == 0
    assert "deepfashion (others' images)" in (tmp_path / "runs/report.md").read_text()
    assert call(monkeypatch, [*job, own[0], own[2]]) == 2  # without a layout
    assert "prepare.layout" in capsys.readouterr().err
    assert call(monkeypatch, [*job, *own[:2], "prepare.method=a/b"]) == 2
    assert "prepare.method=a/b" in capsys.readouterr().err


# ---- what is refused


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def narrow(path: Path) -> None:
    save(np.zeros((256, 512, 3), np.uint8), path)


def small(path: Path) -> None:
    save(np.zeros((20, 24, 3), np.uint8), path)


def gone(path: Path) -> None:
    path.unlink()


def misnamed(path: Path) -> None:
    path.rename(path.with_name("grid.png"))


def doubled(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".jpg"))


FIRST = f"{FLAT[0]}.jpg_{FLAT[1]}.jpg.png"


@pytest.mark.parametrize(
    ("layout", "what", "at", "sentence"),
    [
        ("dsc", narrow, FIRST, "is 512x256, not 768x256 (3 panels of 256x256)"),
        ("dsc", misnamed, FIRST, "is not named like <from>_<to>.png"),
        ("dsc", broken, FIRST, "cannot be read"),
        ("patn", None, "", "is not named like <from>___<to>_vis.png"),
        ("pg2", gone, "x_target/00001.png", "has no target of that name in"),
        ("pg2", gone, "x/00000.png", "has no source of that name in"),
        ("pg2", misnamed, "G/00000.png", "is not named like 00000.png"),
        ("pg2", small, "x_target/00001.png", "is 24x20, not 32x32, as the first"),
        ("pg2", small, "mask_target/00001.png", "mask_target/00001.png is 24x20"),
        ("pg2", broken, "G/00001.png", "cannot be read"),
        ("pg2", doubled, "G/00001.png", "are of one name"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(
    layout: str, what: Callable[[Path], None] | None, at: str, sentence: str, tmp_path: Path
) -> None:
    if layout == "pg2":
        for name in ("G", "x", "x_target", "mask_target"):
            for i, image in enumerate(photos(2, 32, 32)):
                save(image, tmp_path / name / f"{i:05d}.png")
    else:
        whole = photos(6, 256, 256)
        write_strips(tmp_path, "dsc", whole[:2], whole[2:4], whole[4:])
    if what is not None:
        what(tmp_path / at)
    with pytest.raises(UserError) as refused:
        list(batches(listed(layout, tmp_path), 1))
    assert sentence in str(refused.value)


def test_folders_that_are_absent_or_empty_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save(photos(1, 32, 32)[0], tmp_path / "generated/a.png")
    save(photos(1, 8, 8)[0], tmp_path / "tiny/a.png")
    for folders, sentence in (
        (("dsc", tmp_path / "nowhere"), "there is no folder"),
        (("dsc", tmp_path / "empty"), "holds no .png or .jpg"),
        (("dsc", None), "prepare.folder has no value"),
        (("pg2", tmp_path / "empty"), "there is no folder"),
        (("strips", tmp_path), "There are pg2, dsc, patn, pairs"),
        (("pairs", None, tmp_path / "generated"), "prepare.targets has no value"),
        (("pairs", None, tmp_path / "generated", tmp_path / "empty"), "holds no"),
    ):
        with pytest.raises(UserError, match=sentence):
            listed(*folders)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="11 px at least"):
        list(batches(listed("pairs", None, tmp_path / "tiny", tmp_path / "tiny"), 1))
