"""Third-party weights as states of our networks, with the settings that they are of.

TensorFlow   paarthneekhara/text-to-image ([P]), one .npz of the variables of latest_model_*.ckpt: kernels are H,W,I,O
             (H,W,O,I of deconvolutions) and maps are flattened as H,W,C. Images are in [0, 1] there: G's end in
             tanh/2 + 1/2, which is our tanh, and D's first convolution sees them (`Discriminator`, unit)
Torch7       reedscot/icml2016 ([R]), *_net_G.t7 of main_cls_int.lua: layers of nn or cudnn in the order of their calls
PyTorch      aelnouby/Text-to-Image-Synthesis, gen_*.pth: the state of a `reed.PortGenerator`

A discriminator is looked for beside the last two: *_net_D.t7, disc_*.pth.
"""

import math
import re
from collections.abc import Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.data.readers.old_formats import TorchObject, read_t7
from common.errors import UserError
from common.weights import check_fit, read_state, read_variables, settings_of, without_parallel
from jem.networks import STRIDES, Discriminator, Generator
from jem.reed import SIDE, PortDiscriminator, PortGenerator, ReedDiscriminator, ReedGenerator

State = dict[str, Tensor]
Settings = dict[str, Any]


class Published(NamedTuple):
    """A public model as one of ours."""

    settings: Settings  # image_size, sentence, generator, discriminator, as far as the files say
    generator: State
    discriminator: State  # empty where there is none


def is_port(content: Mapping[str, object]) -> bool:
    """Whether a file's content is the state of a network of the PyTorch port."""
    return any(str(name).removeprefix("module.") in ("netG.0.weight", "netD_1.0.weight") for name in content)


def is_published(path: str | Path) -> bool:
    """Whether a file is, by its name, one of [P]'s or [R]'s, which PyTorch does not read."""
    return Path(path).suffix in (".npz", ".t7")


def read_published(path: str | Path) -> Published:
    """[P]'s variables, [R]'s networks or the port's, told apart by the suffix. UserError for any other content."""
    return {".npz": read_tensorflow, ".t7": read_torch7}.get(Path(path).suffix, read_port)(Path(path))


def load_published(found: Published, generators: Iterable[nn.Module], judge: nn.Module, path: str | Path) -> None:
    """A generator, its average and perhaps a discriminator become those of a file, or none of them. UserError where
    one does not fit."""
    states = [(net, found.generator) for net in generators]
    states += [(judge, found.discriminator)] if found.discriminator else []
    for net, state in states:
        check_fit(net, state, (), path)
    for net, state in states:
        net.load_state_dict(state)


def published(shared: Settings, generator: Settings, judge: Settings, states: tuple[State, State]) -> Published:
    """shared: image_size and text_dim. Nobody here scales a sentence's vector."""
    sentence = {"dim": shared["text_dim"], "norm": "none"}
    settings = {"image_size": shared["image_size"], "sentence": sentence, "generator": generator}
    return Published(settings | ({"discriminator": judge} if judge else {}), *states)


def fitted(kind: type[nn.Module], sizes: Settings, state: State, path: Path) -> State:
    """A state of the network that these sizes make, with BatchNorm's counters. UserError where it is of none."""
    with settings_of(path), torch.device("meta"):
        net = kind(**sizes)
    check_fit(net, state, ("num_batches_tracked",), path)
    return {name: torch.tensor(0) for name in net.state_dict() if name not in state} | state


