"""FineGAN's measures: AUC, masks and colours by hand, and all of them on drawn birds against slow recomputation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from common.classifier import Classifier, load_classifier
from common.data.edit_pairs import Pairs
from common.data.module import ImageData
from common.data.procedural.write_cub import write_birds
from common.data.readers.cub import CUB
from common.metrics.colour_match import named_colours
from common.metrics.evaluation_sets import passes
from common.metrics.functions import inception_score, r_precision, to_uint8
from finegan.checkpoints import told_of
from finegan.conditions import caption_sequences
from finegan.denoise import Denoised, read_denoised
from finegan.encoders import Colours, ImageEncoder, RNNEncoder
from finegan.is_network import ISNetwork, filenames_hash, load_is_network
from finegan.measures import OF_MASKS, Measures, auc, leakage, mean_of, painted, partners
from finegan.model import FineGAN
from tests.worlds.settings import settings

SIDE, D, PASSES = 64, 16, 75  # images drawn: the 60 test birds, and 15 of them again
OPTIONS: dict[str, Any] = {
    "splits": 3,
    "allow_few": True,
    "seed": 0,
    "shuffled_masks": 24,
    "r_precision_candidates": 20,
}
LOSS: dict[str, dict[str, float | None]] = {
    "d": dict.fromkeys("real cond_real fake cond_fake mismatch".split(), 1.0)
    | dict.fromkeys(["part", "fg", "fg_part"]),
    "g": dict.fromkeys("uncond cond damsm kl".split(), 1.0) | dict.fromkeys(["part", "fg", "fg_part"]),
}


# ---- by hand


def test_auc_of_many_columns_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 130)), rng.random((50, 130)) < 0.3
    scores[:, 3] = rng.integers(0, 3, 50)  # ties
    scores[:, 4] = 1.0
    labels[:, 5], labels[:, 6] = True, False
    found = auc(scores, labels)
    for a in {*range(130)} - {5, 6}:
        assert found[a] == pytest.approx(roc_auc_score(labels[:, a], scores[:, a]), abs=1e-12)
    assert found[4] == 0.5
    assert np.isnan(found[[5, 6]]).all()
    assert mean_of(found[[4, 5]]) == 0.5
    assert mean_of(found[[5, 6]]) is None


def test_everyone_gets_the_mask_of_another_and_each_mask_goes_once() -> None:
    rows = np.array([3, 5, 8, 13, 21])
    found = partners(rows, 0)
    assert sorted(found) == sorted(found.values()) == rows.tolist()
    assert all(a != b for a, b in found.items())
    assert found == partners(rows, 0)
    assert any(partners(rows, seed) != found for seed in range(1, 5))
    assert partners(rows[:1], 0) == {}


def test_leakage_is_what_changes_outside_both_masks() -> None:
    mask, other = torch.zeros(3, 1, 4, 4), torch.zeros(3, 1, 4, 4)
    mask[:, :, :2, :2], other[:, :, 1:3, :2] = 1, 1  # together 6 of 16 pixels
    a, b = torch.zeros(3, 3, 4, 4), torch.zeros(3, 3, 4, 4)
    b[0, 0, 2, 1] = 3.0  # inside m', energy 9
    b[0, 1, 3, 3] = 1.0  # outside, energy 1
    b[1, 2, 0, 3] = 0.5
    inside, area = leakage(a, b, mask, other)
    assert inside[:2].tolist() == pytest.approx([0.9, 0.0])
    assert inside[2].isnan()  # nothing changed
    assert area.tolist() == [6 / 16] * 3


def test_a_condition_becomes_a_sentence_of_its_plain_colours() -> None:
    said = "wing color: red, bill shape: cone, belly color: white, back color: blue, upper tail color: olive"
    assert named_colours(painted(said)) == {"wing": "red", "belly": "white", "body": "blue", "tail": "olive"}
    assert painted("wing color: red, wing color: blue, crown color: grey") == "grey crown"  # two colours: neither
    assert painted("wing color: iridescent, eye color: red, under tail color: red, upperparts color: red") == ""
    assert painted("tail pattern: solid") == ""


# ---- on drawn birds


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 birds of 8 classes, 60 of them of 2 test classes, whose labels are right."""
    folder = tmp_path_factory.mktemp("birds")
    write_birds(folder / "data", images=240, classes=8, side=76, seed=1, label_noise=0.0, workers=1)
    return folder


