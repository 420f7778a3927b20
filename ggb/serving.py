"""What GGB, the U-Net and PG2 share around their training: photos and poses in, people out, files.

B batch, S side of the image. x source photo, y target photo of the same person, c the pose label map of the target,
x-hat the generated image. For other programs task=export writes, besides the suite's one file:

    pix2pix       latest_net_G.pth   the state dict of pix2pix's generator, `--netG unet_128`; not of PG2
    safetensors   G.safetensors      G's state dict, with what it is and how it is fed in the metadata; read back here
    torchscript   G.torchscript      a program (x, c) -> x-hat for torch.jit.load, in Python or C++
    pt2           G.pt2              the same for torch.export.load, which follows TorchScript

All hold what serves, the average where one is kept, without heads. x: B,3,S,S in [-1, 1], c: B,C,S,S pose label map,
x-hat: B,3,S,S in [-1, 1].
"""

import copy
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from common.blocks import LinearDecay, in_mode, upcast
from common.data.module import ImageData
from common.data.poses import CHANNELS, pose_maps
from common.data.records import Records, Sample
from common.errors import UserError, check_ranges, choose
from common.exports import Exported
from common.gan import EvaluationSet
from common.metrics.functions import ssim, to_uint8
from common.pictures import Request, Sheet
from common.weights import check_export, check_parts, flat, is_state, on_cpu
from ggb.checkpoints import to_pix2pix
from ggb.figure_inputs import scene
from ggb.networks import TOP, Generator
from ggb.skeletons import DRAWN

log = logging.getLogger(__name__)
AT_ONCE = 32  # pictures in a batch


def are_heads(value: object) -> bool:
    """Whether something is a state dict for each of some networks."""
    return isinstance(value, Mapping) and all(map(is_state, value.values()))


