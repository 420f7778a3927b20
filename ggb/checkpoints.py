"""Third-party weights as states of our networks, and back to pix2pix.

pix2pix      `--netG unet_128` of junyanz/pytorch-CycleGAN-and-pix2pix: one network under other names; e_k and d_(8-k)
             are a nested block there, and skips come first in both
TensorFlow   PG2 of its authors, one .npz of the variables of model.ckpt-*: Pose_AE/G is stage 1, UAEnoFC/G stage 2,
             Discriminator.* D. A stage's convolutions are counted in the order of their calls, kernels are H,W,I,O,
             and the code vector stands between maps that are flattened as H,W,C
PyTorch      PG2 of budui/Human-Pose-Transfer: network_G1_*.pth, network_G2_*.pth and perhaps network_D_*.pth in a
             folder, each a state dict under other names
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import ggb.pg2_networks as pg2
from common.errors import UserError
from common.weights import check_fit, read_state, read_variables, without_parallel
from ggb.networks import TOP

State = dict[str, Tensor]

# ---- pix2pix

OUTERMOST = "model.model"


def pix2pix_names(depth: int = TOP) -> Iterator[tuple[str, str]]:
    """(pix2pix's prefix, ours) of each layer of a U-Net of some depth."""
    block = OUTERMOST
    yield f"{block}.0.", "enc.1.conv."
    yield f"{block}.3.", f"dec.{TOP}.conv."
    for k in range(2, depth + 1):
        block += ".1.model" if k == 2 else ".3.model"
        up = 3 if k == depth else 5  # the innermost block has no norm on its way down, and nothing in it
        level = TOP + 1 - k
        yield f"{block}.1.", f"enc.{k}.conv."
        if k < depth:
            yield f"{block}.2.", f"enc.{k}.bn."
        yield f"{block}.{up}.", f"dec.{level}.conv."
        yield f"{block}.{up + 1}.", f"dec.{level}.bn."


def is_pix2pix(state: Mapping[str, object]) -> bool:
    """Whether a file's content is the state of a generator of pix2pix."""
    return any(str(name).removeprefix("module.").startswith(f"{OUTERMOST}.0.") for name in state)


def from_pix2pix(state: Mapping[str, Tensor], source: str | Path = "the state dict") -> dict[str, Tensor]:
    """The state of our generator without heads. UserError for a U-Net of another depth, as `unet_256` is."""
    state = without_parallel(state)
    depth = 1 + max((name.count(".model") - 1 for name in state), default=0)
    if depth != TOP:
        raise UserError(
            f"{source} holds a U-Net of {depth} levels, and GGB's has {TOP}: pix2pix calls that --netG unet_128."
        )
    ours = dict(pix2pix_names())
    found = {}
    for name, value in state.items():
        theirs = next(
            (prefix for prefix in ours if name.startswith(prefix) and ".model" not in name[len(prefix) :]), ""
        )
        found[ours.get(theirs, "") + name.removeprefix(theirs)] = value
    return found


def to_pix2pix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """pix2pix's state dict (`latest_net_G.pth`) of our generator's; heads are left out."""
    theirs = {ours: prefix for prefix, ours in pix2pix_names()}
    parts = {name: name.rpartition(".")[0] + "." for name in state if not name.startswith("to_rgb.")}
    return {theirs[part] + name.removeprefix(part): state[name] for name, part in parts.items()}


class Published(NamedTuple):
    """PG2 of others as states of ours."""

    generator: State
    discriminator: State  # empty where the files have none


# ---- PG2 in TensorFlow

SCOPES = {"stage1": "Pose_AE/G/", "stage2": "UAEnoFC/G/"}
KINDS = {"weights": "weight", "biases": "bias"}
JUDGE = "Discriminator."
JUDGE_KINDS = {
    **{"Filters": "weight", "Biases": "bias", "W": "weight", "b": "bias"},
    **{"scale": "weight", "offset": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"},
}
JUDGE_PARTS = {  # our layers 0, 2, 5, 8 and 11 are convolutions, and each but the first has its norm behind it
    **{str(k): f"trunk.{max(0, 3 * k - 4)}" for k in range(1, 6)},
    **{f"BN{k}": f"trunk.{3 * k - 3}" for k in range(2, 6)},
    "Output": "score",
}


def convolutions(stage: pg2.Stage1 | pg2.Stage2) -> list[str]:
    """Names of a stage's convolutions in the order in which they run; the last block goes neither down nor up."""
    found = ["start"]
    ways = (("enc", stage.enc, "down", stage.down), ("dec", stage.dec, "up", getattr(stage, "up", ())))
    for block, blocks, move, moves in ways:
        for number in range(len(blocks)):
            found += [f"{block}.{number}.0", f"{block}.{number}.2"]
            found += [f"{move}.{number}"] if number < len(moves) else []
    return [*found, "out"]


def read_tensorflow(path: str | Path, generator: pg2.Generator) -> Published:
    """PG2's TensorFlow variables from an .npz. UserError for another file, or for variables of other sizes."""
    variables = read_variables(
        path, rf"({'|'.join(SCOPES.values())})[^/]+/({'|'.join(KINDS)})|{JUDGE}[^./]+\.({'|'.join(JUDGE_KINDS)})"
    )
    if any(f"{scope}Conv/weights" not in variables for scope in SCOPES.values()):
        raise UserError(
            f"{path} lacks variables of PG2 such as Pose_AE/G/Conv/weights and UAEnoFC/G/Conv/weights: write all of "
            "model.ckpt-* under their names into one .npz."
        )
    state: State = {}
    for stage, scope in SCOPES.items():
        order = convolutions(getattr(generator, stage))
        parts = {f"Conv_{k}" if k else "Conv": name for k, name in enumerate(order)}
        parts |= {"fully_connected": "to_code", "fully_connected_1": "from_code"} if stage == "stage1" else {}
        for name, value in variables.items():
            layer, _, kind = name.removeprefix(scope).partition("/")
            if name.startswith(scope):
                state[f"{stage}.{parts.get(layer, layer)}.{KINDS[kind]}"] = value
    check_fit(generator, state, (), path)
    channels = len(state[f"stage1.enc.{len(generator.stage1.enc) - 1}.2.bias"]), len(state["stage1.start.bias"])
    down, up, bias = (f"stage1.{name}" for name in ("to_code.weight", "from_code.weight", "from_code.bias"))
    state[down] = state[down].unflatten(1, (-1, channels[0])).transpose(1, 2).flatten(1)  # H,W,C -> C,H,W
    state[up] = state[up].unflatten(0, (-1, channels[1])).transpose(0, 1).flatten(0, 1)
    state[bias] = state[bias].unflatten(0, (-1, channels[1])).T.flatten()
    judge: State = {}
    for name, value in variables.items():
        part, _, kind = name.removeprefix(JUDGE).partition(".")
        if name.startswith(JUDGE):
            judge[f"{JUDGE_PARTS.get(part, part)}.{JUDGE_KINDS[kind]}"] = value
    return Published(state, judge)


# ---- PG2 in PyTorch

START = "start_conv.0.weight"  # theirs, of both stages
CODE = "to_code.weight"  # ours, of stage 1 alone
RENAMED = {
    r"start_conv\.0": "start",
    r"end_conv": "out",
    r"down_fc": "to_code",
    r"up_fc": "from_code",
    r"encoder\.(\d+)\.(?:res\.)?main": r"enc.\1",
    r"decoder\.(\d+)\.(?:res\.)?main": r"dec.\1",
    r"encoder\.(\d+)\.conv\.0": r"down.\1",
    r"decoder\.(\d+)\.conv\.0": r"up.\1",
    r"main": "trunk",
    r"fc": "score",
}


def is_stage(content: Mapping[str, object]) -> bool:
    """Whether a file's content is the state of one of Human-Pose-Transfer's stages."""
    return any(str(name).removeprefix("module.") == START for name in content)


def read_torch(path: str | Path, generator: pg2.Generator) -> Published:
    """Human-Pose-Transfer's PG2: a folder, or the file of one stage, beside which the others are looked for.

    Of several files of a network the last iteration's is read. UserError where a stage is absent or of other sizes.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    files = {name: last(folder, name) for name in ("G1", "G2", "D")}
    read: dict[str, State] = {}
    if path.is_file():
        given = renamed(path)
        read["G1" if CODE in given else "G2"] = given
    absent = [f"network_{name}_*.pth" for name in ("G1", "G2") if name not in read and files[name] is None]
    if absent:
        raise UserError(
            f"{folder} lacks {' and '.join(absent)}: PG2 draws in two stages, put the files of both into one folder."
        )
    states = {name: renamed(file) for name, file in files.items() if file is not None and name not in read} | read
    state = {f"stage{k}.{name}": value for k in (1, 2) for name, value in states[f"G{k}"].items()}
    check_fit(generator, state, (), folder if path.is_dir() else path)
    source, coarse = state["stage2.start.weight"].split(3, dim=1)  # its stage 2 reads (x, x-hat_1)
    state["stage2.start.weight"] = torch.cat([coarse, source], 1)
    judge = states.get("D", {})
    for name, value in list(judge.items()):  # its convolutions have no bias
        if value.ndim == 4:
            judge.setdefault(name.replace("weight", "bias"), torch.zeros(len(value)))
    return Published(state, judge)


def last(folder: Path, name: str) -> Path | None:
    """network_<name>_<iteration>.pth of the highest iteration."""
    files = {
        int(match[1]): file
        for file in folder.glob(f"network_{name}_*.pth")
        if (match := re.fullmatch(rf"network_{name}_\D*(\d+)\.pth", file.name))
    }
    return files[max(files)] if files else None


def renamed(path: Path) -> State:
    """A file's state under our names; a name that is in no pattern stays, and is refused as unexpected."""
    found = {}
    for name, value in without_parallel(read_state(path)).items():
        layer, _, kind = name.rpartition(".")
        for theirs, ours in RENAMED.items():
            layer = re.sub(rf"^{theirs}(?=\.|$)", ours, layer)
        found[f"{layer}.{kind}"] = value
    return found