def make_data(root: Path, *reads: str) -> ImageData:
    return ImageData(
        dataset=CUB(root=root / "data", masks="mask" in reads, attributes=True),
        image_size=SIDE,
        batch_size=16,
        reads=("image", *reads),
        bbox_crop=True,
        store=root / "store",
    )


@pytest.fixture(scope="module")
def data(root: Path) -> ImageData:
    return make_data(root, "mask", "attributes", "caption")


@pytest.fixture(scope="module")
def files(root: Path, data: ImageData) -> dict[str, str | None]:
    """An IS network, a network of features and denoised attributes; random weights, the right shapes."""
    torch.manual_seed(0)
    records, test = data.records, data.rows("test")
    judge = ISNetwork(**settings("is_network", arch="alexnet_tiny", image_size=64, classes=2))
    judge.data_name, judge.class_ids, judge.found = (
        "cub",
        np.unique(records.labels[test] + 1).tolist(),
        {"accuracy": 0.5},
    )
    judge.class_names = [records.classes[i - 1] for i in judge.class_ids]
    judge.filenames = filenames_hash([records.keys[row] for row in test])
    classifier = Classifier(**settings("classifier", arch="alexnet_tiny", image_size=64, classes=4))
    classifier.class_names, classifier.data_name = list("abcd"), "cub"
    torch.save(judge.export(), root / "is.pt")
    torch.save(classifier.export(), root / "features.pt")
    assert records.attributes is not None
    n, a = records.attributes.shape
    net = load_classifier(root / "features.pt")
    batches = (data.move(batch, "cpu")["image"] for batch in data.eval_loader(rows=np.arange(n), reads=("image",)))
    features = torch.cat([net.features(to_uint8(x).float() / 127.5 - 1)[0] for x in batches]).numpy()
    weights = np.random.default_rng(0).normal(size=(a, features.shape[1]))
    fields: dict[str, Any] = {
        "present": records.attributes,
        "score": (features @ weights.T).astype(np.float32),
        "removed": np.zeros((n, a), bool),
        **{name: np.zeros(a) for name in ("rho", "threshold", "rounds", "n_pos", "offset")},
        "skipped": np.arange(a) % 10 == 0,
        "weights": weights,
        "names": records.attribute_names,
        "keys": records.keys,
        "params": {"rule": "rank", "features": told_of(net)},
        "feature_hash": "00000000",
    }
    Denoised(**fields).write(root / "denoised.npz")
    return {name: str(root / f"{file}") for name, file in FILES.items()}


FILES = {"is_network": "is.pt", "denoised": "denoised.npz", "features": "features.pt"}


def make_model(root: Path, data: ImageData, inputs: str, masks: bool) -> FineGAN:
    torch.manual_seed(0)
    names = data.records.attribute_names if inputs == "raw" else caption_sequences(data.records).names
    text, image = (
        RNNEncoder(tokens=len(names) + 1, word_dim=12, code_dim=D, dropout=0.5),
        ImageEncoder(trunk="conv", code_dim=D, image_size=299, bn_train=True),
    )
    export = {
        "format": 2,
        "kind": "damsm",
        "data": "cub",
        "inputs": inputs,
        "names": list(names),
        "denoised_hash": None,
    }
    config = {"word_dim": 12, "code_dim": D, "image_size": 299, "trunk": "conv"}
    torch.save(export | {"config": config, "text": text.state_dict(), "image": image.state_dict()}, root / "damsm.pt")
    sizes: dict[str, Any] = {"ngf": 4, "ndf": 4, "code_dim": D, "z_dim": 8, "c_dim": 8}
    model = FineGAN(
        **settings(
            "finegan", image_size=SIDE, loss=LOSS, inputs=inputs, damsm=str(root / "damsm.pt"), masks=masks, **sizes
        )
    )
    model.before_scoring(data)
    return model.eval()


