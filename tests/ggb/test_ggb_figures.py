"""Pictures of people in other poses: which pose each drawing is of, whom poses are moved onto, what goes wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.data.module import ImageData
from common.data.poses import NAMED
from common.data.procedural.write_deepfashion import write_people
from common.data.readers.deepfashion import DeepFashion
from common.data.readers.fashion_csv import HEADER, write_joints
from common.data.readers.fashion_names import flat
from common.data.records import FRAME
from common.pictures import Figure, Request, Sheet
from ggb import figure_inputs, figures
from ggb.serving import PoseGAN
from ggb.skeletons import DRAWN, between, onto, trunk, walk
from tests.worlds.layouts import refusal
from tests.worlds.tiny_pairs import S, make, make_pg2

NECK, LEFT, RIGHT = NAMED["neck"], NAMED["left wrist"], NAMED["right wrist"]


def asked(**more: Any) -> Request:
    """A request with seed 5, three of each and four steps."""
    settings = {"other": more.pop("other", None)}
    return Request(**{"n": 3, "steps": 4, "seed": 5, "settings": settings} | more)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    folder = tmp_path_factory.mktemp("people")
    write_people(folder / "drawn", images=72, identities=18, side=S, seed=0, workers=0)
    return ImageData(
        dataset=DeepFashion(root=folder / "drawn"),
        image_size=S,
        batch_size=2,
        load_ratio=1.0,
        reads=["image", "target", "joints"],
        store=folder / "store",
    )


def visible(model: PoseGAN) -> PoseGAN:
    """Random weights large enough that a pose is seen in eight bits."""
    torch.manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> PoseGAN:
    return visible(make())


def key_of(data: ImageData, place: int = 0) -> str:
    return data.records.keys[data.pose_pairs("test")[place, 0]]


def joints_of(data: ImageData, key: str) -> np.ndarray:
    return data.records.joints[data.records.keys.index(key)].astype(np.int64)


def mine(model: PoseGAN, data: ImageData, key: str, joints: np.ndarray) -> torch.Tensor:
    """The model's own drawing of a photo in a pose of the frame of 256."""
    batch = data.move(next(iter(data.eval_loader(rows=np.array([data.records.keys.index(key)])))), "cpu")
    pixels = np.where(joints < 0, -1, (joints + 0.5) * S // FRAME).astype(np.int64)
    return model.x_hat(batch["image"], torch.from_numpy(pixels)[None])[0]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4)


# ---- poses that no photo shows


def test_drawn_poses_show_what_they_are_called() -> None:
    assert all(joints.shape == (18, 2) and joints[NECK].min() >= 0 for joints in DRAWN.values())
    assert all(joints.max() < FRAME for joints in DRAWN.values())
    assert len({joints.tobytes() for joints in DRAWN.values()}) == len(DRAWN)
    stand, back = DRAWN["stand"], DRAWN["back"]
    assert stand[RIGHT, 0] < stand[NECK, 0] < stand[LEFT, 0]  # their right is at our left
    assert back[LEFT, 0] < back[NECK, 0] < back[RIGHT, 0]
    assert (back[NAMED["nose"]] < 0).all()
    assert DRAWN["wave"][RIGHT, 1] < DRAWN["wave"][NECK, 1] < DRAWN["wave"][LEFT, 1]
    assert DRAWN["sit"][NECK, 1] > stand[NECK, 1] + 10


def test_a_walk_is_a_period_in_which_either_foot_comes_first() -> None:
    frames = walk(8)
    ahead = frames[:, NAMED["right ankle"], 0] - frames[:, NAMED["left ankle"], 0]
    assert ahead.max() > 10
    assert ahead.min() < -10
    assert (np.abs(np.diff(frames[:, NECK], axis=0)) <= 5).all()
    assert np.array_equal(walk(4), frames[::2])


def test_joints_move_in_straight_lines() -> None:
    a, b = DRAWN["stand"].copy(), DRAWN["wave"].copy()
    a[0], b[1] = -1, -1
    first, *middle, last = between(np.stack([a, b]), 5)
    assert np.array_equal(first, a)
    assert np.array_equal(last, b)
    assert np.array_equal(middle[1][RIGHT], np.rint((a[RIGHT] + b[RIGHT]) / 2))
    assert [tuple(frame[0]) for frame in middle] == [(-1, -1), tuple(b[0]), tuple(b[0])]
    assert [tuple(frame[1]) for frame in middle] == [tuple(a[1]), (-1, -1), (-1, -1)]
    three = between(np.stack([a, b, a]), 5)
    assert np.array_equal(three[2], b)
    assert np.array_equal(three[4], a)