class PoseGAN(Exported):
    """A generator of (x, c) -> images, of which the last is x-hat."""

    COMPANIONS: ClassVar[Mapping[str, Any]] = {"heads": are_heads}
    HEADS: ClassVar[str] = ""  # the part of G that x-hat does not need
    CHOICES: ClassVar[dict[str, Sequence[str]]] = {"pose_map": tuple(CHANNELS), "lr_decay": ("none", "linear")}
    RANGES: ClassVar[dict[str, str]] = {"pose_radius": "(0, inf)", "pose_sigma": "(0, inf)"}

    def __init__(self, *, pose_map: str, pose_radius: float, pose_sigma: float, lr_decay: str, **gan: Any) -> None:
        """How poses are drawn (`pose_maps`), and the end of the rate. gan: what `GANModule` takes."""
        super().__init__(**gan)
        self.pose_map, self.pose_radius, self.pose_sigma, self.lr_decay = pose_map, pose_radius, pose_sigma, lr_decay

    def settle(self) -> None:
        """Call after `save_hyperparameters`: checks choices and ranges and keeps what is served by."""
        told = flat(self.hparams)
        for name, known in self.CHOICES.items():
            choose(f"model.{name}", told[name], known)
        check_ranges("model", told, self.RANGES)
        self.image_size: int = self.hparams["image_size"]

    @property
    def pose_channels(self) -> int:
        """C of the pose label map."""
        return CHANNELS[self.pose_map]

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            on_gpus = self.trainer.strategy.root_device.type == "cuda"  # torch has no SyncBatchNorm for the CPU
            if self.hparams.get("sync_bn") and on_gpus and self.trainer.world_size > 1:
                nn.SyncBatchNorm.convert_sync_batchnorm(self.generator)  # the same weights under the same names

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        """After the last batch, before the epoch's picture and checkpoint: the averaged G's own batch statistics, and a
        look at pairs that no epoch shows."""
        if batch_idx + 1 == self.trainer.num_training_batches:
            self.check_finite()
            if self.ema_generator is not None and (count := self.hparams["average"].get("statistics")):
                self.measure_statistics(self.training_inputs(count))
            self.to_log |= self.watched()
        super().on_train_batch_end(outputs, batch, batch_idx)

    def watched(self) -> dict[str, Tensor]:
        """val/ssim, in PG2's dialect, and val/rec, Eq. 3, of the validation pairs; nothing where there are none."""
        data = self.data
        if not len(data.records.pose_pairs.get("val", ())):
            return {}
        found: dict[str, list[Tensor]] = {"val/ssim": [], "val/rec": []}
        for loaded in data.pose_pair_loader("val", data.batch_size):
            batch = data.move(loaded, self.device)
            generated, target = self.sample(batch), batch["target"]
            found["val/ssim"].append(ssim(to_uint8(generated), to_uint8(target), window="uniform"))
            found["val/rec"].append((generated - target).abs().mean((1, 2, 3)))
        return {name: upcast(torch.cat(values)).mean() for name, values in found.items()}

    def training_inputs(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """x and c of the first training pairs, `count` batches, the same each time."""
        data = self.data
        pairs = data.pose_pairs("train")[: count * data.batch_size]
        whole = len(pairs) // data.batch_size * data.batch_size or len(pairs)
        for loaded in data.pose_pair_loader("train", data.batch_size, pairs[:whole]):
            batch = data.move(loaded, self.device)
            yield batch["image"], self.pose(batch["target_joints"])

    def pose(self, joints: Tensor) -> Tensor:
        """c: joints B,18,2 in pixels of an image of side S -> B,C,S,S, rendered on their device."""
        kind, radius, sigma = self.pose_map, self.pose_radius, self.pose_sigma
        return pose_maps(joints, self.image_size, kind=kind, radius=radius, sigma=sigma)

    def scheduled(self, *sides: Iterable[nn.Parameter]) -> tuple[list[torch.optim.Optimizer], list[LambdaLR]]:
        """An Adam for each set of parameters, its rate constant or a `LinearDecay`."""
        optimizers = self.adam(*sides)
        if self.lr_decay == "none":
            return optimizers, []
        rate = LinearDecay(self.trainer.max_epochs or 1)
        return optimizers, [LambdaLR(opt, rate) for opt in optimizers]

    # ---- serving

    @torch.no_grad()
    def infer(self, x: Tensor, joints: Tensor) -> tuple[Tensor, ...]:
        """All that G draws, as inference runs it, clipped to [-1, 1]: x-hat last. x: B,3,S,S, joints: B,18,2."""
        with in_mode(self.serving, False) as net, torch.autocast(x.device.type, enabled=False):
            return tuple(image.clamp(-1, 1) for image in net(x, self.pose(joints)))

    def x_hat(self, x: Tensor, joints: Tensor) -> Tensor:
        """x-hat: the person of x: B,3,S,S in the poses B,18,2 -> B,3,S,S in [-1, 1]."""
        return self.infer(x, joints)[-1]

    def generate(self, x: Tensor, joints: Tensor) -> Tensor:
        """`x_hat` of any number of pairs."""
        parts = zip(x.split(AT_ONCE), joints.split(AT_ONCE), strict=True)
        return torch.cat([self.x_hat(photos, poses) for photos, poses in parts])

    def respond(self, data: ImageData, request: Request) -> Sheet:
        """People in poses. images: files, or photos of the data set by name; texts: names of `figure_inputs.pose`."""
        if not request.images or not request.texts:
            raise UserError(
                "this model draws a person in a pose: give image=PHOTO and text=POSE, another photo's name, "
                f"FILE.csv:NAME or one of {', '.join(DRAWN)}."
            )
        s = scene(data, request, self.device)
        rows = [{"image": who.name, "pose": pose.name} for who, pose in zip(s.people, s.poses, strict=True)]
        columns = {**s.given, "x-hat": list(self.generate(s.x, s.joints))}
        return Sheet(columns, s.titles, {"rows": rows}, generated=["x-hat"])

    def evaluation_set(self, data: ImageData, options: Mapping[str, Any]) -> EvaluationSet:
        """The test pairs in their order, or the first `images` of them; see `people`. IS as GGB and PG2 take it."""
        pairs = data.pose_pairs("test")[: options["images"]]
        rows, words = people(data, options["reference"], pairs[:, 1])
        reference = f"{data.records.name}, {words}, {data.image_size}"
        batches = data.pose_pair_loader("test", options["batch_size"], pairs)
        return EvaluationSet("pose_pairs", batches, [""] * len(pairs), rows, reference, in_order=True)

    def sample(self, batch: Sample, generator: torch.Generator | None = None) -> Tensor:
        """x-hat for each pair. There is no noise: a generator changes nothing."""
        return self.x_hat(batch["image"], batch["target_joints"])

    def condition_text(self, batch: Sample, records: Records) -> list[str]:
        """Who in which pose: the names of source and target."""
        pairs = zip(batch["row"].tolist(), batch["target_row"].tolist(), strict=True)
        return [f"{records.keys[row]} in the pose of {records.keys[target]}" for row, target in pairs]

    def grid(self, batch: Sample) -> dict[str, Tensor]:
        """Columns of the picture of progress: x, the target's skeleton, y, and what G draws, x-hat last."""
        joints = batch["target_joints"]
        radius = max(2.0, self.image_size / 64)
        columns = {"x": batch["image"], "c": pose_maps(joints, self.image_size, kind="stickman", radius=radius)}
        generated = self.infer(batch["image"], joints)
        names = [*self.coarse_names(), "x-hat"]
        return columns | {"y": batch["target"]} | dict(zip(names, generated, strict=True))

    def coarse_names(self) -> list[str]:
        """Of all that G draws before x-hat."""
        raise NotImplementedError

    # ---- files

    def export(self) -> dict[str, Any]:
        """`heads` stand apart from G and ema, {G, ema} again: a file to draw x-hat from needs none."""
        content = super().export()
        heads = {}
        for name in self.nets():
            mine = [key for key in content[name] if key.split(".")[0] == self.HEADS]
            heads[name] = {key: content[name].pop(key) for key in mine}
        return content | {"heads": heads}

    def take(self, content: Mapping[str, Any], path: str | Path) -> None:
        """A file without heads leaves a G without: x-hat is the same, and x-hat^n are not generated."""
        states, headless = dict(content), []
        for name, net in self.nets().items():
            heads = {key: value for key, value in net.state_dict().items() if key.split(".")[0] == self.HEADS}
            if is_state(content.get(name)):  # else it is refused for that
                theirs = content[name] | content["heads"].get(name, {})
                headless += [net] if heads and not heads.keys() & theirs.keys() else []
                states[name] = (heads if net in headless else {}) | theirs
        super().take(states, path)
        for net in headless:
            log.info("%s has no heads: x-hat alone is generated", path)
            getattr(net, self.HEADS).clear()

    def restore(self, path: str | Path) -> None:
        """Also from G.safetensors of task=export."""
        if Path(path).suffix == ".safetensors":
            self.fill(*read_safetensors(path, self), path)
        else:
            super().restore(path)

    def fill(self, state: Mapping[str, Tensor], settings: Mapping[str, Any], path: str | Path) -> None:
        """One state, for G and for its average, of a file that knows these settings."""
        nets = dict.fromkeys(self.nets(), state)
        self.take({"config": settings, "data": self.data_name, "heads": {}} | nets, path)


def people(data: ImageData, reference: str, targets: np.ndarray) -> tuple[np.ndarray, str]:
    """Rows of the photos that FID and KID of pairs of poses are held against, and what they are. reference: train, each
    training photo that shows somebody (GFLA), or targets, the target photos, each as often as it is aimed at."""
    if choose("metrics.reference", reference, ("train", "targets")) == "targets":
        return targets, "target photos of the test pairs"
    rows, joints = data.rows("train"), data.records.joints
    assert joints is not None  # or there would be no poses to draw
    rows = rows[(joints[rows] >= 0).all(-1).any(-1)]
    if len(rows) < 2:
        raise UserError(
            f"{data.records.name} in {data.records.root} has no training photos of people to hold FID against: set "
            "metrics.reference=targets"
        )
    return rows, "training photos of people"


# ---- layouts; `discriminators` is what task=export says to all of them, and none of these has any


class Drawing(nn.Module):
    """x-hat alone, clipped as it is shown. (x, c) -> B,3,S,S in [-1, 1]."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.generator(x, c)[-1].clamp(-1, 1)


def alone(model: PoseGAN) -> nn.Module:
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


def export_pix2pix(model: PoseGAN, path: str | Path, *, discriminators: bool = False) -> None:
    """UserError for a U-Net of another depth than unet_128's, as GGB's is at other sizes than 256 px."""
    net = alone(model)
    assert isinstance(net, Generator)
    if len(net.dec) != TOP:
        raise UserError(
            f"pix2pix's unet_128 halves the image {TOP} times and this model {len(net.dec)} times: layout=pix2pix is "
            "for data.image_size=256."
        )
    torch.save(to_pix2pix(net.state_dict()), place(path, "latest_net_G.pth"))


def export_safetensors(model: PoseGAN, path: str | Path, *, discriminators: bool = False) -> None:
    """layout=safetensors: G's weights, with what it is and how it is fed in the metadata."""
    state = {name: value.contiguous() for name, value in on_cpu(alone(model).state_dict()).items()}
    served = tuple(name for name in model.SERVED if name != "levels")  # heads are left out
    settings = {name: value for name, value in flat(model.hparams).items() if name.startswith(served)}
    told = {"format": "pt", "kind": model.KIND, "version": str(model.FORMAT), "data": model.data_name}
    save_file(state, place(path, "G.safetensors"), metadata=told | {"config": json.dumps(settings)})


def export_torchscript(model: PoseGAN, path: str | Path, *, discriminators: bool = False) -> None:
    """layout=torchscript: a program (x, c) -> x-hat."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning, module=r"torch\.nn\.")  # instance norm's
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=FutureWarning)  # torch 2.15: deprecated
        program = torch.jit.trace(Drawing(alone(model)), inputs(model))
        torch.jit.save(program, place(path, "G.torchscript"))


def export_pt2(model: PoseGAN, path: str | Path, *, discriminators: bool = False) -> None:
    """layout=pt2: the same for torch.export.load, for any number of people."""
    any_number = {0: torch.export.Dim("batch")}
    program = torch.export.export(Drawing(alone(model)).eval(), inputs(model), dynamic_shapes=(any_number, any_number))
    torch.export.save(program, place(path, "G.pt2"))


def inputs(model: PoseGAN) -> tuple[Tensor, Tensor]:
    """x and c of two people, to follow what is computed."""
    size = model.image_size
    return torch.zeros(2, 3, size, size), torch.zeros(2, model.pose_channels, size, size)


def read_safetensors(path: str | Path, model: PoseGAN) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of G in a file of `export_safetensors`, and its settings. UserError for another model's."""
    if not Path(path).is_file():
        raise UserError(f"no weights file at {path}: give the path of one.")
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}
        settings, version = json.loads(told.get("config", "null")), int(told.get("version", 0))
    except (OSError, SafetensorError, ValueError):
        raise UserError(
            f"{path} cannot be read as safetensors: it is damaged or of another kind, write it again."
        ) from None
    remedy = f"give what layout=safetensors wrote of a {model.KIND}"
    check_export(told | {"format": version}, model.KIND, model.FORMAT, path, remedy)
    check_parts({"config": settings}, {"config": dict}, path)
    return state, settings