def run(measures: Measures, data: ImageData, pairs: Pairs) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """What common.metrics.evaluate does, batch by batch. -> the images and the batches"""
    images, batches = [], []
    for loaded in data.pair_loader(pairs, 16):
        batch = data.move(loaded, "cpu")
        drawn = measures.model.sample(batch)
        measures.update(batch, drawn, [""] * len(drawn))
        images.append(drawn)
        batches.append(dict(batch))
    return images, batches


@pytest.fixture(scope="module")
def scored(root: Path, data: ImageData, files: dict[str, str | None]) -> dict[str, Any]:
    """A masked model of raw attributes, drawn for 75 items, and how many images each network was shown."""
    model = make_model(root, data, "raw", True)
    measures = Measures(model=model, data=data, options=OPTIONS, files=files)
    shown = dict.fromkeys(["judge", "features", "damsm"], 0)
    assert measures.judge is not None
    assert measures.attributes is not None
    assert model.encoders is not None
    heads = {
        "judge": measures.judge.get_submodule("net.head"),
        "features": measures.attributes.encoder.net.get_submodule("features"),
        "damsm": model.encoders.image.net.get_submodule("emb_cnn_code"),
    }
    for name, net in heads.items():
        net.register_forward_pre_hook(lambda _, x, name=name: shown.__setitem__(name, shown[name] + len(x[0])))
    images, batches = run(measures, data, passes(data, PASSES))
    numbers = measures.compute(None)
    rows = torch.cat([batch["row"] for batch in batches]).numpy()
    found = {"measures": measures, "numbers": numbers, "shown": dict(shown), "batches": batches, "rows": rows}
    return found | {"images": torch.cat(images), "model": model}


def test_every_network_sees_every_image_once(scored: dict[str, Any]) -> None:
    """75 images and 24 with another's mask; of the 60 photos the IS network needs none."""
    assert scored["shown"] == {"judge": 75 + 24, "features": 75 + 24 + 60, "damsm": 75 + 60}


def test_the_inception_score_is_named_and_is_that_of_the_saved_pictures(
    scored: dict[str, Any], files: dict[str, str | None]
) -> None:
    judge, numbers = load_is_network(str(files["is_network"])), scored["numbers"]
    logits = judge(to_uint8(scored["images"], rounding="floor"))["logits"]
    mean, std = inception_score(logits, splits=3)
    assert numbers["is@alexnet_tiny-cub-test2"] == pytest.approx(mean, rel=1e-5)
    assert numbers["is_std@alexnet_tiny-cub-test2"] == pytest.approx(std, abs=1e-5)
    own = inception_score(logits[scored["measures"].controlled], splits=3)[0]
    assert numbers["is_own_mask@alexnet_tiny-cub-test2"] == pytest.approx(own, rel=1e-5)
    assert numbers["is_other_mask@alexnet_tiny-cub-test2"] >= 1
    assert not {"inception_score", "is", "is_mean"} & numbers.keys()  # trap T2
    told = scored["measures"].protocol()
    assert told["is_network"] == f"alexnet_tiny-cub-test2 {judge.hash}, from scratch"
    assert told["is_network_photos"] == "these"
    assert judge.hash in told["not_comparable"]["is*@alexnet_tiny-cub-test2"]
    json.dumps(told)


