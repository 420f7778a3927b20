"""AttnGAN's published files (taoxugit/AttnGAN), read unchanged and written back.

    netG*.pth, bird_AttnGAN2.pth   the averaged generator: 82 tensors from before PyTorch 0.4.1, since then 97
    netD{0,1,2}.pth                the discriminators at S/4, S/2 and S
    text_encoder*.pth              DAMSM's encoders; the number is that of the epoch
    image_encoder*.pth
    captions.pickle                [train captions, test captions, ixtoword, wordtoix]; id 0, "<end>", is padding

Ours have the same names of weights and in addition `mask_net.*` in netG and `PART_DNET.*` in netD; in place of
captions.pickle they have names.json, what the tokens say. AttnGAN has no counterpart of the foreground discriminators.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from common.blocks import Frozen
from common.classifier import PARTS as CLASSIFIER_PARTS
from common.classifier import ImageClassifier, load_image_encoder, recognise
from common.data.readers.old_formats import read_pickle
from common.errors import UserError
from common.files import file_hash
from common.weights import (
    are_words,
    check_fit,
    check_parts,
    fill,
    is_state,
    load_strict,
    on_cpu,
    read_artifact,
    read_state,
    read_weights,
    settings_of,
    without_parallel,
)
from finegan.conditions import denoised_hash
from finegan.discriminators import Discriminator
from finegan.encoders import Colours, ImageEncoder, RNNEncoder
from finegan.networks import Generator, warm_start

KINDS = {  # of files: a weight that no other has
    "generator": "img_net1.img.0.weight",
    "discriminator": "UNCOND_DNET.outlogits.0.weight",
    "text encoder": "rnn.weight_ih_l0",
    "image encoder": "emb_features.weight",
}
COCO = 27_297  # words of AttnGAN's other published vocabulary; CUB's has 5,450
NAMES = "names.json"
PUBLISHED: dict[str, Any] = {"trunk": "inception_v3", "image_size": 299}  # of every image encoder of AttnGAN
FORMAT = 2  # of what model=damsm exports


def read_kind(path: str | Path, kind: str) -> dict[str, Tensor]:
    """The state dict of a file of one of KINDS. UserError for another file."""
    state = without_parallel(read_state(path))
    if KINDS[kind] not in state:
        found = next((f"a {name}" for name, mark in KINDS.items() if mark in state), "something else")
        raise UserError(f"{path} holds {found}, no {kind} of AttnGAN: give that file.")
    return state


# ---- generator and discriminators


def generator_sizes(state: Mapping[str, Tensor], source: str | Path) -> dict[str, Any]:
    """Arguments of the Generator whose state this is, `legacy` apart. UserError for half a generator.

    Masks are taken to enter at every side for which features are computed.
    """
    for key in ("ca_net.fc.weight", "h_net1.fc.0.weight"):
        if key not in state:
            raise UserError(f"{source} lacks {key} of a generator: it is not whole, take the original file.")
    c_dim = len(state["ca_net.fc.weight"]) // 4  # half of it a gate, the rest mu and logvar
    masks = {
        int(key[13:-9]): len(value) for key, value in state.items() if re.fullmatch(r"mask_net.down\d+.0.weight", key)
    }
    return {
        "image_size": 16 << count(r"h_net1\.upsample\d+\.1\.weight", state),
        "ngf": state["img_net1.img.0.weight"].shape[1],
        "code_dim": state["ca_net.fc.weight"].shape[1],
        "z_dim": state["h_net1.fc.0.weight"].shape[1] - c_dim,
        "c_dim": c_dim,
        "residual_blocks": count(r"h_net2\.residual\.\d+\.block\.0\.weight", state),
        "masks": bool(masks),
        "mask_levels": None if min(masks, default=4) == 4 else sorted(masks),
        "mask_channels": masks[max(masks)] if masks else 1,
        "mask_channels_max": max(masks.values(), default=1),
    }


def count(pattern: str, state: Mapping[str, Tensor]) -> int:
    """How many keys of a state match."""
    return sum(re.fullmatch(pattern, key) is not None for key in state)


def load_generator(path: str | Path, *, legacy: bool = True) -> Generator:
    """The generator of a file, on the CPU and in eval mode. legacy: attention padding as in AttnGAN's code."""
    state = read_kind(path, "generator")
    with torch.device("meta"):
        generator = Generator(**generator_sizes(state, path), legacy=legacy)
    return fill(generator, state, path).requires_grad_(False).eval()


