"""GGB's measures: the three SSIMs against scikit-image and the known figures, all else on drawn people, recomputed."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from common.classifier import Classifier, body_and_head, load_classifier
from common.data.module import ImageData
from common.data.pose_pairs import csv_text, digest, named
from common.data.poses import pose_distance, pose_mask
from common.data.procedural.colours import lab
from common.data.procedural.write_deepfashion import write_people
from common.data.readers.deepfashion import DeepFashion
from common.data.readers.fashion_names import view
from common.errors import UserError
from common.metrics.colour_match import ColourMatch, inner
from common.metrics.evaluate import Seen, evaluate
from common.metrics.extractors import ClassifierExtractor, extract
from common.metrics.functions import Features, inception_score, to_uint8
from common.weights import KNOWN_FILES
from ggb.measures import Measures, clothes_distance, mean_photo, ssim_dsc, ssim_patn, ssim_pg2
from ggb.serving import people
from tests.worlds.settings import settings
from tests.worlds.tiny import call
from tests.worlds.tiny_pairs import S, make

OPTIONS: dict[str, Any] = {
    **{
        "images": None,
        "reference": "train",
        "masked": True,
        "extractor": "classifier",
        "inception": None,
        "pixels": "round",
    },
    **{"splits": 3, "kid_subset_size": 10, "kid_subsets": 2, "allow_few": True, "seed": 0},
}
MEASURES = {"_target_": "ggb.measures.Measures"}


# ---- the three dialects


def picture() -> Tensor:
    i, j, c = np.ogrid[:256, :256, :3]
    return tensor((((3 * i + 5 * j + 40 * c) // 8) % 256).astype(np.uint8))


def tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None]


def array(image: Tensor) -> np.ndarray:
    return image[0].permute(1, 2, 0).numpy()


def noise(seed: int, side: int = 256) -> Tensor:
    return torch.randint(0, 256, (1, 3, side, side), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def changed(how: str) -> Tensor:
    """What is held against `picture()`."""
    a = picture()
    return {
        "lighter": (a.int() + 10).clamp(max=255).to(torch.uint8),
        "rolled": a.roll(7, dims=3),
        "negative": 255 - a,
        "same": a,
        "noise": noise(0),
    }[how]


@pytest.mark.parametrize(
    ("how", "pg2", "dsc"),
    [
        ("lighter", 0.9938019, 0.9942519),
        ("rolled", 0.9672025, 0.9694880),
        ("negative", 0.6386707, 0.6889597),
        ("same", 1.0, 1.0),
    ],
)
def test_known_figures(how: str, pg2: float, dsc: float) -> None:
    """The lighter picture spans 245 levels: with L = 255 it would have 0.9942580."""
    assert ssim_pg2(changed(how), picture()).item() == pytest.approx(pg2, abs=1e-6)
    assert ssim_dsc(changed(how), picture()).item() == pytest.approx(dsc, abs=1e-6)


@pytest.mark.parametrize("how", ["lighter", "rolled", "negative", "noise"])
def test_the_three_are_scikit_images(how: str) -> None:
    drawn, target = changed(how), picture()
    a, b = array(drawn), array(target)
    assert ssim_pg2(drawn, target).item() == pytest.approx(
        structural_similarity(b, a, channel_axis=2, data_range=255), abs=1e-5
    )

    def by_scikit(a: np.ndarray, b: np.ndarray) -> float:
        span = int(a.max()) - int(a.min())
        gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        return structural_similarity(b, a, channel_axis=2, data_range=span, **gaussian)

    assert ssim_dsc(drawn, target).item() == pytest.approx(by_scikit(a, b), abs=1e-5)
    white = [np.pad(x[:, 40:216], ((0, 0), (40, 40), (0, 0)), constant_values=255) for x in (a, b)]
    assert ssim_patn(drawn, target).item() == pytest.approx(by_scikit(*white), abs=1e-5)


def test_each_pair_has_its_own_range() -> None:
    """A batch scores as its images one by one, an image of one colour by L = 255."""
    grey = torch.full((1, 3, 256, 256), 100, dtype=torch.uint8)
    drawn = torch.cat([changed("lighter"), grey, changed("rolled")])
    target = torch.cat([picture(), torch.full_like(grey, 150), picture()])
    for dialect in (ssim_pg2, ssim_dsc, ssim_patn):
        alone = [dialect(d[None], t[None]).item() for d, t in zip(drawn, target, strict=True)]
        assert dialect(drawn, target).tolist() == pytest.approx(alone, abs=1e-12)
    assert ssim_pg2(grey, grey + 50).item() == pytest.approx(0.9230923, abs=1e-6)
    assert ssim_dsc(grey, grey + 50).item() == pytest.approx(0.9230923, abs=1e-6)


def test_white_margins_alone_make_a_score() -> None:
    a, b = noise(1), noise(2)
    assert ssim_dsc(a[..., 40:216], b[..., 40:216]).item() < 0.03
    assert 0.27 < ssim_patn(a, b).item() < 0.30


# ---- on drawn people


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    root = tmp_path_factory.mktemp("people")
    write_people(root / "people", images=240, identities=48, side=S, seed=3, workers=0)
    reader = DeepFashion(root=root / "people")
    reads = ("image", "target", "joints")
    return ImageData(
        dataset=reader, image_size=S, batch_size=8, load_ratio=1.0, reads=reads, flip=False, store=root / "store"
    )


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, data: ImageData) -> str:
    """A network of random weights whose logits on these photos have mean 0 and spread 1: they say something."""
    torch.manual_seed(0)
    net = Classifier(**settings("classifier", arch="alexnet_tiny", image_size=64, classes=4))
    photos = torch.cat([data.move(batch, "cpu")["image"] for batch in data.eval_loader("all", 64, reads=("image",))])
    head = body_and_head(net.net)[1]
    with torch.no_grad():
        logits = net.eval()(photos)
        head.weight.div_(logits.std(0)[:, None])
        head.bias.sub_(logits.mean(0)).div_(logits.std(0))
    net.class_names, net.data_name = list("abcd"), "people"
    path = tmp_path_factory.mktemp("classifier") / "classifier.pt"
    torch.save(net.export(), path)
    return str(path)


@pytest.fixture(scope="module")
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(autouse=True)
def no_weights(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has on disk."""
    monkeypatch.setenv("TORCH_HOME", str(nowhere))