def test_attribute_consistency_is_the_mean_auc_over_common_attributes(
    scored: dict[str, Any], data: ImageData, files: dict[str, str | None]
) -> None:
    numbers, rows, present = scored["numbers"], scored["rows"], data.records.attributes
    assert present is not None
    denoised, encoder = read_denoised(str(files["denoised"])), load_classifier(str(files["features"]))
    x = to_uint8(scored["images"], rounding="floor").float() / 127.5 - 1
    scores = denoised.scores(encoder.features(x)[0].numpy())
    count = present[data.rows("test")].sum(0)
    common = [a for a in range(312) if 20 <= count[a] <= 40 and not denoised.skipped[a]]
    assert len(common) > 20
    one_by_one = {a: roc_auc_score(present[rows, a], scores[:, a]) for a in common}
    assert numbers["attribute_auc"] == pytest.approx(np.mean(list(one_by_one.values())), abs=1e-6)
    wings = [value for a, value in one_by_one.items() if denoised.names[a].startswith("has_wing_color")]
    assert numbers["attribute_auc_wing_color"] == pytest.approx(np.mean(wings), abs=1e-6)
    real = denoised.score[data.rows("test")]
    ceiling = np.mean([roc_auc_score(present[data.rows("test"), a], real[:, a]) for a in common])
    assert numbers["attribute_auc_real"] == pytest.approx(ceiling, abs=1e-6)
    at = scored["measures"].controlled
    own = [roc_auc_score(present[rows[at], a], scores[at, a]) for a in common if 0 < present[rows[at], a].sum() < 24]
    assert numbers["attribute_auc_own_mask"] == pytest.approx(np.mean(own), abs=1e-6)
    told = scored["measures"].protocol()
    assert told["attributes_measured"] == len(common)
    assert told["attribute_features"] == told_of(encoder)


def test_r_precision_is_by_the_global_codes_of_other_classes(scored: dict[str, Any], data: ImageData) -> None:
    model, rows, labels, test = scored["model"], scored["rows"], data.records.labels, data.rows("test")
    x = to_uint8(scored["images"], rounding="floor").float() / 127.5 - 1
    codes, pool = model.encoders.image(x)[1], model.codes(torch.from_numpy(test)).sent
    texts = model.codes(torch.from_numpy(rows)).sent
    wanted = r_precision(codes, texts, labels[rows], pool, labels[test], draws=75, distractors=19)
    assert (scored["numbers"]["r_precision"], scored["numbers"]["r_precision_std"]) == pytest.approx(wanted)
    assert 0 <= scored["numbers"]["r_precision_real"] <= 1
    assert scored["measures"].protocol()["r_precision_candidates"] == 20


