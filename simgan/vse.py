"""Visual-semantic embedding (Kiros et al. 2014): phi, the sentence vectors that SIMGAN edits by (Sec. 3.1).

Settings the paper leaves open follow woozzu/dong_iccv_2017 (SIS) and ryankiros/visual-semantic-embedding (KIR).
B batch, N images, M sentences, F width of the image features, D of the embedding, T words of the longest sentence.
"""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.blocks import upcast
from common.data.records import Records, Sample
from common.errors import UserError, check_ranges, choose
from common.gan import Artifact
from common.metrics.colour_probe import colour_probe, tell_probes
from common.text import FastText, SentenceEncoder, Vocabulary, read_vectors
from common.weights import are_words, flat, on_cpu
from simgan.embedding import ImageEncoder, image_encoder
from simgan.retrieval import retrieval

log = logging.getLogger(__name__)

WORDS = ("learned", "vec", "fasttext_bin")


def ranking_loss(v: Tensor, u: Tensor, margin: float, hardest: bool) -> Tensor:
    """Pairwise ranking loss of images v and their own sentences u, B,D each, over all wrong pairs of the batch.

    (1/B) sum_i sum_{j != i} max(0, margin - S_ii + S_ij) + max(0, margin - S_ii + S_ji), S_ij = cos(v_i, u_j); the mean
    over i as SIS (KIR sums). hardest: the worst j in each direction in place of the sum (VSE++).
    """
    return ranking_cost(F.normalize(upcast(v), dim=1) @ F.normalize(upcast(u), dim=1).T, margin, hardest)


def ranking_cost(s: Tensor, margin: float, hardest: bool) -> Tensor:
    """`ranking_loss` of the similarities S, B,B."""
    own = s.diagonal()
    wrong = 1 - torch.eye(len(s), device=s.device)
    sentences = (margin - own[:, None] + s).clamp_min(0) * wrong  # i against sentence j
    images = (margin - own[None, :] + s).clamp_min(0) * wrong  # sentence i against image j
    if hardest:
        return sentences.amax(1).mean() + images.amax(0).mean()
    return (sentences.sum() + images.sum()) / len(s)


RANGES = dict.fromkeys(("text.word_dim", "dim", "text.min_count", "text.max_words", "views"), "int [1, inf)") | {
    "margin": "[0, inf)",
    "dropout": "[0, 1)",
    "bar.times_chance": "[0, inf)",
}