def load_discriminator(path: str | Path) -> Discriminator:
    """The discriminator of a file, on the CPU and in eval mode."""
    state = read_kind(path, "discriminator")
    channels = state[KINDS["discriminator"]].shape[1]
    joint = state.get("COND_DNET.jointConv.0.weight")
    halvings = count(r"img_code_s16\.(0|2|5|8)\.weight", state) + count(r"img_code_s(?!16)\d+\.0\.weight", state)
    with torch.device("meta"):
        net = Discriminator(
            side=4 << halvings,
            ndf=channels // 8,
            code_dim=256 if joint is None else joint.shape[1] - channels,
            part_mode="crop",  # both modes have the same weights
            conditional=joint is not None,
            parts="PART_DNET.outlogits.0.weight" in state,
        )
    return fill(net, state, path).requires_grad_(False).eval()


def import_attngan(generators: Iterable[nn.Module], discriminators: nn.ModuleList, folder: str | Path) -> None:
    """Starts networks from the netG*.pth of the last epoch and the netD{0,1,2}.pth of a folder.

    generators: G and its average, `model.nets().values()`.
    What AttnGAN has not stays as it is: a generator with masks draws what the file's draws, whatever the mask.
    """
    files = {"netG*.pth": last(Path(folder), "netG")} | {
        f"netD{k}.pth": Path(folder, f"netD{k}.pth") for k in range(len(discriminators))
    }
    refuse_missing(Path(folder), [name for name, path in files.items() if path is None or not path.is_file()])
    path, *others = (path for path in files.values() if path is not None)
    state = read_kind(path, "generator")
    for net in generators:
        take_generator(net, state, path)
    for net, other in zip(discriminators, others, strict=True):
        mine = {key: value for key, value in net.state_dict().items() if key.startswith("PART_DNET.")}
        load_strict(net, mine | read_kind(other, "discriminator"), source=other)