def test_only_the_mask_is_changed_and_by_one_of_another_image(scored: dict[str, Any], data: ImageData) -> None:
    model, measures, first = scored["model"], scored["measures"], scored["batches"][0]
    at = [i for i in measures.controlled if i < 16]
    assert 0 < len(at) < 16
    batch, images = {name: value[at] for name, value in first.items()}, scored["images"][at]
    others = [measures.partners[row] for row in batch["row"].tolist()]
    mask = torch.stack([data.move(next(iter(data.eval_loader(rows=[row]))), "cpu")["mask"][0] for row in others])
    assert (mask != batch["mask"]).flatten(1).any(1).all()
    drawn = model.infer(model.codes(batch["row"]), mask, *model.noise(batch["pair"])).images[-1]
    inside, area = leakage(images, drawn, batch["mask"], mask)
    torch.testing.assert_close(measures.kept["inside"][0], inside, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(measures.kept["area"][0], area)
    assert 0 < scored["numbers"]["mask_leakage_inside"] < 1
    assert 0 < scored["numbers"]["mask_leakage_area"] < 1
    assert measures.protocol()["other_masks"] == 24
    labels = data.records.labels[scored["rows"][measures.controlled]]
    assert 6 < (labels == labels[0]).sum() < 18  # of both test classes
    assert len(set(scored["rows"][measures.controlled])) == 24


def test_colours_are_looked_for_where_the_given_mask_puts_the_parts(scored: dict[str, Any]) -> None:
    """Photos show the colours that their attributes name; an untrained generator does not, with any mask."""
    numbers = scored["numbers"]
    assert numbers["attribute_colour_match_real"] > 0.9
    assert numbers["attribute_colour_match"] < 0.5
    assert numbers["attribute_colour_match_other_mask"] < 0.5
    assert {"attribute_colour_match_wing", "attribute_colour_match_belly"} <= numbers.keys()
    assert all(match.all["body"] > 10 for match in scored["measures"].colours.values())


def test_captions_compete_with_captions_of_their_number(root: Path, data: ImageData) -> None:
    """A text model without masks and without files: three passes, captions 0, 1 and 2."""
    model = make_model(root, data, "text", False)
    measures = Measures(model=model, data=data, options=OPTIONS, files={})
    images, batches = run(measures, data, passes(data, 150))
    numbers, told = measures.compute(None), measures.protocol()
    rows, captions = (torch.cat([batch[name] for batch in batches]) for name in ("row", "caption"))
    assert captions.unique().tolist() == [0, 1, 2]
    x = to_uint8(torch.cat(images), rounding="floor").float() / 127.5 - 1
    labels, test, means = data.records.labels, torch.from_numpy(data.rows("test")), []
    assert model.encoders is not None
    for k in range(3):
        at = captions == k
        pool, own = model.codes(test, torch.full_like(test, k)).sent, model.codes(rows[at], captions[at]).sent
        sides = (labels[rows[at]], pool, labels[test])
        means += [
            r_precision(model.encoders.image(x[at])[1], own, *sides, draws=int(at.sum()), distractors=19, seed=k)[0]
        ]
    assert numbers["r_precision"] == pytest.approx(np.average(means, weights=[60, 60, 30]))
    assert numbers["r_precision_std"] == pytest.approx(np.std(means))
    absent = {name for name, value in numbers.items() if value is None}
    assert absent >= {"is@is_network", "attribute_auc", "mask_leakage_inside", "attribute_colour_match"}
    assert told["not_measured"][OF_MASKS] == "the model reads no masks"
    assert told["not_measured"].keys() == {"is", "attribute_auc", OF_MASKS}


def test_what_cannot_be_measured_says_why(root: Path, data: ImageData, files: dict[str, str | None]) -> None:
    model = make_model(root, data, "raw", True)
    denoised = read_denoised(str(files["denoised"]))
    Denoised(**vars(denoised) | {"keys": denoised.keys[::-1]}).write(root / "other.npz")
    params = {"features": "resnet101 trained on imagenet, weights 63fe2227"}  # of the same width, nothing else tells
    Denoised(**vars(denoised) | {"params": params}).write(root / "foreign.npz")
    few = OPTIONS | {"allow_few": False, "shuffled_masks": 0}
    for name, said in {"other": "is of other images", "foreign": "made with resnet101 trained on imagenet"}.items():
        measures = Measures(model=model, data=data, options=few, files=files | {"denoised": str(root / f"{name}.npz")})
        run(measures, data, passes(data, 16))
        numbers, why = measures.compute(None), measures.protocol()["not_measured"]
        assert numbers["attribute_auc"] is None
        assert said in why["attribute_auc"]
        assert numbers["is@alexnet_tiny-cub-test2"] is None
        assert "below 2,048 images" in why["is"]
        assert why[OF_MASKS] == "metrics.shuffled_masks=0"


def test_colour_histograms_need_no_file(root: Path, data: ImageData, files: dict[str, str | None]) -> None:
    """Drawn birds are denoised by their colours; features=null is enough to score with them, and not with a network."""
    model, denoised = make_model(root, data, "raw", False), read_denoised(str(files["denoised"]))
    weights = np.random.default_rng(0).normal(size=(312, Colours.width))
    made = {"weights": weights, "params": {"features": told_of(Colours())}}
    Denoised(**vars(denoised) | made).write(root / "colours.npz")
    for name, measured in {"colours.npz": True, "denoised.npz": False}.items():
        measures = Measures(model=model, data=data, options=OPTIONS, files={"denoised": str(root / name)})
        run(measures, data, passes(data, None))
        assert (measures.compute(None)["attribute_auc"] is not None) is measured
        assert (
            "no file of the network" in measures.protocol()["not_measured"].get("attribute_auc", "")
        ) is not measured
