"""The drawn stand-ins: same bytes from the same arguments, real layouts, a truth that the pictures bear out."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat

from common.data.geometry import fit
from common.data.procedural import attributes, birds, flowers
from common.data.procedural.colours import ANCHORS, ANCHORS_LAB, NAMES, nearest
from common.data.procedural.write_cub import write_birds
from common.data.procedural.write_oxford102 import write_flowers
from common.data.procedural.writing import pairs_of_colours
from common.data.readers.cub import CUB
from common.data.readers.oxford102 import Oxford102
from common.data.records import Records
from common.errors import UserError
from common.metrics.colour_match import ColourMatch, inner, named_colours

BIRDS = {"images": 100, "classes": 12, "side": 64, "seed": 3}
FLOWERS = {"images": 72, "classes": 9, "side": 64, "seed": 3}


@pytest.fixture(scope="module")
def bird_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "birds"
    write_birds(root, **BIRDS, workers=1)
    return root


@pytest.fixture(scope="module")
def flower_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn") / "flowers"
    write_flowers(root, **FLOWERS, workers=1)
    return root


@pytest.fixture(scope="module", params=["birds", "flowers"])
def drawn(request: pytest.FixtureRequest) -> tuple[Path, Records]:
    """The root and what the real reader finds in it."""
    root = request.getfixturevalue("bird_root" if request.param == "birds" else "flower_root")
    reader = (
        CUB(root=root, masks=True, attributes=True) if request.param == "birds" else Oxford102(root=root, masks=True)
    )
    return root, reader.read()


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def table(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def truth(root: Path) -> dict:
    return json.loads((root / "truth/truth.json").read_text())


def view(records: Records, row: int, size: int) -> torch.Tensor:
    """The test-time window of an image: 1,3,S,S in [-1, 1]."""
    photo = np.asarray(fit(Image.open(records.images[row]), round(size * 76 / 64)))
    top, left = ((side - size + 1) // 2 for side in photo.shape[:2])
    window = torch.tensor(photo[top : top + size, left : left + size].copy())
    return window.permute(2, 0, 1)[None].float() / 127.5 - 1


def test_same_bytes_from_any_number_of_processes(bird_root: Path, flower_root: Path, tmp_path: Path) -> None:
    write_birds(tmp_path / "birds", **BIRDS, workers=2)
    write_flowers(tmp_path / "flowers", **FLOWERS, workers=3)
    assert digest(tmp_path / "birds") == digest(bird_root)
    assert digest(tmp_path / "flowers") == digest(flower_root)
    write_birds(tmp_path / "other", **BIRDS | {"images": 12, "seed": 4}, workers=1)
    first = digest(tmp_path / "other")["CUB_200_2011/images.txt"]
    write_birds(tmp_path / "same", **BIRDS | {"images": 12}, workers=1)
    assert first != digest(tmp_path / "same")["CUB_200_2011/images.txt"]


def test_drawn_once_never_half_and_never_over_something_else(bird_root: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in bird_root.rglob("*")}
    write_birds(bird_root, **BIRDS)
    assert before == {path: path.stat().st_mtime_ns for path in bird_root.rglob("*")}
    with pytest.raises(UserError, match="something else"):
        write_birds(bird_root, **BIRDS | {"seed": 4})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/photo.jpg").write_text("precious")
    with pytest.raises(UserError, match="something else"):
        write_flowers(tmp_path / "mine", **FLOWERS)
    assert (tmp_path / "mine/photo.jpg").read_text() == "precious"
    for bad in ({"images": 11}, {"classes": 2}, {"side": 8}, {"label_noise": 1.0}):
        with pytest.raises(UserError):
            write_birds(tmp_path / "bad", **BIRDS | bad)
    (tmp_path / "cut.partial/CUB_200_2011").mkdir(parents=True)  # of a run that was killed
    write_flowers(tmp_path / "cut", images=3, classes=3, side=32, seed=0)
    assert not (tmp_path / "cut.partial").exists()
    assert not (tmp_path / "cut/CUB_200_2011").exists()


def test_cub_layout(bird_root: Path) -> None:
    cub, n, classes = bird_root / "CUB_200_2011", BIRDS["images"], BIRDS["classes"]
    names = [row[1] for row in table(cub / "images.txt")]
    class_dirs = [row[1] for row in table(cub / "classes.txt")]
    labels = [int(row[1]) for row in table(cub / "image_class_labels.txt")]
    for file in ("images", "image_class_labels", "bounding_boxes", "train_test_split"):
        assert [int(row[0]) for row in table(cub / f"{file}.txt")] == list(range(1, n + 1))
    assert [name.split("/")[0] for name in names] == [class_dirs[label - 1] for label in labels]
    assert sorted(set(labels)) == list(range(1, classes + 1))
    assert len({Path(name).stem for name in names}) == n  # captions are joined to images by this name alone
    for name, (_, x, y, w, h) in zip(names, table(cub / "bounding_boxes.txt"), strict=True):
        width, height = Image.open(cub / "images" / name).size
        assert min(width, height) == BIRDS["side"]
        votes = np.asarray(Image.open(bird_root / "segmentations" / Path(name).with_suffix(".png")))
        assert votes.shape == (height, width)
        assert set(np.unique(votes)) <= {0, 51, 102, 153, 204, 255}
        rows, columns = np.nonzero(votes >= 153)
        box = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert tuple(map(float, (x, y, w, h))) == box
        assert len((bird_root / "birds/text" / Path(name).with_suffix(".txt")).read_text().splitlines()) == 10


def test_colours_of_each_picture_leave_the_species_its_build(tmp_path: Path, bird_root: Path) -> None:
    few = BIRDS | {"images": 48, "classes": 4}
    write_birds(tmp_path / "own", **few, colours="picture", workers=1)
    keys = list(truth(tmp_path / "own")["images"])
    colours = list(truth(tmp_path / "own")["images"].values())
    assert len({tuple(own.values()) for own in colours}) == 48
    assert all(key.split("/")[0].count("_") == 0 for key in keys)  # 001.Finch: no class is named by a colour
    drawn_shapes = np.load(tmp_path / "own/truth/attributes.npz")
    shape = np.array(["shape::" in name or "bill_length" in name for name in drawn_shapes["names"]])
    labels = np.array([int(key[:3]) for key in keys])
    for label in set(labels):
        assert (
            drawn_shapes["true"][labels == label][:, shape] == drawn_shapes["true"][labels == label][0, shape]
        ).all()
    said = CUB(root=tmp_path / "own").read()
    for key, own in zip(said.keys, said.captions, strict=True):
        assert all(named_colours(text).items() <= truth(tmp_path / "own")["images"][key].items() for text in own)
    of_class = {(key[:3], *own.values()) for key, own in truth(bird_root)["images"].items()}
    assert len(of_class) == BIRDS["classes"]  # as before where colours go with the species
    write_flowers(tmp_path / "flowers", **FLOWERS | {"images": 27}, colours="picture", workers=1)
    pairs = {tuple(own.values()) for own in truth(tmp_path / "flowers")["images"].values()}
    assert len(pairs) > FLOWERS["classes"]
    with pytest.raises(UserError, match=r"data\.procedural\.colours=bird .*picture"):
        write_birds(tmp_path / "bad", **few, colours="bird")


def test_of_one_shape_only_colours_differ(tmp_path: Path) -> None:
    few = BIRDS | {"images": 24, "classes": 4}
    write_birds(tmp_path / "birds", **few, colours="picture", shapes="one", workers=1)
    told = np.load(tmp_path / "birds/truth/attributes.npz")
    built = np.array(["color" not in name and "pattern" not in name for name in told["names"]])
    assert (told["true"][:, built] == told["true"][0, built]).all()
    assert len({tuple(own.values()) for own in truth(tmp_path / "birds")["images"].values()}) == 24
    heads = []
    for path in sorted((tmp_path / "birds/truth/parts").rglob("*.png")):
        with Image.open(path) as file:
            parts = np.asarray(file)
        rows, columns = np.nonzero(parts == birds.PARTS.index("crown"))
        heads.append((columns.mean() / parts.shape[1], rows.mean() / parts.shape[0]))
    assert np.ptp(heads, axis=0).max() < 0.25  # each looks to the left
    assert np.mean(heads, axis=0).max() < 0.5
    write_flowers(tmp_path / "flowers", **FLOWERS | {"images": 27}, shapes="one", workers=1)
    for root, write in ((tmp_path / "bad", write_birds), (tmp_path / "bad", write_flowers)):
        with pytest.raises(UserError, match=r"data\.procedural\.shapes=two .*one"):
            write(root, images=24, classes=4, side=32, seed=0, shapes="two")


def test_split_is_by_class_and_its_pairs_of_colours_are_new(bird_root: Path) -> None:
    keys, numbers = ({part: pickle.loads((bird_root / "birds" / part / f"{file}.pickle").read_bytes())
                      for part in ("train", "test")} for file in ("filenames", "class_info"))  # fmt: skip
    assert len(keys["train"]) + len(keys["test"]) == BIRDS["images"]
    assert len(set(numbers["train"])) == 9
    assert len(set(numbers["test"])) == 3
    assert not set(numbers["train"]) & set(numbers["test"])
    assert all(int(key[:3]) == number for part in keys for key, number in zip(keys[part], numbers[part], strict=True))
    colours = truth(bird_root)["images"]
    pairs = {part: {(colours[key]["body"], colours[key]["wing"]) for key in keys[part]} for part in keys}
    assert not pairs["train"] & pairs["test"]
    assert len(pairs["train"] | pairs["test"]) == 12
    for body, wing in pairs["test"]:
        assert body in {a for a, _ in pairs["train"]}
        assert wing in {b for _, b in pairs["train"]}


@pytest.mark.parametrize("train", [2, 3, 5, 15, 76, 150])
def test_pairs_of_colours(train: int) -> None:
    for first, second in ((NAMES, NAMES), (flowers.PETAL_COLOURS, flowers.CENTRE_COLOURS)):
        for seed in range(5):
            test = max(1, train // 3)
            if test > len(first) * len(second) // 2:
                continue
            known, unseen = pairs_of_colours(first, second, train, test, np.random.default_rng(seed))
            assert (len(known), len(unseen), len(set(unseen))) == (train, test, test)
            assert not set(known) & set(unseen)
            assert {a for a, _ in unseen} <= {a for a, _ in known}
            assert {b for _, b in unseen} <= {b for _, b in known}
            if train + test <= len(first):
                assert len(set(known)) == train
            if train == 15:
                both = [(a, b) for i, a in enumerate(known) for b in known[:i]]
                assert np.mean([a[0] != b[0] and a[1] != b[1] for a, b in both]) > 0.6  # most differ in both


def test_oxford_layout(flower_root: Path) -> None:
    n, classes = FLOWERS["images"], FLOWERS["classes"]
    labels = loadmat(flower_root / "oxford102/imagelabels.mat")["labels"]
    assert labels.shape == (1, n)
    assert set(labels[0]) == set(range(1, classes + 1))
    setid = loadmat(flower_root / "oxford102/setid.mat")
    assert sorted(np.concatenate([setid[k][0] for k in ("trnid", "valid", "tstid")])) == list(range(1, n + 1))
    for id, label in enumerate(labels[0], 1):
        photo = Image.open(flower_root / f"oxford102/jpg/image_{id:05d}.jpg")
        assert Image.open(flower_root / f"oxford102/segmim/segmim_{id:05d}.jpg").size == photo.size
        text = flower_root / f"cvpr2016_flowers/text_c10/class_{label:05d}/image_{id:05d}.txt"
        assert len(text.read_text().splitlines()) == 10
    lists = {k: table(flower_root / f"cvpr2016_flowers/{k}classes.txt") for k in ("all", "trainval", "test")}
    assert sorted(lists["trainval"] + lists["test"]) == lists["all"]
    assert (len(lists["trainval"]), len(lists["test"])) == (7, 2)


def test_real_readers_read_them(drawn: tuple[Path, Records]) -> None:
    root, records = drawn
    expected = BIRDS if records.name == "cub" else FLOWERS
    assert records.procedural
    assert len(records) == expected["images"]
    assert not records.notes
    assert not set(records.labels[records.test]) & set(records.labels[~records.test])
    assert 0.1 < records.test.mean() < 0.4
    assert all(len(own) == 10 for own in records.captions)
    assert set(truth(root)["images"]) == set(records.keys)


def test_masks_and_maps_of_parts_agree(drawn: tuple[Path, Records]) -> None:
    root, records = drawn
    for key, image, mask in zip(records.keys, records.images, records.masks, strict=True):
        assert records.read_mask is not None
        parts = np.asarray(Image.open(root / f"truth/parts/{key}.png"))
        foreground = parts > 0 if records.name == "cub" else (parts == flowers.PETALS) | (parts == flowers.CENTRE)
        read = records.read_mask(mask, np.asarray(Image.open(image))) > 0
        assert (foreground & read).sum() / (foreground | read).sum() > 0.8
        assert 0.04 < read.mean() < 0.6
        margin = read.copy()  # nothing of the animal is lost to the test-time crop of 64 out of 76
        margin[5:-5, 5:-5] = False
        assert not margin.any()


def test_parts_have_the_colours_of_the_truth(drawn: tuple[Path, Records]) -> None:
    root, records = drawn
    known = truth(root)
    assert {name: tuple(rgb) for name, rgb in known["anchors"].items()} == ANCHORS
    names = ("body", "wing", "belly", "crown", "petals", "centre")
    checked = 0
    for key, image in zip(records.keys, records.images, strict=True):
        parts = np.asarray(Image.open(root / f"truth/parts/{key}.png"))
        for part in set(names) & set(known["parts"]):
            inside = inner(parts == known["parts"].index(part))
            if inside.sum() >= 20:
                mean = np.asarray(Image.open(image), float)[inside].mean(0)
                assert NAMES[int(nearest(mean))] == known["images"][key][part], (key, part)
                checked += 1
    assert checked > 1.5 * len(records)


def test_anchors_are_far_apart() -> None:
    distance = np.linalg.norm(ANCHORS_LAB[:, None] - ANCHORS_LAB, axis=-1)
    assert distance[~np.eye(len(NAMES), dtype=bool)].min() > 30
    assert (nearest(np.array(list(ANCHORS.values()))) == np.arange(len(NAMES))).all()


def test_every_caption_says_what_is_true(drawn: tuple[Path, Records]) -> None:
    root, records = drawn
    colours, whole, second = (
        truth(root)["images"],
        *(("body", "wing") if records.name == "cub" else ("petals", "centre")),
    )
    said = [
        (key, text, named_colours(text))
        for key, own in zip(records.keys, records.captions, strict=True)
        for text in own
    ]
    for key, text, named in said:
        assert named.items() <= colours[key].items(), text
        assert whole in named, text
    assert np.mean([second in named for _, _, named in said]) > 0.7
    if records.name == "cub":
        assert np.mean([len(named) > 2 for _, _, named in said]) > 0.3  # other parts too
    assert len({text for _, text, _ in said}) > 0.3 * len(said)  # people do not all say the same


@pytest.mark.parametrize(
    ("sentence", "named"),
    [
        ("this bird is red with white wings and a short black bill", {"body": "red", "wing": "white", "bill": "black"}),
        ("a small red bird with white wings", {"body": "red", "wing": "white"}),
        ("the wings are gray and the belly is white", {"wing": "grey", "belly": "white"}),
        ("a bird with black and white wings and a red crown.", {"crown": "red"}),
        ("this is a grey brown bird with rufous wings", {}),
        ("this flower has bright pink petals with a yellow centre", {"petals": "pink", "centre": "yellow"}),
        ("petals that are violet, and orange stamen", {"petals": "purple"}),
        ("The wings of the bird are Tan, its body is blue", {"wing": "buff", "body": "blue"}),
        ("this bird has wings and tail that are orange, red feet", {"tail": "orange", "leg": "red"}),
        ("green", {}),
        ("", {}),
    ],
)
def test_named_colours(sentence: str, named: dict[str, str]) -> None:
    assert named_colours(sentence) == named


def test_colour_match_of_own_and_of_other_captions(drawn: tuple[Path, Records]) -> None:
    _, records = drawn
    own, other, grey = ColourMatch(records), ColourMatch(records), ColourMatch(records)
    rng = np.random.default_rng(0)
    for row in range(len(records)):
        image, at = view(records, row, 64), torch.tensor([row])
        far = rng.choice(np.flatnonzero(records.labels != records.labels[row]))
        own.update(image.expand(10, -1, -1, -1), at.expand(10), records.captions[row])
        other.update(image, at, [records.captions[far][int(rng.integers(10))]])
        grey.update(torch.full_like(image, 135 / 127.5 - 1), at, [records.captions[row][0]])
    assert own.compute()["colour_match"] > 0.97
    assert own.compute()["n"] > 10 * len(records)
    first = "colour_match_body" if records.name == "cub" else "colour_match_petals"
    assert own.compute()[first] > 0.99
    assert other.compute()[first] < 0.4
    assert other.compute()["colour_match"] < 0.4
    assert grey.compute()["colour_match"] < 0.2


def test_colour_match_looks_at_the_part(bird_root: Path) -> None:
    records = CUB(root=bird_root).read()
    metric, row = ColourMatch(records), 0
    wing = torch.from_numpy(metric.part_map(row, 64) == birds.WING)
    painted = view(records, row, 64)
    painted[0, :, wing] = torch.tensor(ANCHORS["orange"])[:, None] / 127.5 - 1
    body = truth(bird_root)["images"][records.keys[row]]["body"]
    metric.update(painted, torch.tensor([row]), [f"a {body} bird with orange wings"])
    found = metric.compute()
    assert found.pop("colour_distance") < 10  # shading and JPEG
    assert found == {"colour_match": 1.0, "colour_match_body": 1.0, "colour_match_wing": 1.0, "n": 2}
    metric.update(painted, torch.tensor([row]), ["a bird with green wings"])
    assert metric.compute()["colour_match_wing"] == 0.5
    assert metric.compute()["colour_distance"] > 20  # orange is far from green


def test_colour_match_needs_the_truth(tmp_path: Path, bird_root: Path) -> None:
    records = CUB(root=bird_root).read()
    with pytest.raises(UserError, match="procedural"):
        ColourMatch(Records(**{**vars(records), "root": tmp_path / "a/b/c"}))


def test_attribute_names_and_labels(bird_root: Path) -> None:
    n = BIRDS["images"]
    names = table(bird_root / "attributes.txt")
    assert [row[0] for row in names] == [str(k) for k in range(1, 313)]
    spelt = {10: "wing_color::blue", 23: "wing_color::red", 136: "eye_color::blue", 246: "belly_pattern::spotted"}
    spelt |= {223: "shape::upright-perching_water-like", 306: "crown_color::white", 312: "wing_pattern::multi-colored"}
    assert {k: names[k - 1][1] for k in spelt} == {k: f"has_{name}" for k, name in spelt.items()}
    assert (len(attributes.GROUPS), len(attributes.NAMES)) == (28, 312)
    rows = np.array(table(bird_root / "CUB_200_2011/attributes/image_attribute_labels.txt"), float)
    assert (rows[:, 0] == np.repeat(np.arange(1, n + 1), 312)).all()
    assert (rows[:, 1] == np.tile(np.arange(1, 313), n)).all()
    made = np.load(bird_root / "truth/attributes.npz")
    assert (rows[:, 2].reshape(n, 312) == made["labelled"]).all()
    assert set(rows[:, 3]) == {1, 2, 3, 4}
    assert ((rows[:, 3].reshape(n, 312) == 1) == ~made["visible"]).all()
    classes = np.loadtxt(bird_root / "CUB_200_2011/attributes/class_attribute_labels_continuous.txt")
    labels = np.array(table(bird_root / "CUB_200_2011/image_class_labels.txt"), int)[:, 1]
    np.testing.assert_allclose(classes[2], 100 * made["labelled"][labels == 3].mean(0), rtol=1e-9)


def test_true_attributes_are_those_of_the_drawing(bird_root: Path) -> None:
    made, colours = np.load(bird_root / "truth/attributes.npz"), list(truth(bird_root)["images"].values())
    of = {name: column for name, column in zip(made["names"].tolist(), made["true"].T, strict=True)}
    for part, group in (
        ("wing", "wing_color"),
        ("body", "primary_color"),
        ("crown", "crown_color"),
        ("belly", "belly_color"),
    ):
        for name in NAMES:
            assert (of[f"has_{group}::{name}"] == [own[part] == name for own in colours]).all()
    assert (made["true"].sum(1) >= 27).all()
    assert not of["has_wing_color::iridescent"].any()


def test_share_of_wrong_labels_is_as_asked() -> None:
    rng = np.random.default_rng(0)
    true = rng.random((2000, 5)) < (0.3, 0.1, 0.2, 0.02, 0.0)
    visible = rng.random((2000, 5)) < 0.9
    true &= visible
    labelled, certainty = attributes.with_noise(true, visible, 0.2, rng)
    for a in range(4):
        assert (labelled & ~true)[:, a].sum() / labelled[:, a].sum() == pytest.approx(0.2, abs=0.01)
        assert (true & ~labelled)[:, a].sum() / true[:, a].sum() == pytest.approx(0.05, abs=0.015)
    assert not labelled[:, 4].any()
    assert not labelled[~visible].any()
    assert ((certainty == 1) == ~visible).all()
    assert certainty[labelled & ~true].mean() < certainty[labelled & true].mean() - 0.3
    right, _ = attributes.with_noise(true, visible, 0.0, rng)
    assert (right == true).all()