def take_generator(generator: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """The state of a published generator for one of ours, with masks or without."""
    assert isinstance(generator, Generator)
    if generator.mask_net is not None and not generator_sizes(state, source)["masks"]:
        warm_start(generator, state)
    else:
        load_strict(generator, state, source=source)


# ---- both encoders of a finished DAMSM, as a GAN takes them


@dataclass
class Encoders:
    """Both encoders of a finished DAMSM, frozen, and what they were taught."""

    text: Frozen  # of an RNNEncoder
    image: Frozen  # of an ImageEncoder
    names: tuple[str, ...]  # names[i - 1] is what token i says
    inputs: str  # "text", "raw", "clean" or "class"
    hash: str  # of the file: 8 hexadecimal digits
    config: dict[str, Any]  # settings of the DAMSM; code_dim and word_dim at least
    denoised_hash: str | None = None  # with inputs=clean: which labels survived (conditions.denoised_hash)

    def to(self, device: torch.device | str) -> Self:
        """The same, with both networks on a device."""
        self.text.to(device)
        self.image.to(device)
        return self

    def check(self, *, inputs: str, denoised: str | Path | None = None, code_dim: int | None = None) -> None:
        """UserError unless they were taught on this kind of input, this file of denoised attributes, at this width.

        Encoders of another kind would run and silently lower results: Table 2's rows have their own.
        """
        if inputs != self.inputs:
            taught = f"the encoders were trained with model.inputs={self.inputs}, not {inputs}"
            raise UserError(f"{taught}: give the file of a model=damsm of that kind, or change model.inputs.")
        if inputs == "clean" and denoised is not None and (found := denoised_hash(denoised)) != self.denoised_hash:
            taught = f"the encoders were trained on other denoised attributes ({self.denoised_hash})"
            remedy = "train model=damsm on that file, or give the file they were trained on"
            raise UserError(f"{taught} than {denoised} ({found}): {remedy}.")
        if code_dim not in (None, own := self.config["code_dim"]):
            raise UserError(f"the encoders' codes have width {own}: set model.code_dim to it, not {code_dim}.")

    def export(self) -> dict[str, Any]:
        """Plain values and tensors, from which `encoders_of` makes these again."""
        told = {key: getattr(self, key) for key in ("inputs", "hash", "config", "denoised_hash")}
        states = {"text": on_cpu(self.text.net.state_dict()), "image": on_cpu(self.image.net.state_dict())}
        return told | {"names": list(self.names)} | states


# what a file holds of both encoders; `Encoders` says what each is
PARTS = {
    "names": are_words,
    "inputs": str,
    "denoised_hash": str | None,
    "config": {"word_dim": int, "code_dim": int, "trunk": str, "image_size": int},
    "text": is_state,
    "image": is_state,
}


def encoders_of(content: Mapping[str, Any], path: str | Path, *, legacy: bool = False) -> Encoders:
    """Frozen encoders of a file's content, which PARTS and `hash` describe. UserError for weights of other sizes."""
    config, names = content["config"], tuple(content["names"])
    with settings_of(path), torch.device("meta"):
        sizes = {key: config[key] for key in ("word_dim", "code_dim")}
        text = RNNEncoder(tokens=len(names) + 1, **sizes, dropout=0.0)  # they only serve
        sizes = {key: config[key] for key in ("code_dim", "image_size", "trunk")}
        image = ImageEncoder(**sizes, bn_train=False, legacy=legacy)
    return Encoders(
        text=Frozen(fill(text, content["text"], path)),
        image=Frozen(fill(image, content["image"], path)),
        names=names,
        **{key: content[key] for key in ("inputs", "hash", "config", "denoised_hash")},
    )


def load_encoders(path: str | Path, *, legacy: bool = False) -> Encoders:
    """Frozen encoders of an export of `model=damsm`, or of a folder with AttnGAN's published files.

    legacy: the image encoder resizes as in AttnGAN's time.
    """
    if Path(path).is_dir():
        return encoders_of(read_published(path), path, legacy=legacy)
    return encoders_of(read_artifact(path, "damsm", PARTS, FORMAT) | {"hash": file_hash(path)}, path, legacy=legacy)


def read_published(folder: str | Path) -> dict[str, Any]:
    """What text_encoder*.pth, image_encoder*.pth and captions.pickle (or names.json) of a folder hold.

    {names, inputs, denoised_hash, config, hash, text, image} as Encoders has them, the last two as state dicts on the
    CPU. Of several the last epoch's are read. UserError names all that is missing at once, a file that is another
    network's, and a vocabulary that is not the encoder's.
    """
    folder = Path(folder)
    text_file = last(folder, "text_encoder") or folder / "text_encoder*.pth"
    image_file = text_file.with_name(text_file.name.replace("text", "image", 1))
    vocabulary = next((path for name in ("captions.pickle", NAMES) if (path := folder / name).is_file()), None)
    missing = [path.name for path in (text_file, image_file) if not path.is_file()]
    refuse_missing(folder, missing + (["captions.pickle"] if vocabulary is None else []))
    assert vocabulary is not None
    told: dict[str, Any] = {"inputs": "text", "denoised_hash": None}
    if vocabulary.name == NAMES:
        told = json.loads(vocabulary.read_text(encoding="utf-8"))
        check_parts(told, {name: PARTS[name] for name in ("names", "inputs", "denoised_hash")}, vocabulary)
    else:
        told["names"] = read_vocabulary(vocabulary)
    states = {"text": read_kind(text_file, "text encoder"), "image": read_kind(image_file, "image encoder")}
    sizes = text_sizes(states["text"], text_file)
    check_vocabulary(sizes["tokens"], len(told["names"]) + 1, text_file, vocabulary)
    with torch.device("meta"):
        check_fit(RNNEncoder(**sizes, dropout=0.0), states["text"], (), text_file)
        image = ImageEncoder(**PUBLISHED, code_dim=sizes["code_dim"], bn_train=False)
        check_fit(image, states["image"], ("num_batches_tracked",), image_file)
    config = {key: sizes[key] for key in ("word_dim", "code_dim")} | PUBLISHED
    digest = hashlib.sha256("\n".join([file_hash(text_file), file_hash(image_file), *told["names"]]).encode())
    return told | {"names": tuple(told["names"]), "config": config, "hash": digest.hexdigest()[:8]} | states


def text_sizes(state: Mapping[str, Tensor], source: str | Path) -> dict[str, int]:
    """Arguments of the RNNEncoder whose state this is; the vocabulary's size is the checkpoint's."""
    if "encoder.weight" not in state:
        raise UserError(f"{source} lacks encoder.weight of a text encoder: it is not whole, take the original file.")
    tokens, word_dim = state["encoder.weight"].shape
    return {"tokens": tokens, "word_dim": word_dim, "code_dim": 2 * state["rnn.weight_ih_l0"].shape[0] // 4}


def last(folder: Path, stem: str) -> Path | None:
    """<stem>N.pth or <stem>_epoch_N.pth with the highest N; one without a number only where it is alone."""
    files = {
        int(match[1] or -1): path
        for path in folder.glob(f"{stem}*.pth")
        if (match := re.fullmatch(rf"{stem}\D*(\d*)\.pth", path.name))
    }
    return files[max(files)] if files else None


def refuse_missing(folder: Path, names: list[str]) -> None:
    """UserError where a distribution of AttnGAN's is not whole."""
    if names:
        raise UserError(f"{folder} lacks {', '.join(names)}: put all files of one AttnGAN distribution there.")


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Words 1, 2, ... of captions.pickle."""
    content = read_pickle(path)
    words = content[2] if isinstance(content, list) and len(content) == 4 else None
    if not isinstance(words, dict) or set(words) != set(range(len(words))):
        raise UserError(f"{path} is not [train captions, test captions, ixtoword, wordtoix]: take AttnGAN's own file.")
    return tuple(str(words[i]) for i in range(1, len(words)))


def check_vocabulary(rows: int, words: int, encoder: Path, vocabulary: Path) -> None:
    """An encoder's rows are the words of its vocabulary, padding included. UserError says what else it may be."""
    if rows == words:
        return
    if COCO in (rows, words):
        why = f"COCO's is the one of {COCO:,}, give files of one data set"
    elif words <= 1:
        why = "it is empty, as where AttnGAN found no captions to build it from, take the original file"
    else:
        why = "it was built anew from other captions, take the file that the encoder was trained with"
    raise UserError(f"{encoder} reads {rows:,} words and the vocabulary {vocabulary} has {words:,}: {why}.")


# ---- networks that have seen photos


def load_trunk(encoder: ImageEncoder, path: str | Path) -> None:
    """Inception's weights: torchvision's file, or an export of `model=classifier model.arch=inception_v3`.

    Classifiers of this suite see normalised images: the first convolution, which has no padding, and the mean of
    its batch norm take that over, so that the encoder sees [-1, 1] either way.
    """
    content = read_weights(path)
    ours = content.get("kind") == "classifier"
    content = read_artifact(path, "classifier", CLASSIFIER_PARTS) if ours else recognise(content, path)
    if content["arch"] != "inception_v3":
        raise UserError(f"{path} holds {content['arch']}, not the inception_v3 that model.trunk asks for.")
    state = {k: v for k, v in content["state_dict"].items() if not k.startswith("fc.")}
    heads = {k: v for k, v in encoder.state_dict().items() if k.startswith("emb_") or "num_batches" in k}
    check_fit(encoder, heads | state, (), path)
    if ours:
        with settings_of(path):
            mean, std = (torch.tensor(content[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        weight, offset = (f"Conv2d_1a_3x3.{name}" for name in ("conv.weight", "bn.running_mean"))
        state[offset] = state[offset] - (state[weight] * (0.5 - mean) / std).sum((1, 2, 3))
        state[weight] = state[weight] * 0.5 / std
    encoder.load_state_dict(heads | state)


def load_features(source: str) -> ImageClassifier | Colours:
    """What the SVMs look through: "colours", or the file of a network (its penultimate features)."""
    return Colours() if source == "colours" else load_image_encoder(source)


def told_of(encoder: ImageClassifier | Colours) -> str:
    """An image encoder in words, for the protocol."""
    if isinstance(encoder, Colours):
        return "colour histograms, no network"
    return f"{encoder.info['arch']} trained on {encoder.info['data']}, weights {encoder.hash}"


# ---- back


def write_attngan(nets: Mapping[str, nn.Module], encoders: Encoders, folder: str | Path) -> None:
    """Writes <name>.pth of networks (netG, netD0, ...), both encoders and names.json into a folder.

    In the format that PyTorch reads from 0.4 on. UserError for encoders that AttnGAN has no network for.
    """
    if encoders.config["trunk"] != "inception_v3":
        raise UserError(
            f"the image encoder's trunk is {encoders.config['trunk']}, which AttnGAN has not: train model=damsm with "
            "model.trunk=inception_v3 and export a model of that."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    both = {"text_encoder": encoders.text.net, "image_encoder": encoders.image.net}
    for name, net in {**nets, **both}.items():
        state = {key: value.contiguous() for key, value in on_cpu(net.state_dict()).items()}
        torch.save(state, folder / f"{name}.pth", _use_new_zipfile_serialization=False)
    told = {"inputs": encoders.inputs, "denoised_hash": encoders.denoised_hash, "names": list(encoders.names)}
    (folder / NAMES).write_text(json.dumps(told, indent=1), encoding="utf-8")
