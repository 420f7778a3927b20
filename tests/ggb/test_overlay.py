"""Skeletons over photos: where a limb is its colour, elsewhere the photo; which photos; the command."""

import json
from pathlib import Path

import pytest
import torch

import run
from common.data.module import ImageData
from common.data.procedural.write_deepfashion import write_people
from common.data.readers.deepfashion import DeepFashion
from ggb.overlay import chosen, overlaid
from tests.worlds.layouts import refusal


def test_limbs_are_seen_and_the_rest_is_the_photo() -> None:
    photo = torch.full((1, 3, 64, 64), 0.25)
    joints = torch.full((1, 18, 2), -1)
    joints[0, 1], joints[0, 2] = torch.tensor([10, 20]), torch.tensor([50, 20])  # neck and right shoulder: red
    found = overlaid(photo, joints)
    assert torch.allclose(found[0, :, 20, 30], torch.tensor([1.0, -1.0, -1.0]))
    assert torch.equal(found[0, :, 40:], photo[0, :, 40:])
    assert found.min() >= -1
    assert found.max() <= 1
    assert torch.equal(overlaid(photo, torch.full((1, 18, 2), -1)), photo)


def test_photos_from_all_over_that_show_somebody(tmp_path: Path) -> None:
    write_people(root=tmp_path, images=40, identities=10, side=32, seed=0)
    data = ImageData(
        dataset=DeepFashion(root=tmp_path),
        image_size=32,
        batch_size=4,
        load_ratio=1.0,
        reads=["image", "joints"],
        store=str(tmp_path / "stores"),
        workers=0,
    )
    joints = data.records.joints
    assert joints is not None
    joints[:3] = -1
    rows = chosen(data, 5)
    assert len(rows) == 5
    assert rows[0] == 3
    assert rows[-1] == len(data.records) - 1
    assert len(chosen(data, 1000)) == len(data.records) - 3
    joints[:] = -1
    assert "prepare=poses" in refusal(lambda: chosen(data, 5))


def test_the_command_leaves_a_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = ["data=deepfashion", "preset=toy", "data.procedural.images=40", "data.procedural.identities=10"]
    words = ["task=prepare", "prepare=skeletons", *people, "prepare.photos=6", f"paths.artifacts={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["run.py", *words])
    assert run.main() == 0
    (sheet,) = tmp_path.glob("skeletons-*.png")
    told = json.loads(sheet.with_suffix(".json").read_text())
    assert len(told["photos"]) == len(told["missing_joints"]) == 6