def test_poses_are_moved_onto_a_person() -> None:
    person = DRAWN["stand"] // 2 + np.array((20, 60))
    frames = walk(6)
    moved = onto(frames, person)
    assert np.abs(moved[0, NECK] - person[NECK]).max() <= 1
    lengths = [np.median([trunk(pose) for pose in poses]) for poses in (moved, frames)]
    assert abs(lengths[0] - trunk(person)) < 2
    assert lengths[1] > 1.5 * lengths[0]
    assert np.array_equal(onto(frames, None), frames)
    headless = person.copy()
    headless[NECK] = -1
    assert np.array_equal(onto(frames, headless), frames)
    low = onto(frames, person + np.array((0, 100)))  # the feet leave the frame
    assert (low[:, NAMED["left ankle"]] == -1).all()
    assert low.max() < FRAME


# ---- poses by name


def test_a_pose_by_photo_by_line_and_by_word(data: ImageData, tmp_path: Path) -> None:
    key, clip = key_of(data), tmp_path / "clip.csv"
    write_joints(clip, {"me dancing": DRAWN["wave"], flat(key): DRAWN["sit"]})
    for name in (key, flat(key), f"{key}.jpg"):
        found = figure_inputs.pose(name, data)
        assert (found.name, found.free) == (key, False)
        assert np.array_equal(found.joints, joints_of(data, key))
    for name, word in (("me dancing", "wave"), (flat(key), "sit"), (key, "sit")):
        found = figure_inputs.pose(f"{clip}:{name}", data)
        assert np.array_equal(found.joints, DRAWN[word])
        assert not found.free
    assert figure_inputs.pose("walk", data).free


def test_the_frame_of_a_file_is_taken_for_256_unless_it_says_otherwise(data: ImageData, tmp_path: Path) -> None:
    """One pose alone says nothing of how wide its frame is."""
    narrow, reader = np.minimum(DRAWN["stand"], 150), data.dataset
    for name, frame, x in (("a.csv", "auto", 0), ("fasion-resize.csv", "auto", 40), ("b.csv", "crop176", 40)):
        write_joints(tmp_path / name, {"one": narrow})
        people = DeepFashion(root=reader.root, annotation_frame=frame)  # type: ignore[attr-defined]
        found = figure_inputs.pose(
            f"{tmp_path / name}:one", ImageData(dataset=people, image_size=S, batch_size=2)
        ).joints
        assert found[NECK, 0] == narrow[NECK, 0] + x


# ---- task=sample


def test_a_sample_is_each_photo_in_each_pose(model: PoseGAN, data: ImageData, tmp_path: Path) -> None:
    key, file, clip = key_of(data), tmp_path / "me.png", tmp_path / "clip.csv"
    target = data.records.keys[data.pose_pairs("test")[0, 1]]
    Image.new("RGB", (90, 70), (200, 30, 30)).save(file)
    write_joints(clip, {"x1": DRAWN["wave"]})
    texts = [target, f"{clip}:x1", "sit"]
    sheet = model.respond(data, asked(every=True, images=[key, str(file)], texts=texts))
    assert list(sheet.columns) == ["x", "c", "y", "x-hat"]
    assert sheet.generated == ["x-hat"]
    rows = [(row["image"], row["pose"]) for row in sheet.facts["rows"]]
    assert rows == [(who, text) for who in (key, str(file)) for text in texts]
    poses = [joints_of(data, target), DRAWN["wave"], onto(DRAWN["sit"][None], joints_of(data, key))[0]]
    for drawn, joints in zip(sheet.columns["x-hat"], poses, strict=False):
        assert same(drawn, mine(model, data, key, joints))
    alone = model.respond(data, asked(images=[key], texts=["sit"]))
    assert same(alone.columns["x-hat"][0], sheet.columns["x-hat"][2])


