"""FineGAN in one file: it draws what the model drew, and what does not fit is said with the words that would."""

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from finegan.encoders import ImageEncoder, RNNEncoder
from finegan.model import FineGAN
from finegan.networks import Generated
from tests.worlds.layouts import refusal
from tests.worlds.settings import settings

NAMES = ["has_wing_color::blue", "has_wing_color::red", "has_size::small"]
LOSS: dict[str, dict[str, float | None]] = {
    "d": {"real": 0.5, "cond_real": 0.5, "fake": 0.3, "cond_fake": 0.3, "mismatch": 0.3},
    "g": {"uncond": 1.0, "cond": 1.0, "damsm": 5.0, "kl": 1.0},
}
for side in LOSS.values():
    side |= {"part": 1.0, "fg": 1.0, "fg_part": 1.0}
SIZES: dict[str, Any] = {"image_size": 32, "ngf": 2, "ndf": 1, "code_dim": 8, "z_dim": 5, "c_dim": 4}


def write_damsm(path: Path, inputs: str = "raw") -> Path:
    """The file that model=damsm makes, with the image encoder of toy sizes."""
    torch.manual_seed(1)
    text, image = (
        RNNEncoder(tokens=4, word_dim=6, code_dim=8, dropout=0.5),
        ImageEncoder(trunk="conv", code_dim=8, image_size=299, bn_train=True),
    )
    config = {"word_dim": 6, "code_dim": 8, "trunk": "conv", "image_size": 299}
    content = {"format": 2, "kind": "damsm", "data": "cub", "inputs": inputs, "names": NAMES, "denoised_hash": None}
    torch.save(content | {"config": config, "text": text.state_dict(), "image": image.state_dict()}, path)
    return path


def make(damsm: Path | None, **more: Any) -> FineGAN:
    options: dict[str, Any] = {"inputs": "raw", "loss": LOSS, **SIZES}
    return FineGAN(**settings("finegan", damsm=None if damsm is None else str(damsm), **options | more))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[FineGAN, Path]:
    """A model whose average has gone its own way, and its file."""
    root = tmp_path_factory.mktemp("finegan")
    torch.manual_seed(0)
    model = make(write_damsm(root / "damsm.pt"))
    assert model.ema_generator is not None
    for value in model.generator.parameters():
        value.data *= 1.5
    model.data_name = "cub"
    torch.save(model.export(), root / "finegan_cub.pt")
    return model, root / "finegan_cub.pt"


def picture(model: FineGAN) -> Generated:
    z, eps = model.noise(torch.tensor([3, 4]))
    mask = torch.zeros(2, 1, 32, 32)
    mask[:, :, 8:20, 6:30] = 1
    codes = model.encode([["has_wing_color::blue"], ["has_size::small", "has_wing_color::red"]])
    return model.infer(codes, mask, z, eps)


def test_the_file_draws_what_the_model_drew(trained: tuple[FineGAN, Path], tmp_path: Path) -> None:
    model, path = trained
    away = path.rename(tmp_path / "elsewhere.pt")  # it needs no other file
    loaded = FineGAN.load(away)
    away.rename(path)
    for ours, theirs in zip(picture(loaded).images, picture(model).images, strict=True):
        assert torch.equal(ours, theirs)
    photos = torch.rand(2, 3, 32, 32)
    assert model.image_encoder is not None
    assert loaded.image_encoder is not None
    for ours, theirs in zip(loaded.image_encoder(photos), model.image_encoder(photos), strict=True):
        assert torch.equal(ours, theirs)
    assert loaded.encoders is not None
    assert model.encoders is not None
    assert (loaded.encoders.hash, loaded.encoders.names) == (model.encoders.hash, tuple(NAMES))
    assert loaded.hparams["damsm"] is None


def test_the_file_holds_the_average_and_no_discriminator(trained: tuple[FineGAN, Path]) -> None:
    model, path = trained
    content = torch.load(path, weights_only=True)
    assert set(content) == {"format", "kind", "data", "config", "G", "ema", "encoders"}
    assert (content["kind"], content["data"]) == ("finegan", "cub")
    key = "img_net3.img.0.weight"
    assert torch.equal(content["G"][key], 1.5 * content["ema"][key])
    assert torch.equal(content["ema"][key], model.serving.state_dict()[key])


def test_a_model_without_average(trained: tuple[FineGAN, Path], tmp_path: Path) -> None:
    model = make(trained[1].with_name("damsm.pt"), **{"average.decay": None})
    model.data_name = "cub"
    torch.save(model.export(), tmp_path / "plain.pt")
    assert torch.equal(picture(FineGAN.load(tmp_path / "plain.pt")).images[2], picture(model).images[2])
    assert "add model.average.decay=null to the command" in refusal(lambda: make(None).restore(tmp_path / "plain.pt"))


def test_restore_from_a_file_or_a_checkpoint(trained: tuple[FineGAN, Path], tmp_path: Path) -> None:
    model, path = trained
    target = make(None)
    target.restore(path)
    assert torch.equal(picture(target).images[2], picture(model).images[2])
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    target = make(path.with_name("damsm.pt"))
    target.restore(tmp_path / "last.ckpt")
    assert torch.equal(picture(target).images[2], picture(model).images[2])
    for ours, theirs in zip(target.discriminator.parameters(), model.discriminator.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_other_settings_are_refused_with_the_words_that_fit(trained: tuple[FineGAN, Path], tmp_path: Path) -> None:
    model, path = trained
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    other = {"image_size": 64, "ngf": 4, "mask_levels": [8, 16, 32, 64]}
    words = "add data.image_size=32 model.generator.mask_levels=null model.generator.ngf=2 to the command."
    for file in (path, tmp_path / "last.ckpt"):
        assert words in refusal(lambda file=file: make(None, **other).restore(file))  # type: ignore[misc]
        assert 'add model.inputs="raw" to' in refusal(lambda file=file: make(None, inputs="class").restore(file))  # type: ignore[misc]
    loss = copy.deepcopy(LOSS)
    for terms in loss.values():
        terms |= {"fg_part": None, "part": 0.5}  # of another weight is no other network
    message = refusal(lambda: make(None, loss=loss).restore(tmp_path / "last.ckpt"))
    assert "add loss.d.fg_part=1.0 loss.g.fg_part=1.0 to the command." in message
    make(None, loss=loss).restore(path)  # which holds no discriminator


def test_other_files_are_refused(trained: tuple[FineGAN, Path], tmp_path: Path) -> None:
    content = torch.load(trained[1], weights_only=True)
    damsm = trained[1].with_name("damsm.pt")
    assert "holds a damsm, not a finegan" in refusal(lambda: make(None).restore(damsm))
    torch.save(content | {"format": 9}, tmp_path / "new.pt")
    assert "is of format 9, not 3" in refusal(lambda: FineGAN.load(tmp_path / "new.pt"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    assert "holds something else, no generator" in refusal(lambda: make(None).restore(tmp_path / "other.pth"))
    assert "holds something else, not a finegan" in refusal(lambda: FineGAN.load(tmp_path / "other.pth"))
    assert "no weights file at" in refusal(lambda: FineGAN.load(tmp_path / "absent.pt"))
