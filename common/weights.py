"""State dicts of files: read without unpickling an object, and loaded only into the very network they were made of."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError

Net = TypeVar("Net", bound=nn.Module)


# ---- public files


class KnownFile(NamedTuple):
    """A public file of weights, looked for under torch.hub's folder ($TORCH_HOME)."""

    title: str
    names: tuple[str, ...]  # any of them; each ends in the first eight digits of its SHA-256
    source: str
    use: str
    without: str

    @property
    def name(self) -> str:
        """The name under which it is published."""
        return self.names[0]

    @property
    def hash(self) -> str:
        return Path(self.name).stem.rpartition("-")[2]


ZOO, TRAINED = "torchvision's IMAGENET1K_V1", "a classifier is trained here first"
KNOWN_FILES = {
    "inception": KnownFile(
        "Inception 2015-12-05",
        # torch-fidelity's and pytorch-fid's name of the same file
        ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
        "torch-fidelity's releases",
        "FID, KID and Inception score as published",
        "they come from a classifier trained here, carry its name and compare with no paper",
    ),
    "alexnet": KnownFile(
        "AlexNet", ("alexnet-owt-7be5be79.pth",), ZOO, "LPIPS, JEM's guides", f"LPIPS is left out; {TRAINED}"
    ),
    "vgg16": KnownFile("VGG-16", ("vgg16-397923af.pth",), ZOO, "the image side of model=vse, JEM's guides", TRAINED),
    "vgg16_bn": KnownFile("VGG-16 with BN", ("vgg16_bn-6c64b313.pth",), ZOO, "JEM's guides", TRAINED),
    "vgg19": KnownFile("VGG-19", ("vgg19-dcbb9e9d.pth",), ZOO, "JEM's guides", TRAINED),
    "resnet101": KnownFile("ResNet-101", ("resnet101-63fe2227.pth",), ZOO, "the denoising of attributes", TRAINED),
    "inception_v3": KnownFile(
        "Inception-v3", ("inception_v3_google-0cc3c7bd.pth",), ZOO, "the image side of DAMSM", TRAINED
    ),
    "mask_rcnn": KnownFile(
        "Mask R-CNN",
        ("maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",),
        "torchvision's COCO_V1",
        "instances of flowers and birds for JEM's guides",
        "the data set's own masks are taken",
    ),
    "keypoint_rcnn": KnownFile(
        "key-point R-CNN",
        ("keypointrcnn_resnet50_fpn_coco-fc266e95.pth",),
        "torchvision's COCO_V1",
        "prepare=poses, the key points of own photos",
        "they are read from files alone",
    ),
}


def hub_folder() -> Path:
    """Where torchvision and the suite look for public files: under $TORCH_HOME if it is set."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_weights(known: str, explicit: str | Path | None = None) -> Path | None:
    """The file given (UserError if absent), else the one of KNOWN_FILES where it is on disk, else None."""
    names = KNOWN_FILES[known].names
    if explicit is not None:
        if not Path(explicit).expanduser().is_file():
            raise UserError(f"no weights file at {explicit}: give the path of {names[0]}, or leave it out.")
        return Path(explicit).expanduser()
    return next((path for name in names if (path := hub_folder() / name).is_file()), None)


def require_weights(known: str, explicit: str | Path | None, use: str, remedy: str) -> Path:
    """`find_weights`, and a UserError where neither is there. use: what for, such as "prepare=poses looks through"."""
    found = find_weights(known, explicit)
    if found is None:
        file = KNOWN_FILES[known]
        raise UserError(f"{use} torchvision's {file.title} and there is no {hub_folder() / file.name}: {remedy}.")
    return found


def load_known(net: Net, state: Mapping[str, Any], known: str, path: str | Path) -> Net:
    """A network of torchvision's with the weights of one of KNOWN_FILES: it reads the names of older files itself.

    UserError for a file of anything else.
    """
    file = KNOWN_FILES[known]
    if is_state(state):
        try:
            net.load_state_dict(state)
            return net
        except RuntimeError:
            pass
    raise UserError(f"{path} holds no weights of {file.title}: give torchvision's {file.name}.")


# ---- reading


def read_weights(path: str | Path, *, mapped: bool = False) -> dict[str, Any]:
    """What a file of weights holds, on the CPU; no code in it runs, and only a regular file is opened.

    mapped: its tensors stay in the file until they are looked at.
    """
    if not Path(path).is_file():
        found = f"{path} is no regular file" if Path(path).exists() else f"no weights file at {path}"
        raise UserError(f"{found}: give the path of one, or leave it out to have one trained.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a file that you may read.") from None
    except Exception as error:  # the reader fails in a dozen ways on a damaged file
        if "unsupported global" in str(error).lower():
            raise UserError(
                f"{path} holds pickled objects, which can run code when they are read: save its state_dict() alone."
            ) from None
        raise UserError(
            f"{path} cannot be read as weights: it is damaged or of another kind, fetch or train it again."
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, no weights: give a state dict or an export.")
    return content


def is_state(value: object) -> bool:
    """Whether something is a state dict: names with one tensor each."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(one, Tensor) for name, one in value.items()
    )


