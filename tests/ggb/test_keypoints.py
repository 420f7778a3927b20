"""Key points by a network: what is made of its answers, whose photos they are of, where they are put."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection import keypointrcnn_resnet50_fpn

from common.data.poses import JOINTS, NAMED
from common.data.procedural.write_deepfashion import write_people
from common.data.readers.deepfashion import DeepFashion
from common.data.readers.fashion_csv import read_joints
from common.tasks.job import Job
from ggb.keypoints import COCO, WEIGHTS_FILE, estimate, load_network, own_photos, read_photo, to_joints, weights_file
from tests.worlds.layouts import refusal

LEAST = {"least_person": 0.7, "least_joint": 2.0}


def answer(scores: list[float], seed: int = 0) -> dict[str, Tensor]:
    """As the network gives it: persons in some places, all joints sure."""
    places = torch.rand(len(scores), 17, 3, generator=torch.Generator().manual_seed(seed)) * 250
    places[..., 2] = 1
    return {
        "scores": torch.tensor(scores),
        "keypoints": places,
        "keypoints_scores": torch.full((len(scores), 17), 5.0),
    }


def test_coco_joints_as_openpose_orders_them() -> None:
    """Sec. 4: 2 <- 6, 3 <- 8, 4 <- 10, 5 <- 5, 6 <- 7, 7 <- 9, 8 <- 12, ..., 17 <- 3; the neck between 5 and 6."""
    order = {0: 0, 2: 6, 3: 8, 4: 10, 5: 5, 6: 7, 7: 9, 8: 12, 9: 14, 10: 16, 11: 11, 12: 13, 13: 15}
    order |= {14: 2, 15: 1, 16: 4, 17: 3}
    found = answer([0.9])
    joints, points = to_joints(found, **LEAST), found["keypoints"][0, :, :2].numpy()
    assert joints.shape == (18, 2)
    for joint, coco in order.items():
        assert np.array_equal(joints[joint], np.rint(points[coco])), JOINTS[joint]
    assert np.array_equal(joints[1], np.rint((points[5] + points[6]) / 2))
    assert len(COCO) == 17


def test_the_best_person_alone() -> None:
    found = answer([0.75, 0.95, 0.8])
    best = {name: value[1:2] for name, value in found.items()}
    assert np.array_equal(to_joints(found, **LEAST), to_joints(best, **LEAST))
    for scores in ([0.69, 0.1], []):
        assert (to_joints(answer(scores), **LEAST) == -1).all()
    assert (to_joints(answer([0.7]), least_person=0.69, least_joint=2.0) >= 0).all()


def test_joints_that_are_unsure_or_outside_are_missing() -> None:
    found = answer([0.9])
    found["keypoints_scores"][0, COCO.index("left wrist")] = 1.9
    found["keypoints"][0, COCO.index("left shoulder"), 0] = 255.6  # rounds to 256
    found["keypoints"][0, COCO.index("nose"), 1] = -0.6
    found["keypoints"][0, COCO.index("left hip")] = torch.tensor([255.4, -0.4, 1.0])
    joints = to_joints(found, **LEAST)
    missing = {JOINTS[k] for k in np.flatnonzero((joints < 0).all(1))}
    assert missing == {"left wrist", "left shoulder", "nose", "neck"}
    assert (joints[[NAMED[name] for name in missing]] == -1).all()
    assert joints[NAMED["left hip"]].tolist() == [255, 0]


def test_photos_are_cut_as_test_images_are(tmp_path: Path) -> None:
    picture = Image.new("RGB", (128, 64), "red")
    picture.paste("blue", (32, 0, 96, 64))
    picture.save(tmp_path / "wide.png")
    seen = read_photo(tmp_path / "wide.png")
    assert seen.shape == (3, 256, 256)
    assert (seen[2, :, 4:-4] == 1).all()
    assert (seen[0, :, 4:-4] == 0).all()


# ---- the network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every weight the same number, so the file is small: somebody is everywhere, of score 0.5. Names as in
    torchvision's own file, which is older than its code."""
    with torch.device("meta"):
        state = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    old = {}
    for name, value in state.items():
        if not name.endswith("num_batches_tracked"):
            for block in ("inner_blocks", "layer_blocks"):
                for k in range(4):
                    name = name.replace(f"fpn.{block}.{k}.0.", f"fpn.{block}.{k}.")
            old[name.replace("head.conv.0.0.", "head.conv.")] = torch.full((), 1e-3).expand(value.shape)
    path = tmp_path_factory.mktemp("weights") / "keypoints.pth"
    torch.save(old, path)
    return path


