"""The training of FineGAN (Li and Wang 2021) and of AttnGAN, its baseline: Sec. 3 and Eq. 1 to 8 in their own terms.

Settings that the paper leaves open follow taoxugit/AttnGAN (AG). B batch, L tokens of a condition, D width of its code,
S image side; stages k = 0, 1, 2 draw S/4, S/2, S. Written x real, f generated, m mask, e the condition's global code.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.blocks import upcast
from common.data.module import ImageData
from common.data.records import Sample
from common.errors import UserError, check_ranges, choose
from common.losses import ADVERSARIAL, Cost
from common.pictures import Request, Sheet
from common.weights import flat
from finegan.conditions import INPUTS, Codes
from finegan.conditions import RANGES as CONDITIONS
from finegan.denoise import RULES
from finegan.discriminators import Discriminator
from finegan.figure_inputs import mask_values, scene
from finegan.losses import damsm_loss, kl, mismatch
from finegan.networks import Generator, initialise
from finegan.serving import Painter

EMPTY = 0.01  # share of foreground below which `part_skip_empty` leaves a quadrant out


CHOICES = {
    "inputs": INPUTS,
    "discriminator.mismatch": ("shift", "class"),
    "adversarial": tuple(ADVERSARIAL),
    "conditions.denoise_rule": RULES,
}
RANGES = {
    "code_dim": "int [2, inf)",
    "match.gammas": "3 x (0, inf)",
    "discriminator.mask_fill": "[-1, 1]",
}


class FineGAN(Painter):
    """Three stages draw a bird from its attributes and its mask; whole, foreground and parts are judged apart.

    With inputs=text, without masks and with the foreground and part terms absent from `loss` this is AttnGAN.
    """

    discriminator: nn.ModuleList
    discriminator_fg: nn.ModuleList | None

    # where each term of conf/loss/finegan.yaml comes from; `task=describe` prints it. Each is summed over the stages.
    SOURCES: ClassVar[dict[str, str]] = {
        "d.real": "Eq. 1, -log D(x)",
        "d.fake": "Eq. 1, -log(1 - D(f))",
        "d.cond_real": "Eq. 5, -log D(x, e)",
        "d.cond_fake": "not in Eq. 5, which would leave G without a condition: AttnGAN, -log(1 - D(f, e))",
        "d.mismatch": "Eq. 5, -log(1 - D(x, e'))",
        "d.part": "Eq. 4 on the whole image, mean of the 2 x 2 regions",
        "d.fg": "Eq. 2, D of x and f under the mask",
        "d.fg_part": "Eq. 4 on the foreground",
        "g.uncond": "Eq. 1 and 7 as -log D(f)",
        "g.cond": "not in Eq. 5: AttnGAN, -log D(f, e)",
        "g.part": "Eq. 4 as -log D(f_j)",
        "g.fg": "Eq. 2 as -log D(f under the mask)",
        "g.fg_part": "Eq. 4 on the foreground",
        "g.damsm": "Eq. 7, lambda (W0 + W1 + S0 + S1); lambda of AttnGAN",
        "g.kl": "not in the paper: AttnGAN's conditioning augmentation",
    }

    def __init__(
        self,
        *,
        image_size: int,
        loss: dict[str, dict[str, float | None]],
        inputs: str,
        damsm: str | None,
        denoised: str | None,
        conditions: dict[str, Any],
        code_dim: int,
        generator: dict[str, Any],
        discriminator: dict[str, Any],
        adversarial: str,
        saturating: bool,
        match: dict[str, Any],
        **gan: Any,
    ) -> None:
        """Plain values only; conf/model/finegan.yaml says where each comes from. gan: what `GANModule` takes.

        damsm: an export of `model=damsm`, or a folder of AttnGAN's published encoders; needed to fit and to sample.
        denoised: the file of `prepare=attributes`, which inputs=clean reads. conditions: what is made of them before G.
        generator, discriminator: what the networks take besides the sizes that they share, and what D is shown. match:
        of `losses.damsm_loss`. Which discriminator terms there are is said by `loss` alone: where a weight is null,
        term and network are absent.
        """
        super().__init__(**gan)
        self.save_hyperparameters()
        told = flat(self.hparams)
        check_ranges("model", told, RANGES | CONDITIONS)
        for name, known in CHOICES.items():
            choose(f"model.{name}", told[name], known)
        self.image_size, self.loss, self.inputs, self.masked = image_size, loss, inputs, generator["masks"]
        self.damsm_file, self.denoised, self.ca_noise = damsm, denoised, conditions["ca_noise"]
        shown = ("mask_fill", "part_skip_empty", "mismatch")
        self.mask_fill, self.part_skip_empty, self.mismatch = (discriminator[name] for name in shown)
        self.gammas, self.length_norm, self.saturating = tuple(match["gammas"]), match["length_norm"], saturating
        self.z_dim, self.c_dim, self.code_dim = generator["z_dim"], generator["c_dim"], code_dim
        self.real, self.fake = ADVERSARIAL[adversarial]

        self.generator = Generator(image_size=image_size, code_dim=code_dim, **generator)
        self.sides = (image_size // 4, image_size // 2, image_size)
        self.foreground = self.has("fg") or self.has("fg_part")

        def of_stages(*, conditional: bool, parts: bool) -> nn.ModuleList:
            sizes = {name: value for name, value in discriminator.items() if name not in shown}
            sizes |= {"code_dim": code_dim, "conditional": conditional, "parts": parts}
            return nn.ModuleList(Discriminator(side=side, **sizes) for side in self.sides)

        self.discriminator = of_stages(conditional=True, parts=self.has("part"))
        self.discriminator_fg = of_stages(conditional=False, parts=self.has("fg_part")) if self.foreground else None
        for net in (self.generator, self.discriminator, self.discriminator_fg):
            if net is not None:
                initialise(net)
        self.average_generator(buffers=gan["average"]["buffers"], from_start=True)
        self.text_encoder = self.image_encoder = None

    def has(self, term: str) -> bool:
        """Whether a discriminator term is part of this model."""
        return self.loss["d"][term] is not None

    def discriminators(self, k: int) -> list[nn.Module]:
        """The discriminators of stage k."""
        return [nets[k] for nets in (self.discriminator, self.discriminator_fg) if nets is not None]

    def examples(self) -> dict[str, tuple[Tensor, ...]]:
        """Inputs of each network for `task=describe`, on the device in force."""
        z, sent, words = torch.empty(2, self.z_dim), torch.empty(2, self.code_dim), torch.empty(2, self.code_dim, 8)
        inputs: tuple[Tensor, ...] = (z, sent, words, torch.zeros(2, 8, dtype=torch.bool))
        if self.masked:
            inputs += (torch.empty(2, 1, self.image_size, self.image_size),)
        found: dict[str, tuple[Tensor, ...]] = {"generator": inputs}
        for k, side in enumerate(self.sides):
            found[f"discriminator.{k}"] = (torch.empty(2, 3, side, side), sent)
            found[f"discriminator_fg.{k}"] = (torch.empty(2, 3, side, side),)
        return found

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.read_conditions(self.data.records)

    # ---- one training step (Sec. 3; D before G as in AG)

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        opt_g, opt_d = self.counted_optimizers()
        assert self.conditions is not None
        codes = self.conditions.codes(batch["row"], batch.get("caption"), train=True)
        real, masks = self.pyramid(batch["image"]), self.mask_pyramid(batch.get("mask"))
        other = mismatch(batch["label"], self.mismatch)
        z = torch.randn(len(codes.sent), self.z_dim, device=self.device)
        mask = masks[-1] if self.masked else None
        generated = self.generator(z, codes.sent, codes.words, codes.pad, mask)  # once: both updates read it

        with self.toggled_optimizer(opt_d):
            fake = [image.detach() for image in generated.images]
            stages = (self.d_terms(k, real[k], fake[k], masks[k], codes.sent, other) for k in range(3))
            self.descend(opt_d, stages, self.loss["d"], "d", batch_idx)
        with self.toggled_optimizer(opt_g):
            ends = [*generated.images, generated.mu, generated.logvar]
            leaves = [upcast(end.detach()).requires_grad_() for end in ends]
            parts = self.g_terms(leaves, masks, codes, batch["label"])
            through = list(zip(ends, leaves, strict=True))
            self.descend(opt_g, parts, self.loss["g"], "g", batch_idx, through)

    def pyramid(self, images: Tensor) -> tuple[Tensor, ...]:
        """B,3,S,S -> at S/4, S/2 and S: antialiased bilinear, each from the full size (AG datasets.py)."""
        small = (F.interpolate(images, (side, side), mode="bilinear", antialias=True) for side in self.sides[:2])
        return (*small, images)

    def mask_pyramid(self, mask: Tensor | None) -> tuple[Tensor | None, ...]:
        """m: B,1,S,S in {0, 1} -> at S/4, S/2 and S: the area's mean, >= 0.5."""
        if mask is None:
            if self.masked or self.foreground:
                raise UserError("this model reads masks and the batch has none: add mask to data.reads.")
            return (None, None, None)
        return (*((F.avg_pool2d(mask, factor) >= 0.5).to(mask.dtype) for factor in (4, 2)), mask)

    def d_terms(
        self, k: int, x: Tensor, f: Tensor, mask: Tensor | None, sent: Tensor, other: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Those of stage k. Real and generated, whole and cut images are never one BN batch."""
        terms = self.whole_terms(k, x, f, sent, other)
        if self.discriminator_fg is not None and mask is not None:
            terms |= self.foreground_terms(self.discriminator_fg[k], self.under(x, mask), self.under(f, mask), mask)
        if k == 2:
            self.gradient_norms(terms, nn.ModuleList(self.discriminators(k)).parameters(), "d")
        return terms

    def whole_terms(
        self, k: int, x: Tensor, f: Tensor, sent: Tensor, other: tuple[Tensor, Tensor]
    ) -> dict[str, Tensor]:
        """Eq. 1 and 5, and Eq. 4 on the whole. A batch of one class has no mismatch."""
        net, (own, wrong) = cast(Discriminator, self.discriminator[k]), other
        h, h_f = net.trunk(x), net.trunk(f)
        scores = {"real": net.uncond(h), "fake": net.uncond(h_f), "cond_real": net.cond(h, sent)}
        if self.has("cond_fake"):
            scores["cond_fake"] = net.cond(h_f, sent)
        terms = {name: (self.real if name.endswith("real") else self.fake)(score) for name, score in scores.items()}
        terms["mismatch"] = self.fake(net.cond(h[own], sent[wrong])) if len(own) else x.new_zeros(())
        if self.has("part"):
            terms["part"] = self.real(net.part(x, h)) + self.fake(net.part(f, h_f))
        means = {f"train/score_{name}_{self.sides[k]}": upcast(score.detach()).mean() for name, score in scores.items()}
        self.to_log |= means
        return terms

    def foreground_terms(self, judge: nn.Module, x: Tensor, f: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Eq. 2, and Eq. 4 on the foreground, of x and f under the mask."""
        net, terms = cast(Discriminator, judge), {}
        h, h_f = net.trunk(x), net.trunk(f)
        if self.has("fg"):
            terms["fg"] = self.real(net.uncond(h)) + self.fake(net.uncond(h_f))
        if self.has("fg_part"):
            real = self.of_parts(net.part(x, h), mask, self.real)
            terms["fg_part"] = real + self.of_parts(net.part(f, h_f), mask, self.fake)
        return terms

    def of_parts(self, scores: Tensor, mask: Tensor, cost: Cost) -> Tensor:
        """Cost of the B,4 logits of the foreground's quadrants: all alike, or with `part_skip_empty` those that show
        something of it."""
        if not self.part_skip_empty:
            return cost(scores)
        shown = F.adaptive_avg_pool2d(mask, 2).flatten(1) > EMPTY  # TL, TR, BL, BR
        return cost(scores[shown]) if bool(shown.any()) else scores.sum() * 0

    def g_cost(self, scores: Tensor) -> Tensor:
        """-log D(f), or with `saturating` the log(1 - D(f)) of Eq. 7 as printed."""
        return -self.fake(scores) if self.saturating else self.real(scores)

    def g_terms(
        self, leaves: list[Tensor], masks: tuple[Tensor | None, ...], codes: Codes, labels: Tensor
    ) -> Iterator[dict[str, Tensor]]:
        """The generator's terms on its outputs, stage by stage, then what the last image and the statistics add.

        leaves: f at the three stages, mu, logvar. The discriminators are those after their update, and frozen.
        """
        for k in range(3):
            net, f, mask = cast(Discriminator, self.discriminator[k]), leaves[k], masks[k]
            h = net.trunk(f)
            terms = {"uncond": self.g_cost(net.uncond(h))}
            if self.has("cond_fake"):
                terms["cond"] = self.g_cost(net.cond(h, codes.sent))
            if self.has("part"):
                terms["part"] = self.g_cost(net.part(f, h))
            if self.discriminator_fg is not None and mask is not None:
                judge, shown = cast(Discriminator, self.discriminator_fg[k]), self.under(f, mask)
                h = judge.trunk(shown)
                if self.has("fg"):
                    terms["fg"] = self.g_cost(judge.uncond(h))
                if self.has("fg_part"):
                    terms["fg_part"] = self.of_parts(judge.part(shown, h), mask, self.g_cost)
            if k == 2:
                self.gradient_norms(terms, [f], "g")
            yield terms
        assert self.image_encoder is not None
        regions, code = self.image_encoder(leaves[2])
        found = damsm_loss(
            regions,
            code,
            codes.words,
            codes.sent,
            codes.pad,
            labels,
            gammas=self.gammas,
            length_norm=self.length_norm,
        )
        terms = {"damsm": torch.stack(list(found.values())).sum()}
        self.gradient_norms(terms, [leaves[2]], "g")
        self.to_log |= {f"train/damsm_{name}": value.detach() for name, value in found.items()}
        yield terms | {"kl": kl(leaves[3], leaves[4])}

    # ---- a user's own

    def respond(self, data: ImageData, request: Request) -> Sheet:
        """n pictures of each condition in each mask; the k-th pictures of all rows have one noise.

        texts: names of attributes with commas between, or sentences; none = those of the test image. images: test
        images, whose masks are used, or mask PNGs; none = masks of test images, chosen by the seed.
        """
        if not request.images and not request.texts:
            example = (
                "'a red bird with white wings'" if self.inputs == "text" else "'wing color: red, belly color: white'"
            )
            raise UserError(f"{type(self).__name__} draws what you name: give text={example}, say.")
        if request.images and request.texts and not self.masked:
            raise UserError(
                f"this model takes no mask and image={request.images[0]} would change nothing: leave it out."
            )
        if request.every and request.texts and self.inputs != "text":
            request = replace(request, texts=[", ".join(request.texts)])  # a list of names is one condition
        s = scene(self, data, request, 1)
        codes, masks = self.encode(s.conditions), mask_values(s.masks)
        made = {f"draw {k}": self.generate(codes, masks, k, request.seed).images[-1] for k in range(1, request.n + 1)}
        names = s.masks.names if s.masks else [None] * len(s.names)
        rows = [
            {"image": image or None, "mask": mask, "condition": condition}
            for image, mask, condition in zip(s.names, names, s.conditions, strict=True)
        ]
        return Sheet(s.mask_column | made, s.lines, {"rows": rows}, generated=list(made))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam at a constant rate: one for G, one for all discriminators."""
        discriminators = nn.ModuleList(net for k in range(3) for net in self.discriminators(k))
        return self.adam(self.generator.parameters(), discriminators.parameters())
