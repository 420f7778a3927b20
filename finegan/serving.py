"""A generator with its frozen encoders, as evaluation, figures and export use it: conditions in, birds out.

B batch, L tokens of a condition, D width of its codes, S image side.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from common.blocks import Frozen
from common.data.records import Records, Sample
from common.errors import UserError
from common.exports import Exported
from common.gan import EvaluationSet, paired_noise
from common.metrics.evaluation_sets import images_from_conditions
from common.weights import check_settings, flat
from finegan.checkpoints import (
    PARTS,
    Encoders,
    encoders_of,
    generator_sizes,
    load_encoders,
    read_kind,
    take_generator,
    write_attngan,
)
from finegan.conditions import (
    Codes,
    Conditions,
    Sequences,
    attribute_sequences,
    caption_sequences,
    parse_attributes,
    parse_sentence,
)
from finegan.networks import Generated, Generator

SIZES = (
    "image_size",
    "code_dim",
    *(f"generator.{name}" for name in ("ngf", "z_dim", "c_dim", "residual_blocks", "masks")),
)
NETWORKS = tuple(f"loss.{side}.{term}" for side in "dg" for term in ("part", "fg", "fg_part"))  # null or not
STRIDE = 1_000_003  # sets the noise of one seed apart from the next's


class Painter(Exported):
    """What FineGAN needs besides its training; the settings are FineGAN's."""

    KIND = "finegan"  # AttnGAN's too
    FORMAT = 3
    CHECKPOINT_FORMAT = 2
    SERVED = ("inputs", "image_size", "code_dim", "generator", "conditions.denoise_rule", "conditions.min_certainty")
    TRAINED = ("discriminator.ndf", *NETWORKS)
    PLACES = ("damsm", "denoised")
    COMPANIONS: ClassVar[Mapping[str, Any]] = {"encoders": PARTS | {"hash": str}}

    generator: Generator
    inputs: str
    damsm_file: str | None
    denoised: str | None
    masked: bool
    ca_noise: bool
    mask_fill: float
    gammas: tuple[float, ...]
    z_dim: int
    c_dim: int
    code_dim: int
    encoders: Encoders | None = None
    conditions: Conditions | None = None
    text_encoder: Frozen | None
    image_encoder: Frozen | None

    # ---- conditions

    def read_conditions(self, records: Records | None = None) -> None:
        """Loads the frozen DAMSM encoders and, given records, the sequences of all their conditions (Sec. 3.1)."""
        if self.encoders is None:
            if self.damsm_file is None:
                raise UserError(
                    "FineGAN needs the DAMSM encoders: give model.damsm=FILE, or run `python run.py model=damsm` first."
                )
            self.take_encoders(load_encoders(self.damsm_file, legacy=self.hparams["generator"]["legacy"]))
        assert self.encoders is not None
        assert self.text_encoder is not None
        if records is not None:
            how = self.hparams["conditions"]
            self.conditions = Conditions(
                encoder=self.text_encoder,
                sequences=self.sequences(records),
                max_len_train=how["max_len"],
                max_len_eval=how["max_len_eval"],
                subset_prob=how["subset_prob"],
                cache=how["cache"],
            )

    def take_encoders(self, encoders: Encoders) -> None:
        """Encoders of this model's kind of input. UserError for others (Table 2's rows have encoders of their own)."""
        encoders.check(inputs=self.inputs, denoised=self.denoised, code_dim=self.code_dim)
        self.encoders = encoders.to(self.device)
        self.text_encoder, self.image_encoder = encoders.text, encoders.image
        self.image_encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def sequences(self, records: Records) -> Sequences:
        """The conditions of all images, as the encoders read them."""
        assert self.encoders is not None
        if self.inputs == "text":
            return caption_sequences(records, names=self.encoders.names)
        least = self.hparams["conditions"]["min_certainty"]
        return attribute_sequences(records, inputs=self.inputs, denoised=self.denoised, min_certainty=least)

    def codes(self, row: Tensor, caption: Tensor | None = None) -> Codes:
        """Codes of the conditions of images as evaluation reads them, without random subsets. row, caption: B int64."""
        assert self.conditions is not None, "read_conditions(records) comes first"
        return self.conditions.codes(row, caption, train=False)

    def encode(self, texts: Sequence[str] | Sequence[Sequence[str]]) -> Codes:
        """Codes of free conditions: sentences with inputs=text, else a list of attribute names each."""
        self.read_conditions()
        assert self.encoders is not None
        assert self.text_encoder is not None
        names = self.encoders.names
        if self.inputs == "text":
            ids = [parse_sentence(str(text), names) for text in texts]
        else:
            ids = [parse_attributes([text] if isinstance(text, str) else text, names) for text in texts]
        return Conditions.of_ids(self.text_encoder, ids)

    # ---- serving

    def before_scoring(self, data: Any) -> None:
        self.read_conditions(data.records)

    def evaluation_set(self, data: Any, options: Mapping[str, Any]) -> EvaluationSet:
        """AttnGAN's: the test images again and again, each time with other noise and the next caption."""
        return images_from_conditions(data, options)

    def noise(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """z B,z_dim and the noise of the conditioning augmentation B,c_dim, the same for the same id."""
        both = paired_noise(ids, self.z_dim + self.c_dim).to(self.device)
        return both[:, : self.z_dim], both[:, self.z_dim :]

    @torch.no_grad()
    def infer(self, codes: Codes, mask: Tensor | None, z: Tensor, eps: Tensor) -> Generated:
        """The averaged generator as evaluation runs it, in float32. mask: B,1,S,S; None where the model reads none."""
        net = self.serving.eval()
        with torch.autocast(self.device.type, enabled=False):
            eps = eps if self.ca_noise else torch.zeros_like(eps)
            return net(z, codes.sent, codes.words, codes.pad, mask if self.masked else None, eps)

    def generate(self, codes: Codes, masks: Tensor | None, k: int, seed: int) -> Generated:
        """B pictures with the k-th noise of the seed, the same for all B. masks: B,1,S,S, or None where none are read.

        One at a time: the published code's attention (`legacy`) lets a picture depend on the lengths of the others.
        """
        z, eps = self.noise(torch.tensor([STRIDE * seed + k]))
        each = [
            self.infer(Codes(*(part[[b]] for part in codes)), None if masks is None else masks[[b]], z, eps)
            for b in range(len(codes.sent))
        ]
        images, attention, mu, logvar = zip(*each, strict=True)
        stages = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in (images, attention)]
        return Generated(stages[0], stages[1], torch.cat(mu), torch.cat(logvar))

    def sample(self, batch: Sample, generator: torch.Generator | None = None) -> Tensor:
        """f at S for each item's own condition and mask; noise from the item's id, else from `generator`."""
        codes = self.codes(batch["row"], batch.get("caption"))
        if "pair" in batch:
            z, eps = self.noise(batch["pair"])
        else:
            device = generator.device if generator is not None else self.device
            size = (len(codes.sent), self.z_dim + self.c_dim)
            z, eps = (
                torch.randn(size, generator=generator, device=device)
                .to(self.device)
                .split([self.z_dim, self.c_dim], dim=1)
            )
        return self.infer(codes, batch.get("mask"), z, eps).images[-1]

    def under(self, images: Tensor, mask: Tensor) -> Tensor:
        """The foreground alone, x (*) m; 0 (grey) elsewhere, or `mask_fill`."""
        return images * mask + self.mask_fill * (1 - mask)

    def condition_text(self, batch: Sample, records: Records) -> list[str]:
        """The condition of each item in words."""
        assert self.conditions is not None
        return self.conditions.condition_text(batch["row"], batch.get("caption"))

    def grid(self, batch: Sample) -> dict[str, Tensor]:
        """Columns of the picture of progress: x, its mask, and two draws from its condition."""
        rng = torch.Generator().manual_seed(0)
        columns = {"x": batch["image"]}
        if self.masked:
            columns["m"] = (2 * batch["mask"] - 1).expand(-1, 3, -1, -1)
        return columns | {"f": self.sample(batch, rng), "f, other noise": self.sample(batch, rng)}

    # ---- files

    @staticmethod
    def comparable(settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """A term of the loss with a network of its own is 1.0 or null, whatever its weight."""
        told = flat(settings)
        return told | {name: None if told[name] is None else 1.0 for name in NETWORKS if name in told}

    def companions(self) -> dict[str, Any]:
        self.read_conditions()
        assert self.encoders is not None
        return {"encoders": self.encoders.export()}

    def take_companions(self, content: Mapping[str, Any], path: str | Path) -> None:
        self.take_encoders(encoders_of(content["encoders"], path, legacy=self.hparams["generator"]["legacy"]))
        self.conditions = None  # their codes are of other encoders

    def take_foreign(self, content: Mapping[str, Any], path: str | Path) -> None:
        """AttnGAN's published generator, with masks or without; its encoders are those of model.damsm."""
        state = read_kind(path, "generator")
        sizes = generator_sizes(state, path)
        theirs = sizes | {"generator": sizes}  # whichever of them are G's alone
        check_settings(self.comparable(self.hparams), theirs, SIZES, path)
        for net in self.nets().values():
            take_generator(net, state, path)


def export_attngan(model: Painter, folder: str | Path, *, discriminators: bool = True) -> None:
    """task=export layout=attngan: netG.pth (the average), netD{0,1,2}.pth, both encoders and names.json in a folder.

    discriminators: False for a model from an exported file, which has none that are trained.
    """
    model.read_conditions()
    assert model.encoders is not None
    assert isinstance(model.discriminator, nn.ModuleList)
    nets = {f"netD{k}": net for k, net in enumerate(model.discriminator) if discriminators}
    write_attngan({"netG": model.serving} | nets, model.encoders, folder)