def people(root: Path, *, bare: bool = True) -> DeepFashion:
    write_people(root, images=6, identities=3, side=64, seed=0, workers=0)
    for path in (root / "deepfashion").glob("*annotation*") if bare else ():
        path.unlink()
    return DeepFashion(root=root)


def settings(root: Path, weights: Path, **change: Any) -> dict[str, Any]:
    """The configuration of `task=prepare prepare=poses`, as run.py hands it over, but at 64 px."""
    reader = {"_target_": "common.data.readers.deepfashion.DeepFashion", "split": "auto"}
    data = {"name": "deepfashion", "source": "real", "root": str(root), "store": None, "reader": reader}
    data |= {"captions": "none", "allow_missing": False, "reads": ["image"], "image_size": 64, "batch_size": 8}
    data |= {
        "load_ratio": 1.0,
        "train_split": "train",
        "flip": False,
        "rotate_deg": 0.0,
        "bbox_crop": False,
        "squash": False,
    }
    data |= {"background": "white", "workers": 0}
    job = {"weights": str(weights), "photos": None, "least_person": 0.7, "least_joint": 2.0, "min_size": 64}
    paths = {"artifacts": str(root / "artifacts")}
    return {"data": data, "paths": paths, "prepare": job | change, "seed": 0, "trainer": {"accelerator": "cpu"}}


def test_key_points_of_a_data_set_are_put_where_its_reader_finds_them(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader, out = people(tmp_path / "drawn"), tmp_path / "poses.csv"
    before = reader.read()
    assert before.joints is None
    estimate(Job(settings(tmp_path / "drawn", weights, least_person=0.4), out))
    records = reader.read()
    table, frame = read_joints([out], "256")
    assert set(table) == set(records.keys)
    assert records.joints is not None
    for row, key in enumerate(records.keys):
        assert np.array_equal(records.joints[row], table[key])
    assert (records.joints >= 0).any()
    told = json.loads((records.root / "fasion-annotation-test.json").read_text())
    assert told == json.loads(out.with_suffix(".json").read_text())
    assert (told["weights"], told["photos"], told["least_person"], frame) == ("keypoints.pth", 6, 0.4, "256")
    lines = (records.root / "fasion-annotation-test.csv").read_text().splitlines()
    assert len(lines) - 1 == records.test.sum()

    again = (records.root / "fasion-annotation-train.csv").read_bytes()
    with caplog.at_level(logging.WARNING):  # those that are there are never replaced
        estimate(Job(settings(tmp_path / "drawn", weights), out))
    assert (records.root / "fasion-annotation-train.csv").read_bytes() == again
    assert all((joints == -1).all() for joints in read_joints([out], "256")[0].values())
    assert "6 of 6 photos show nobody" in caplog.text
    assert len(json.loads(out.with_suffix(".json").read_text())["nobody"]) == 6


def test_a_folder_of_photos_in_the_order_of_their_names(tmp_path: Path, weights: Path) -> None:
    for name in ("b.png", "a.jpg", "c.JPG"):
        Image.new("RGB", (40, 60)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("none")
    cfg = settings(tmp_path / "nowhere", weights, photos=str(tmp_path))
    estimate(Job(cfg, tmp_path / "out.csv"))
    assert [*read_joints([tmp_path / "out.csv"], "256", str.strip)[0]] == ["a.jpg", "b.png", "c.JPG"]
    (tmp_path / "b.png").write_bytes(b"no photo")
    assert "b.png cannot be read" in refusal(lambda: estimate(Job(cfg, tmp_path / "out.csv")))
    cfg["data"]["allow_missing"] = True
    estimate(Job(cfg, tmp_path / "out.csv"))
    assert len(read_joints([tmp_path / "out.csv"], "256", str.strip)[0]) == 3


def test_what_is_not_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    assert "prepare.weights=FILE" in refusal(lambda: weights_file(None))
    assert "none.pth" in refusal(lambda: weights_file(str(tmp_path / "none.pth")))
    own = tmp_path / "hub/checkpoints" / WEIGHTS_FILE
    own.parent.mkdir(parents=True)
    torch.save({"conv1.weight": torch.zeros(3)}, own)
    assert weights_file(None) == own
    assert WEIGHTS_FILE in refusal(lambda: load_network(own, 64))
    assert "is no folder" in refusal(lambda: own_photos(str(tmp_path / "none")))
    assert "name a folder of photos" in refusal(lambda: own_photos(str(tmp_path)))
    cfg = settings(tmp_path / "nowhere", tmp_path / "none.pth")  # said before any photo is looked for
    assert "none.pth" in refusal(lambda: estimate(Job(cfg, tmp_path / "out.csv")))
