"""The training of DAMSM, the deep attentional multimodal similarity model: encoders that FineGAN and AttnGAN read and
are judged by (Sec. 3.1, Eq. 7; Xu et al. 2018). Settings as in taoxugit/AttnGAN (AG). B batch, D width of a code.
"""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from common.blocks import upcast
from common.data.records import Records, Sample
from common.errors import UserError, check_ranges, choose
from common.gan import Artifact
from common.metrics.functions import r_precision
from common.weights import are_words, flat, on_cpu
from finegan.checkpoints import FORMAT, load_trunk
from finegan.conditions import INPUTS, Sequences, attribute_sequences, caption_sequences, denoised_hash, padding, pick
from finegan.conditions import RANGES as CONDITIONS
from finegan.denoise import RULES
from finegan.encoders import ImageEncoder, RNNEncoder
from finegan.losses import damsm_loss

log = logging.getLogger(__name__)

CANDIDATES = 100  # conditions that a held-out image chooses among (AG's R-precision)


SIZES = ("image_size", "code_dim", "text.word_dim", "measure.every")
RANGES = (
    CONDITIONS
    | dict.fromkeys(SIZES, "int [1, inf)")
    | {
        "text.dropout": "[0, 1)",
        "match.gammas": "3 x (0, inf)",
        **dict.fromkeys(("optimizer.lr", "optimizer.decay", "optimizer.floor"), "(0, inf)"),
        "optimizer.betas": "2 x [0, 1)",
        "optimizer.clip_rnn": "null or (0, inf)",
    }
)


class DAMSM(Artifact):
    """Trains the text encoder and the image encoder's heads until images and their own conditions find each other.

    AG pretrain_DAMSM.py: Adam with a new state each epoch at a rate that falls by the epoch, gradients clipped in the
    text encoder alone, the last epoch is kept.
    """

    KIND = "damsm"
    FORMAT, CHECKPOINT_FORMAT = FORMAT, 3
    FACTS: ClassVar[Mapping[str, Any]] = {
        "names": are_words,
        "inputs": str,
        "denoised_hash": str | None,
        "scores": dict,
    }
    TAUGHT = ("names", "inputs", "denoised_hash")

    text: RNNEncoder
    image: ImageEncoder

    def __init__(
        self,
        *,
        inputs: str,
        denoised: str | None,
        conditions: dict[str, Any],
        trunk: str,
        trunk_weights: str | None,
        image_size: int,
        bn_train: bool,
        code_dim: int,
        text: dict[str, Any],
        match: dict[str, Any],
        optimizer: dict[str, Any],
        measure: dict[str, int],
    ) -> None:
        """inputs, denoised, conditions: see attribute_sequences and pick; denoise_rule is of a file made now.

        text.tokens: attributes or words, and padding; None = as many as the data have. trunk_weights: a file for
        ImageEncoder.load_trunk, needed to fit with trunk=inception_v3. match: of `losses.damsm_loss`.
        optimizer.clip_rnn: largest gradient norm of the text encoder, or None. measure.every: epochs between looks at
        held-out classes.
        """
        super().__init__()
        self.save_hyperparameters()
        choose("model.inputs", inputs, INPUTS)
        choose("model.conditions.denoise_rule", conditions["denoise_rule"], RULES)
        check_ranges("model", flat(self.hparams), RANGES)
        self.inputs, self.denoised, self.how = inputs, denoised, conditions
        self.optimizer, self.clip_rnn = optimizer, optimizer["clip_rnn"]
        self.loss: dict[str, Any] = match | {"gammas": tuple(match["gammas"])}
        self.trunk_weights, self.measure_every, self.seed = trunk_weights, measure["every"], measure["seed"]
        self.sequences: Sequences | None = None
        self.names: list[str] = []
        self.denoised_hash: str | None = None
        self.scores: dict[str, float] = {}
        if text["tokens"] is not None:
            self.build(text["tokens"])

    def build(self, tokens: int) -> None:
        """Both networks; Inception without weights."""
        sizes = {key: self.hparams[key] for key in ("trunk", "code_dim", "image_size", "bn_train")}
        self.image = ImageEncoder(**sizes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.text = RNNEncoder(**self.hparams["text"] | {"tokens": tokens}, code_dim=self.hparams["code_dim"])

    def examples(self) -> dict[str, tuple[Tensor, ...]]:
        """Inputs of the image encoder for `task=describe`."""
        side = self.hparams["image_size"]
        return {"image": (torch.empty(2, 3, side, side, device="meta"),)}

    # ---- before the first step

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        records: Records = self.data.records
        if self.inputs == "text":
            self.sequences = caption_sequences(records)
        else:
            options: dict[str, Any] = {"inputs": self.inputs, "denoised": self.denoised}
            self.sequences = attribute_sequences(records, min_certainty=self.how["min_certainty"], **options)
            self.denoised_hash = denoised_hash(str(self.denoised)) if self.inputs == "clean" else None
        self.names, tokens, known = list(self.sequences.names), self.sequences.tokens, self.hparams["text"]["tokens"]
        if known not in (None, tokens):
            raise UserError(f"model.text.tokens={known}, but {records.name} has {tokens} with padding: leave it null.")
        if not hasattr(self, "text"):
            self.build(tokens)
        if self.image.frozen:
            if self.trunk_weights is None:
                raise UserError("damsm needs an Inception-v3: set model.trunk_weights to a file, or model.trunk=conv.")
            load_trunk(self.image, self.trunk_weights)

    # ---- the loop

    def terms(self, batch: Sample, *, train: bool) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """W0, W1, S0, S1 of a batch (Xu et al., Sec. 3.2), and the codes B,D of the images and of the conditions."""
        assert self.sequences is not None
        index = self.sequences.of(batch["row"], batch.get("caption"))
        limit, share = self.how["max_len" if train else "max_len_eval"], self.how["subset_prob"]
        ids, lengths, _ = pick(self.sequences, index, max_len=limit, subset_prob=share, train=train)
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
        """The learning rate of an epoch: falls by `decay` as long as it is above `floor`."""
        rate: float = self.optimizer["lr"]
        for _ in range(epoch):
            if rate > self.optimizer["floor"]:
                rate *= self.optimizer["decay"]
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
        return torch.optim.Adam(learning, lr=self.optimizer["lr"], betas=tuple(self.optimizer["betas"]))

    def on_train_epoch_end(self) -> None:
        done = self.current_epoch + 1
        if done % self.measure_every == 0 or done == self.trainer.max_epochs:
            self.scores = self.measure()
            self.log_dict({f"val/{name}": value for name, value in self.scores.items()})

    def on_train_end(self) -> None:
        """Do the encoders know classes they never saw? (also reached when the run was stopped before the last epoch)"""
        self.scores = self.scores or self.measure()
        if not self.scores:
            log.warning("%s holds no two held-out classes: the encoders were not measured", self.data_name)
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

    def take_facts(self, facts: Mapping[str, Any]) -> None:
        super().take_facts(facts)
        if not hasattr(self, "text"):
            self.build(len(self.names) + 1)

    def content(self) -> dict[str, Any]:
        """Both encoders, what their tokens say and what was measured."""
        states = {"text": on_cpu(self.text.state_dict()), "image": on_cpu(self.image.state_dict())}
        config = dict(self.hparams) | {"word_dim": self.hparams["text"]["word_dim"]}
        return self.facts() | {"config": config} | states