class VSE(Artifact):
    """Trains the GRU (with its word vectors, when learned) and W_I by the ranking loss.

    The image network is frozen, so its features are computed once, `views` crops of each image, and the loop reads
    only `row` and `caption` of a batch.
    """

    KIND = "vse"
    FACTS: ClassVar[Mapping[str, Any]] = {"vocabulary": are_words, "features": int, "recall": dict}
    TAUGHT = ("vocabulary",)

    text: SentenceEncoder
    project: nn.Linear  # W_I, no bias

    def __init__(
        self,
        *,
        image_encoder: str | None,
        text: dict[str, Any],
        dim: int,
        margin: float,
        hardest: bool,
        dropout: float,
        optimizer: dict[str, Any],
        views: int,
        bar: dict[str, float],
        seed: int,
    ) -> None:
        """image_encoder: a `model=classifier` artifact, a torchvision file or `colours`; needed to fit alone.

        text: {words: learned, vec (text vectors, frozen) or fasttext_bin; the latter two read the file vectors;
        word_dim, min_count, max_words}. dropout: of the image features. bar.times_chance: how far above chance R@1 on
        the held-out classes must be, or half as far as so many images allow, else the fit ends in a UserError (a
        warning on partial, few and drawn data). seed: of the choice of views.
        """
        super().__init__()
        self.save_hyperparameters()
        check_ranges("model", flat(self.hparams), RANGES)
        check_ranges("model.optimizer", optimizer, {"lr": "(0, inf)"})
        words, vectors = choose("model.text.words", text["words"], WORDS), text["vectors"]
        if (words == "learned") != (vectors is None):
            need = "no file" if words == "learned" else "a file of word vectors"
            raise UserError(
                f"model.text.words={words} needs {need}: set model.text.vectors={'null' if vectors else 'PATH'}."
            )
        self.image_encoder, self.words, self.vectors = image_encoder, words, vectors
        self.word_dim, self.dim, self.margin, self.hardest = text["word_dim"], dim, margin, hardest
        self.lr: float = optimizer["lr"]
        self.min_count, self.max_words, self.views, self.seed = text["min_count"], text["max_words"], views, seed
        self.bar, self.dropout = bar, dropout
        self.vocabulary: Vocabulary | None = None
        self.recall: dict[str, float] = {}

    def build(self, vocabulary: Vocabulary, features: int) -> None:
        """The trained networks, for a vocabulary and image features of width F."""
        self.vocabulary = vocabulary
        self.text = SentenceEncoder(words=len(vocabulary), word_dim=self.word_dim, dim=self.dim)
        if self.words != "learned":
            assert self.text.embedding is not None
            self.text.embedding.requires_grad_(False)
        self.project = nn.Linear(features, self.dim, bias=False)

    # ---- before the first step

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        records: Records = self.data.records
        if not records.captions:
            raise UserError(f"{records.name} in {records.root} has no captions, which vse learns from: add them.")
        if self.image_encoder is None:
            raise UserError(
                "vse needs a network for the images: set model.image_encoder to a classifier or VGG16 file."
            )
        _ = self.data.store  # opened now, so that unreadable images are left out of the epochs too
        width = image_encoder(self.image_encoder).width
        captions = [s for row in records.rows(self.data.train_split) for s in records.captions[row]]
        if self.words == "learned":
            self.build(Vocabulary.build(captions, min_count=self.min_count, max_words=self.max_words), width)
            return
        known = Vocabulary.build((s for group in records.captions for s in group), max_words=self.max_words)
        assert self.vectors is not None
        if self.words == "vec":
            words, table = read_vectors(self.vectors, known.words)
        else:
            words, table = list(known.words), FastText(self.vectors, max_words=self.max_words).vectors(known.words)
        if table.shape[1] != self.word_dim:
            raise UserError(
                f"the vectors in {self.vectors} have width {table.shape[1]}: set model.text.word_dim to it."
            )
        self.build(Vocabulary(words, max_words=self.max_words), width)
        self.text.freeze_words(table)

    def on_train_start(self) -> None:
        """The tables: image features N,views,F of the training split, one centre crop for the others; all sentences."""
        records = self.data.records
        encoder = image_encoder(str(self.image_encoder)).to(self.device)
        train, test = self.data.rows(self.data.train_split), self.data.rows("test")
        log.info("computing image features: %d images, %d views", len(train), self.views)
        self.table = torch.zeros(len(records), self.views, encoder.width, device=self.device)
        for view in range(self.views):
            self.fill(self.table[:, view], encoder, self.data.view_loader(train, view))
        self.centre = torch.zeros(len(records), encoder.width, device=self.device)
        self.fill(self.centre, encoder, self.data.eval_loader(rows=test, reads=("image",)))
        assert self.vocabulary is not None
        counts = torch.tensor([len(captions) for captions in records.captions])
        self.first = (counts.cumsum(0) - counts).to(self.device)  # row -> its first sentence
        self.ids, self.lengths = self.vocabulary.encode([s for captions in records.captions for s in captions])
        self.ids, self.lengths = self.ids.to(self.device), self.lengths.to(self.device)

    @torch.no_grad()
    def fill(self, table: Tensor, encoder: ImageEncoder, loader: Any) -> None:
        """Writes the features of a loader's images into their rows of a table N,F."""
        for batch in loader:
            sample = self.data.move(batch, self.device)
            table[sample["row"]] = encoder.features(sample["image"])[0]

    # ---- the loop

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        row, sentence = batch["row"], self.first[batch["row"]] + batch["caption"]
        rng = torch.Generator().manual_seed(self.seed * 1_000_003 + self.global_step)  # the same after a resume
        view = torch.randint(self.views, (len(row),), generator=rng).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            u = self.text(self.ids[sentence], self.lengths[sentence])
            features = F.dropout(self.table[row, view], self.dropout)
            loss = ranking_loss(self.project(features), u, self.margin, self.hardest)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(row))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, constant rate (SIS, KIR)."""
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.lr)

    def on_train_epoch_end(self) -> None:
        if self.current_epoch + 1 == self.trainer.max_epochs:
            self.recall = self.measure()
            self.log_dict({f"val/{name}": value for name, value in self.recall.items()})

    def on_train_end(self) -> None:
        """Also reached when the run was stopped before the last epoch."""
        self.recall = self.recall or self.measure()
        if not self.recall:
            log.warning("%s holds no images of held-out classes: the text encoder was not measured", self.data_name)
        tell_probes(self.recall, "phi")
        self.accept()

    def shortfalls(self) -> list[str]:
        """Is phi good enough to train a GAN with?"""
        wanted = min(self.bar["times_chance"], int(self.data.records.test.sum()) / 2)  # N images allow N times chance
        found = self.recall.get("times_chance", wanted)
        told = f"held-out images and sentences find each other only {found:.1f} times better than chance"
        return [f"{told}, {wanted:g} are wanted"] if found < wanted else []

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """`retrieval` over the test split: centre crops, all their sentences; on drawn data `colour_probe` too. {} when
        there are no test images."""
        records: Records = self.data.records
        rows = self.data.rows("test")
        if len(rows) == 0:
            return {}
        images = torch.from_numpy(rows).to(self.device)
        counts = torch.tensor([len(records.captions[row]) for row in rows])
        owner = torch.arange(len(rows)).repeat_interleave(counts).to(self.device)
        u, texts = self.vectors_of(rows)
        with torch.autocast(self.device.type, enabled=False):
            v = self.project(self.centre[images])
        labels = torch.from_numpy(records.labels[rows]).to(self.device)
        found = retrieval(F.normalize(v, dim=1), F.normalize(u, dim=1), owner, labels)
        if records.procedural and self.data.train_split == "train":  # drawn, and the test sentences are new
            known, heard = self.vectors_of(self.data.rows("train"))
            found |= colour_probe(known.cpu().numpy(), heard, u.cpu().numpy(), texts)
        return found

    def vectors_of(self, rows: np.ndarray) -> tuple[Tensor, list[str]]:
        """phi of all sentences of these images, M,D, and the sentences."""
        captions = self.data.records.captions
        places = torch.cat([self.first[row] + torch.arange(len(captions[row]), device=self.device) for row in rows])
        with torch.autocast(self.device.type, enabled=False):
            u = torch.cat([self.text(self.ids[part], self.lengths[part]) for part in places.split(1024)])
        return u, [sentence for row in rows for sentence in captions[row]]

    # ---- files

    def facts(self) -> dict[str, Any]:
        if self.vocabulary is None:
            return {"vocabulary": [], "features": 0, "recall": {}}
        words = list(self.vocabulary.words)
        return {"vocabulary": words, "features": self.project.in_features, "recall": self.recall}

    def take_facts(self, facts: Mapping[str, Any]) -> None:
        self.recall = facts["recall"]
        if self.vocabulary is None:
            self.build(Vocabulary(facts["vocabulary"], max_words=self.max_words), facts["features"])

    def content(self) -> dict[str, Any]:
        """Both encoders, the vocabulary and what was measured, as PARTS has them.

        With words=fasttext_bin the word vectors stay in their file, and any word can be encoded.
        """
        assert self.vocabulary is not None
        from_file = self.words == "fasttext_bin"
        text = on_cpu(self.text.state_dict())
        encoder = image_encoder(str(self.image_encoder))
        return {
            "config": dict(self.hparams) | self.hparams["text"],
            "vocabulary": None if from_file else list(self.vocabulary.words),
            "text": {k: v for k, v in text.items() if not (from_file and k.startswith("embedding"))},
            "image": on_cpu(self.project.state_dict()),
            "image_encoder": encoder.export(),
            "image_encoder_hash": encoder.hash,
            "recall": self.recall,
        }