def test_a_users_own_photo_needs_no_data_set(model: PoseGAN, tmp_path: Path) -> None:
    file = tmp_path / "me.png"
    Image.new("RGB", (90, 70), (200, 30, 30)).save(file)
    nowhere = ImageData(dataset=DeepFashion(root=tmp_path), image_size=S, batch_size=2, load_ratio=1.0)
    sheet = model.respond(nowhere, asked(images=[str(file)], texts=["wave"]))
    assert sheet.columns["x-hat"][0].shape == (3, S, S)


# ---- task=figure


@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [
        ("grid", ["x", "c", "y", "x-hat"], 3),
        ("compare", ["x", "c", "y", "3 GGBs"], 3),
        ("multires", ["x-hat^4", "x-hat^5", "x-hat^6", "x-hat"], 6),
        ("swap", ["photo", "pose 1", "pose 2"], 3),
        ("walk", ["photo", "frame 1", "frame 2", "frame 3", "frame 4"], 2),
    ],
)
def test_a_figure_of_test_photos_says_what_it_shows(
    model: PoseGAN, data: ImageData, name: str, columns: list[str], rows: int
) -> None:
    draw: Figure = getattr(figures, name)
    request = asked(n=2 if name == "swap" else 3)
    sheet = draw(model, data, request)
    assert list(sheet.columns) == columns
    assert len(sheet.above) == rows == len(sheet.columns[columns[0]])
    test = {data.records.keys[row] for row in data.rows("test")}
    assert set(sheet.facts["images"]) <= test
    assert sheet.facts == draw(model, data, request).facts
    changed = {"multires": ["x-hat_1", "x-hat"], "compare": ["x", "c", "y", "PG2"]}
    assert list(draw(make_pg2().eval(), data, request).columns) == changed.get(name, columns)


def test_a_pair_is_drawn_as_evaluation_draws_it(model: PoseGAN, data: ImageData) -> None:
    drawn = figures.grid(model, data, asked())
    keys = data.records.keys
    pairs = [(keys.index(a), keys.index(b)) for a, b in zip(drawn.facts["images"], drawn.facts["poses"], strict=True)]
    assert {tuple(pair) for pair in data.pose_pairs("test").tolist()} >= set(pairs)
    batch = data.move(next(iter(data.pose_pair_loader("test", 3, np.array(pairs)))), "cpu")
    for k in range(3):
        assert torch.equal(drawn.columns["x"][k], batch["image"][k])
        assert torch.equal(drawn.columns["y"][k], batch["target"][k])
        assert same(drawn.columns["x-hat"][k], model.sample(batch)[k])
    assert same(drawn.columns["c"][0], model.grid(batch)["c"][0])
    assert len({data.records.identities[a] for a, _ in pairs}) == 3


def test_compare_shows_the_hardest_pairs(model: PoseGAN, data: ImageData) -> None:
    pairs = data.pose_pairs("test")
    source, target = (torch.from_numpy(data.records.joints[pairs[:, k]].astype(np.int64)) for k in (0, 1))
    far = pairs[int(figure_inputs.distance(source, target).argmax())]
    drawn = figures.compare(model, data, asked())
    assert drawn.facts["images"][0] == data.records.keys[far[0]]
    assert drawn.facts["poses"][0] == data.records.keys[far[1]]


def test_no_truth_is_shown_where_there_is_none(model: PoseGAN, data: ImageData) -> None:
    source, target = data.pose_pairs("test")[0]
    identities = data.records.identities
    stranger = next(int(row) for row in data.rows("test") if identities[row] != identities[source])
    keys = [data.records.keys[row] for row in (source, target, stranger)]
    drawn = figures.grid(model, data, asked(images=[keys[0]], texts=[keys[1], keys[2], "sit"]))
    true = drawn.columns["y"]
    assert not (true[0] == 1).all()
    assert (true[1] == 1).all()
    assert (true[2] == 1).all()
    assert "y" not in figures.grid(model, data, asked(images=[keys[0]], texts=["sit"])).columns
    alone = figures.grid(model, data, asked(images=[keys[0]]))  # another photo of the same person
    row = data.records.keys.index(alone.facts["poses"][0])
    assert identities[row] == identities[source] != identities[stranger]
    assert row != source