@pytest.fixture(scope="module")
def drawn(data: ImageData) -> dict[str, Tensor]:
    """All test pairs, x-hat and what it is made from."""
    model = make().eval()
    batches = [data.move(batch, "cpu") for batch in data.pose_pair_loader("test", 8)]
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    return whole | {"drawn": torch.cat([model.sample(batch) for batch in batches])}


def measured(
    data: ImageData, drawn: dict[str, Tensor], images: Tensor | None = None, size: int = 7, **options: Any
) -> Measures:
    measures = Measures(model=make(), data=data, options=OPTIONS | options, files={})
    images = drawn["drawn"] if images is None else images
    for i in range(0, len(images), size):
        batch = {name: value[i : i + size] for name, value in drawn.items()}
        measures.update(batch, images[i : i + size], [""] * len(images[i : i + size]))  # type: ignore[arg-type]
    return measures


def test_numbers_are_means_over_pairs_and_not_over_batches(data: ImageData, drawn: dict[str, Tensor]) -> None:
    found = measured(data, drawn).compute(None)
    image, y = to_uint8(drawn["drawn"]), to_uint8(drawn["target"])
    pairs = [(array(a[None]), array(b[None])) for a, b in zip(image, y, strict=True)]
    each = np.array([structural_similarity(b, a, channel_axis=2) for a, b in pairs])
    assert len(each) % 7  # a short last batch
    assert found["ssim"] == found["ssim_pg2"] == pytest.approx(each.mean(), abs=1e-6)
    assert found["ssim_std"] == pytest.approx(each.std(), abs=1e-6)
    assert found["l1"] == pytest.approx((image.double() - y.double()).abs().mean().item() / 127.5, abs=1e-9)
    mask = pose_mask(drawn["target_joints"], S, radius=1.0)
    assert 0.02 < mask.mean() < 0.5
    black = [array((x * mask[i].to(torch.uint8))[None]) for i in range(len(y)) for x in (image[i], y[i])]
    masked = [structural_similarity(b, a, channel_axis=2) for a, b in zip(black[::2], black[1::2], strict=True)]
    assert found["mask_ssim"] == pytest.approx(np.mean(masked), abs=1e-6)
    again = measured(data, drawn, size=5).compute(None)
    assert found == {name: pytest.approx(value, abs=1e-9) for name, value in again.items()}
    assert found["lpips"] is None
    assert {"ssim_dsc", "ssim_patn", "ssim_body"} <= {name for name, value in found.items() if value is not None}


