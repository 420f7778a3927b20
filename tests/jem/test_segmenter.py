"""Mask R-CNN: built as torchvision builds COCO_V1 (number 1), what is made of its answers, fine-tuning."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.ops.misc import FrozenBatchNorm2d

from common.command import composed, plain
from common.errors import UserError
from common.tasks.job import Job, load_data
from jem import guidance
from jem.guidance import make_views
from jem.segmenter import (
    COCO_CLASSES,
    WEIGHTS_FILE,
    MaskRCNNTuning,
    Segmenter,
    instances_of,
    load_coco,
    load_segmenter,
    mask_rcnn,
    segmenter_file,
    targets,
)
from tests.jem.test_guidance import job, told
from tests.worlds.layouts import make_oxford102, refusal
from tests.worlds.settings import QUIET, settings


def test_number_1_parameters_of_section_2_6() -> None:
    with torch.device("meta"):
        found = [sum(p.numel() for p in mask_rcnn(classes).parameters()) for classes in (91, 2)]
        plain_norms = sum(p.numel() for p in maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).parameters())
    assert found == [44_401_393, 43_922_395]
    assert plain_norms == found[0] + 53_120


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of torchvision's layout with random weights, and statistics that are not those of a new network."""
    torch.manual_seed(0)
    net = mask_rcnn(COCO_CLASSES)
    for layer in net.modules():
        if isinstance(layer, FrozenBatchNorm2d):
            layer.running_var.uniform_(0.5, 2)  # type: ignore[operator]
    path = tmp_path_factory.mktemp("coco") / WEIGHTS_FILE
    torch.save(net.state_dict(), path)
    return path


