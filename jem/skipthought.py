"""model=skipthought: trains a skip-thought encoder (Kiros et al. 2015) on captions, where no published one is at hand.

The captions of an image paraphrase each other in no order, so two others stand for the sentence before and after. What
the paper leaves open follows ryankiros/skip-thoughts ([K]). B sentences, T words, V words in all, E width of a word's
vector, D of a sentence's.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from common.data.records import Records, Sample
from common.errors import UserError, check_ranges, choose
from common.gan import Artifact
from common.metrics.colour_probe import colour_probe, tell_probes
from common.weights import are_words, flat
from jem.skipthoughts import END, HALVES, UNKNOWN, gru, half_state, last_states, skipthoughts, tokens

log = logging.getLogger(__name__)

FEWEST = 3  # captions of an image: one that is read, one before it, one after it
CHUNK = 256  # triplets that are measured at a time


def vocabulary(sentences: Iterable[str], min_count: int) -> list[str]:
    """<eos>, UNK, then the words of the sentences in lower case, most frequent first, ties by alphabet."""
    counts = Counter(word for sentence in sentences for word in tokens(sentence.lower()))
    kept = [word for word, count in counts.items() if count >= min_count]
    return [END, UNKNOWN, *sorted(kept, key=lambda word: (-counts[word], word))]


def cycles(first: np.ndarray, count: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Triplets of sentences, M,3: for each image its captions in a random order, and of these each with its neighbours
    in the ring as (before, read, after). All in a random order; images of fewer than FEWEST captions have none.

    first, count: of each image, the place of its first sentence and how many there are.
    """
    found = [np.empty((0, 3), np.int64)]
    for start, n in zip(first, count, strict=True):
        if n >= FEWEST:
            ring = start + rng.permutation(n)
            found.append(np.stack([np.roll(ring, 1), ring, np.roll(ring, -1)], 1))
    return rng.permutation(np.concatenate(found))