def test_the_target_itself_is_perfect_and_the_controls_are_not(data: ImageData, drawn: dict[str, Tensor]) -> None:
    found = measured(data, drawn, drawn["target"]).compute(None)
    for name in ("ssim", "ssim_dsc", "ssim_patn", "ssim_body", "mask_ssim", "ssim_near", "ssim_far"):
        assert found[name] == pytest.approx(1, abs=1e-12)
    assert found["l1"] == found["generated_in_one_colour"] == 0
    copied = measured(data, drawn, drawn["image"]).compute(None)
    for name in ("ssim", "l1", "mask_ssim", "ssim_near", "l1_far"):
        assert copied[name] == found[f"{name}_of_source"]
    assert copied["ssim"] < 0.95
    mean = mean_photo(data)
    assert mean is not None
    rows = np.unique(data.pose_pairs("train")[:512])[:512]
    photos = torch.cat([b["image"] for b in data.eval_loader(rows=rows, reads=("image",))]).double()
    assert (mean[0].permute(1, 2, 0) - photos.mean(0)).abs().max() <= 0.5 + 1e-9
    average = measured(data, drawn, (mean.float() / 127.5 - 1).expand(len(drawn["row"]), -1, -1, -1)).compute(None)
    assert average["ssim"] == pytest.approx(found["ssim_of_mean"], abs=1e-12)


