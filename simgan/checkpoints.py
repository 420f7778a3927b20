"""Third-party weights: the files that woozzu/dong_iccv_2017 released for SISGAN and its text encoder.

They were saved by Python 2 and PyTorch 0.2 or 0.3. Nothing here ever unpickles an object.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import UserError
from simgan.sisgan import SISGANGenerator


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict on the CPU. UserError when the file is absent, damaged, holds objects or anything but tensors."""
    if not Path(path).is_file():
        raise UserError(f"no weights at {path}: put the file there or correct the path.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader fails in a dozen ways on a damaged file
        if "unsupported global" in str(error).lower():
            raise UserError(
                f"{path} holds pickled objects, which can run code when they are read: save its state_dict() alone."
            ) from None
        raise UserError(
            f"{path} cannot be read as weights: it is damaged or of another kind, fetch it again."
        ) from None
    if not (isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise UserError(
            f"{path} is not a state dict, names with one tensor each: save the network's state_dict() alone."
        )
    return {str(name): value for name, value in state.items()}


def without_parallel(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the network inside a DataParallel, whose keys all begin with `module.`; others as they are."""
    wrapped = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in state.items()}


def load_strict(
    module: nn.Module,
    state: Mapping[str, Tensor],
    tolerate: Sequence[str] = ("num_batches_tracked",),
    *,
    source: str | Path = "the state dict",
) -> None:
    """Loads a state whose keys and shapes are exactly the module's, or raises UserError that names the first few.

    tolerate: last parts of keys that may be missing. PyTorch <= 0.3 kept no num_batches_tracked in a BatchNorm.
    source: the file, for the message.
    """
    state, expected = without_parallel(state), module.state_dict()
    missing = [name for name in expected if name not in state and name.rpartition(".")[2] not in tolerate]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name} {tuple(value.shape)} for {tuple(expected[name].shape)}"
        for name, value in state.items()
        if name in expected and value.shape != expected[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    faults = [f"{kind} {some(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise UserError(
            f"{source} does not fit {type(module).__name__} ({'; '.join(faults)}): give a file of that very network."
        )
    module.load_state_dict(state, strict=False)  # what may be missing stays as it is


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def load_sisgan(path: str | Path) -> SISGANGenerator:
    """SISGAN's released generator `{birds,flowers}.pth`, either encoder, in eval mode.

    The VGG variant reads plain [0, 1] images, as its weights were trained.
    """
    state = without_parallel(read_weights(path))
    vgg = "encoder.29.weight" in state  # the tenth convolution of VGG-16
    if vgg:  # our frozen networks stand behind a `net`
        state = {name.replace("encoder.", "encoder.net.", name.startswith("encoder.")): v for name, v in state.items()}
    generator = SISGANGenerator(encoder="vgg" if vgg else "conv", vgg_input="unit")
    load_strict(generator, state, source=path)
    return generator.eval()
