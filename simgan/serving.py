"""SIMGAN around its training: sentences and photos in, edits out, as evaluation, figures and users get them.

B batch, S image side, D width of the sentence vector. Written phi the vector of a sentence, x-hat an edit, x-tilde the
edit taken back.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from common.blocks import in_mode, upcast
from common.data.module import ImageData
from common.data.records import Records, Sample
from common.data.sentences import sentence_table
from common.errors import UserError
from common.exports import Exported
from common.gan import EvaluationSet, paired_noise
from common.metrics.evaluation_sets import edits
from common.pictures import Request, Sheet, find_images, pixels
from simgan.checkpoints import read_vse
from simgan.embedding import TextEncoder, load_text_encoder
from simgan.networks import Generator, still_statistics

log = logging.getLogger(__name__)


class Editor(Exported):
    """What SIMGAN needs besides its training; the settings are SIMGAN's."""

    generator: Generator
    generator_back: Generator | None
    phi_dim: int
    phi_norm: bool | str
    conditioning: dict[str, str]
    batch_norm: dict[str, str]
    text_file: str | None
    word_vectors: str | None
    phi_cache: str | None
    text_encoder: TextEncoder | None
    phi: Tensor | None  # N,captions,D: every sentence of the data set, encoded once

    # ---- text

    def read_files(self, data: ImageData) -> None:
        self.read_text()

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
                    f"the text encoder {self.text_file} gives {encoder.dim} numbers a sentence and model.phi.dim is "
                    f"{self.phi_dim}: set model.phi.dim={encoder.dim}"
                )
            self.text_encoder = encoder.to(self.device)
        if records is not None:
            self.phi = sentence_table(self.text_encoder, records, self.phi_cache).to(self.device)

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

    def unknown_words(self, sentences: Iterable[str]) -> list[str]:
        """The words that the text encoder does not know, said in one line. UserError for a sentence of nothing else."""
        self.read_text()
        assert self.text_encoder is not None
        encoder = self.text_encoder
        unknown = list(dict.fromkeys(word for sentence in sentences for word in encoder.unknown(sentence)))
        if unknown:
            log.warning("unknown words, read as <unk>: %s", ", ".join(unknown))
        return unknown

    # ---- serving

    def infer(self, x: Tensor, phi: Tensor, eps: Tensor | None = None, mode: str | None = None) -> Tensor:
        """G(x, phi) as inference runs it: x B,3,S,S in [-1, 1], phi B,D -> B,3,S,S. eps B,ca_dim or drawn."""
        return self.serve(self.serving, lambda net: net(x, phi, eps, mode or self.conditioning["mode"]))

    def take_back(self, edit: Tensor, own: Tensor) -> Tensor:
        """x-tilde as inference runs it: the edit B,3,S,S brought back to the own sentence B,D, without noise."""
        return self.serve(self.generator_back or self.serving, lambda net: net(edit, own, mode="mean"))

    @torch.no_grad()
    def serve(self, net: nn.Module, use: Callable[[nn.Module], Tensor]) -> Tensor:
        """Uses a generator as `batch_norm.eval` says: by running statistics or by the batch's, the former untouched."""
        by_batch = self.batch_norm["eval"] == "batch"
        with in_mode(net, by_batch), still_statistics(net) if by_batch else nullcontext():
            return upcast(use(net))

    def evaluation_set(self, data: ImageData, options: Mapping[str, Any]) -> EvaluationSet:
        return edits(data, options)

    def before_scoring(self, data: ImageData) -> None:
        """Encodes the sentences; batch_norm.eval=recalibrate takes the running statistics anew over an epoch."""
        self.read_text(data.records)
        if self.batch_norm["eval"] == "recalibrate":
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
        return self.infer(x, phi, eps)

    def noise(self, count: int, seed: int) -> Tensor:
        """count,ca_dim from N(0, I), the same on every device."""
        eps = torch.randn(count, self.generator.ca_dim, generator=torch.Generator().manual_seed(seed))
        return eps.to(self.device)

    def respond(self, data: ImageData, request: Request) -> Sheet:
        """Photos edited by sentences, n times: the k-th edits of all rows have one noise.

        images: files or test images. pictures.eps_scale multiplies the noise; with 0 there is one edit, the mean.
        """
        scale = request.settings["eps_scale"]
        if not request.images or not request.texts:
            raise UserError("SIMGAN edits a photo by a sentence: give image=PHOTO.jpg and text='a red bird'.")
        if not isinstance(scale, int | float):
            raise UserError(f"pictures.eps_scale={scale} is not a number: set pictures.eps_scale=1.")
        images, unknown = find_images(request.images, data), self.unknown_words(request.texts)
        image, text = request.pairs()
        x, phi = pixels(images, data).to(self.device)[image], self.encode(list(request.texts))[text]
        eps = scale * self.noise(request.n if scale else 1, request.seed)
        edits = {f"edit {k}": self.infer(x, phi, e.expand(len(x), -1)) for k, e in enumerate(eps, 1)}
        rows = [{"image": images.names[i], "text": request.texts[t]} for i, t in zip(image, text, strict=True)]
        above = [row["text"] for row in rows]
        return Sheet({"source": x, **edits}, above, {"unknown": unknown, "rows": rows}, generated=list(edits))

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
