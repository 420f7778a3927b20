"""Speed of a training step, run by its Trainer, against the same step as public code writes it; here SIMGAN's."""

import gc
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.profilers import SimpleProfiler
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from common.data.module import ImageData, Reader
from common.data.records import Records, Sample
from common.gan import GANModule
from common.losses import kl_log_std, weighted
from common.tasks.trainer import apply_memory_format
from common.text import SentenceEncoder, Vocabulary
from simgan.embedding import TextEncoder
from simgan.model import SIMGAN
from tests.bench.bench_data import birds
from tests.bench.timing import Row, now
from tests.worlds.settings import settings

LOSS: dict[str, dict[str, float | None]] = {
    "d": {"real": 1.0, "mismatch": 1.0, "fake": 1.0},
    "g": {"adversarial": 1.0, "cycle": 10.0, "conditioning": 1.0, "identity": None},
}
TINY: dict[str, Any] = {"ngf": 4, "ndf": 4, "n_res": 1, "phi.dim": 12, "ca_dim": 8, "text_dim": 8}
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}  # dense bf16, TFLOP/s, by NVIDIA's data sheets (SXM)
SAME = {"32-true": 1e-3, "bf16-mixed": 0.5}  # how far apart equal losses lie: an untrained G magnifies round-off


class Case(NamedTuple):
    """What is measured: images of one size in batches, with the trainer's switches one after another."""

    side: int
    batch: int
    switches: tuple[str, ...]  # keys of SWITCHES
    rounds: int  # turns of either way
    turn: int = 1  # steps in a turn
    warm: int = 1  # steps before the first turn
    aim: float | None = None  # times as fast, of the last switches
    alone: int = 0  # steps without the other way in between: share of waiting, arithmetic, memory
    widths: Mapping[str, Any] = MappingProxyType({})  # of the networks; the paper's


SWITCHES: dict[str, dict[str, Any]] = {
    "shared work only, float32 NCHW": {"precision": "32-true", "channels_last": False, "compile": False},
    "+ channels_last": {"precision": "32-true", "channels_last": True, "compile": False},
    "+ bf16": {"precision": "bf16-mixed", "channels_last": True, "compile": False},
    "+ compile": {"precision": "bf16-mixed", "channels_last": True, "compile": "default"},
    "bf16, NCHW": {"precision": "bf16-mixed", "channels_last": False, "compile": False},
}
FIRST, CHANNELS_LAST, ALL_CPU, ALL, NCHW = SWITCHES
CASES = {
    "quick": [Case(16, 4, (FIRST, CHANNELS_LAST, ALL_CPU), rounds=1, alone=2, widths=TINY)],
    "cpu": [
        Case(64, 4, (FIRST, CHANNELS_LAST, ALL_CPU, NCHW), rounds=3, aim=2.0, alone=6),
        Case(256, 1, (FIRST, ALL_CPU, NCHW), rounds=1, aim=2.0),
    ],
    "cuda": [
        Case(256, 16, (FIRST, CHANNELS_LAST, ALL_CPU, ALL), rounds=5, turn=10, warm=15, aim=3.0, alone=60),
        Case(256, 64, (FIRST, ALL), rounds=3, turn=5, warm=10, aim=3.0, alone=30),
    ],
}


class Other(Protocol):
    """One step of the other way."""

    def given(self, batch: Sample) -> tuple[Any, ...]:
        """What the step is handed besides its batch: noise, in the order in which ours draws it. Not timed."""

    def __call__(self, batch: Sample, *given: Any) -> Mapping[str, Any]:
        """-> each term, as a number, under the name that ours has it in `to_log`."""


