"""task=export for other programs: each layout draws what the model serves, and safetensors are read back."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor

from ggb.serving import PoseGAN, export_pix2pix, export_pt2, export_safetensors, export_torchscript
from tests.agree import agree
from tests.worlds.layouts import refusal
from tests.worlds.tiny_pairs import batch, fit, make, make_pg2

UNET: dict[str, Any] = {"levels": []}
MODELS = [(make, {}), (make, UNET), (make, {"norm": "instance"}), (make_pg2, {})]


def trained(build: Any, path: Path, **options: Any) -> PoseGAN:
    """A model whose average has gone its own way, in eval mode."""
    model: PoseGAN = build(**{"decay": 0.5} | options)
    fit(model, path, steps=2)
    return model.eval()


def people(count: int = 3) -> tuple[Tensor, Tensor]:
    b = batch(count)
    return b["image"], b["target_joints"]


# ---- programs


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("build", "options"), MODELS)
@pytest.mark.parametrize(
    ("export", "name", "load"),
    [
        (export_torchscript, "G.torchscript", torch.jit.load),
        (export_pt2, "G.pt2", lambda path: torch.export.load(path).module()),
    ],
)
def test_a_program_draws_the_same(build: Any, options: Any, export: Any, name: str, load: Any, tmp_path: Path) -> None:
    model = trained(build, tmp_path, **options)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export(model, tmp_path / "out", discriminators=True)
    program = load(tmp_path / "out" / name)
    for count in (1, 3):
        x, joints = people(count)
        with torch.no_grad():
            agree(program(x, model.pose(joints)), model.x_hat(x, joints))
    assert not any("to_rgb" in key for key in program.state_dict())
    assert {key: value.shape for key, value in model.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_the_average_is_exported(tmp_path: Path) -> None:
    model = trained(make_pg2, tmp_path)
    live = trained(make_pg2, tmp_path, decay=None)
    for each in (model, live):
        export_safetensors(each, tmp_path / f"{each.ema_decay}.safetensors")
    average, own = (load_file(tmp_path / f"{decay}.safetensors") for decay in (0.5, None))
    name = "stage2.out.bias"
    assert torch.equal(own[name], model.generator.state_dict()[name])  # the same training
    assert not torch.equal(own[name], average[name])


def test_drawings_are_clipped(tmp_path: Path) -> None:
    model = make_pg2()
    torch.nn.init.constant_(model.generator.stage2.out.bias, 3.0)
    export_torchscript(model, tmp_path)
    x, joints = people()
    assert torch.jit.load(tmp_path / "G.torchscript")(x, model.pose(joints)).max() == 1


# ---- safetensors


@pytest.mark.parametrize(("build", "options"), MODELS)
@pytest.mark.parametrize("ema", [None, 0.5])
def test_safetensors_are_read_back(build: Any, options: Any, ema: float | None, tmp_path: Path) -> None:
    model, again = trained(build, tmp_path, **options), build(decay=ema, **options).eval()
    export_safetensors(model, tmp_path / "out")
    again.restore(tmp_path / "out" / "G.safetensors")
    x, joints = people()
    assert torch.equal(again.x_hat(x, joints), model.x_hat(x, joints))
    wanted = {key for key in model.serving.state_dict() if not key.startswith("to_rgb.")}
    assert load_file(tmp_path / "out" / "G.safetensors").keys() == wanted
    with safe_open(tmp_path / "out" / "G.safetensors", "pt") as file:
        told = file.metadata()
    assert (told["format"], told["kind"], told["data"]) == ("pt", model.KIND, "noise")
    assert '"pose_radius": 2.0' in told["config"] or build is make_pg2


def test_heads_that_nobody_trained_draw_nothing(tmp_path: Path) -> None:
    """A file has none, whatever the levels; exported once more as the suite's one file it is read too."""
    model = trained(make, tmp_path)
    export_safetensors(model, tmp_path / "people.safetensors")
    x, joints = people()
    for again in (make(), make(levels=[]), make(levels=[6], decay=0.5)):
        again.restore(tmp_path / "people.safetensors")
        (image,) = again.infer(x, joints)
        assert torch.equal(image, model.x_hat(x, joints))
        assert again.coarse_names() == []
        torch.save(again.export(), tmp_path / "again.pt")
        twice = make(levels=again.hparams["levels"], decay=again.ema_decay)
        twice.restore(tmp_path / "again.pt")
        assert torch.equal(twice.x_hat(x, joints), image)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "people.safetensors"
    export_safetensors(make(), path)
    assert "add model.generator.ngf=4 to the command." in refusal(lambda: make(ngf=8).restore(path))
    assert "add data.image_size=64 to the command." in refusal(lambda: make(image_size=128).restore(path))
    assert "add model.pose_radius=2.0 to the command." in refusal(lambda: make(pose_radius=3.0).restore(path))
    assert "holds a ggb, not a pg2" in refusal(lambda: make_pg2().restore(path))
    save_file(load_file(path), path)
    assert "holds something else, not a ggb" in refusal(lambda: make().restore(path))
    save_file(load_file(path), path, metadata={"kind": "ggb", "version": "9", "config": "{}"})
    assert "is of format 9, not 1" in refusal(lambda: make().restore(path))
    save_file({"dec.9.conv.weight": torch.zeros(1)}, path, metadata={"kind": "ggb", "version": "1", "config": "{}"})
    assert "does not fit Generator (missing enc.1.conv.weight" in refusal(lambda: make().restore(path))
    path.write_bytes(path.read_bytes()[:20])
    assert "cannot be read as safetensors" in refusal(lambda: make().restore(path))
    for told in ("{", "[]"):
        save_file({}, path, metadata={"kind": "ggb", "version": "1", "config": told})
        assert str(path) in refusal(lambda: make().restore(path))
    assert "no weights file at" in refusal(lambda: make().restore(tmp_path / "absent.safetensors"))
    export_torchscript(make(), tmp_path / "people.torchscript")
    assert "cannot be read as weights" in refusal(lambda: make().restore(tmp_path / "people.torchscript"))