def are_words(value: object) -> bool:
    """Whether something is a list of words."""
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def are_settings(value: object) -> bool:
    """Whether something is the settings of a model: names with plain values, lists of these or names again."""

    def plain(one: object) -> bool:
        if isinstance(one, Mapping):
            return all(isinstance(name, str | int) and plain(part) for name, part in one.items())
        return all(map(plain, one)) if isinstance(one, list | tuple) else isinstance(one, str | int | float | None)

    return isinstance(value, Mapping) and plain(value)


def told(value: object) -> str:
    """A word or number of a file's head, as a sentence has it; of anything else what it is."""
    return str(value) if isinstance(value, str | int | None) else f"a {type(value).__name__}"


def check_parts(content: Mapping[str, Any], parts: Mapping[str, Any], path: str | Path, inside: str = "") -> None:
    """UserError unless a file has these parts, each of its kind: a type, a test such as `is_state`, or parts again."""
    for name, kind in parts.items():
        value: Any = content.get(name)
        nested = isinstance(kind, Mapping)
        wanted = Mapping if nested else kind
        fits = isinstance(value, wanted) if isinstance(wanted, type | UnionType) else wanted(value)
        if name not in content or not fits:
            fault = f"is a {type(value).__name__}" if name in content else "is missing"
            raise UserError(f"{path} is not whole, its part {inside}{name} {fault}: take the original file.")
        if nested:
            check_parts(value, kind, path, f"{inside}{name}.")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """A state dict on the CPU. UserError when the file is absent, damaged, holds objects or anything but tensors."""
    state = read_weights(path)
    if not (state and is_state(state)):
        raise UserError(
            f"{path} is not a state dict, names with one tensor each: save the network's state_dict() alone."
        )
    return state


def read_variables(path: str | Path, wanted: str) -> dict[str, Tensor]:
    """TensorFlow's variables of an .npz, those whose whole name matches the pattern `wanted`, as PyTorch has them.

    Kernels H,W,I,O become O,I,H,W (H,W,O,I of deconvolutions I,O,H,W), matrices I,O O,I; `:0` behind a name goes.
    UserError when the file is absent, damaged or holds objects.
    """
    found = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                if re.fullmatch(wanted, name := key.removesuffix(":0")):
                    value = file[key]
                    turned = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
                    found[name] = torch.from_numpy(np.ascontiguousarray(turned, dtype=np.float32))
    except FileNotFoundError:
        raise UserError(f"no weights file at {path}: give the path of one.") from None
    except Exception:  # the reader fails in a dozen ways on a damaged file
        raise UserError(
            f"{path} cannot be read as an .npz of arrays: it is damaged or of another kind, write it again."
        ) from None
    return found