class PublicStep:
    """The step of SIMGAN with the habits of woozzu/dong_iccv_2017, train.py, line by line in its order.

    The sentences of each batch go through the GRU; the real images twice through the whole D; G runs for D's update and
    again for its own; D is not frozen meanwhile, so G's loss also fills D's gradients; each loss is read at once;
    float32, NCHW, plain Adam. One difference, in its favour: SISGAN's sentences of another class are the batch's own,
    turned by one.
    """

    def __init__(self, model: SIMGAN, records: Records) -> None:
        """Takes copies of the model's networks as they are."""
        self.generator, self.discriminator = deepcopy(model.generator), deepcopy(model.discriminator)
        assert model.text_encoder is not None
        self.text = deepcopy(model.text_encoder.net)
        counts = torch.tensor([len(captions) for captions in records.captions])
        self.first = counts.cumsum(0) - counts  # row -> its first sentence
        sentences = [sentence for captions in records.captions for sentence in captions]
        self.words, self.lengths = model.text_encoder.vocabulary.encode(sentences)
        self.loss = model.loss
        self.opt_g, self.opt_d = (
            torch.optim.Adam(net.parameters(), lr=model.adam_options["lr"], betas=(0.5, 0.999))
            for net in (self.generator, self.discriminator)
        )

    def to(self, device: torch.device) -> "PublicStep":
        for net in (self.generator, self.discriminator, self.text):
            net.to(device)  # in place, so the optimisers keep their parameters
        return self

    def given(self, batch: Sample) -> tuple[Tensor]:
        """eps: B,ca_dim."""
        return (torch.randn(len(batch["row"]), self.generator.ca_dim, device=batch["image"].device),)

    def encode(self, batch: Sample) -> tuple[Tensor, Tensor]:
        """phi and phi-bar, B,D each: one run of the GRU for both."""
        row, caption = (torch.cat([batch[p], batch[f"other_{p}"]]).cpu() for p in ("row", "caption"))  # type: ignore
        sentence = self.first[row] + caption
        words = self.words[sentence].to(batch["image"].device)
        return tuple(self.text(words, self.lengths[sentence]).detach().chunk(2))  # type: ignore[return-value]

    def __call__(self, batch: Sample, eps: Tensor) -> dict[str, float]:
        x, (own, wrong), seen = batch["image"], self.encode(batch), {}

        def read(side: str, name: str, cost: Tensor) -> Tensor:
            seen[f"{side}/{name}"] = cost.item()
            return cost * (self.loss[side][name] or 0)

        self.discriminator.zero_grad()
        read("d", "real", (self.discriminator(x, own) - 1).square().mean()).backward()
        read("d", "mismatch", self.discriminator(x, wrong).square().mean()).backward()
        edit = self.generator(x, wrong, eps)
        read("d", "fake", self.discriminator(edit.detach(), wrong).square().mean()).backward()
        self.opt_d.step()

        self.generator.zero_grad()
        c, mu, log_sigma = self.generator.condition(wrong, eps)
        edit = self.generator.edit(x, c)
        back = self.generator(edit, own, mode="mean")
        total = read("g", "adversarial", (self.discriminator(edit, wrong) - 1).square().mean())
        total = total + read("g", "cycle", F.l1_loss(back, x))
        total = total + read("g", "conditioning", kl_log_std(mu, log_sigma))
        total.backward()
        self.opt_g.step()
        return seen


class Turns(pl.Callback):
    """Times the Trainer's steps, a turn of them, then as many of the other way on the same batch, and so on.

    Our time runs from the end of one step to the end of another, so it holds the fetching of batches, their transfer
    and all of Lightning; the other way is handed its batch on the device. The first step's losses must be the same.
    """

    def __init__(self, case: Case, other: Other | None, same: float) -> None:
        """same: the largest difference of two losses, relative to the larger of the loss and 0.1."""
        self.case, self.other, self.same = case, other, same
        self.ours: list[float] = []  # seconds of a step, by turn
        self.theirs: list[float] = []
        self.done, self.began, self.apart = 0, 0.0, float("nan")

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.done == 0:
            torch.manual_seed(0)  # so that the noise of the first step is known
            torch.backends.cudnn.allow_tf32 = False  # for the first step alone: float32 by either way

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, outputs: Any, batch: Sample, batch_idx: int
    ) -> None:
        assert isinstance(model, GANModule)
        self.done += 1
        steps, turn = self.done - self.case.warm, self.case.turn
        if steps > 0 and steps % turn == 0:
            self.ours.append((now(model.device) - self.began) / turn)
        if self.other is not None and (self.done == 1 or (steps > 0 and steps % turn == 0)):
            torch.manual_seed(0)
            given = self.other.given(batch)
            start = now(model.device)
            for _ in range(1 if self.done == 1 else turn):
                losses = self.other(batch, *given)
            if self.done == 1:
                theirs = {name: float(loss) for name, loss in losses.items()}
                self.compare(theirs, {name: float(model.to_log[f"train/{name}"]) for name in losses})
            else:
                self.theirs.append((now(model.device) - start) / turn)
        torch.backends.cudnn.allow_tf32 = True
        if steps >= 0 and steps % turn == 0:
            self.began = now(model.device)

    def compare(self, theirs: dict[str, float], ours: dict[str, float]) -> None:
        self.apart = float(np.max([abs(ours[name] - loss) / max(loss, 0.1) for name, loss in theirs.items()]))
        if not self.apart <= self.same:  # also when one is NaN
            raise AssertionError(f"not the same step: {theirs} by public code, {ours} by ours")


