"""SIMGAN's training: Eq. 1 to 4 and the step of Sec. 2, in the paper's own terms.

B batch, S image side, D width of the sentence vector. Written t own sentence, t-bar a sentence of another class,
phi and phi-bar their vectors, x-hat the edit, x-tilde the edit taken back (the cycle).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.optim.swa_utils import update_bn

from common.blocks import upcast
from common.data.module import ImageData
from common.data.records import Records, Sample
from common.errors import UserError, check_ranges, choose
from common.exports import Exported
from common.gan import paired_noise
from common.losses import ADVERSARIAL, kl_log_std, l1
from simgan.checkpoints import read_vse
from simgan.networks import Discriminator, Generator, Standardise, still_statistics
from simgan.sentences import sentence_table
from simgan.vse import TEXT_PARTS, TextEncoder, is_vocabulary, load_text_encoder, text_encoder

CHOICES: dict[str, Sequence[bool | str]] = {
    "adversarial": tuple(ADVERSARIAL),
    "ca_mode": ("sample", "mean"),
    "ca_reduction": ("mean", "sum"),
    "cycle_text": ("mean", "sample"),
    "bn_update": ("first_pass", "both"),
    "eval_bn": ("running", "recalibrate", "batch"),
    "phi_norm": (False, True, "standard"),
}


# of G's settings those that decide its weights, or what it makes of them
GENERATOR = ("ngf", "n_res", "first_kernel", "res_post_relu", "trunk_skip", "image_skip", "ca_dim", "ca_bias")
RANGES = {
    "phi_dim": "int [1, inf)",
    "relevant_match_prob": "[0, 1]",
    "mismatches": "int [1, inf)",
    "lr_halve_every": "int [1, inf)",
}


class SIMGAN(Exported):
    """One generator and one discriminator edit a photo by a sentence (Yu et al., ICIP 2019)."""

    generator: Generator
    discriminator: Discriminator

    # where each term of conf/loss/simgan.yaml comes from; `task=describe` prints it
    SOURCES: ClassVar[dict[str, str]] = {
        "d.real": "Eq. 1, (D(x, phi) - 1)^2",
        "d.mismatch": "Eq. 1, D(x, phi-bar)^2",
        "d.fake": "Eq. 1, D(x-hat, phi-bar)^2",
        "g.adversarial": "Eq. 1 as the generator's least-squares counterpart, (D(x-hat, phi-bar) - 1)^2",
        "g.cycle": "Eq. 2, |x-tilde - x|",
        "g.conditioning": "Eq. 3, KL of the conditioning augmentation for phi-bar",
        "g.identity": "not in the paper: CycleGAN's remedy for colour drift, |G(x, phi) - x|",
    }

    KIND = "simgan"
    FORMAT = 2
    SERVED = ("phi_dim", "phi_norm", *(f"generator.{name}" for name in GENERATOR))
    TRAINED = ("image_size", "share_generators", "discriminator")
    PLACES = ("text_encoder", "phi_cache")
    COMPANIONS: ClassVar[Mapping[str, Any]] = {"vse": TEXT_PARTS, "vocab": is_vocabulary, "phi_hash": str}

    def __init__(
        self,
        *,
        image_size: int,
        loss: dict[str, dict[str, float | None]],
        text_encoder: str | None,
        word_vectors: str | None,
        phi_cache: str | None,
        phi_dim: int,
        phi_norm: bool | str,
        generator: dict[str, Any],
        discriminator: dict[str, Any],
        share_generators: bool,
        adversarial: str,
        ca_mode: str,
        ca_reduction: str,
        cycle_text: str,
        relevant_match_prob: float,
        mismatches: int,
        bn_update: str,
        eval_bn: str,
        lr_halve_every: int,
        **gan: Any,
    ) -> None:
        """Plain values only; conf/model/simgan.yaml says where each comes from. gan: what `GANModule` takes.

        text_encoder: a `model=vse` artifact or a third-party file; needed to fit and to sample, not to describe.
        word_vectors: fastText's .bin or a text file of vectors, which SISGAN's published text encoders need.
        phi_cache: folder for the table of sentence vectors, or null for none. generator, discriminator: what the
        networks take besides the sizes that they share.
        """
        super().__init__(**gan)
        self.save_hyperparameters()
        check_ranges("model", self.hparams, RANGES)
        for name, known in CHOICES.items():
            choose(f"model.{name}", self.hparams[name], known)
        self.image_size, self.loss, self.phi_dim, self.phi_norm = image_size, loss, phi_dim, phi_norm
        self.ca_mode, self.ca_reduction, self.cycle_text = ca_mode, ca_reduction, cycle_text
        self.relevant_match_prob, self.bn_update, self.eval_bn = relevant_match_prob, bn_update, eval_bn
        self.mismatches, self.lr_halve_every = mismatches, lr_halve_every
        self.real, self.fake = ADVERSARIAL[adversarial]

        shared: dict[str, Any] = {"phi_dim": phi_dim, "standardise": phi_norm == "standard"}

        def make_generator() -> Generator:
            return Generator(**shared, **generator)

        def make_discriminator() -> Discriminator:
            return Discriminator(image_size=image_size, **shared, **discriminator)

        self.generator, self.discriminator = make_generator(), make_discriminator()
        # the "two sets" that Sec. 1 says other methods need
        self.generator_back = None if share_generators else make_generator()
        self.discriminator_back = None if share_generators else make_discriminator()
        self.average_generator()
        self.text_file, self.word_vectors, self.phi_cache = text_encoder, word_vectors, phi_cache
        self.text_encoder: TextEncoder | None = None
        self.phi: Tensor | None = None  # N,captions,D: every sentence of the data set, encoded once

    def examples(self) -> dict[str, tuple[Tensor, ...]]:
        """Inputs of each network for `task=describe`, on the device in force."""
        size, phi = self.image_size, torch.empty(2, self.phi_dim, device="meta")
        pair = (torch.empty(2, 3, size, size, device="meta"), phi)
        return {"generator": pair, "discriminator": pair, "generator_back": pair, "discriminator_back": pair}

    # ---- text

    def read_text(self, records: Records | None = None) -> None:
        """Loads the frozen text encoder and, given records, the table of all their sentences' vectors (Sec. 3.1)."""
        if self.text_encoder is None:
            if self.text_file is None:
                raise UserError(
                    "SIMGAN needs a text encoder: give model.text_encoder=FILE, or run `python run.py model=vse` first"
                )
            if self.word_vectors is None:
                encoder = load_text_encoder(self.text_file)
            else:
                encoder = read_vse(self.text_file, self.word_vectors)
            if encoder.dim != self.phi_dim:
                raise UserError(
                    f"the text encoder {self.text_file} gives {encoder.dim} numbers a sentence and model.phi_dim is "
                    f"{self.phi_dim}: set model.phi_dim={encoder.dim}"
                )
            self.text_encoder = encoder.to(self.device)
        if records is not None:
            self.phi = sentence_table(self.text_encoder, records, self.phi_cache).to(self.device)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.read_text(self.data.records)
            if self.phi_norm == "standard":
                self.standardise(self.data.records)

    def standardise(self, records: Records) -> None:
        """Measures the training sentences for every network that reads phi."""
        assert self.phi is not None
        rows = records.rows("train")
        phi = torch.cat([self.phi[row, : len(records.captions[row])] for row in rows.tolist()])
        for module in self.modules():
            if isinstance(module, Standardise):
                module.measure(phi)

    def on_fit_start(self) -> None:
        assert self.phi is not None
        self.phi = self.phi.to(self.device)

    def look_up(self, row: Tensor, caption: Tensor) -> Tensor:
        """phi of sentence `caption` of image `row`: B int64 twice -> B,D."""
        assert self.phi is not None, "read_text(records) comes first"
        phi = self.phi[row, caption]
        return F.normalize(phi, dim=1) if self.phi_norm is True else phi

    def encode(self, sentences: list[str]) -> Tensor:
        """phi of free text: n sentences -> n,D on this module's device."""
        self.read_text()
        assert self.text_encoder is not None
        phi = self.text_encoder.encode(sentences).to(self.device)
        return F.normalize(phi, dim=1) if self.phi_norm is True else phi

    # ---- one training step (Sec. 2; D before G as in SISGAN)

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        opt_g, opt_d = self.opts()
        x = batch["image"]
        own = self.look_up(batch["row"], batch["caption"])  # phi
        wrong = self.look_up(batch["other_row"], batch["other_caption"])  # phi-bar
        target = self.targets(own, wrong)

        c, mu, log_sigma = self.generator.condition(target, mode=self.ca_mode)
        edit = self.generator.edit(x, c)  # x-hat, once: both updates read it
        back = self.go_back(edit, own)  # x-tilde
        with self.toggled_optimizer(opt_d):
            terms = self.d_terms(self.discriminator, x, own, wrong, edit, target)
            if self.discriminator_back is not None:
                more = self.d_terms(self.discriminator_back, x, own, wrong, back, own)
                terms = {name: term + more[name] for name, term in terms.items()}
            self.gradient_norms(terms, self.discriminator.parameters(), "d")
            self.descend(opt_d, terms, self.loss["d"], "d", batch_idx)
        with self.toggled_optimizer(opt_g):
            terms = self.g_terms(x, own, target, edit, back, mu, log_sigma)
            self.descend(opt_g, terms, self.loss["g"], "g", batch_idx)

        self.pending["train/mean_abs_mu"] = mu.detach().float().abs().mean()
        self.pending["train/mean_sigma"] = log_sigma.detach().float().exp().mean()

    def targets(self, own: Tensor, wrong: Tensor) -> Tensor:
        """What to edit towards: t-bar, or with `relevant_match_prob` the own sentence (SISGAN: 0.5). B,D -> B,D."""
        if self.relevant_match_prob == 0:
            return wrong
        keep = torch.rand(len(own), 1, device=own.device) < self.relevant_match_prob
        return torch.where(keep, own, wrong)

    def go_back(self, edit: Tensor, own: Tensor) -> Tensor:
        """x-tilde = G(x-hat, phi), Sec. 2.2. The shared generator's running statistics describe the first pass only,
        because inference runs no other (`bn_update`)."""
        net = self.generator_back or self.generator
        shared = self.generator_back is None and self.bn_update == "first_pass"
        with still_statistics(net) if shared else nullcontext():
            return net(edit, own, mode="mean" if self.ca_mode == "mean" else self.cycle_text)

    def d_terms(
        self, net: Discriminator, x: Tensor, own: Tensor, wrong: Tensor, fake: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """Eq. 1, of a fake made for `target`. The text enters after the trunk, so both real terms share it, and real
        and fake are never one BN batch."""
        h = net.trunk(x)
        others = range(1, min(self.mismatches, len(own)))  # photos of the batch, whose own sentences do not fit x
        real, unfit = net.head(h, own), [net.head(h, phi) for phi in (wrong, *(own.roll(k, 0) for k in others))]
        scores = {"real": real, "mismatch": torch.cat(unfit), "fake": net(fake.detach(), target)}
        if net is self.discriminator:
            self.pending |= {f"train/score_{name}": upcast(score.detach()).mean() for name, score in scores.items()}
        return {name: (self.real if name == "real" else self.fake)(score) for name, score in scores.items()}

    def g_terms(
        self, x: Tensor, own: Tensor, target: Tensor, edit: Tensor, back: Tensor, mu: Tensor, log_sigma: Tensor
    ) -> dict[str, Tensor]:
        """Eq. 4: adversarial, cycle (Eq. 2) and conditioning (Eq. 3); terms with a null weight are not computed."""
        terms = {"adversarial": self.real(self.discriminator(edit, target))}
        if self.discriminator_back is not None:  # of the second set
            terms["adversarial"] = terms["adversarial"] + self.real(self.discriminator_back(back, own))
        if self.loss["g"]["cycle"] is not None:
            terms["cycle"] = l1(back, x)
        if self.loss["g"]["conditioning"] is not None:
            terms["conditioning"] = kl_log_std(mu, log_sigma, self.ca_reduction)
        if self.loss["g"]["identity"] is not None:
            with still_statistics(self.generator):
                terms["identity"] = l1(self.generator(x, own, mode="mean"), x)
        return terms

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[StepLR]]:
        """Adam for both sides, halved every 50 epochs (Sec. 3.1): lr(e) = lr 0.5^floor(e / 50)."""
        sides = ((self.generator, self.generator_back), (self.discriminator, self.discriminator_back))
        optimizers = self.adam(*([p for net in nets if net for p in net.parameters()] for nets in sides))
        return optimizers, [StepLR(opt, self.lr_halve_every, gamma=0.5) for opt in optimizers]

    # ---- files: the text encoder and its vocabulary go with the generator, so that a raw sentence is enough

    def companions(self) -> dict[str, Any]:
        """With fastText words `vocab` is null and their 8 GB file stays where it is; its path is in vse.config."""
        self.read_text()
        assert self.text_encoder is not None
        return self.text_encoder.export()

    def take_companions(self, content: Mapping[str, Any], path: str | Path) -> None:
        encoder = text_encoder(content["vse"], content["vocab"], content["phi_hash"], path)
        self.text_encoder = encoder.to(self.device)
        self.phi = None  # a table by another encoder would not fit

    # ---- serving

    def draw(self, x: Tensor, phi: Tensor, eps: Tensor | None = None, mode: str | None = None) -> Tensor:
        """G(x, phi) as inference runs it: x B,3,S,S in [-1, 1], phi B,D -> B,3,S,S. eps B,ca_dim or drawn."""
        return self.serve(self.serving, lambda net: net(x, phi, eps, mode or self.ca_mode))

    def take_back(self, edit: Tensor, own: Tensor) -> Tensor:
        """x-tilde as inference runs it: the edit B,3,S,S brought back to the own sentence B,D, without noise."""
        return self.serve(self.generator_back or self.serving, lambda net: net(edit, own, mode="mean"))

    @torch.no_grad()
    def serve(self, net: nn.Module, use: Callable[[nn.Module], Tensor]) -> Tensor:
        """Uses a generator as `eval_bn` says: by running statistics, or by those of the batch (still untouched)."""
        was_training = net.training
        net.train(self.eval_bn == "batch")
        try:
            with still_statistics(net) if self.eval_bn == "batch" else nullcontext():
                return upcast(use(net))
        finally:
            net.train(was_training)

    def before_scoring(self, data: ImageData) -> None:
        """Encodes the sentences; with eval_bn=recalibrate takes the running statistics anew over an epoch of pairs."""
        self.read_text(data.records)
        if self.eval_bn == "recalibrate":
            net = self.serving
            batches = (data.move(batch, self.device) for batch in data.train_dataloader())
            pairs = (([b["image"], self.look_up(b["other_row"], b["other_caption"])],) for b in batches)
            update_bn(pairs, Pairwise(net))
            net.eval()

    def sample(self, batch: Sample, generator: torch.Generator | None = None) -> Tensor:
        """x-hat for each image and its mismatched sentence; noise from the pair's id, else from `generator`."""
        x = batch["image"]
        phi = self.look_up(batch["other_row"], batch["other_caption"])
        width = self.generator.ca_dim
        if "pair" in batch:
            eps = paired_noise(batch["pair"], width).to(x.device)
        else:
            device = generator.device if generator is not None else x.device
            eps = torch.randn(len(x), width, generator=generator, device=device).to(x.device)
        return self.draw(x, phi, eps)

    def grid(self, batch: Sample) -> dict[str, Tensor]:
        """Columns of the picture of progress: x, two edits by one sentence, and the first taken back (Sec. 2.2)."""
        x = batch["image"]
        own = self.look_up(batch["row"], batch["caption"])
        rng = torch.Generator().manual_seed(0)
        edits = [self.sample(batch, rng), self.sample(batch, rng)]
        return {
            "x": x,
            "x-hat": edits[0],
            "x-hat, other noise": edits[1],
            "x-tilde": self.take_back(edits[0], own),
        }


class Pairwise(nn.Module):
    """A generator that takes its two inputs as one, which is how torch's update_bn calls it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pair: list[Tensor]) -> Tensor:
        return self.net(*pair)