def sizes_of(state: State, text: str, first: str, conv_bias: bool, path: Path) -> tuple[Settings, Settings]:
    """What G and D of a network of 64 pixels share, and G's own sizes. text, first: names of the weights that the
    sentence's vector and then the joined one go through first."""
    with settings_of(path):
        (width, text_dim), (vector, channels, *_) = state[text].shape, state[first].shape
    sizes = {"ngf": channels // 8, "z_dim": vector - width, "text_width": width}
    return {"image_size": SIDE, "text_dim": text_dim}, sizes | {"kernel": 4, "conv_bias": conv_bias}


def judge_sizes(state: State, text: str, first: str, conv_bias: bool) -> Settings:
    """D's own sizes, likewise; first: of the image."""
    sizes = {"ndf": rows_of(state, first), "text_width": rows_of(state, text)}
    return sizes | {"kernel": 4, "unit": False, "conv_bias": conv_bias}


def rows_of(state: State, name: str) -> int:
    """Length of a tensor; 1 where it is absent, which `check_fit` says then."""
    return len(state[name]) if name in state else 1


def beside(path: Path, generator: str, discriminator: str) -> Path | None:
    """The file of the discriminator, by the name of the generator's."""
    other = path.with_name(path.name.replace(generator, discriminator))
    return other if other != path and other.is_file() else None


# ---- TensorFlow

KINDS = {"Matrix": "weight", "w": "weight", "gamma": "weight", "bias": "bias", "biases": "bias", "beta": "bias"}
G_LAYERS = {"g_embedding": "text.0", "g_h0_lin": "first", "g_bn0": "first_norm"}
G_LAYERS |= {f"g_h{k}": f"deconvs.{k - 1}" for k in range(1, 5)} | {f"g_bn{k}": f"norms.{k - 1}" for k in range(1, 4)}
D_LAYERS = {"d_embedding": "text.0", "d_h3_conv_new": "joint", "d_bn4": "joint_norm", "d_h3_lin": "last"}
D_LAYERS |= {f"d_h{k}_conv": f"convs.{k}" for k in range(4)} | {f"d_bn{k}": f"norms.{k - 1}" for k in range(1, 4)}
MOMENTS = {"mean": "running_mean", "Squeeze": "running_mean", "variance": "running_var", "Squeeze_1": "running_var"}
AVERAGE = rf"[gd]_bn\d/.*moments/(?:.*/)?({'|'.join(MOMENTS)})/ExponentialMovingAverage"  # before and since TF 1.0


def read_tensorflow(path: Path) -> Published:
    """[P]'s G, and its D where the file has it."""
    variables = read_variables(path, rf"(?:{'|'.join(G_LAYERS | D_LAYERS)})/(?:{'|'.join(KINDS)})|{AVERAGE}")
    if not {"g_embedding/Matrix", "g_h0_lin/Matrix", "g_bn0/gamma"} <= set(variables):
        raise UserError(
            f"{path} lacks variables of text-to-image such as g_embedding/Matrix and g_h0_lin/Matrix: write all of "
            "latest_model_*.ckpt under their names into one .npz."
        )
    state, judge = (renamed(variables, layers) for layers in (G_LAYERS, D_LAYERS))
    absent = [name for name in variables if name.endswith("/gamma") and not has_moments(name, state, judge)]
    if absent:
        raise UserError(
            f"{path} lacks the moving averages of {', '.join(sorted(absent))}: write the checkpoint's variables that "
            "end in ExponentialMovingAverage into it too."
        )
    with settings_of(path):
        (width, text_dim), (rows, vector) = state["text.0.weight"].shape, state["first.weight"].shape
        channels = len(state["first_norm.weight"])
        shared = {"image_size": STRIDES * math.isqrt(rows // channels), "text_dim": text_dim}
    sizes = {"ngf": channels // 8, "z_dim": vector - width, "text_width": width, "kernel": 5}
    state = fitted(Generator, shared | sizes | {"code": None}, state, path)
    state["first.weight"] = state["first.weight"].unflatten(0, (-1, channels)).transpose(0, 1).flatten(0, 1)
    state["first.bias"] = state["first.bias"].unflatten(0, (-1, channels)).T.flatten()  # H,W,C -> C,H,W
    theirs: Settings = {}
    if judge:
        ndf = rows_of(judge, "convs.0.weight")
        theirs = {"ndf": ndf, "text_width": rows_of(judge, "text.0.weight"), "kernel": 5, "unit": True}
        judge = fitted(Discriminator, shared | theirs, judge, path)
        judge["last.weight"] = judge["last.weight"].unflatten(1, (-1, 8 * ndf)).transpose(1, 2).flatten(1)
    return published(shared, {"arch": "dcgan", "inject": "none", **sizes}, theirs, (state, judge))


def renamed(variables: Mapping[str, Tensor], layers: Mapping[str, str]) -> State:
    """The variables of one network. Of a BN that was called several times the first averages count: the real photos."""
    state = {}
    for name in sorted(variables, key=len, reverse=True):  # later calls have longer names
        layer, _, kind = name.partition("/")
        if layer in layers:
            average = re.fullmatch(AVERAGE, name)
            state[f"{layers[layer]}.{MOMENTS[average[1]] if average else KINDS[kind]}"] = variables[name]
    return state


def has_moments(gamma: str, state: State, judge: State) -> bool:
    """Whether the averages of a BN were in the file too. gamma: its variable."""
    layer = gamma.partition("/")[0]
    found, name = (state, G_LAYERS[layer]) if layer in G_LAYERS else (judge, D_LAYERS[layer])
    return all(f"{name}.{kind}" in found for kind in MOMENTS.values())


# ---- Torch7

LAYERS: dict[type[nn.Module], str] = {
    nn.Linear: "Linear",
    nn.Conv2d: "SpatialConvolution",
    nn.ConvTranspose2d: "SpatialFullConvolution",
    nn.BatchNorm1d: "BatchNormalization",
    nn.BatchNorm2d: "SpatialBatchNormalization",
    nn.ReLU: "ReLU",
    nn.LeakyReLU: "LeakyReLU",
    nn.Tanh: "Tanh",
}
PLUMBING = ("Identity", "JoinTable", "CAddTable", "Replicate", "View", "Sigmoid")  # of no weight; D's logits are ours
SMALLEST: Settings = {"image_size": SIDE, "text_dim": 1, "text_width": 1}


def read_torch7(path: Path) -> Published:
    """[R]'s G, and its D where that is beside it. Biases of convolutions, which training holds at 0, only if they are
    not."""
    state, conv_bias = read_layers(path, ReedGenerator(**SMALLEST, ngf=1, z_dim=1))
    shared, sizes = sizes_of(state, "text.0.weight", "layers.0.weight", conv_bias, path)
    state = fitted(ReedGenerator, shared | sizes, state, path)
    judge: State = {}
    theirs: Settings = {}
    if other := beside(path, "_net_G", "_net_D"):
        judge, conv_bias = read_layers(other, ReedDiscriminator(**SMALLEST, ndf=1))
        theirs = judge_sizes(judge, "text.0.weight", "convs.0.weight", conv_bias)
        judge = fitted(ReedDiscriminator, shared | theirs, judge, other)
    return published(shared, {"arch": "reed", **sizes}, theirs, (state, judge))


def read_layers(path: Path, like: nn.Module) -> tuple[State, bool]:
    """A network's state, and whether its convolutions have biases. like: the network in any size."""
    named = [(name, LAYERS[type(layer)]) for name, layer in like.named_modules() if type(layer) in LAYERS]
    layers = layers_of(read_t7(path))
    for k, (layer, ours) in enumerate(zip_longest(layers, named)):
        kind = layer and layer.kind.rpartition(".")[2]  # of nn or cudnn
        if layer is None or ours is None or kind != ours[1]:
            raise UserError(
                f"{path} holds other layers than {type(like).__name__} from number {k + 1} on ({kind or 'none'} for "
                f"{ours[1] if ours else 'none'}): give the *_net_G.t7 of reedscot/icml2016's main_cls_int.lua."
            )
    state: State = {}
    biases: State = {}
    for (name, kind), layer in zip(named, layers, strict=True):
        for part, value in weights_of(layer).items():
            if not isinstance(value, np.ndarray):
                raise UserError(f"{path} holds a {layer.kind} whose {part} is no tensor: take the original file.")
            into = biases if part == "bias" and kind.endswith("Convolution") else state
            into[f"{name}.{part}"] = torch.from_numpy(np.array(value, np.float32))
    conv_bias = any(bool(bias.any()) for bias in biases.values())
    return state | (biases if conv_bias else {}), conv_bias


def layers_of(network: object) -> list[TorchObject]:
    """The innermost layers of a network in the order of their calls, each once, without those that only pass on."""
    found, seen, ahead = [], set(), [network]
    while ahead:
        layer = ahead.pop()
        if isinstance(layer, TorchObject) and id(layer) not in seen:
            seen.add(id(layer))
            inside = layer.fields.get("modules")
            if isinstance(inside, dict):
                ahead += [inside[k] for k in sorted((k for k in inside if isinstance(k, int)), reverse=True)]
            elif layer.kind.rpartition(".")[2] not in PLUMBING:
                found.append(layer)
    return found


def weights_of(layer: TorchObject) -> dict[str, Any]:
    """What a layer holds under our names; a bias may be absent."""
    held = layer.fields
    return {
        name: held[name] for name in ("weight", "bias", "running_mean", "running_var") if held.get(name) is not None
    }


# ---- PyTorch


def read_port(path: Path) -> Published:
    """The port's G, and its D where that is beside it."""
    state = without_parallel(read_state(path))
    if not {"projection.0.weight", "netG.0.weight"} <= set(state):
        raise UserError(f"{path} holds no generator of Text-to-Image-Synthesis: give its gen_*.pth.")
    shared, sizes = sizes_of(state, "projection.0.weight", "netG.0.weight", False, path)
    state = fitted(PortGenerator, shared | sizes, state, path)
    judge: State = {}
    theirs: Settings = {}
    if other := beside(path, "gen_", "disc_"):
        judge = without_parallel(read_state(other))
        theirs = judge_sizes(judge, "projector.projection.0.weight", "netD_1.0.weight", False)
        judge = fitted(PortDiscriminator, shared | theirs, judge, other)
    return published(shared, {"arch": "port", **sizes}, theirs, (state, judge))
