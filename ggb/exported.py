"""GGB, the U-Net and PG2 for other programs: what task=export writes besides the suite's one file.

    pix2pix       latest_net_G.pth   the state dict of pix2pix's generator, `--netG unet_128`; not of PG2
    safetensors   G.safetensors      G's state dict, with what it is and how it is fed in the metadata; read back here
    torchscript   G.torchscript      a program (x, c) -> x-hat for torch.jit.load, in Python or C++
    pt2           G.pt2              the same for torch.export.load, which follows TorchScript

All hold what serves, the average where one is kept, without heads. x: B,3,S,S in [-1, 1], c: B,C,S,S pose label map,
x-hat: B,3,S,S in [-1, 1].
"""

import copy
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UserError
from common.weights import check_export, check_settings, on_cpu
from ggb.checkpoints import to_pix2pix
from ggb.networks import TOP, Generator

if TYPE_CHECKING:
    from ggb.serving import PoseGAN

FORMAT = 1


class Drawing(nn.Module):
    """x-hat alone, clipped as it is shown. (x, c) -> B,3,S,S in [-1, 1]."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.generator(x, c)[-1].clamp(-1, 1)


def alone(model: "PoseGAN") -> nn.Module:
    """A copy of what serves on the CPU, in eval mode and without heads."""
    net = copy.deepcopy(model.serving).cpu().eval().requires_grad_(False)
    if model.HEADS:
        getattr(net, model.HEADS).clear()
    return net


def place(path: str | Path, name: str) -> Path:
    """A file of `name`'s suffix as it stands; else a folder, for a file of that name in it. Its folder is made."""
    path = Path(path)
    path = path if path.suffix == Path(name).suffix else path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# ---- layouts; `discriminators` is what task=export says to all of them, and none of these has any


def export_pix2pix(model: "PoseGAN", path: str | Path, *, discriminators: bool = False) -> None:
    """UserError for a U-Net of another depth than unet_128's, as GGB's is at other sizes than 256 px."""
    net = alone(model)
    assert isinstance(net, Generator)
    if len(net.dec) != TOP:
        raise UserError(
            f"pix2pix's unet_128 halves the image {TOP} times and this model {len(net.dec)} times: layout=pix2pix is "
            "for data.image_size=256."
        )
    torch.save(to_pix2pix(net.state_dict()), place(path, "latest_net_G.pth"))


def export_safetensors(model: "PoseGAN", path: str | Path, *, discriminators: bool = False) -> None:
    state = {name: value.contiguous() for name, value in on_cpu(alone(model).state_dict()).items()}
    settings = {name: model.hparams[name] for name in model.SERVED if name != "levels"}  # heads are left out
    told = {"format": "pt", "kind": model.KIND, "version": str(FORMAT), "data": model.data_name}
    save_file(state, place(path, "G.safetensors"), metadata=told | {"config": json.dumps(settings)})


def export_torchscript(model: "PoseGAN", path: str | Path, *, discriminators: bool = False) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning, module=r"torch\.nn\.")  # instance norm's
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=FutureWarning)  # torch 2.15: deprecated
        program = torch.jit.trace(Drawing(alone(model)), inputs(model))
        torch.jit.save(program, place(path, "G.torchscript"))


def export_pt2(model: "PoseGAN", path: str | Path, *, discriminators: bool = False) -> None:
    any_number = {0: torch.export.Dim("batch")}
    program = torch.export.export(Drawing(alone(model)).eval(), inputs(model), dynamic_shapes=(any_number, any_number))
    torch.export.save(program, place(path, "G.pt2"))


def inputs(model: "PoseGAN") -> tuple[Tensor, Tensor]:
    """x and c of two people, to follow what is computed."""
    size = model.image_size
    return torch.zeros(2, 3, size, size), torch.zeros(2, model.pose_channels, size, size)


# ---- back


def read_safetensors(path: str | Path, model: "PoseGAN") -> dict[str, Tensor]:
    """The state of G in a file of `export_safetensors`. UserError for another model's, or for other settings."""
    if not Path(path).is_file():
        raise UserError(f"no weights file at {path}: give the path of one.")
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError):
        raise UserError(
            f"{path} cannot be read as safetensors: it is damaged or of another kind, write it again."
        ) from None
    content = {"kind": told["kind"], "format": int(told["version"])} if {"kind", "version"} <= told.keys() else {}
    check_export(content, model.KIND, FORMAT, path, f"a generator of {model.KIND}: give what layout=safetensors wrote")
    settings = json.loads(told["config"])
    check_settings(model.hparams, settings, tuple(settings), path)
    return state
