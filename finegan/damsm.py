"""DAMSM, the deep attentional multimodal similarity model: frozen encoders that FineGAN and AttnGAN read and are judged
by (Sec. 3.1, Eq. 7; Xu et al. 2018). Settings and names of weights are those of taoxugit/AttnGAN (AG).

B batch, L tokens of a condition, D width of both codes, h, w regions down and across.
"""

import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from common.blocks import Frozen, upcast
from common.classifier import read_export, read_weights, recognise
from common.data.records import Records, Sample
from common.errors import UserError, choose
from common.files import file_hash
from common.metrics.functions import r_precision
from finegan.conditions import Sequences, attribute_sequences, caption_sequences, cleaned_hash, padding, pick
from finegan.losses import damsm_loss
from finegan.networks import RNNEncoder

log = logging.getLogger(__name__)

FORMAT = 1
INPUTS = ("text", "raw", "clean", "class")
TRUNKS = ("inception_v3", "conv")
WIDTHS = (3, 32, 64, 128, 256)  # of the trunk "conv"
BETAS = (0.5, 0.999)  # AG
CANDIDATES = 100  # conditions that a held-out image chooses among (AG's R-precision)


class ImageEncoder(nn.Module):
    """Images to codes of their regions and of the whole, in the space of the conditions' codes (AG CNN_ENCODER).

    trunk "inception_v3": frozen but for its batch statistics, regions 17x17 of Mixed_6e; 22,506,720 parameters, of
    which 721,152 learn. trunk "conv": ours for small images, four convolutions of stride 2 that learn too, regions S/8.
    """

    def __init__(
        self,
        *,
        trunk: str = "inception_v3",
        code_dim: int = 256,
        image_size: int = 299,
        legacy: bool = False,
        bn_train: bool = True,
    ) -> None:
        """image_size: Inception's, to which images are resized. legacy: as PyTorch up to 0.3 resized, align_corners.

        bn_train: whether Inception's batch statistics follow the images in training mode, as AG's do.
        """
        super().__init__()
        self.frozen = choose("model.trunk", trunk, TRUNKS) == "inception_v3"
        self.side, self.legacy, self.bn_train = image_size if self.frozen else None, legacy, bn_train
        if self.frozen:
            net = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
            layers = {k: v for k, v in net.named_children() if k not in ("avgpool", "dropout", "fc")}
            self.last_local, widths = "Mixed_6e", (768, 2048)
        else:
            layers = {f"conv{i}": stride2(*sizes) for i, sizes in enumerate(pairwise(WIDTHS), 1)}
            self.last_local, widths = "conv3", WIDTHS[-2:]
        self.trunk = tuple(layers)
        for name, layer in layers.items():
            self.add_module(name, layer.requires_grad_(not self.frozen))
        self.emb_features = nn.Conv2d(widths[0], code_dim, 1, bias=False)
        self.emb_cnn_code = nn.Linear(widths[1], code_dim)
        nn.init.uniform_(self.emb_features.weight, -0.1, 0.1)
        nn.init.uniform_(self.emb_cnn_code.weight, -0.1, 0.1)
        self.train()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.trunk if self.frozen else ():
            self.get_submodule(name).train(mode and self.bn_train)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: B,3,*,* in [-1, 1], as Inception's TensorFlow weights want them -> regions B,D,h,w; code B,D."""
        x = images
        if self.side is not None and x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=self.legacy)
        for name in self.trunk:
            x = self.get_submodule(name)(x)
            if name == self.last_local:
                regions = self.emb_features(x)
        return regions, self.emb_cnn_code(x.mean((2, 3)))

    def load_trunk(self, path: str | Path) -> None:
        """Inception's weights: torchvision's file, or an export of `model=classifier model.arch=inception_v3`.

        Classifiers of this suite see normalised images: the first convolution, which has no padding, and the mean of
        its batch norm take that over, so that the encoder sees [-1, 1] either way.
        """
        content = read_weights(path)
        ours = content.get("kind") == "classifier"
        content = content if ours else recognise(content, path)
        if content["arch"] != "inception_v3":
            raise UserError(f"{path} holds {content['arch']}, not the inception_v3 that model.trunk asks for.")
        state = {k: v for k, v in content["state_dict"].items() if not k.startswith("fc.")}
        if ours:
            mean, std = (torch.tensor(content[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
            weight, offset = (f"Conv2d_1a_3x3.{name}" for name in ("conv.weight", "bn.running_mean"))
            state[offset] = state[offset] - (state[weight] * (0.5 - mean) / std).sum((1, 2, 3))
            state[weight] = state[weight] * 0.5 / std
        heads = {k: v for k, v in self.state_dict().items() if k.startswith("emb_") or "num_batches" in k}
        self.load_state_dict(heads | state)


def stride2(before: int, after: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, 3, 2, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


# ---- what a GAN is given


@dataclass
class Encoders:
    """Both encoders of a finished DAMSM, frozen, and what they were taught."""

    text: Frozen  # of an RNNEncoder
    image: Frozen  # of an ImageEncoder
    names: tuple[str, ...]  # names[i - 1] is what token i says
    inputs: str  # "text", "raw", "clean" or "class"
    hash: str  # of the file: 8 hexadecimal digits
    config: dict[str, Any]  # settings of the DAMSM; code_dim and word_dim at least
    cleaned_hash: str | None = None  # with inputs=clean: which labels survived (conditions.cleaned_hash)

    def to(self, device: torch.device | str) -> Self:
        """The same, with both networks on a device."""
        self.text.to(device)
        self.image.to(device)
        return self

    def check(self, *, inputs: str, cleaned: str | Path | None = None, code_dim: int | None = None) -> None:
        """UserError unless they were taught on this kind of input, this file of cleaned attributes, at this width.

        Encoders of another kind would run and silently lower results: Table 2's rows have their own.
        """
        if inputs != self.inputs:
            taught = f"the encoders were trained with model.inputs={self.inputs}, not {inputs}"
            raise UserError(f"{taught}: give the file of a model=damsm of that kind, or change model.inputs.")
        if inputs == "clean" and cleaned is not None and (found := cleaned_hash(cleaned)) != self.cleaned_hash:
            taught = (
                f"the encoders were trained on other cleaned attributes ({self.cleaned_hash}) than {cleaned} ({found})"
            )
            raise UserError(f"{taught}: train model=damsm on that file, or give the file they were trained on.")
        if code_dim not in (None, own := self.config["code_dim"]):
            raise UserError(f"the encoders' codes have width {own}: set model.code_dim to it, not {code_dim}.")


def load_encoders(path: str | Path, *, legacy: bool = False) -> Encoders:
    """Encoders of an export of `model=damsm`, or of a folder with AttnGAN's published files.

    legacy: the image encoder resizes as the published code did.
    """
    from finegan.checkpoints import encoders_of, load_published_encoders  # made of what is here, so they import it

    if Path(path).is_dir():
        return load_published_encoders(path, legacy=legacy)
    return encoders_of(read_export(path, "damsm") | {"hash": file_hash(path)}, legacy=legacy)


# ---- training


class DAMSM(LightningModule):
    """Trains the text encoder and the image encoder's heads until images and their own conditions find each other.

    AG pretrain_DAMSM.py: Adam with a new state each epoch at a rate that falls by the epoch, gradients clipped in the
    text encoder alone, the last epoch is kept.
    """

    text: RNNEncoder
    image: ImageEncoder

    def __init__(
        self,
        *,
        inputs: str = "clean",
        cleaned: str | None = None,
        denoise_rule: str = "rank",
        min_certainty: int = 1,
        tokens: int | None = None,
        trunk: str = "inception_v3",
        trunk_weights: str | None = None,
        image_size: int = 299,
        bn_train: bool = True,
        word_dim: int = 300,
        code_dim: int = 256,
        dropout: float = 0.5,
        gammas: list[float] | None = None,
        length_norm: bool = False,
        max_len: int = 64,
        max_len_eval: int = 64,
        subset_prob: float = 0.1,
        lr: float = 2e-3,
        lr_decay: float = 0.98,
        lr_floor: float = 2e-4,
        clip_rnn: float | None = 0.25,
        measure_every: int = 10,
        seed: int = 0,
    ) -> None:
        """inputs, cleaned, min_certainty: see conditions.attribute_sequences; denoise_rule: of a `cleaned` made for it.

        tokens: attributes or words, and padding; None = as many as the data have. trunk_weights: a file for
        ImageEncoder.load_trunk, needed to fit with trunk=inception_v3. clip_rnn: largest gradient norm of the text
        encoder, or None. measure_every: epochs between looks at held-out classes.
        """
        super().__init__()
        self.save_hyperparameters()
        choose("model.inputs", inputs, INPUTS)
        self.inputs, self.cleaned, self.min_certainty = inputs, cleaned, min_certainty
        self.max_len, self.max_len_eval, self.subset_prob = max_len, max_len_eval, subset_prob
        self.lr, self.lr_decay, self.lr_floor, self.clip_rnn = lr, lr_decay, lr_floor, clip_rnn
        self.loss: dict[str, Any] = {"gammas": tuple(gammas or (4.0, 5.0, 10.0)), "length_norm": length_norm}
        self.trunk_weights, self.measure_every, self.seed = trunk_weights, measure_every, seed
        self.sequences: Sequences | None = None
        self.names: tuple[str, ...] = ()
        self.cleaned_hash: str | None = None
        self.scores: dict[str, float] = {}
        if tokens is not None:
            self.build(tokens)

    def build(self, tokens: int) -> None:
        """Both networks; Inception without weights."""
        sizes = {key: self.hparams[key] for key in ("trunk", "code_dim", "image_size", "bn_train")}
        self.image = ImageEncoder(**sizes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        sizes = {key: self.hparams[key] for key in ("word_dim", "code_dim", "dropout")}
        self.text = RNNEncoder(tokens=tokens, **sizes)

    def examples(self) -> dict[str, tuple[Tensor, ...]]:
        """Inputs of the image encoder for `task=describe`."""
        side = self.hparams["image_size"]
        return {"image": (torch.empty(2, 3, side, side, device="meta"),)}

    @property
    def data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    # ---- before the first step

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        records: Records = self.data.records
        if self.inputs == "text":
            self.sequences = caption_sequences(records)
        else:
            options: dict[str, Any] = {"inputs": self.inputs, "cleaned": self.cleaned}
            self.sequences = attribute_sequences(records, min_certainty=self.min_certainty, **options)
            self.cleaned_hash = cleaned_hash(str(self.cleaned)) if self.inputs == "clean" else None
        self.names, tokens, known = self.sequences.names, self.sequences.tokens, self.hparams["tokens"]
        if known not in (None, tokens):
            raise UserError(f"model.tokens={known}, but {records.name} has {tokens} with padding: leave it null.")
        if not hasattr(self, "text"):
            self.build(tokens)
        if self.image.frozen:
            if self.trunk_weights is None:
                raise UserError("damsm needs an Inception-v3: set model.trunk_weights to a file, or model.trunk=conv.")
            self.image.load_trunk(self.trunk_weights)

    # ---- the loop

    def terms(self, batch: Sample, *, train: bool) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """W0, W1, S0, S1 of a batch (Xu et al., Sec. 3.2), and the codes B,D of the images and of the conditions."""
        assert self.sequences is not None
        index = self.sequences.of(batch["row"], batch.get("caption"))
        limit = self.max_len if train else self.max_len_eval
        ids, lengths, _ = pick(self.sequences, index, max_len=limit, subset_prob=self.subset_prob, train=train)
        pad = padding(lengths, ids.shape[1]).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            words, sent = self.text(ids.to(self.device), lengths)
        regions, code = self.image(batch["image"])
        return damsm_loss(regions, code, words, sent, pad, batch["label"], **self.loss), upcast(code), sent

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """A new Adam each epoch, as AG makes one; not where an epoch is gone on with after a stop."""
        if batch_idx == 0:
            optimizer = self.trainer.optimizers[0]
            optimizer.state.clear()
            for group in optimizer.param_groups:
                group["lr"] = self.rate(self.current_epoch)

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch: falls by `lr_decay` as long as it is above `lr_floor`."""
        rate = self.lr
        for _ in range(epoch):
            if rate > self.lr_floor:
                rate *= self.lr_decay
        return rate

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        terms, _, _ = self.terms(batch, train=True)
        loss = torch.stack(list(terms.values())).sum()
        shown = {f"train/{name}": value for name, value in (terms | {"loss": loss}).items()}
        self.log_dict(shown, on_step=False, on_epoch=True, batch_size=len(batch["row"]))
        return loss

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """The text encoder's alone (AG); the trainer's own settings do not count."""
        if self.clip_rnn is not None:
            nn.utils.clip_grad_norm_(self.text.parameters(), self.clip_rnn)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        learning = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(learning, lr=self.lr, betas=BETAS)

    def on_train_epoch_end(self) -> None:
        done = self.current_epoch + 1
        if done % self.measure_every == 0 or done == self.trainer.max_epochs:
            self.scores = self.measure()
            self.log_dict({f"val/{name}": value for name, value in self.scores.items()})

    def on_train_end(self) -> None:
        """Do the encoders know classes they never saw? (also reached when the run was stopped before the last epoch)"""
        self.scores = self.scores or self.measure()
        if not self.scores:
            log.warning("%s holds no two held-out classes: the encoders were not measured", self.data.name)
            return
        top1, chance = self.scores["top1"], self.scores["chance"]
        said = "held-out images find their own condition among %.0f in %.0f %% of draws, by chance in %.1f %%"
        log.log(logging.INFO if top1 > 2 * chance else logging.WARNING, said, 1 / chance, 100 * top1, 100 * chance)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Centre crops of held-out classes. loss: W + S, mean over whole batches (4 ln B by chance). top1: share of
        images nearest to their own condition among `CANDIDATES`, the others of other classes. {} without such classes.
        """
        records: Records = self.data.records
        rows = np.random.default_rng(self.seed).permutation(self.data.rows("test"))  # file order is by class
        labels = records.labels[rows]
        if len(np.unique(labels)) < 2:
            return {}
        self.eval()
        losses, images, conditions = [], [], []
        for batch in self.data.eval_loader(rows=rows, reads=("image",)):
            terms, code, sent = self.terms(self.data.move(batch, self.device), train=False)
            images.append(code.cpu())
            conditions.append(sent.cpu())
            if len(code) == len(images[0]):
                losses.append(torch.stack(list(terms.values())).sum().item())
        self.train()
        others = min(CANDIDATES - 1, min(int((labels != label).sum()) for label in np.unique(labels)))
        codes = torch.cat(conditions)
        top1, _ = r_precision(
            torch.cat(images), codes, labels, codes, labels, draws=10 * len(rows), distractors=others, seed=self.seed
        )
        return {"loss": sum(losses) / len(losses), "top1": top1, "chance": 1 / (others + 1)}

    # ---- files

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["suite"] = {"format": FORMAT, "model": "DAMSM", "inputs": self.inputs, "names": list(self.names)}
        checkpoint["suite"] |= {"cleaned_hash": self.cleaned_hash, "scores": self.scores}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        suite = checkpoint.get("suite", {})
        if suite.get("model") != "DAMSM":
            found = suite.get("model", "another program")
            raise UserError(f"this checkpoint is of {found}, not of DAMSM: give the file of this model.")
        mine = (self.inputs, list(self.names), self.cleaned_hash)
        if self.names and mine != (suite["inputs"], suite["names"], suite["cleaned_hash"]):
            raise UserError("this checkpoint was trained on other conditions: give the same data, or start a new run.")
        self.names, self.cleaned_hash, self.scores = tuple(suite["names"]), suite["cleaned_hash"], suite["scores"]
        if not hasattr(self, "text"):
            self.build(len(self.names) + 1)

    def export(self) -> dict[str, Any]:
        """The artifact: both encoders, what their tokens say and what was measured; plain values and tensors only."""
        return {
            "format": FORMAT,
            "kind": "damsm",
            "data": self.data.name,
            "inputs": self.inputs,
            "names": list(self.names),
            "cleaned_hash": self.cleaned_hash,
            "config": dict(self.hparams),
            "text": {k: v.detach().cpu() for k, v in self.text.state_dict().items()},
            "image": {k: v.detach().cpu() for k, v in self.image.state_dict().items()},
            "scores": self.scores,
        }
