"""SIMGAN's training: Eq. 1 to 4 and the step of Sec. 2, in the paper's own terms.

B batch, S image side, D width of the sentence vector. Written t own sentence, t-bar a sentence of another class,
phi and phi-bar their vectors, x-hat the edit, x-tilde the edit taken back (the cycle).
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.lr_scheduler import StepLR

from common.blocks import upcast
from common.data.records import Records, Sample
from common.errors import check_ranges, choose
from common.losses import ADVERSARIAL, kl_log_std, l1
from common.weights import flat
from simgan.embedding import TEXT_PARTS, TextEncoder, is_vocabulary, text_encoder
from simgan.networks import Discriminator, Generator, Standardise, still_statistics
from simgan.serving import Editor

CHOICES: dict[str, Sequence[bool | str]] = {
    "adversarial": tuple(ADVERSARIAL),
    "conditioning.mode": ("sample", "mean"),
    "conditioning.cycle_mode": ("mean", "sample"),
    "conditioning.reduction": ("mean", "sum"),
    "batch_norm.update": ("first_pass", "both"),
    "batch_norm.eval": ("running", "recalibrate", "batch"),
    "phi.norm": (False, True, "standard"),
}


# of G's settings those that decide its weights, or what it makes of them
GENERATOR = ("ngf", "n_res", "first_kernel", "res_post_relu", "trunk_skip", "image_skip", "ca_dim", "ca_bias")
RANGES = {
    "phi.dim": "int [1, inf)",
    "relevant_match_prob": "[0, 1]",
    "mismatches": "int [1, inf)",
    "optimizer.halve_every": "int [1, inf)",
}


class SIMGAN(Editor):
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
    SERVED = ("phi.dim", "phi.norm", *(f"generator.{name}" for name in GENERATOR))
    TRAINED = ("image_size", "share_generators", "discriminator")
    PLACES = ("text_encoder", "phi.word_vectors", "phi.cache")
    COMPANIONS: ClassVar[Mapping[str, Any]] = {"vse": TEXT_PARTS, "vocab": is_vocabulary, "phi_hash": str}

    def __init__(
        self,
        *,
        image_size: int,
        loss: dict[str, dict[str, float | None]],
        text_encoder: str | None,
        phi: dict[str, Any],
        generator: dict[str, Any],
        discriminator: dict[str, Any],
        share_generators: bool,
        adversarial: str,
        conditioning: dict[str, str],
        relevant_match_prob: float,
        mismatches: int,
        batch_norm: dict[str, str],
        **gan: Any,
    ) -> None:
        """Plain values only; conf/model/simgan.yaml says where each comes from. gan: what `GANModule` takes;
        optimizer.halve_every: epochs.

        text_encoder: a `model=vse` artifact or a third-party file; needed to fit and to sample, not to describe. phi:
        {dim, norm, word_vectors: fastText's .bin or a text file of vectors, which SISGAN's published text encoders
        need, cache: folder for the table of sentence vectors, or null for none}. generator, discriminator: what the
        networks take besides the sizes that they share. conditioning: the noise of Sec. 2.3 and its loss. batch_norm:
        which passes move the running statistics, and what inference normalises by.
        """
        super().__init__(**gan)
        self.save_hyperparameters()
        told = flat(self.hparams)
        check_ranges("model", told, RANGES)
        for name, known in CHOICES.items():
            choose(f"model.{name}", told[name], known)
        self.image_size, self.loss, self.phi_dim, self.phi_norm = image_size, loss, phi["dim"], phi["norm"]
        self.conditioning, self.batch_norm = conditioning, batch_norm
        self.relevant_match_prob, self.mismatches = relevant_match_prob, mismatches
        self.real, self.fake = ADVERSARIAL[adversarial]

        shared: dict[str, Any] = {"phi_dim": phi["dim"], "standardise": phi["norm"] == "standard"}

        def make_generator() -> Generator:
            return Generator(**shared, **generator)

        def make_discriminator() -> Discriminator:
            return Discriminator(image_size=image_size, **shared, **discriminator)

        self.generator, self.discriminator = make_generator(), make_discriminator()
        # the "two sets" that Sec. 1 says other methods need
        self.generator_back = None if share_generators else make_generator()
        self.discriminator_back = None if share_generators else make_discriminator()
        self.average_generator()
        self.text_file, self.word_vectors, self.phi_cache = text_encoder, phi["word_vectors"], phi["cache"]
        self.text_encoder: TextEncoder | None = None
        self.phi: Tensor | None = None  # N,captions,D: every sentence of the data set, encoded once

    def examples(self) -> dict[str, tuple[Tensor, ...]]:
        """Inputs of each network for `task=describe`, on the device in force."""
        size, phi = self.image_size, torch.empty(2, self.phi_dim, device="meta")
        pair = (torch.empty(2, 3, size, size, device="meta"), phi)
        return {"generator": pair, "discriminator": pair, "generator_back": pair, "discriminator_back": pair}

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

    # ---- one training step (Sec. 2; D before G as in SISGAN)

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        opt_g, opt_d = self.counted_optimizers()
        x = batch["image"]
        own = self.look_up(batch["row"], batch["caption"])  # phi
        wrong = self.look_up(batch["other_row"], batch["other_caption"])  # phi-bar
        target = self.targets(own, wrong)

        c, mu, log_sigma = self.generator.condition(target, mode=self.conditioning["mode"])
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

        self.to_log["train/mean_abs_mu"] = mu.detach().float().abs().mean()
        self.to_log["train/mean_sigma"] = log_sigma.detach().float().exp().mean()

    def targets(self, own: Tensor, wrong: Tensor) -> Tensor:
        """What to edit towards: t-bar, or with `relevant_match_prob` the own sentence (SISGAN: 0.5). B,D -> B,D."""
        if self.relevant_match_prob == 0:
            return wrong
        keep = torch.rand(len(own), 1, device=own.device) < self.relevant_match_prob
        return torch.where(keep, own, wrong)

    def go_back(self, edit: Tensor, own: Tensor) -> Tensor:
        """x-tilde = G(x-hat, phi), Sec. 2.2. The shared generator's running statistics describe the first pass only,
        because inference runs no other (`batch_norm.update`)."""
        net = self.generator_back or self.generator
        shared = self.generator_back is None and self.batch_norm["update"] == "first_pass"
        with still_statistics(net) if shared else nullcontext():
            modes = self.conditioning
            return net(edit, own, mode="mean" if modes["mode"] == "mean" else modes["cycle_mode"])

    def d_terms(
        self, net: Discriminator, x: Tensor, own: Tensor, wrong: Tensor, fake: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """Eq. 1, of a fake made for `target`. The text enters last, so all real terms share what D saw, and real
        and fake are never one BN batch."""
        seen = net.look(x)
        others = range(1, min(self.mismatches, len(own)))  # photos of the batch, whose own sentences do not fit x
        real, unfit = net.head(seen, own), [net.head(seen, phi) for phi in (wrong, *(own.roll(k, 0) for k in others))]
        scores = {"real": real, "mismatch": torch.cat(unfit), "fake": net(fake.detach(), target)}
        if net is self.discriminator:
            self.to_log |= {f"train/score_{name}": upcast(score.detach()).mean() for name, score in scores.items()}
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
            terms["conditioning"] = kl_log_std(mu, log_sigma, self.conditioning["reduction"])
        if self.loss["g"]["identity"] is not None:
            with still_statistics(self.generator):
                terms["identity"] = l1(self.generator(x, own, mode="mean"), x)
        return terms

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[StepLR]]:
        """Adam for both sides, halved every 50 epochs (Sec. 3.1): lr(e) = lr 0.5^floor(e / 50)."""
        sides = ((self.generator, self.generator_back), (self.discriminator, self.discriminator_back))
        optimizers = self.adam(*([p for net in nets if net for p in net.parameters()] for nets in sides))
        return optimizers, [StepLR(opt, self.adam_options["halve_every"], gamma=0.5) for opt in optimizers]

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