class Half(nn.Module):
    """Reads a sentence and writes the ones before and after, each from the last state; words and output are shared.

    21.8 M (uni) or 13.1 M (bi) parameters of the encoder at 620/2400, and two times 21.8 M of the decoders.
    """

    def __init__(self, *, words: int, word_dim: int, dim: int, half: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, word_dim)
        self.encoder = gru(word_dim, dim, half)
        self.before, self.after = (gru(word_dim, dim, "uni") for _ in range(2))
        self.output = nn.Linear(dim, words)
        for name, weights in self.named_parameters():
            if "bias" in name:
                nn.init.zeros_(weights)
            elif "weight_hh" in name:  # orthogonal, gate by gate
                for gate in weights.data.chunk(3):
                    nn.init.orthogonal_(gate)
            else:
                nn.init.uniform_(weights, -0.1, 0.1)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids: B,3,T int64 of (before, read, after), <eos> from the end on; lengths: B,3 on the CPU, without <eos>.

        -> the mean over both written sentences' words, <eos> among them, of their negative log-likelihood, in nats.
        """
        words = pack_padded_sequence(ids[:, 1], lengths[:, 1], batch_first=True, enforce_sorted=False)
        state = last_states(self.encoder, words._replace(data=self.embedding(words.data)))
        costs = self.write(self.before, state, ids[:, 0], lengths[:, 0] + 1)
        costs = costs + self.write(self.after, state, ids[:, 2], lengths[:, 2] + 1)
        return costs / (lengths[:, ::2] + 1).sum()

    def write(self, decoder: nn.Module, state: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """The sum over the words of B sentences of -log p(word | state, words before); before a first is 0."""
        before = ids.roll(1, 1)  # the word that is known where one is to be told
        words = pack_padded_sequence(torch.stack([before, ids], 2), lengths, batch_first=True, enforce_sorted=False)
        known, told = words.data.unbind(1)
        firsts = int(words.batch_sizes[0])
        vectors = torch.cat(
            [self.embedding.weight.new_zeros(firsts, self.embedding.embedding_dim), self.embedding(known[firsts:])]
        )
        states = decoder(words._replace(data=vectors), state[None])[0].data
        return F.cross_entropy(self.output(states), told, reduction="sum")


RANGES = dict.fromkeys(("word_dim", "dim", "min_count", "max_words", "updates"), "int [1, inf)") | {
    "optimizer.lr": "(0, inf)",
    "optimizer.betas": "2 x [0, 1)",
    "clip": "(0, inf)",
    "bar.gain": "[0, inf)",
}


class SkipThought(Artifact):
    """Trains the halves of the encoder, each for itself, on the captions of the training images: no pixel is read.

    A batch is of images; its triplets, one for each caption, are learnt from in `updates` updates.
    """

    KIND = "skipthought"
    FACTS: ClassVar[Mapping[str, Any]] = {"words": are_words, "measured": dict}
    TAUGHT = ("words",)

    halves: nn.ModuleDict

    def __init__(
        self,
        *,
        dims: str,
        word_dim: int,
        dim: int,
        min_count: int,
        max_words: int,
        updates: int,
        optimizer: dict[str, Any],
        clip: float,
        bar: dict[str, float],
        seed: int,
    ) -> None:
        """dims: combine (uni and bi), uni or bi, each of width `dim`. min_count: fewest times that a word is said.

        max_words: of a caption that are learnt from. optimizer: {lr, betas}. clip: the largest norm of a half's
        gradient. bar.gain: nats a word by which a caption of the same image has to tell held-out captions better than
        one of another image, else the fit ends in a UserError (a warning on partial, few and drawn data). seed: of the
        order of captions.
        """
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        check_ranges("model", flat(self.hparams), RANGES)
        self.names = HALVES[choose("model.dims", dims, HALVES)]
        if dim % 2 and "bi" in self.names:
            raise UserError(f"model.dim={dim} cannot be halved for the two directions of bi: set model.dim={dim + 1}.")
        self.word_dim, self.dim, self.min_count, self.max_words = word_dim, dim, min_count, max_words
        self.updates, self.adam_options, self.clip, self.seed = updates, dict(optimizer), clip, seed
        self.bar = bar
        self.words: list[str] = []
        self.measured: dict[str, float] = {}

    def build(self, words: list[str]) -> None:
        """The trained networks, for a vocabulary."""
        self.words = words
        sizes = {"words": len(words), "word_dim": self.word_dim, "dim": self.dim}
        self.halves = nn.ModuleDict({half: Half(**sizes, half=half) for half in self.names})

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        records: Records = self.data.records
        captions = [records.captions[row] for row in self.data.rows(self.data.train_split)] if records.captions else []
        if max(map(len, captions), default=0) < FEWEST:
            raise UserError(
                f"no training image of {records.name} in {records.root} has {FEWEST} captions, of which skip-thoughts "
                "learn one from another: add captions, or give the model that reads them a text encoder's file."
            )
        if not self.words:
            self.build(vocabulary((sentence for each in captions for sentence in each), self.min_count))

    # ---- the loop

    def on_train_start(self) -> None:
        """All captions as ids, M,T with <eos> from the end on; where those of each image begin, and how many."""
        records: Records = self.data.records
        self.count = np.array([len(captions) for captions in records.captions])
        self.first = self.count.cumsum() - self.count
        place = {word: row for row, word in enumerate(self.words)}
        said = [tokens(sentence.lower())[: self.max_words] for each in records.captions for sentence in each]
        rows = [torch.tensor([place.get(word, place[UNKNOWN]) for word in words]) for words in said]
        self.lengths = torch.tensor([len(row) for row in rows])
        self.ids = F.pad(pad_sequence(rows, batch_first=True), (0, 1), value=place[END]).to(self.device)

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        rng = np.random.default_rng([self.seed, self.current_epoch, batch_idx, self.global_rank])
        rows = batch["row"].cpu().numpy()
        triplets = torch.from_numpy(cycles(self.first[rows], self.count[rows], rng))
        optimizer: Any = self.optimizers()
        for part in triplets.tensor_split(min(self.updates, max(1, len(triplets)))):
            costs = self.costs(part)
            optimizer.zero_grad()
            self.manual_backward(torch.stack(list(costs.values())).sum())
            for half in self.halves.values():
                nn.utils.clip_grad_norm_(half.parameters(), self.clip)
            optimizer.step()
            logged = {f"train/{name}": cost.detach() for name, cost in costs.items()}
            self.log_dict(logged, on_step=False, on_epoch=True, batch_size=len(part))

    def costs(self, triplets: Tensor) -> dict[str, Tensor]:
        """The loss of each half on M,3 places of sentences, in nats a word."""
        lengths = self.lengths[triplets]
        ids = self.ids[triplets.to(self.device), : int(lengths.max()) + 1]
        with torch.autocast(self.device.type, enabled=False):
            return {name: half(ids, lengths) for name, half in self.halves.items()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, constant rate ([K])."""
        lr, betas = self.adam_options["lr"], self.adam_options["betas"]
        moving = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(moving, lr, (float(betas[0]), float(betas[1])))

    # ---- afterwards

    def on_train_epoch_end(self) -> None:
        if self.current_epoch + 1 == self.trainer.max_epochs:
            self.measured = self.measure()
            self.log_dict({f"val/{name}": value for name, value in self.measured.items()})

    def on_train_end(self) -> None:
        """Also reached when the run was stopped before the last epoch."""
        self.measured = self.measured or self.measure()
        if not self.measured:
            log.warning(
                "%s has no sentences of held-out images to compare: the text encoder was not measured",
                self.data_name,
            )
        tell_probes(self.measured, "the vectors")
        self.accept()

    def shortfalls(self) -> list[str]:
        """Do the vectors tell what a sentence is about?"""
        gains = {name: gain for name in self.names if (gain := self.measured.get(f"gain_{name}")) is not None}
        return [
            f"held-out captions are told {gain:.2f} nats a word better by one of the same image than by another "
            f"({name}), {self.bar['gain']:g} are wanted"
            for name, gain in gains.items()
            if gain < self.bar["gain"]
        ]

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """On the held-out images, for each half: its loss, and by how much the loss is higher where a sentence of
        another image is read, in nats a word. On drawn data `colour_probe` too. {} where there is no other image.
        """
        rows = self.data.rows("test")
        triplets = cycles(self.first[rows], self.count[rows], np.random.default_rng(0))
        image = np.repeat(np.arange(len(self.count)), self.count)
        triplets = triplets[np.argsort(image[triplets[:, 1]], kind="stable")]
        other = np.roll(triplets[:, 1], len(triplets) // 2)
        apart = image[other] != image[triplets[:, 1]]
        if not apart.any():
            return {}
        own = torch.from_numpy(triplets[apart])
        wrong = torch.stack([own[:, 0], torch.from_numpy(other[apart]), own[:, 2]], 1)
        loss, mismatched = self.mean_costs(own), self.mean_costs(wrong)
        gains = {f"gain_{name}": mismatched[name] - loss[name] for name in self.names}
        return {f"loss_{name}": loss[name] for name in self.names} | gains | self.probe(rows)

    def mean_costs(self, triplets: Tensor) -> dict[str, float]:
        """`costs` of any number of triplets, M,3."""
        parts = [(len(part) / len(triplets), self.costs(part)) for part in triplets.split(CHUNK)]
        return {name: sum(share * costs[name].item() for share, costs in parts) for name in self.names}

    def probe(self, rows: np.ndarray) -> dict[str, float]:
        """`colour_probe` on the sentences of held-out rows, where the data are drawn and these were not learnt from."""
        records: Records = self.data.records
        if not records.procedural or self.data.train_split != "train":
            return {}
        encoder = skipthoughts(self.content(), "the trained model", hash="").to(self.device)
        heard, new = ([s for row in some for s in records.captions[row]] for some in (self.data.rows("train"), rows))
        return colour_probe(encoder.encode(heard).cpu().numpy(), heard, encoder.encode(new).cpu().numpy(), new)

    # ---- files

    def take_facts(self, facts: Mapping[str, Any]) -> None:
        self.measured = facts["measured"]
        if not self.words and facts["words"]:
            self.build(facts["words"])

    def content(self) -> dict[str, Any]:
        """The encoder of each half, as jem.skipthoughts.PARTS has it, and what was measured."""
        halves = {}
        for name in self.names:
            half: Any = self.halves[name]
            halves[name] = half_state(half.embedding.weight.detach().cpu().numpy(), half.encoder)
        return {"config": dict(self.hparams), "words": self.words, "halves": halves, "measured": self.measured}