def step(folder: Path, *, device: torch.device, quick: bool) -> list[Row]:
    """The step of `simgan.model`, in its Trainer and fed by the store, at the paper's widths; turn by turn, on the same
    batches and from the same weights, with the step as woozzu/dong_iccv_2017 (SISGAN) writes it: G runs for D's update
    and again for its own, D takes the real images twice and is not frozen in G's step, the GRU runs on each batch;
    float32, NCHW, plain Adam. That the losses of the first step are equal is checked in each run. The first row of a
    size is what shared work alone brings (at most 7 / 6, since G's passes cost nearly all: seven of its forward passes,
    where a backward pass counts as two, become six); the next rows add layout and precision.
    """
    birds_drawn = 24 if quick else 2000 if device.type == "cuda" else 160
    reader = birds(folder, birds_drawn)
    rows = []

    def once(case: Case, profiler: SimpleProfiler) -> Turns:
        return run(case, case.switches[-1], reader, folder, device, profiler)

    for case in CASES["quick" if quick else device.type]:
        what = f"step, {case.side} px, batch {case.batch}"
        for name in case.switches:
            turns = run(case, name, reader, folder, device)
            ours, theirs = median(turns.ours), median(turns.theirs)
            aim = case.aim if name == case.switches[-1] else None
            rows.append(Row(f"{what}: {name}", case.batch / ours, case.batch / theirs, times=aim))
        if case.alone:
            rows += alone(case, f"{what}, alone", once, arithmetic(case), device)
    return rows


def run(
    case: Case, name: str, reader: Reader, folder: Path, device: torch.device, profiler: SimpleProfiler | None = None
) -> Turns:
    """A fit with these switches; with a profiler our steps alone."""
    gc.collect()  # networks of the run before, which hang in cycles
    torch.manual_seed(0)
    records = reader.read()
    model = SIMGAN(**settings("simgan", image_size=case.side, loss=LOSS, grad_norm_every=0, **case.widths))
    vocabulary = Vocabulary.build((sentence for captions in records.captions for sentence in captions), max_words=50)
    net = SentenceEncoder(words=len(vocabulary), word_dim=model.phi_dim, dim=model.phi_dim)
    model.text_encoder = TextEncoder(vocabulary=vocabulary, net=net, hash="untrained")
    other = PublicStep(model, records).to(device) if profiler is None else None
    data = ImageData(dataset=reader, image_size=case.side, batch_size=case.batch, store=folder / "stores")
    return fit(case, name, model, other, data, device, profiler)


def fit(
    case: Case,
    name: str,
    model: GANModule,
    other: Other | None,
    data: ImageData,
    device: torch.device,
    profiler: SimpleProfiler | None = None,
    updates: int = 1,
) -> Turns:
    """The model in a Trainer with these switches, in turn with the other way or alone. updates: of G in a step."""
    switches = SWITCHES[name]
    turns = Turns(case, other, SAME[switches["precision"]])
    apply_memory_format(model, {"accelerator": device.type, **switches})
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=switches["precision"],
        max_epochs=-1,
        max_steps=updates * (case.warm + case.turn * case.rounds),
        benchmark=True,
        callbacks=[turns],
        profiler=profiler,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=data.store_folder,
    )
    data.workers = 2 if device.type == "cuda" else 0
    trainer.fit(model, datamodule=data)
    return turns


def alone(
    case: Case, what: str, fit: Callable[[Case, SimpleProfiler], Turns], flops: int, device: torch.device
) -> list[Row]:
    """Our steps without the other way in between: rate, share of waiting for data, arithmetic, memory.

    fit: runs a case under a profiler. flops: of one image in one step.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    profiler = SimpleProfiler()
    (seconds,) = fit(case._replace(turn=case.alone, rounds=1), profiler).ours
    waits = profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"][case.warm :]
    rate = flops * case.batch / seconds / 1e12
    most = 3 if device.type == "cuda" else None  # the aims are for a GPU and, of its peak, for a large batch
    least = 35 if case.batch >= 64 else None
    rows = [
        Row(f"{what}: with the store feeding", case.batch / seconds),
        Row(f"{what}: waiting for data", 100 * sum(waits) / (seconds * case.alone), unit="% of the step", at_most=most),
        Row(f"{what}: arithmetic", rate, unit="TFLOP/s"),
    ]
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(device) / 2**30
        rows.append(Row(f"{what}: peak memory", memory, unit="GiB"))
        chip = torch.cuda.get_device_name(device)
        rows += [
            Row(f"{what}: of the dense bf16 peak of {name}", 100 * rate / peak, unit="%", at_least=least)
            for name, peak in PEAKS.items()
            if name in chip
        ]
    return rows


def arithmetic(case: Case) -> int:
    """Floating-point operations of one image in one step: 1.1e12 at 256 px, counted on networks without numbers."""
    with torch.device("meta"):
        model = SIMGAN(**settings("simgan", image_size=case.side, loss=LOSS, **case.widths))
        x, own, wrong = torch.empty(1, 3, case.side, case.side), *torch.empty(2, 1, model.phi_dim)
        with FlopCounterMode(display=False) as counter:
            c, mu, log_sigma = model.generator.condition(wrong)
            edit = model.generator.edit(x, c)
            back = model.go_back(edit, own)
            terms = model.d_terms(model.discriminator, x, own, wrong, edit, wrong)
            weighted(terms, LOSS["d"]).backward()
            model.discriminator.requires_grad_(False)
            weighted(model.g_terms(x, own, wrong, edit, back, mu, log_sigma), LOSS["g"]).backward()
    return counter.get_total_flops()