def without_parallel(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the network inside a DataParallel, whose keys all begin with `module.`; others as they are."""
    wrapped = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in state.items()}


def fill(net: Net, state: Mapping[str, Tensor], source: str | Path) -> Net:
    """A network built on the meta device, with a file's weights and without a second copy of them; `net` is used up.

    BatchNorm's counters, which PyTorch <= 0.3 did not keep, are 0 where the file lacks them.
    """
    check_fit(net, state, ("num_batches_tracked",), source)
    mine = net.state_dict()
    counters = {key: torch.tensor(0) for key in mine if key.endswith("num_batches_tracked")}
    net.load_state_dict(counters | {key: value.to(mine[key].dtype) for key, value in state.items()}, assign=True)
    return net


@contextmanager
def settings_of(path: str | Path) -> Iterator[None]:
    """Where a network is built from settings that a file holds: those that build none are a UserError."""
    try:
        yield
    except (UserError, TypeError, ValueError, LookupError, AttributeError, RuntimeError, ArithmeticError) as error:
        fault = str(error).rstrip(".")
        raise UserError(f"{path} holds settings that build no network ({fault}): take the original file.") from error


def load_strict(
    module: nn.Module,
    state: Mapping[str, Tensor],
    tolerate: Sequence[str] = ("num_batches_tracked",),
    *,
    source: str | Path = "the state dict",
) -> None:
    """Loads a state whose keys and shapes are exactly the module's, as `check_fit` has it."""
    state = without_parallel(state)
    check_fit(module, state, tolerate, source)
    module.load_state_dict(state, strict=False)  # what may be missing stays as it is


def check_fit(module: nn.Module, state: Mapping[str, Tensor], tolerate: Sequence[str], source: str | Path) -> None:
    """UserError that names the first few keys by which a state does not fit a module.

    tolerate: last parts of keys that may be missing. PyTorch <= 0.3 kept no num_batches_tracked in a BatchNorm.
    source: the file, for the message.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in state and name.rpartition(".")[2] not in tolerate]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name} {tuple(value.shape)} for {tuple(expected[name].shape)}"
        for name, value in state.items()
        if name in expected and value.shape != expected[name].shape
    ]
    retyped = [
        f"{name} {value.dtype} for {expected[name].dtype}"
        for name, value in state.items()
        if name in expected and value.is_floating_point() != expected[name].is_floating_point()
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped, "of another type": retyped}
    faults = [f"{kind} {some(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise UserError(
            f"{source} does not fit {type(module).__name__} ({'; '.join(faults)}): give a file of that very network."
        )


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state on the CPU, cut from any graph; what is there already is not copied."""
    return {name: value.detach().cpu() for name, value in state.items()}


def check_settings(mine: Mapping[str, Any], theirs: Mapping[str, Any], names: Sequence[str], path: str | Path) -> None:
    """Refuses weights made with other settings (`differing`) and says which words of the command would fit them."""
    if other := differing(mine, theirs, names):
        words = " ".join(f"{key}={value}" for key, value in as_words(other).items())
        raise UserError(f"{path} was made with other settings than these: add {words} to the command.")


KEPT = "average.decay"  # null where no average of G is kept


def differing(mine: Mapping[str, Any], theirs: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Their values of the settings in which they differ from mine, nested ones with dots.

    names: of settings of the model, of whole groups of them (`generator`), of `image_size`, which the data say, or of
    weights of the loss (`loss.d.part`). Whether an average is kept is compared too. A setting that `theirs` lacks is as
    mine: the file is from before it.
    """
    mine, theirs = flat(mine), flat(theirs)
    other = [
        key
        for name in names
        for key in mine
        if (key == name or key.startswith(f"{name}.")) and mine[key] != theirs.get(key, mine[key])
    ]
    if (mine[KEPT] is None) != (theirs.get(KEPT, mine[KEPT]) is None):
        other.append(KEPT)
    return {key: theirs[key] for key in other}


def as_words(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings of a model as a command has them: key in full -> value as it is written."""
    rooms = {"image_size": "data.image_size"}
    return {
        rooms.get(name, name if name.startswith("loss.") else f"model.{name}"): json.dumps(
            value, separators=(",", ":"), default=str
        )
        for name, value in settings.items()
    }


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{generator: {ngf: 8}} -> {generator.ngf: 8}."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def with_null(settings: Mapping[str, Any], names: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Settings in which those of these names, nested ones with dots, are null."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        key = prefix + name
        nested = isinstance(value, Mapping) and key not in names
        found[name] = with_null(value, names, f"{key}.") if nested else None if key in names else value
    return found


def check_export(content: Mapping[str, Any], kind: str, format: int, path: str | Path, remedy: str) -> None:
    """UserError unless a file holds an export of this kind and format. remedy: which file to give."""
    found, version = content.get("kind"), content.get("format")
    if found != kind:
        what = f"a {found}" if isinstance(found, str) else "something else"
        raise UserError(f"{path} holds {what}, not a {kind}: {remedy}.")
    if not isinstance(version, int) or version != format:
        raise UserError(
            f"{path} is of format {told(version)}, not {format}: export it or train again with this version."
        )


def read_artifact(path: str | Path, kind: str, parts: Mapping[str, Any], format: int = 1) -> dict[str, Any]:
    """What an `Artifact` of this kind and format wrote. parts: what is read of it (`weights.check_parts`). UserError
    for anything else."""
    content = read_weights(path)
    check_export(content, kind, format, path, f"give the file that model={kind} made")
    check_parts(content, parts, path)
    return content
