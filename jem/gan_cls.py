"""GAN-CLS, GAN-INT and GAN-CLS-INT (Reed et al., ICML 2016): what JEM is built on and compared with.

B batch, S image side, T length of a sentence vector. Written x photo, t its sentence, t-bar a sentence of another
class, z noise, x-hat = G(z, t), v a guide, which JEM adds.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.optim.lr_scheduler import StepLR

from common.blocks import in_mode, upcast
from common.config import build
from common.data.module import ImageData
from common.data.records import Records, Sample
from common.data.sentences import sentence_table
from common.errors import UserError, check_ranges, choose
from common.exports import Exported
from common.gan import EvaluationSet, paired_noise
from common.losses import ADVERSARIAL
from common.metrics.evaluation_sets import images_from_conditions
from common.pictures import Request, Sheet
from common.weights import check_settings
from jem.checkpoints import is_port, is_published, load_published, read_published
from jem.extractor import rms
from jem.networks import Discriminator, Generator
from jem.reed import PortDiscriminator, PortGenerator, ReedDiscriminator, ReedGenerator
from jem.skipthoughts import SkipThoughts, skipthoughts
from jem.text_files import read_text

CHOICES: dict[str, dict[str, Sequence[str]]] = {
    "sentence": {"norm": ("rms", "none", "zero"), "dims": ("combine", "uni", "bi", "char")},
    "step": {
        "noise": ("normal", "uniform"),
        "mismatch": ("caption", "image"),
        "interpolation": ("none", "mean", "random"),
    },
}
RANGES = {
    "sentence": {"dim": "int [1, inf)", "captions": "int [1, inf)"},
    "step": {
        "g_updates": "int [1, inf)",
        "interpolation_weight": "[0, inf)",
    },
    "optimizer": {"halve_every": "null or int [1, inf)"},
    "monitor": {"every": "null or int [1, inf)", "images": "int [2, inf)"},
}
SIZES = ("arch", "ngf", "z_dim", "text_width", "kernel", "conv_bias")  # of G's settings those that decide its weights
Settings = dict[str, Any]
NETWORKS: dict[str, tuple[type[Any], type[Any]]] = {  # by `generator.arch`
    "dcgan": (Generator, Discriminator),
    "reed": (ReedGenerator, ReedDiscriminator),
    "port": (PortGenerator, PortDiscriminator),
}
real, fake = ADVERSARIAL["bce"]  # the cost of calling logits real, and of calling them fake


def interpolated(t: Tensor, alpha: Tensor | None = None) -> Tensor:
    """GAN-INT (Reed et al., Eq. 5), beta = 1/2: sentences between those of the first and of the second half of a batch.

    t: B,T, B even -> B/2,T. alpha: B/2,1 in [-1, 1], another point of the same line (reedscot/icml2016, type 2).
    """
    if len(t) % 2:
        raise UserError(f"a batch of {len(t)} has no two halves to interpolate between: make data.batch_size even.")
    one, two = t.chunk(2)
    return (one + two) / 2 if alpha is None else one + alpha * (two - one)


def adversarial(logits: Tensor, own: int, weight: float) -> Tensor:
    """What G minimises: BCE(D(x-hat, t), 1), a mean over all images, of which those past `own` are of interpolated
    sentences and count `weight` times."""
    costs = F.softplus(-upcast(logits))
    return (costs[:own].sum() + weight * costs[own:].sum()) / len(costs)


class GANCLS(Exported):
    """One generator and one discriminator draw from a sentence.

    `step.interpolation` is INT, `loss.d.mismatch` CLS; without either this is the plain conditional GAN.
    """

    generator: Generator
    discriminator: Discriminator
    table: Tensor | None  # N,captions,T float16: every sentence of the data set, encoded once
    counts: Tensor | None  # N: how many captions each image has

    SOURCES: ClassVar[dict[str, str]] = {
        "d.real": "Eq. 2, -log D(x, t)",
        "d.mismatch": "the third case of Sec. 3, -log(1 - D(x, t-bar)), which the printed equations leave out",
        "d.fake": "Eq. 2, -log(1 - D(x-hat, t))",
        "g.adversarial": "Eq. 2 as the generator's counterpart that does not saturate, -log D(x-hat, t)",
    }

    KIND = "gan_cls"
    SERVED: ClassVar[tuple[str, ...]] = ("image_size", "sentence", *(f"generator.{name}" for name in SIZES))
    TRAINED = ("discriminator",)
    PLACES: ClassVar[tuple[str, ...]] = ("text", "text_cache", "judge")
    COMPANIONS: ClassVar[Mapping[str, Any]] = {"text": dict | None, "text_hash": str, "curve": list}
    FACTS: ClassVar[Mapping[str, Any]] = {"curve": list}

    def __init__(
        self,
        *,
        image_size: int,
        loss: dict[str, dict[str, float | None]],
        text: str | None,
        text_cache: str | None,
        sentence: dict[str, Any],
        generator: dict[str, Any],
        discriminator: dict[str, Any],
        step: dict[str, Any],
        monitor: dict[str, Any],
        judge: str | None,
        **gan: Any,
    ) -> None:
        """Plain values only; conf/model/gan_cls.yaml says where each comes from. gan: what `GANModule` takes.

        text: see `text_files.read_text`; needed to fit and to sample, not to describe. text_cache: folder for the table
        of sentence vectors, or null. monitor, judge: of the curve of Table 1 and the network that it looks through.
        """
        super().__init__(**gan)
        self.save_hyperparameters()
        for section, known in CHOICES.items():
            for name, values in known.items():
                choose(f"model.{section}.{name}", self.hparams[section][name], values)
        for section, ranges in RANGES.items():
            check_ranges(f"model.{section}", self.hparams[section], ranges)
        self.image_size, self.loss, self.sentence, self.step = image_size, loss, sentence, step
        self.monitor, self.judge = monitor, judge
        self.text_file, self.text_cache = text, text_cache
        shared = {"image_size": image_size, "text_dim": sentence["dim"]}
        sizes = {name: value for name, value in generator.items() if name != "arch"}
        self.generator, self.discriminator = self.networks(generator["arch"], shared, sizes, discriminator)
        self.average_generator()
        self.text_encoder: SkipThoughts | None = None
        self.text_hash = ""
        self.register_buffer("table", None, persistent=False)
        self.register_buffer("counts", None, persistent=False)
        self.curve: list[dict[str, float]] = []  # what the monitor measured, one entry a look

    def networks(self, arch: str, shared: Settings, generator: Settings, discriminator: Settings) -> Any:
        """G and D of sizes that they share and of their own."""
        g, d = NETWORKS[choose("model.generator.arch", arch, NETWORKS)]
        return g(**shared, code=None, **generator), d(**shared, **discriminator)

    def examples(self) -> dict[str, tuple[Tensor, ...]]:
        """Inputs of each network for `task=describe`, on the device in force."""
        t = torch.empty(2, self.sentence["dim"], device="meta")
        image = torch.empty(2, 3, self.image_size, self.image_size, device="meta")
        z = torch.empty(2, self.generator.z_dim, device="meta")
        return {"generator": (z, t), "discriminator": (image, t)}

    # ---- sentences

    def read_files(self, data: ImageData) -> None:
        self.with_interpolated(torch.empty(data.batch_size, 1))  # an odd batch is refused
        data.train_dataloader()  # so that one class, or too few images, are refused before a run is begun
        self.read_text(data.records)

    def read_text(self, records: Records | None = None) -> None:
        """The frozen sentence encoder and, given records, the table of all their sentences' vectors."""
        if self.text_encoder is None and self.table is None:
            if self.text_file is None:
                raise UserError(
                    f"model={self.KIND} needs sentence vectors: give model.text=FILE, or run `python run.py "
                    "model=skipthought` first."
                )
            found = read_text(self.text_file, records, dims=self.sentence["dims"])
            if found.dim != self.sentence["dim"]:
                raise UserError(
                    f"{self.text_file} gives {found.dim} numbers a sentence and model.sentence.dim is "
                    f"{self.sentence['dim']}: set model.sentence.dim={found.dim}."
                )
            self.text_encoder = None if found.encoder is None else found.encoder.to(self.device)
            self.text_hash, self.table = found.hash, found.table
        if records is not None:
            if self.table is None:
                assert self.text_encoder is not None
                self.table = sentence_table(self.text_encoder, records, self.text_cache, torch.float16)
            self.table = self.table.to(self.device)
            self.counts = torch.tensor([len(captions) for captions in records.captions], device=self.device)

    def normed(self, t: Tensor) -> Tensor:
        """Raw sentence vectors B,T as the networks take them, `sentence.norm`."""
        t = upcast(t)
        if self.sentence["norm"] == "zero":
            return torch.zeros_like(t)
        return rms(t) if self.sentence["norm"] == "rms" else t

    def look_up(self, row: Tensor, caption: Tensor) -> Tensor:
        """The raw vector of sentence `caption` of image `row`: B int64 twice -> B,T."""
        assert self.table is not None, "read_text(records) comes first"
        return upcast(self.table[row, caption])

    def sentences(self, row: Tensor, caption: Tensor) -> Tensor:
        """`look_up`, or the mean over `sentence.captions` of them, the first as told and the others drawn ([R])."""
        t = self.look_up(row, caption)
        for _ in range(self.sentence["captions"] - 1):
            assert self.counts is not None
            count = self.counts[row]
            t = t + self.look_up(row, (torch.rand(len(row), device=row.device) * count).long().clamp_max(count - 1))
        return t / self.sentence["captions"]

    def encode(self, texts: list[str]) -> Tensor:
        """Vectors of free text as the networks take them: n sentences -> n,T on this module's device."""
        self.read_text()
        if self.text_encoder is None:
            raise UserError(
                f"{self.text_file} holds the vectors of the captions and no encoder for other sentences: give "
                "model.text=FOLDER with the skip-thought files, or a model=skipthought file."
            )
        return self.normed(self.text_encoder.encode(texts).to(self.device))

    def noise(self, count: int) -> Tensor:
        """z of a training step: N(0, I), or U(-1, 1) ([P])."""
        return self.shaped(torch.randn(count, self.generator.z_dim, device=self.device))

    def shaped(self, z: Tensor) -> Tensor:
        """Normal numbers as z is distributed: erf(n / sqrt 2) of a normal n is uniform in (-1, 1)."""
        return z if self.step["noise"] == "normal" else torch.erf(z / 2**0.5)

    # ---- one training step (D before G)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            self.read_files(self.data)

    def configure_callbacks(self) -> list[Callback]:
        return [] if self.monitor["every"] is None else [build(self.monitor, judge=self.judge)]

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        opt_g, opt_d = self.counted_optimizers()
        t = self.sentences(batch["row"], batch["caption"])
        wrong = self.sentences(batch["other_row"], batch["other_caption"])
        t_all, own = self.with_interpolated(t), len(t)  # raw vectors are interpolated
        t, wrong, t_all = self.normed(t), self.normed(wrong), self.normed(t_all)
        v, other_v = self.guides(batch)
        z = self.noise(len(t_all))
        images = self.generator(z, t_all, v)  # x-hat, once: both updates read it
        with self.toggled_optimizer(opt_d):
            terms = self.d_terms(batch, t, wrong, images[:own].detach(), v, other_v)
            self.gradient_norms(terms, self.discriminator.parameters(), "d")
            self.descend(opt_d, terms, self.loss["d"], "d", batch_idx)
        for update in range(self.step["g_updates"]):
            with self.toggled_optimizer(opt_g):
                if update or self.step["resample_noise"]:
                    z = self.noise(len(t_all)) if self.step["resample_noise"] else z
                    images = self.generator(z, t_all, v)
                terms = self.g_terms(batch["image"], images, t_all, own, v)
                self.descend(opt_g, terms, self.loss["g"], "g", batch_idx)

    def guides(self, batch: Sample) -> tuple[Tensor | None, Tensor | None]:
        """v of the batch's photos and v-bar of others: none here."""
        return None, None

    def conditions(self, t: Tensor, v: Tensor | None) -> tuple[Tensor, ...]:
        """What D reads beside the image: the sentence alone, as the paper lists it."""
        return (t,)

    def with_interpolated(self, t: Tensor) -> Tensor:
        """INT: half as many sentences more, between those of the batch; D never trains on them. B,T -> 1.5 B,T."""
        how = self.step["interpolation"]
        if how == "none":
            return t
        half = (len(t) // 2, 1)
        return torch.cat([t, interpolated(t, None if how == "mean" else 2 * torch.rand(half, device=t.device) - 1)])

    def d_terms(
        self, batch: Sample, t: Tensor, wrong: Tensor, images: Tensor, v: Tensor | None, other_v: Tensor | None
    ) -> dict[str, Tensor]:
        """BCE(D(x, t), 1), BCE(D(x, t-bar), 0), BCE(D(x-hat, t), 0): each with batch statistics of its own.

        D sees the image before the sentence, so real and mismatched share what it made of x (`step.mismatch=caption`).
        """
        net, weights, given = self.discriminator, self.loss["d"], self.conditions(t, v)
        seen = net.trunk(batch["image"])
        scores = {"real": net.head(seen, *given)}
        if weights["mismatch"] is not None:
            of_another = self.step["mismatch"] == "image"
            scores["mismatch"] = (
                net(batch["other"], *given) if of_another else net.head(seen, *self.conditions(wrong, v))
            )
        if weights.get("guide") is not None:
            scores["guide"] = net.head(seen, *self.conditions(t, other_v))
        scores["fake"] = net(images, *given)
        self.to_log |= {f"train/score_{name}": upcast(score.detach()).mean() for name, score in scores.items()}
        return {name: (real if name == "real" else fake)(score) for name, score in scores.items()}

    def g_terms(self, x: Tensor, images: Tensor, t: Tensor, own: int, v: Tensor | None) -> dict[str, Tensor]:
        """BCE(D(x-hat, t), 1) by the D that has just learnt, in train mode as [P] and [R] have it."""
        logits = self.discriminator(images, *self.conditions(t, v))
        return {"adversarial": adversarial(logits, own, self.step["interpolation_weight"])}

    def configure_optimizers(self) -> Any:
        """Adam for both sides; [R] halves the rate every 100 epochs, all others leave it."""
        optimizers = self.adam(self.generator.parameters(), self.discriminator.parameters())
        every = self.adam_options["halve_every"]
        return (optimizers, [StepLR(opt, every, gamma=0.5) for opt in optimizers]) if every else optimizers

    # ---- serving

    def before_scoring(self, data: ImageData) -> None:
        self.read_text(data.records)

    def evaluation_set(self, data: ImageData, options: Mapping[str, Any]) -> EvaluationSet:
        return images_from_conditions(data, options)

    def condition_text(self, batch: Sample, records: Records) -> list[str]:
        pairs = zip(batch["row"].tolist(), batch["caption"].tolist(), strict=True)
        return [records.captions[row][caption] for row, caption in pairs]

    @torch.no_grad()
    def infer(self, z: Tensor, t: Tensor, v: Tensor | None = None) -> Tensor:
        """G(z, t, v) as inference runs it: by running statistics."""
        with in_mode(self.serving, False) as net:
            return upcast(net(z, t, v))

    def fixed_noise(self, ids: Tensor, seed: int = 0) -> Tensor:
        """z of images that are numbered: B int64 -> B,Z on this module's device, whatever the batch."""
        return self.shaped(paired_noise(ids, self.generator.z_dim, seed=seed).to(self.device))

    def pictures(self, name: str, t: Tensor, v: Tensor | None, n: int, seed: int) -> dict[str, Tensor]:
        """n pictures of each condition, the k-th of all with one noise: "<name> k" -> B,3,S,S."""
        return {f"{name} {k + 1}": self.infer(self.one_noise(len(t), seed, k), t, v) for k in range(n)}

    def one_noise(self, count: int, seed: int, k: int = 0) -> Tensor:
        """The k-th draw of a seed, the same for all: count,Z."""
        return self.fixed_noise(torch.tensor([k]), seed).expand(count, -1)

    def sample(self, batch: Sample, generator: torch.Generator | None = None) -> Tensor:
        """x-hat for each image's own sentence; noise from the pair's id, else from `generator`, else from the row."""
        t = self.normed(self.look_up(batch["row"], batch["caption"]))
        if generator is None:
            z = self.fixed_noise(batch.get("pair", batch["row"]))
        else:
            z = torch.randn(len(t), self.generator.z_dim, generator=generator, device=generator.device)
            z = self.shaped(z.to(self.device))
        return self.infer(z, t, self.guide_of(batch))

    def guide_of(self, batch: Sample) -> Tensor | None:
        """v of the batch's photos as they are: none here."""
        return None

    def unknown_words(self, texts: Iterable[str]) -> list[str]:
        """The words that the encoder does not know, each once. UserError for a sentence of nothing else."""
        self.read_text()
        encoder = self.text_encoder
        return [] if encoder is None else list(dict.fromkeys(word for each in texts for word in encoder.unknown(each)))

    def respond(self, data: ImageData, request: Request) -> Sheet:
        """Sentences drawn, n times each."""
        if not request.texts:
            raise UserError(f"model={self.KIND} draws sentences: give text='this flower has red petals'.")
        unknown, t = self.unknown_words(request.texts), self.encode(list(request.texts))
        columns = self.pictures("picture", t, None, request.n, request.seed)
        rows = [{"text": text} for text in request.texts]
        return Sheet(columns, list(request.texts), {"unknown": unknown, "rows": rows}, generated=list(columns))

    def grid(self, batch: Sample) -> dict[str, Tensor]:
        """Columns of the picture of progress: x and two pictures of its sentence."""
        rng = torch.Generator().manual_seed(0)
        return {"x": batch["image"], "x-hat": self.sample(batch, rng), "x-hat, other noise": self.sample(batch, rng)}

    # ---- weights of public code

    def restore(self, path: str | Path) -> None:
        """Also of files that PyTorch does not read, [P]'s .npz and [R]'s .t7."""
        if is_published(path):
            self.take_foreign({}, path)
        else:
            super().restore(path)

    def take_foreign(self, content: Mapping[str, Any], path: str | Path) -> None:
        """[P]'s, [R]'s or its port's G, and D where there is one."""
        if not (is_published(path) or is_port(content)):
            super().take_foreign(content, path)
        found = read_published(path)
        check_settings(self.comparable(self.hparams), found.settings, (*self.SERVED, *self.TRAINED), path)
        load_published(found, self.nets().values(), self.discriminator, path)

    # ---- files: the sentence encoder goes with the generator, so that a raw sentence is enough

    def companions(self) -> dict[str, Any]:
        """text is null where the vectors were read from a file that has no encoder."""
        self.read_text()
        encoder = self.text_encoder
        text = None if encoder is None else encoder.export()
        return {"text": text, "text_hash": self.text_hash, "curve": self.curve}

    def take_companions(self, content: Mapping[str, Any], path: str | Path) -> None:
        encoder = None if content["text"] is None else skipthoughts(content["text"], path)
        self.text_encoder = None if encoder is None else encoder.to(self.device)
        self.curve = content["curve"]
        self.text_hash, self.table = content["text_hash"], None  # a table by another encoder would not fit