# ---- pix2pix


def test_pix2pix_is_read_back(tmp_path: Path) -> None:
    options: dict[str, Any] = {"image_size": 256, "ngf": 2, "ndf": 2, "decay": 0.5}
    torch.manual_seed(1)
    model = make(**options).eval()
    assert model.ema_generator is not None
    torch.nn.init.normal_(model.ema_generator.module.dec["7"].conv.bias)  # type: ignore[union-attr]
    export_pix2pix(model, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["latest_net_G.pth"]
    again = make(**options | {"levels": [], "decay": None})
    again.restore(tmp_path / "out" / "latest_net_G.pth")
    x, joints = torch.randn(1, 3, 256, 256), torch.full((1, 18, 2), 100)
    assert torch.equal(again.x_hat(x, joints), model.x_hat(x, joints))


def test_another_depth_than_pix2pix_has_is_refused(tmp_path: Path) -> None:
    message = refusal(lambda: export_pix2pix(make(), tmp_path / "out"))
    assert (
        "unet_128 halves the image 7 times and this model 5 times: layout=pix2pix is for data.image_size=256" in message
    )
    assert not (tmp_path / "out").exists()


def test_a_file_of_that_suffix_or_a_folder(tmp_path: Path) -> None:
    export_safetensors(make(), tmp_path / "new" / "people.safetensors")
    export_safetensors(make(), tmp_path / "new" / "v1.2")
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.safetensors")} == {
        "new/people.safetensors",
        "new/v1.2/G.safetensors",
    }


def test_sizes_at_256_px() -> None:
    """The names that are left are all but the heads' 12,105 parameters: test_ggb_networks.py counts them."""
    with torch.device("meta"):
        model = make(image_size=256, ngf=64, ndf=64)
    kept = [p for name, p in model.generator.named_parameters() if not name.startswith("to_rgb.")]
    assert sum(p.numel() for p in kept) == 41_847_427