def test_a_swap_has_each_person_in_a_row_and_each_pose_in_a_column(model: PoseGAN, data: ImageData) -> None:
    drawn = figures.swap(model, data, asked())
    keys = drawn.facts["images"]
    assert len({data.records.identities[data.records.keys.index(key)] for key in keys}) == 3
    inside = slice(4, -4)
    for row, who in enumerate(keys):
        for k, shown in enumerate(keys):
            cell = drawn.columns[f"pose {k + 1}"][row + 1]
            expected = mine(model, data, who, joints_of(data, shown))
            assert same(cell[:, inside, inside], expected[:, inside, inside])
            assert same(cell, expected) == (who != shown)  # the diagonal is framed
    named = figures.swap(model, data, asked(images=keys[:2], texts=["sit", keys[1]]))
    assert same(named.columns["pose 2"][1], mine(model, data, keys[0], joints_of(data, keys[1])))
    assert not same(named.columns["pose 2"][2], mine(model, data, keys[1], joints_of(data, keys[1])))


def frames_of(drawn: Sheet, row: int = 1) -> list[torch.Tensor]:
    return [images[row] for name, images in drawn.columns.items() if name != "photo"]


def test_a_walk_of_each_kind(model: PoseGAN, data: ImageData, tmp_path: Path) -> None:
    a, b = (data.records.keys[row] for row in data.pose_pairs("test")[0])
    plain = figures.walk(model, data, asked(images=[a]))
    own = joints_of(data, a)
    for frame, joints in zip(frames_of(plain), onto(walk(4), own), strict=True):
        assert same(frame, mine(model, data, a, joints))
    path = figures.walk(model, data, asked(images=[a], texts=[a, b]))
    assert same(frames_of(path)[0], mine(model, data, a, own))
    assert same(frames_of(path)[-1], mine(model, data, a, joints_of(data, b)))
    middle = between(np.stack([own, joints_of(data, b)]), 4)[1]
    assert same(frames_of(path)[1], mine(model, data, a, middle))
    clip, nobody = tmp_path / "clip.csv", np.full((18, 2), -1)
    write_joints(clip, {"f0": nobody} | {f"f{k}": joints for k, joints in enumerate(walk(7), 1)})
    told = figures.walk(model, data, asked(images=[a], texts=[str(clip)]))
    shown = onto(walk(7)[[0, 2, 4, 6]], own)
    for frame, joints in zip(frames_of(told), shown, strict=True):
        assert same(frame, mine(model, data, a, joints))


def test_a_walk_moves(model: PoseGAN, data: ImageData) -> None:
    sheet = figures.walk(model, data, asked(images=[key_of(data), key_of(data, -1)]))
    assert len(sheet.above) == 4
    assert sheet.moving == [f"frame {k}" for k in range(1, 5)]


def test_methods_side_by_side(model: PoseGAN, data: ImageData, tmp_path: Path) -> None:
    others = {"PG2": make_pg2(), "w/o GGBs": make(levels=[]), "1 GGB": make(levels=[6]), "2 GGBs": make(levels=[5, 6])}
    others |= {"w/o RAPD": make(rapd=False), "w/o NVTD": make(nvtd=False), "no critics": make(multirec=True)}
    others |= {
        "3 GGBs, D sees x, c": make(d_cond="xc"),
        "3 GGBs, stale, random E": make(g_update="stale", e_trainable=False),
    }
    others["2 GGBs #2"] = visible(make(levels=[4, 5]))
    files = []
    for k, other in enumerate(others.values()):
        files.append(str(tmp_path / f"{k}.pt"))
        torch.save(other.eval().export(), files[-1])
    drawn = figures.compare(model, data, asked(other=files, n=1))
    assert list(drawn.columns) == ["x", "c", "y", *others, "3 GGBs"]
    assert drawn.facts["other"] == dict(zip(others, files, strict=True))
    who, where = drawn.facts["images"][0], joints_of(data, drawn.facts["poses"][0])
    for name, other in others.items():
        assert same(drawn.columns[name][0], mine(other, data, who, where))
    assert not same(drawn.columns["2 GGBs #2"][0], drawn.columns["3 GGBs"][0])


def test_critics_of_a_checkpoint(data: ImageData) -> None:
    model = make().eval()
    with torch.no_grad():  # RAPD says 0 of all, NVTD of level 6 says yes
        for block in model.discriminator_ggb.values():
            for critic in (block.Da, block.Dv):
                critic.layers[-1].weight.zero_()
        model.discriminator_ggb["6"].Dv.layers[-1].bias.fill_(9)
    drawn = figures.critics(model, data, asked(n=2))
    judged = [f"{name} of {what}" for name in ("D_a", "D_v") for what in ("y", "x-hat")]
    assert list(drawn.columns) == ["y^n", "x-hat^n", *judged]
    assert [image.shape[-1] for image in drawn.columns["y^n"]] == [8, 8, 16, 16, 32, 32]
    assert all(image.abs().max() < 1e-6 for image in drawn.columns["D_a of y"])
    assert drawn.columns["D_v of x-hat"][3].abs().max() < 1e-6
    assert drawn.columns["D_v of x-hat"][4].min() > 0.99