def test_cocos_file_loads_with_frozen_statistics_of_eps_0(coco: Path, tmp_path: Path) -> None:
    net = load_coco(coco)
    norms = [layer for layer in net.backbone.modules() if isinstance(layer, FrozenBatchNorm2d)]
    assert len(norms) == 53
    assert {layer.eps for layer in norms} == {0.0}
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in net.modules())
    state = torch.load(coco, weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    del state["backbone.body.bn1.running_mean"]
    torch.save(state, tmp_path / "cut.pth")
    message = refusal(lambda: load_coco(tmp_path / "cut.pth"))
    assert str(tmp_path / "cut.pth") in message
    assert WEIGHTS_FILE in message
    torch.save({"kind": "vse", "format": 1}, tmp_path / "vse.pt")
    assert "vse" in refusal(lambda: load_segmenter(tmp_path / "vse.pt", 0.5, 10))


def answer(scores: list[float], labels: list[int], side: int = 40) -> dict[str, Tensor]:
    """As the network gives it: squares, the k-th with its corner at (2 k, 2 k) and 10 + k wide, half-soft around."""
    masks = torch.zeros(len(scores), 1, side, side)
    for k in range(len(scores)):
        masks[k, 0, 2 * k : 3 * k + 10, 2 * k : 3 * k + 10] = 0.9
        masks[k, 0, 3 * k + 10 : 3 * k + 12] = 0.49
    return {"scores": torch.tensor(scores), "labels": torch.tensor(labels, dtype=torch.int64), "masks": masks}


def test_plants_go_before_others_and_the_unsure_are_left_out() -> None:
    def areas(scores: list[float], labels: list[int], least: float = 0.5, most: int = 10) -> list[int]:
        found = instances_of(answer(scores, labels), least, most)
        return [int((found == k).sum()) for k in range(1, int(found.max()) + 1)]

    assert areas([0.9], [1]) == [100]
    assert areas([0.9, 0.5], [1, 64]) == [121]  # a potted plant
    assert areas([0.9, 0.5], [1, 86]) == [121]  # a vase
    assert areas([0.9, 0.49], [1, 64]) == [100]
    assert areas([0.4], [64]) == areas([], []) == []
    assert areas([0.9, 0.8, 0.95], [1, 2, 3], most=1) == [144]
    assert areas([0.9, 0.8], [1, 2]) == [121 - 64, 100]  # the larger is the first, and below where they overlap
    assert instances_of(answer([], []), 0.5, 10).shape == (40, 40)


def test_views_by_mask_rcnn_and_its_counted_fallback(
    coco: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights find nothing of a high score: each photo falls back on the data set's own mask, and is counted."""

    def small(*given: Any) -> Segmenter:
        segmenter = load_segmenter(*given)
        segmenter.net.transform.min_size = (64,)  # type: ignore[union-attr]
        return segmenter

    monkeypatch.setattr(guidance, "load_segmenter", small)
    make_oxford102(tmp_path / "data", labels=(1, 2), masks=True)
    one = job(tmp_path, "views", "prepare.source=maskrcnn", f"prepare.segmenter={coco}", "prepare.least_score=0.99")
    make_views(one)
    assert told(one)["fallbacks"] == {"nothing found": 2}
    assert "2 nothing found" in caplog.text
    assert len(told(one)["segmenter_hash"]) == 8
    official = job(tmp_path, "views")
    make_views(official)
    assert np.array_equal(np.load(one.path), np.load(official.path))


def test_what_is_found_in_the_whole_photo_is_squashed_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The left third of each photo, whatever its shape, is the left third of the view."""

    class Third(Segmenter):
        def __init__(self) -> None:
            self.path, self.hash, self.shapes = tmp_path / "third.pth", "12345678", []

        def __call__(self, photos: list[np.ndarray]) -> list[np.ndarray]:  # type: ignore[override]
            self.shapes += [photo.shape for photo in photos]
            found = [np.zeros(photo.shape[:2], np.uint8) for photo in photos]
            for one in found:
                one[:, : one.shape[1] // 3] = 1
            return found

        def to(self, *where: Any, **how: Any) -> "Third":
            return self

    third = Third()
    make_oxford102(tmp_path / "data", labels=(1, 2, 3), masks=True)
    monkeypatch.setattr(guidance, "load_segmenter", lambda *given: third)
    monkeypatch.setattr(guidance, "segmenter_file", lambda given: third.path)
    one = job(tmp_path, "views", "prepare.source=maskrcnn", "prepare.view=mask")
    make_views(one)
    assert third.shapes == [(40, 48, 3)] * 3
    views = np.load(one.path)
    assert (views[:, :, :21] == (255, 0, 0)).all()
    assert (views[:, :, 22:] == 0).all()
    facts = told(one)
    assert facts["fallbacks"] == {}
    assert facts["segmenter_hash"] == "12345678"
    assert facts["iou"] == pytest.approx(4 / 28, abs=0.03)  # columns 12 to 16 of 0 to 36


def test_absent_weights_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    message = refusal(lambda: segmenter_file(None))
    assert str(tmp_path / "checkpoints" / WEIGHTS_FILE) in message
    assert "prepare.source=official" in message
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / WEIGHTS_FILE).touch()
    assert segmenter_file(None) == tmp_path / "checkpoints" / WEIGHTS_FILE
    for key, value in (("least_score", 1.5), ("most_instances", 0)):
        numbers = {"least_score": 0.5, "most_instances": 10} | {key: value}
        assert f"prepare.{key}" in refusal(lambda numbers=numbers: load_segmenter("x", **numbers))  # type: ignore[misc]


# ---- model=segmenter


def test_targets_are_the_parts_of_the_mask() -> None:
    masks = torch.zeros(2, 1, 40, 40)
    masks[0, 0, 5:25, 10:20] = masks[0, 0, 30:38, 0:30] = 1
    aim, none = targets(masks)
    assert none is None
    assert aim is not None
    assert aim["boxes"].tolist() == [[0, 30, 30, 38], [10, 5, 20, 25]]
    assert aim["labels"].tolist() == [1, 1]
    assert aim["masks"].shape == (2, 40, 40)
    assert torch.equal(aim["masks"].sum(0)[None].float(), masks[0])


def tuning(**changes: Any) -> MaskRCNNTuning:
    return MaskRCNNTuning(**settings("segmenter", **{"weights": "scratch", "min_size": 64, "measured": 2} | changes))


def test_it_is_tuned_from_cocos_weights_and_serves(coco: Path, tmp_path: Path) -> None:
    make_oxford102(tmp_path / "data", labels=(1, 3, 5), masks=True)
    line = ["model=segmenter", "data=oxford102", "preset=toy", "data.source=real", f"paths.data={tmp_path / 'data'}"]
    cfg = plain(composed(*line, f"paths.artifacts={tmp_path}"), line) | {"prerequisite": True}
    data = load_data(cfg)
    model = tuning(weights=str(coco))
    Trainer(max_epochs=1, **QUIET).fit(model, data)
    theirs, mine = torch.load(coco, weights_only=True), model.net.state_dict()
    assert torch.equal(mine["backbone.body.conv1.weight"], theirs["backbone.body.conv1.weight"])  # frozen
    learnt = mine["rpn.head.cls_logits.weight"] - theirs["rpn.head.cls_logits.weight"]
    assert 0 < learnt.abs().max() < 0.1
    assert mine["roi_heads.box_predictor.cls_score.weight"].shape == (2, 1024)
    assert 0 <= model.iou <= 1
    torch.save(model.export(), tmp_path / "segmenter.pt")
    served = load_segmenter(tmp_path / "segmenter.pt", 0.0, 10)
    (found,) = served([np.zeros((50, 70, 3), np.uint8)])
    assert found.shape == (50, 70)
    assert found.max() <= 10


def test_without_weights_it_is_not_worth_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    model = tuning(weights=None)
    data = SimpleNamespace(train_split="train", name="flowers")
    monkeypatch.setattr(MaskRCNNTuning, "data", property(lambda self: data))
    with pytest.raises(UserError, match=r"prepare\.source=official"):
        model.setup("fit")
    tuning().setup("fit")
    data.train_split = "all"
    with pytest.raises(UserError, match=r"data\.train_split=all"):
        tuning().setup("fit")


def test_a_poor_one_says_so() -> None:
    model = tuning(iou=0.8)
    model.iou = 0.5
    assert model.shortfalls() == ["its IoU with the masks of test photos is 0.50"]
    model.iou = 0.9
    assert model.shortfalls() == []


def test_a_poor_one_of_whole_and_real_data_is_refused_by_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Whole:
        name, expected, procedural = "flowers", 8189, False

        def __len__(self) -> int:
            return 8189

    monkeypatch.setattr(MaskRCNNTuning, "data", property(lambda self: SimpleNamespace(records=Whole())))
    model = tuning()
    model.iou = 0.5
    with pytest.raises(UserError, match=r"model=segmenter on flowers .*model\.bar\.iou"):
        model.accept()
    assert model.export()["bar"] == {"iou": 0.8}


def test_the_job_asks_for_a_tuned_one_only_by_name() -> None:
    from common.config import applies

    for source, wanted in (("maskrcnn_ft", True), ("maskrcnn", False), ("official", False)):
        line = ["task=prepare", "prepare=views", f"prepare.source={source}"]
        found = plain(composed(*line), line)["prepare"]
        assert applies(found["needs"]["segmenter"], found) == wanted
    assert isinstance(Job({"prepare": found}, Path("x")).settings, dict)