def test_thirds_are_by_how_far_the_pose_changes(data: ImageData, drawn: dict[str, Tensor]) -> None:
    found = measured(data, drawn).compute(None)
    moved, gone = pose_distance(drawn["joints"], drawn["target_joints"], S)
    order = np.argsort((moved.double() + gone.double()).numpy(), kind="stable")
    image, y = to_uint8(drawn["drawn"]), to_uint8(drawn["target"])
    each = ssim_pg2(image, y).numpy()
    n = len(order)
    thirds = [order[[r for r in range(n) if r * 3 // n == k]] for k in range(3)]
    assert {len(third) - n // 3 for third in thirds} <= {0, 1}
    for name, third in zip(("near", "middle", "far"), thirds, strict=True):
        assert found[f"ssim_{name}"] == pytest.approx(each[third].mean(), abs=1e-12)
    assert found["pose_distance_near"] < found["pose_distance_middle"] < found["pose_distance_far"]  # type: ignore[operator]
    assert found["ssim_near_of_source"] > found["ssim_far_of_source"]  # type: ignore[operator]  # a pose that stays


def test_views_are_told_where_there_are_enough_pairs(
    data: ImageData, drawn: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: value[:30] for name, value in drawn.items()}
    monkeypatch.setattr("ggb.measures.FEWEST", 2)
    found = measured(data, few).compute(None)
    each = ssim_pg2(to_uint8(few["drawn"]), to_uint8(few["target"])).numpy()
    ways = [f"{view(a)}_to_{view(b)}" for a, b in named(data.records, "test")[:30]]
    common = {way for way in ways if ways.count(way) >= 2}
    assert 2 < len(common) < len(set(ways))
    assert {name for name in found if "_to_" in name} == {f"ssim_{way}" for way in common}
    for way in common:
        assert found[f"ssim_{way}"] == pytest.approx(each[[w == way for w in ways]].mean(), abs=1e-12)


@pytest.mark.parametrize("allow", [True, False])
def test_the_score_of_a_third_is_of_its_images_in_their_order(
    data: ImageData, drawn: dict[str, Tensor], allow: bool
) -> None:
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(len(drawn["row"]), 4, generator=rng)
    made = Features(torch.zeros(len(logits), 2), logits, "classifier-people", "0", "")
    seen = Seen(made, None, made, lambda rows: made, allow)
    measures = measured(data, drawn, splits=7, allow_few=allow)
    found = measures.compute(seen)
    moved, gone = pose_distance(drawn["joints"], drawn["target_joints"], S)
    third = measures.thirds((moved.double() + gone.double()).numpy())
    for place, name in enumerate(("near", "middle", "far")):
        own = logits[third == place]
        score = inception_score(own, splits=2, seed=None)[0]  # 7 splits of the whole are two of a third
        assert found[f"is_mean_{name}@classifier-people"] == (score if allow else None)
        assert abs(inception_score(own, splits=2)[0] - score) > 1e-3
    told = measures.protocol()
    assert "2 consecutive splits" in told["is_by_thirds"]
    assert told["not_comparable"]["is_mean_*"] == "a third of the pairs"
    assert not [name for name in measures.compute(None) if name.startswith("is_")]


def test_the_protocol_names_the_pairs_and_what_stands_alone(data: ImageData, drawn: dict[str, Tensor]) -> None:
    told = measured(data, drawn).protocol()
    assert told["pairs_sha256"] == digest(data.records, "test")
    assert f"{len(drawn['row'])} pairs of {S} px" in told["not_comparable"]["ssim*"]
    json.dumps(told)
    few = {name: value[:5] for name, value in drawn.items()}
    text = csv_text(named(data.records, "test")[:5])
    assert measured(data, few).protocol()["pairs_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_clothes_are_compared_where_the_target_has_them(data: ImageData, drawn: dict[str, Tensor]) -> None:
    """Nothing but the clothes counts; white clothes are as far off as they are by hand."""
    truth, rows = ColourMatch(data.records, load_ratio=1.0), drawn["target_row"]
    y = to_uint8(drawn["target"])
    parts = torch.stack([torch.from_numpy(truth.part_map(row, S)) for row in rows.tolist()])
    worn = ((parts == truth.parts.index("top")) | (parts == truth.parts.index("bottom")))[:, None]
    assert clothes_distance(torch.where(worn, y, 0), y, rows, truth).nan_to_num().max() == 0
    white = clothes_distance(torch.where(worn, 255, y), y, rows, truth)
    for i in (0, 1, 2):
        garments = [inner((parts[i] == truth.parts.index(part)).numpy()) for part in ("top", "bottom")]
        far = [
            np.linalg.norm(lab(array(y[i : i + 1])[garment].astype(float).mean(0)) - lab(np.array([255.0] * 3)))
            for garment in garments
            if garment.sum() >= 8
        ]
        assert white[i].item() == pytest.approx(np.mean(far), rel=1e-6)
    found = measured(data, drawn, drawn["target"]).compute(None)
    assert found["clothes"] == found["clothes_far"] == 0
    assert found["clothes_of_source"] > 5  # type: ignore[operator]  # the clothes are the same and elsewhere


def test_an_image_of_one_colour_is_counted(data: ImageData, drawn: dict[str, Tensor]) -> None:
    images = drawn["drawn"].clone()
    images[3] = 0.25
    found = measured(data, drawn, images).compute(None)
    assert found["generated_in_one_colour"] == 1
    assert all(value is None or np.isfinite(value) for value in found.values())


def test_lpips_where_its_weights_are_on_disk(
    data: ImageData, drawn: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import alexnet

    torch.manual_seed(0)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(alexnet(weights=None).state_dict(), tmp_path / "hub/checkpoints" / KNOWN_FILES["alexnet"].name)
    few = {name: value[:3] for name, value in drawn.items()}
    measures = measured(data, few, few["target"])
    found = measures.compute(None)
    assert found["lpips"] == pytest.approx(0, abs=1e-6)
    assert found["lpips_of_source"] > 1e-3  # type: ignore[operator]
    assert {"lpips_near", "lpips_far_of_source", "lpips_of_mean"} <= found.keys()
    assert measures.protocol()["lpips"].startswith("lpips-alex ")


# ---- the set of pose pairs


def kept_features(folder: Path, count: int) -> Tensor:
    """Logits of the photos in the one cached file that has so many."""
    files = [torch.load(path, weights_only=True) for path in folder.glob("features_*.pt")]
    (found,) = [content["logits"] for content in files if len(content["logits"]) == count]
    return found


def test_pose_pairs_are_scored_against_their_targets(
    data: ImageData, drawn: dict[str, Tensor], classifier: str, tmp_path: Path
) -> None:
    model, files, options = make().eval(), {"classifier": classifier}, OPTIONS | {"reference": "targets"}
    numbers, told, _ = evaluate(model, data, options, MEASURES, files, tmp_path)
    count = len(drawn["row"])
    assert told["n_pairs"] == told["n_real"] == told["n_fake"] == count
    assert told["plan"] == "pose_pairs"
    assert "target photos" in told["reference"]
    assert "ssim_far" in numbers
    assert numbers["fid@classifier-people"] > 0  # type: ignore[operator]
    assert len(list(tmp_path.glob("features_*.pt"))) == 1
    rows, place = np.unique(drawn["target_row"].numpy(), return_inverse=True)
    # a photo is embedded once and counts as often as it is aimed at
    assert len(rows) < count
    logits = kept_features(tmp_path, len(rows))[place]
    ceiling = inception_score(logits, splits=3, seed=None)
    assert numbers["is_of_targets@classifier-people"] == pytest.approx(ceiling[0], rel=1e-9)
    model.sample = lambda batch: batch["target"]  # type: ignore[method-assign, assignment]
    perfect, _, _ = evaluate(model, data, options, MEASURES, files, tmp_path)
    assert perfect["fid@classifier-people"] == pytest.approx(0, abs=1e-3)
    assert perfect["fid_of_targets@classifier-people"] == pytest.approx(0, abs=1e-3)
    assert perfect["ssim"] == pytest.approx(1)
    assert perfect["is_mean@classifier-people"] == pytest.approx(ceiling[0], rel=1e-5)  # the order is kept: no shuffle
    assert abs(inception_score(logits, splits=3)[0] - ceiling[0]) > 1e-4


def test_fid_is_held_against_training_photos_and_the_ceiling_stays_that_of_the_targets(
    data: ImageData, drawn: dict[str, Tensor], classifier: str, tmp_path: Path
) -> None:
    model, files, options = make().eval(), {"classifier": classifier}, OPTIONS | {"images": 24}
    numbers, told, _ = evaluate(model, data, options, MEASURES, files, tmp_path)
    train, targets = data.rows("train"), drawn["target_row"].numpy()
    assert not set(train.tolist()) & set(targets.tolist())
    assert told["n_real"] == len(train)
    assert "training photos of people" in told["reference"]
    assert kept_features(tmp_path, len(train)).std() > 0
    aimed, _, _ = evaluate(model, data, options | {"reference": "targets"}, MEASURES, files, tmp_path)
    assert len(list(tmp_path.glob("features_*.pt"))) == 2  # no photo is embedded again
    for name in ("fid", "kid"):
        assert numbers[f"{name}@classifier-people"] != aimed[f"{name}@classifier-people"]
    for name in ("is_mean", "is_of_targets", "mask_is_mean", "is_mean_far"):
        assert numbers[f"{name}@classifier-people"] == pytest.approx(aimed[f"{name}@classifier-people"], rel=1e-9)
    every, _, _ = evaluate(model, data, OPTIONS, MEASURES, files, tmp_path)
    model.sample = lambda batch: batch["target"]  # type: ignore[method-assign, assignment]
    perfect, _, _ = evaluate(model, data, OPTIONS, MEASURES, files, tmp_path)
    floor = perfect["fid@classifier-people"]
    assert every["fid_of_targets@classifier-people"] == pytest.approx(floor, rel=1e-4)
    with pytest.raises(UserError, match="There are train, targets"):
        evaluate(model, data, options | {"reference": "test"}, MEASURES, files, tmp_path)


def test_a_photo_that_shows_nobody_is_no_reference(data: ImageData) -> None:
    rows = data.rows("train")
    joints = data.records.joints.copy()  # type: ignore[union-attr]
    joints[rows[5]] = -1
    joints[rows[6], 1:] = -1  # a nose alone is somebody
    other = ImageData(dataset=data.dataset, image_size=S, batch_size=8, load_ratio=1.0, store=data.store_folder)
    other.records = replace(data.records, joints=joints)  # type: ignore[misc]
    found, _ = people(other, "train", rows[:0])
    assert found.tolist() == np.delete(rows, 5).tolist()
    other.records = replace(data.records, joints=np.full_like(joints, -1))  # type: ignore[misc]
    with pytest.raises(UserError, match="no training photos of people"):
        people(other, "train", rows[:0])


def test_the_score_of_bodies_is_of_the_same_images_without_their_surroundings(
    data: ImageData, drawn: dict[str, Tensor], classifier: str, tmp_path: Path
) -> None:
    model, files, options = make().eval(), {"classifier": classifier}, OPTIONS | {"images": 24}
    numbers, told, _ = evaluate(model, data, options, MEASURES, files, tmp_path)
    network = ClassifierExtractor(load_classifier(classifier))
    image, mask = to_uint8(drawn["drawn"][:24]), pose_mask(drawn["target_joints"][:24], S, radius=1.0)
    for name, images in (("is", image), ("mask_is", image * mask.to(torch.uint8))):
        score = inception_score(extract(network, [images]).logits, splits=3, seed=None)
        assert numbers[f"{name}_mean@classifier-people"] == pytest.approx(score[0], rel=1e-5)
        assert numbers[f"{name}_std@classifier-people"] == pytest.approx(score[1], rel=1e-3)
    assert "black" in told["mask_is"]
    without, told, _ = evaluate(model, data, options | {"masked": False}, MEASURES, files, tmp_path)
    assert numbers.keys() - without.keys() == {f"mask_is_{end}@classifier-people" for end in ("mean", "std")}
    assert "mask_is" not in told
    for name in ("is_mean", "fid", "is_mean_near"):
        assert without[f"{name}@classifier-people"] == pytest.approx(numbers[f"{name}@classifier-people"], rel=1e-4)
    few, told, _ = evaluate(model, data, options | {"allow_few": False}, MEASURES, files, tmp_path)
    withheld = {name for name, value in few.items() if value is None and name.endswith("@classifier-people")}
    assert withheld == {name for name in few if name.endswith("@classifier-people") and not name.startswith("kid")}
    assert "withheld" in told


def test_the_first_pairs_alone(data: ImageData, tmp_path: Path) -> None:
    options = OPTIONS | {"images": 7, "extractor": None}
    _, told, _ = evaluate(make().eval(), data, options, MEASURES, {}, tmp_path)
    text = csv_text(named(data.records, "test")[:7])
    assert told["n_pairs"] == 7
    assert told["pairs_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_what_others_report_never_stands_where_ours_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [f"paths.{name}={tmp_path / name}" for name in ("data", "runs", "artifacts")]
    for command in (["table=ggb_t1_reported"], ["task=report", "rows=ggb_t1_*"]):
        assert call(monkeypatch, [*command, *places]) == 0
    lines = (tmp_path / "runs" / "report.md").read_text().splitlines()
    told = [line.split(" | ") for line in lines if line.startswith("| ggb_t1_")]
    methods = {"vunet", "bodyroi7", "upis", "dsc", "patn"}
    assert methods <= {row[0].removeprefix("| ggb_t1_") for row in told}
    assert {row[5] for row in told} == {"not measured"}
    assert all(row[7].startswith("no: ") for row in told)
    assert ["0.786"] == [row[6] for row in told if row[0] == "| ggb_t1_vunet" and row[4] == "ssim"]
