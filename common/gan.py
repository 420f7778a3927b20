"""The short bases of every model here: what a checkpoint keeps, a network that others need, and, for GANs, manual
optimisation whose traps are closed (see docs/decisions/001)."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.blocks import frozen_prefixes, upcast
from common.data.records import Records, Sample
from common.errors import UserError, check_ranges
from common.losses import require_terms, weighted
from common.weights import check_fit, check_parts, is_state, told

log = logging.getLogger(__name__)
FEW = 64  # images, a batch of the networks that others need: on fewer their bars are a matter of luck


def paired_noise(pairs: Tensor, width: int, *, seed: int = 0) -> Tensor:
    """One draw from N(0, I) for each pair id: B int64 -> B,width on the CPU, whatever the batch it stands in."""
    rows = [
        torch.randn(width, generator=torch.Generator().manual_seed(seed * 1_000_003 + int(pair)))
        for pair in pairs.tolist()
    ]
    return torch.stack(rows)


class EvaluationSet(NamedTuple):
    """What a model is scored on: N items that it generates an image for, and the photos that these are held against."""

    kind: str  # pairs (edits of photos), passes (images from the conditions of photos), pose_pairs, ...
    batches: Iterable[dict[str, Tensor]]
    text: Sequence[str]  # N, the target sentence of each item, "" where a model reads none
    real_rows: np.ndarray  # rows of the photos, as often as they count
    reference: str  # these photos in words
    file: Path | None = None  # of the items, where they are kept
    in_order: bool = False  # whether IS is over consecutive splits of the images, or as usual over shuffled ones


class Checkpointed(LightningModule):
    """Counts the images it was shown; its checkpoints hold plain facts beside the weights, and no frozen network.

    `suite` of a checkpoint is {format, model, images_seen, g_steps, data, ...FACTS}.
    """

    CHECKPOINT_FORMAT: ClassVar[int] = 1
    FACTS: ClassVar[Mapping[str, Any]] = {}  # what `facts` gives, each with its type (`weights.check_parts`)
    TAUGHT: ClassVar[tuple[str, ...]] = ()  # facts that a run goes on with unchanged; the first is empty until `setup`

    images_seen = 0
    data_name = ""  # of the data set that it was trained on

    @property
    def data(self) -> Any:
        """The data module of the fit that runs."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.data is not None:  # None: of a plain loader
            self.data_name = self.data.name

    def read_files(self, data: Any) -> None:
        """Reads what files it is fed through, so that one that does not fit is refused before a run is begun."""

    def facts(self) -> dict[str, Any]:
        """Plain values that the weights are nothing without."""
        return {name: getattr(self, name) for name in self.FACTS}

    def take_facts(self, facts: Mapping[str, Any]) -> None:
        """Facts of a file become this model's; a model that is made of them builds its networks."""
        for name in self.FACTS:
            setattr(self, name, facts[name])

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        self.images_seen += len(batch["row"]) * self.trainer.world_size

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        frozen = frozen_prefixes(self)
        if frozen:
            state = checkpoint["state_dict"]
            checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(frozen)}
        checkpoint["suite"] = self.facts() | {
            "format": self.CHECKPOINT_FORMAT,
            "model": type(self).__name__,
            "images_seen": self.images_seen,
            "g_steps": self.trainer.global_step if self._trainer is not None else 0,
            "data": self.data_name,
        }

    def check_checkpoint(self, checkpoint: Mapping[str, Any], source: str | Path = "this checkpoint") -> None:
        """UserError for another model's checkpoint, and for one that is not whole."""
        suite = checkpoint.get("suite")
        found = suite.get("model") if isinstance(suite, Mapping) else "another program"
        if not isinstance(suite, Mapping) or found != type(self).__name__:
            raise UserError(
                f"{source} is of {told(found)}, not of {type(self).__name__}: give the file of this model, or the "
                "model of this file."
            )
        version = suite.get("format")
        if not isinstance(version, int) or version != self.CHECKPOINT_FORMAT:
            raise UserError(
                f"{source} is of format {told(version)}, not {self.CHECKPOINT_FORMAT}: train again with this "
                "version, resume=never."
            )
        check_parts(checkpoint, {"suite": {"images_seen": int, **self.FACTS}, "state_dict": is_state}, source)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint that does not fit, and puts the frozen networks back, so that loading stays strict."""
        self.check_checkpoint(checkpoint)
        suite, mine = checkpoint["suite"], self.facts()
        other = [name for name in self.TAUGHT if mine[self.TAUGHT[0]] and mine[name] != suite[name]]
        if other:
            raise UserError(
                f"this checkpoint was trained on other data, whose {other[0]} differ: give the same data, or start a "
                "new run."
            )
        self.take_facts(suite)
        frozen = frozen_prefixes(self)
        if frozen:
            own = {k: v for k, v in self.state_dict().items() if k.startswith(frozen)}
            checkpoint["state_dict"] = own | checkpoint["state_dict"]
        check_fit(self, checkpoint["state_dict"], (), "this checkpoint")
        self.images_seen = suite["images_seen"]
        self.data_name = self.data_name or suite.get("data", "")


class Artifact(Checkpointed):
    """A network that others need, trained alone; they read it frozen from one file, {format, kind, data, bar, ...}.

    The setting `bar` says how good it has to be, where it has one: what `shortfalls` holds the measurements against.
    """

    CHECKPOINT_FORMAT: ClassVar[int] = 2
    KIND: ClassVar[str]  # of the file: the word of model=...
    FORMAT: ClassVar[int] = 1

    accepted = False  # whether `accept` was asked since it was trained

    def content(self) -> dict[str, Any]:
        """What the file holds besides format, kind, data and bar."""
        raise NotImplementedError

    def shortfalls(self) -> list[str]:
        """Where what was measured is below the bar, in words."""
        return []

    def accept(self) -> None:
        """Is it good enough? If not, a UserError on complete and real data of `FEW` images or more, else a warning."""
        faults, records = self.shortfalls(), self.data.records
        verdict = f"model={self.KIND} on {records.name} is not good enough: {' and '.join(faults)}"
        if faults and 0 < records.expected <= len(records) >= FEW and not records.procedural:
            lower = " or ".join(f"model.bar.{name}" for name in self.hparams["bar"])
            raise UserError(
                f"{verdict}; train it by itself, `python run.py model={self.KIND}` with more trainer.max_epochs or "
                f"another {lower}, and give its file to the model that reads it."
            )
        if faults:
            log.warning("%s; going on, since the data are partial, few or drawn", verdict)
        self.accepted = True

    def export(self) -> dict[str, Any]:
        """The content of the file. UserError for a network below its bar, also where it was trained some time ago."""
        if self._trainer is not None and not self.accepted:
            self.accept()
        head = {"format": self.FORMAT, "kind": self.KIND, "data": self.data_name}
        return head | {"bar": dict(self.hparams.get("bar", {}))} | self.content()

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        if batch_idx + 1 == self.trainer.num_training_batches:
            self.log("progress/images", float(self.images_seen), on_step=False, on_epoch=True, batch_size=1)


class GANModule(Checkpointed):
    """Steps, averages and checkpoints for two optimisers: the generator's first, then the discriminator's.

    A paper writes `training_step` (fakes drawn once; D before G; each under `toggled_optimizer`), hands its terms to
    `descend` and implements `sample`. Counted here: a step is one update of the generator.
    """

    generator: nn.Module
    discriminator: nn.Module

    def __init__(
        self,
        *,
        optimizer: Mapping[str, Any],
        average: Mapping[str, Any],
        accumulate: int,
        clip: Mapping[str, float | None],
        grad_norm_every: int,
    ) -> None:
        """optimizer: {lr, betas, fused} of `adam`. average: of G's weights, {decay, ...}, decay null for none.

        accumulate: batches summed before an update. clip: {g, d}, the largest gradient norms, null for none.
        grad_norm_every: steps between looks at each term's own gradient, 0 for none.
        """
        super().__init__()
        told = {"accumulate": accumulate, "grad_norm_every": grad_norm_every}
        check_ranges("model", told, {"accumulate": "int [1, inf)", "grad_norm_every": "int [0, inf)"})
        check_ranges("model.optimizer", optimizer, {"lr": "(0, inf)", "betas": "2 x [0, 1)"})
        check_ranges("model.average", average, {"decay": "null or [0, 1)"})
        check_ranges("model.clip", clip, dict.fromkeys(clip, "null or (0, inf)"))
        self.automatic_optimization = False
        self.accumulate, self.grad_norm_every = accumulate, grad_norm_every
        self.adam_options, self.ema_decay, self.clip = dict(optimizer), average["decay"], dict(clip)
        self.ema_generator: AveragedModel | None = None
        self.to_log: dict[str, Tensor] = {}
        self.all_finite: Tensor | None = None

    def average_generator(self, *, buffers: bool = True, from_start: bool = False) -> None:
        """Call at the end of `__init__`: keeps the running average of the generator, and of nothing else.

        buffers: averaged too; False = they are those of the live generator. from_start: the average begins with the
        initial weights, as AttnGAN's does; False = with those after the first step.
        """
        if self.ema_decay is not None:
            average = get_ema_multi_avg_fn(self.ema_decay)
            self.ema_generator = AveragedModel(self.generator, multi_avg_fn=average, use_buffers=buffers)
            self.ema_generator.n_averaged.fill_(int(from_start))
            self.ema_generator.requires_grad_(False)

    @torch.no_grad()
    def measure_statistics(self, inputs: Iterable[tuple[Tensor, ...]]) -> None:
        """Gives the averaged generator the batch statistics that its own activations have, a mean over these inputs.

        Those of the live generator, averaged or not, are of other weights (Izmailov et al. 2018, SWA, Sec. 3.2).
        """
        assert self.ema_generator is not None
        net = self.ema_generator.module
        modes = {module: module.training for module in net.modules()}
        norms = [module for module in modes if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        net.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train().momentum = None  # PyTorch's word for a plain mean
        for given in inputs:
            net(*given)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode

    @property
    def serving(self) -> nn.Module:
        """The generator to evaluate and to show: the average where one is kept."""
        return self.generator if self.ema_generator is None else self.ema_generator.module

    def sample(self, batch: Sample, generator: torch.Generator | None = None) -> Tensor:
        """Images in [-1, 1] for a batch. Evaluation comes through here."""
        raise NotImplementedError

    def condition_text(self, batch: Sample, records: Records) -> list[str]:
        """What `sample` draws for each item of a batch, in words: the mismatched sentence of an edit."""
        pairs = zip(batch["other_row"].tolist(), batch["other_caption"].tolist(), strict=True)
        return [records.captions[row][caption] for row, caption in pairs]

    def before_scoring(self, data: Any) -> None:
        """What has to be read or set before `sample` is scored on a data module."""

    def evaluation_set(self, data: Any, options: Mapping[str, Any]) -> EvaluationSet:
        """What `sample` is scored on. options: `metrics` of the configuration, with `pairs`, a user's own file or None,
        `folder`, where files are kept, and `batch_size`."""
        raise NotImplementedError

    def adam(self, *sides: Iterable[nn.Parameter]) -> list[torch.optim.Optimizer]:
        """An Adam for each set of parameters, as `optimizer` has it."""
        lr, betas, fused = (self.adam_options[key] for key in ("lr", "betas", "fused"))
        moving = [[p for p in side if p.requires_grad] for side in sides]
        return [torch.optim.Adam(side, lr, (float(betas[0]), float(betas[1])), fused=fused) for side in moving]

    # ---- one step

    def counted_optimizers(self) -> tuple[LightningOptimizer, ...]:
        """The optimisers, generator's first. Only the generator's updates count in `trainer.global_step`.

        Lightning adds one to global_step for each optimiser, which halves `max_steps` and misnames checkpoints.
        """
        optimizers = cast(list[LightningOptimizer], self.optimizers())
        for other in optimizers[1:]:
            other._on_before_step = other._on_after_step = lambda: None
        return tuple(optimizers)

    def window(self, batch_idx: int) -> tuple[bool, bool, int]:
        """(first of its accumulation window, last of it, batches in it); the last window of an epoch may be short."""
        total = self.trainer.num_training_batches
        start = batch_idx - batch_idx % self.accumulate
        size = int(min(self.accumulate, total - start))
        return batch_idx == start, batch_idx == start + size - 1, size

    def descend(
        self,
        opt: LightningOptimizer,
        terms: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]],
        weights: Mapping[str, float | None],
        side: str,
        batch_idx: int,
        through: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        """One descent of `side` ("g" or "d") on the weighted terms: zero, backward, clip, step; remembers the terms.

        terms: or several sets of terms, made one after another; each is differentiated before the next is made, so that
        one graph lives at a time. through: (tensor, leaf) where the terms were computed on leaves that were cut from
        tensors: the leaves' gradients go on through the tensors, all at once and at last.
        """
        first, last, size = self.window(batch_idx)
        if first:
            opt.zero_grad(set_to_none=True)
        seen: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.device)
        for part in [terms] if isinstance(terms, Mapping) else terms:
            cost = weighted(part, {name: weights[name] for name in part})
            if through:
                (cost / size).backward()  # to the leaves: no parameter of this side is reached yet
            else:
                self.manual_backward(cost / size)
            total = total + cost.detach()
            for name, term in part.items():
                seen[name] = seen[name] + term.detach() if name in seen else term.detach()
        require_terms(seen, weights)
        if through:
            costs = [(upcast(x) * leaf.grad).sum() for x, leaf in through if leaf.grad is not None]
            self.manual_backward(torch.stack(costs).sum())
        if last:
            self.move(opt, side)
        self.note(seen, total, side)

    def move(self, opt: LightningOptimizer, side: str) -> None:
        """Clips the gradients that are there and steps; the average follows the generator's side."""
        limit = self.clip[side]
        if limit is not None:
            self.clip_gradients(opt, gradient_clip_val=limit, gradient_clip_algorithm="norm")  # type: ignore[arg-type]
        opt.step()
        if side == "g" and self.ema_generator is not None:
            self.ema_generator.update_parameters(self.generator)

    def note(self, terms: Mapping[str, Tensor], total: Tensor, side: str) -> None:
        """Remembers the terms and their weighted sum for the log, and whether it is finite."""
        self.to_log |= {f"train/{side}/{name}": term.detach() for name, term in terms.items()}
        self.to_log[f"train/loss_{side}"] = total
        finite = torch.isfinite(total)
        self.all_finite = finite if self.all_finite is None else self.all_finite & finite

    def gradient_norms(self, terms: Mapping[str, Tensor], parameters: Iterable[Tensor], side: str) -> None:
        """Every `grad_norm_every` steps: the norm of each term's own gradient, to see which term leads."""
        if not self.grad_norm_every or self.trainer.global_step % self.grad_norm_every:
            return
        moving = [p for p in parameters if p.requires_grad]
        for name, term in terms.items():
            grads = torch.autograd.grad(term, moving, retain_graph=True, allow_unused=True)
            squares = [upcast(g).square().sum() for g in grads if g is not None]
            self.to_log[f"train/{side}/grad_norm_{name}"] = torch.stack(squares).sum().sqrt()

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (batch_idx + 1) % every == 0 or batch_idx + 1 == self.trainer.num_training_batches:
            self.check_finite()
            self.log_dict(self.to_log | {"progress/images": float(self.images_seen)})
        self.to_log = {}

    def on_train_epoch_end(self) -> None:
        """Schedulers by hand, once an epoch: under manual optimisation Lightning ignores their interval."""
        self.check_finite()  # before the checkpoint of this epoch is written
        schedulers = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers] if schedulers else []:
            cast(torch.optim.lr_scheduler.LRScheduler, scheduler).step()

    def check_finite(self) -> None:
        """Stop on a loss that is not finite. Looked at where values are read anyway, so it costs no extra wait."""
        if self.all_finite is not None and not bool(self.all_finite):
            values = {name: float(value) for name, value in self.to_log.items()}
            bad = sorted(name for name, value in values.items() if not math.isfinite(value)) or ["an earlier batch"]
            raise UserError(
                f"the loss became NaN or infinite in epoch {self.current_epoch} ({', '.join(bad)}); the last "
                "checkpoint is from before that: lower the learning rate or set trainer.precision=32-true, and go on"
            )
