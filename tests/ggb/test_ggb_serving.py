"""People in other poses as evaluation, pictures and other machines get them: drawn, exported, restored, refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.data.module import ImageData
from common.data.poses import pose_maps
from common.data.procedural.write_deepfashion import write_people
from common.data.readers.deepfashion import DeepFashion
from common.data.records import Records
from common.errors import UserError
from common.metrics.functions import to_uint8
from ggb.measures import ssim_pg2
from ggb.serving import PoseGAN
from tests.agree import agree
from tests.worlds.tiny_pairs import Noise, S, batch, fit, make, make_pg2


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("build", [make, make_pg2])
def test_sample_is_the_last_of_what_is_drawn(build: Any) -> None:
    model: PoseGAN = build()
    b, state = batch(), {k: v.clone() for k, v in model.state_dict().items()}
    drawn = model.infer(b["image"], b["target_joints"])
    assert torch.equal(drawn[-1], model.sample(b))
    assert drawn[-1].shape == (4, 3, S, S)
    assert drawn[-1].abs().max() <= 1
    alone = model.x_hat(b["image"][1:2], b["target_joints"][1:2])
    agree(model.sample(b)[1:2], alone)
    assert model.generator.training  # as before
    assert all(torch.equal(value, state[k]) for k, value in model.state_dict().items())


@pytest.fixture
def people(tmp_path: Path) -> ImageData:
    write_people(root=tmp_path, images=64, identities=12, side=S, seed=0)
    options: dict[str, Any] = {"load_ratio": 1.0, "reads": ["image", "target", "joints"], "store": tmp_path / "stores"}
    reader = DeepFashion(root=tmp_path, n_train_pairs=100)
    return ImageData(dataset=reader, image_size=S, batch_size=4, **options)


def trained(model: PoseGAN, data: ImageData, path: Path) -> pl.Trainer:
    """After three batches."""
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, limit_train_batches=3, default_root_dir=path, **quiet)
    trainer.fit(model, datamodule=data)
    return trainer


@pytest.mark.usefixtures("float64")
def test_the_averaged_g_has_statistics_of_its_own(people: ImageData, tmp_path: Path) -> None:
    """Of the first training pairs, measured after each epoch: the BN of e2 sees what e1 and e2 of the average make."""
    data, model = people, make(decay=0.5, statistics=2)
    trained(model, data, tmp_path)
    first = next(iter(data.pose_pair_loader("train", 8, data.pose_pairs("train")[:8])))
    b = data.move(first, "cpu")
    net: Any = model.serving
    with torch.no_grad():
        below = net.enc["1"].conv(torch.cat([b["image"], model.pose(b["target_joints"])], 1))
        seen = net.enc["2"].conv(torch.nn.functional.leaky_relu(below, 0.2))
    agree(net.enc["2"].bn.running_mean, seen.mean((0, 2, 3)))
    live: Any = model.generator
    assert not torch.allclose(live.enc["2"].bn.running_mean, seen.mean((0, 2, 3)))


@pytest.mark.usefixtures("float64")
def test_an_epoch_ends_with_a_look_at_pairs_that_it_did_not_show(people: ImageData, tmp_path: Path) -> None:
    model = make(decay=0.5, statistics=2)
    told = trained(model, people, tmp_path).logged_metrics
    drawn, target = [], []
    for loaded in people.pose_pair_loader("val", 4):
        b = people.move(loaded, "cpu")
        drawn, target = [*drawn, *model.sample(b)], [*target, *b["target"]]
    x, y = torch.stack(drawn), torch.stack(target)
    assert len(x) == len(people.records.pose_pairs["val"]) > 1
    agree(told["val/ssim"], ssim_pg2(to_uint8(x), to_uint8(y)).mean())
    agree(told["val/rec"], (x - y).abs().mean())


def test_levels_are_drawn_without_dropout() -> None:
    model = make(dropout=0.5)
    b = batch()
    assert [image.shape[-1] for image in model.infer(b["image"], b["target_joints"])] == [8, 16, 32, 64]
    assert torch.equal(model.sample(b), model.sample(b))


def test_pg2_is_clipped_for_showing() -> None:
    model = make_pg2()
    torch.nn.init.constant_(model.generator.stage2.out.bias, 3.0)
    assert model.sample(batch()).max() == 1


def test_the_average_is_served() -> None:
    model = make(decay=0.9)
    torch.nn.init.zeros_(model.ema_generator.module.dec["7"].conv.weight)
    assert not model.sample(batch()).any()


@pytest.mark.parametrize(("build", "names"), [(make, ["x-hat^4", "x-hat^5", "x-hat^6"]), (make_pg2, ["x-hat_1"])])
def test_the_picture_of_progress(build: Any, names: list[str]) -> None:
    model, b = build(), batch()
    columns: dict[str, Tensor] = model.grid(b)
    assert list(columns) == ["x", "c", "y", *names, "x-hat"]
    assert all(column.shape[:2] == (4, 3) and column.abs().max() <= 1 for column in columns.values())
    assert torch.equal(columns["c"], pose_maps(b["target_joints"], S, kind="stickman", radius=2.0))


def test_in_words() -> None:
    keys = ("a/1_front", "a/3_back", "b/1_front", "b/3_back", "b/2_side")
    records = Records(
        *("people", Path(), keys, (), np.zeros(5, np.int64), ("a",), np.zeros(5, bool)),
    )
    assert make().condition_text(batch(2), records) == [
        "a/1_front in the pose of a/3_back",
        "a/3_back in the pose of b/1_front",
    ]


@pytest.mark.parametrize("build", [make, make_pg2])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_an_exported_file_draws_the_same(build: Any, ema: float | None, tmp_path: Path) -> None:
    model = build(decay=ema)
    fit(model, tmp_path, steps=2)
    torch.save(model.export(), tmp_path / "people.pt")
    content = torch.load(tmp_path / "people.pt", weights_only=True)
    assert content["data"] == "noise"
    assert not any(key.startswith("to_rgb") for key in content["G"])
    again, b = build(decay=ema), batch()
    untrained = again.sample(b)
    again.restore(tmp_path / "people.pt")
    for one, two in zip(model.infer(b["image"], b["joints"]), again.infer(b["image"], b["joints"]), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(again.sample(b), untrained)


def test_a_checkpoint_restores_all(tmp_path: Path) -> None:
    for build in (make, make_pg2):
        model = build()
        fit(model, tmp_path, steps=2).save_checkpoint(tmp_path / "last.ckpt")
        again = build()
        again.restore(tmp_path / "last.ckpt")
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(UserError, match=r"last\.ckpt is of PG2, not of GGB"):
        make().restore(tmp_path / "last.ckpt")


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save(make().export(), tmp_path / "ggb.pt")
    with pytest.raises(UserError, match=r"add model\.generator\.ngf=4 to the command"):
        make(ngf=8).restore(tmp_path / "ggb.pt")
    with pytest.raises(UserError, match=r"add model\.levels=\[4,5,6\] to the command"):
        make(levels=[6]).restore(tmp_path / "ggb.pt")
    with pytest.raises(UserError, match="holds a ggb, not a pg2"):
        make_pg2().restore(tmp_path / "ggb.pt")
    fit(make(rapd=False), tmp_path).save_checkpoint(tmp_path / "row.ckpt")
    make(rapd=False).restore(tmp_path / "row.ckpt")
    with pytest.raises(UserError, match=r"add model\.blocks\.rapd=false to the command"):
        make().restore(tmp_path / "row.ckpt")
    torch.save(make().export() | {"format": 9}, tmp_path / "new.pt")
    with pytest.raises(UserError, match="format 9, not 1"):
        make().restore(tmp_path / "new.pt")


# ---- several GPUs: G's BN over the global batch, each critic's over its device's own


def set_up(model: PoseGAN, device: str = "cuda", processes: int = 2) -> None:
    """`setup` as the trainer calls it in one of several processes."""
    strategy = SimpleNamespace(root_device=torch.device(device))
    model._trainer = SimpleNamespace(datamodule=Noise([]), strategy=strategy, world_size=processes)  # type: ignore
    model.setup("fit")
    model._trainer = None


def synced(net: nn.Module) -> list[bool]:
    return [isinstance(layer, nn.SyncBatchNorm) for layer in net.modules() if isinstance(layer, _BatchNorm)]


def test_only_the_generator_is_synchronised() -> None:
    model, plain, b = make(decay=0.5), make(decay=0.5), batch()
    before, names = [id(p) for p in model.parameters()], list(model.state_dict())
    buffers = {name: id(value) for name, value in model.named_buffers()}
    set_up(model)
    assert synced(model.generator) == [True] * 7  # four of five down, four of five up, the innermost has none
    assert model.discriminator_ggb is not None
    assert model.ema_generator is not None
    for net in (model.discriminator, model.discriminator_ggb, model.ema_generator):
        assert set(synced(net)) == {False}
    assert list(model.state_dict()) == names
    assert [id(p) for p in model.parameters()] == before  # the optimisers'
    assert {name: id(value) for name, value in model.named_buffers()} == buffers
    x, c = b["image"], model.pose(b["target_joints"])
    for mine, theirs in zip(model.generator(x, c), plain.generator(x, c), strict=True):
        assert torch.equal(mine, theirs)  # alone it is BN as ever
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.sample(b), model.sample(b))


@pytest.mark.parametrize("where", [{"device": "cpu"}, {"processes": 1}])
def test_elsewhere_nothing_is_synchronised(where: Any) -> None:
    model = make()
    set_up(model, **where)
    assert set(synced(model)) == {False}


def test_synchronising_is_a_switch() -> None:
    for model in (make(sync_bn=False), make_pg2()):
        set_up(model)
        assert set(synced(model)) == {False}
