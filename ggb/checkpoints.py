"""Third-party weights: the U-Net of pix2pix (junyanz/pytorch-CycleGAN-and-pix2pix, `--netG unet_128`), and back.

The two are one network under other names: e_k and d_(8-k) are a nested block there, and skips come first in both.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from common.errors import UserError
from common.weights import check_fit, read_state, without_parallel
from ggb.networks import TOP, Generator

OUTERMOST = "model.model"


def names(depth: int = TOP) -> Iterator[tuple[str, str]]:
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
    ours = dict(names())
    found = {}
    for name, value in state.items():
        theirs = next(
            (prefix for prefix in ours if name.startswith(prefix) and ".model" not in name[len(prefix) :]), ""
        )
        found[ours.get(theirs, "") + name.removeprefix(theirs)] = value
    return found


def to_pix2pix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """pix2pix's state dict (`latest_net_G.pth`) of our generator's; heads are left out."""
    theirs = {ours: prefix for prefix, ours in names()}
    parts = {name: name.rpartition(".")[0] + "." for name in state if not name.startswith("to_rgb.")}
    return {theirs[part] + name.removeprefix(part): state[name] for name, part in parts.items()}


def load_pix2pix(path: str | Path) -> Generator:
    """The generator of a pix2pix file, of whatever widths, poses and norm, in eval mode."""
    state = from_pix2pix(read_state(path), path)
    width, channels = state["enc.1.conv.weight"].shape[:2]
    norm = "batch" if "enc.2.bn.weight" in state else "instance" if "enc.2.conv.bias" in state else "none"
    generator = Generator(pose_channels=channels - 3, ngf=width, levels=(), norm=norm)
    check_fit(generator, state, (), path)
    generator.load_state_dict(state)
    return generator.eval()