# ---- what goes wrong


def test_what_cannot_be_drawn_is_a_sentence(model: PoseGAN, data: ImageData, tmp_path: Path) -> None:
    key, file, clip = key_of(data), tmp_path / "me.png", tmp_path / "clip.csv"
    Image.new("RGB", (90, 70)).save(file)
    write_joints(clip, {"one": DRAWN["sit"], "nobody": np.full((18, 2), -1)})
    short, empty = tmp_path / "short.csv", tmp_path / "empty.csv"
    write_joints(empty, {"nobody": np.full((18, 2), -1)})
    write_joints(hollow := tmp_path / "hollow.csv", {})
    short.write_text(f"{HEADER}\none: {list(range(17))}: {list(range(18))}\n")
    ok: dict[str, Any] = {"every": True, "images": [key], "texts": ["sit"]}
    for change, words in (
        ({"images": []}, "image=PHOTO"),
        ({"texts": []}, "FILE.csv:NAME"),
        ({"images": [key[:-1]]}, f"nearest is {key}"),
        ({"texts": ["wlak"]}, "nor a photo of deepfashion: the nearest is walk"),
        ({"texts": [key[:-1]]}, f"nearest is {key}"),
        ({"texts": [str(file)]}, "prepare=poses"),
        ({"texts": [str(clip)]}, "clip.csv:NAME"),
        ({"texts": [f"{clip}:oen"]}, "nearest is one"),
        ({"texts": [f"{clip}:nobody"]}, "nobody was found"),
        ({"texts": [f"{short}:one"]}, "17 y and 18 x, not 18 each"),
        ({"texts": [f"{tmp_path}/none.csv:one"]}, "no file of key points"),
        ({"texts": [f"{hollow}:one"]}, "no line of key points"),
    ):
        assert words in refusal(lambda change=change: model.respond(data, asked(**ok | change))), change
    for name, change, words in (
        ("grid", {"images": [str(file)]}, "no other pose"),
        ("grid", {"images": [key] * 2, "texts": ["sit", "walk", "back"]}, "2 images and 3 texts"),
        ("swap", {"images": [str(file)]}, "say which poses"),
        ("walk", {"texts": ["sit"]}, "give two"),
        ("walk", {"texts": [str(empty)]}, "shows nobody"),
        ("compare", {"other": str(tmp_path / "no.pt")}, "no weights file"),
    ):
        draw: Figure = getattr(figures, name)
        assert words in refusal(lambda draw=draw, change=change: draw(model, data, asked(**change))), change
    assert "choose model=ggb" in refusal(lambda: figures.critics(make(levels=[]), data, asked()))
    strange = tmp_path / "strange.pt"
    torch.save({"kind": "vse", "config": {}}, strange)
    other = asked(other=str(strange))
    assert "no exported pose model" in refusal(lambda: figures.compare(model, data, other))
    torch.save(make(image_size=128).export(), strange)
    assert "draws at 128 px" in refusal(lambda: figures.compare(model, data, other))


def test_data_without_key_points_is_a_sentence(model: PoseGAN, tmp_path: Path) -> None:
    write_people(tmp_path / "drawn", images=16, identities=4, side=S, seed=0, workers=0)
    for path in (tmp_path / "drawn/deepfashion").glob("*annotation*.csv"):
        path.unlink()
    bare = ImageData(
        dataset=DeepFashion(root=tmp_path / "drawn"), image_size=S, batch_size=2, load_ratio=1.0, store=tmp_path / "s"
    )
    key = bare.records.keys[0]
    assert "task=prepare prepare=poses" in refusal(lambda: model.respond(bare, asked(images=[key], texts=[key])))
    assert model.respond(bare, asked(images=[key], texts=["sit"])).generated == ["x-hat"]
    assert "prepare=poses" in refusal(lambda: figures.grid(model, bare, asked()))
