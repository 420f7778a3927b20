"""The table of sentence vectors: every caption of a data set encoded once, so that no RNN runs in the GAN's loop."""

import logging
from pathlib import Path

import torch
from torch import Tensor

from common.data.records import Records
from common.files import read_cached, sha256
from simgan.embedding import TextEncoder

log = logging.getLogger(__name__)


def sentence_table(encoder: TextEncoder, records: Records, cache: str | Path | None = None) -> Tensor:
    """phi of all sentences: N,C,D float32, C the largest number of captions; unused places are 0.

    With `cache` it is kept there as phi_<data>_<hash>.pt {names, texts, phi}; the hash is of encoder and sentences.
    """
    texts = [sentence for captions in records.captions for sentence in captions]
    counts = [len(captions) for captions in records.captions]
    digest = sha256("\n".join([encoder.hash, *records.keys, *texts]))[:8]

    def encode() -> Tensor:
        flat = encoder.encode(texts).cpu()
        table = torch.zeros(len(records), max(counts), flat.shape[1])
        table[torch.arange(table.shape[1])[None] < torch.tensor(counts)[:, None]] = flat
        return table

    def make(part: Path) -> None:
        torch.save({"names": list(records.keys), "texts": texts, "phi": encode()}, part)
        log.info("encoded %d sentences for %s", len(texts), cache)

    if cache is None:
        return encode()
    path = Path(cache) / f"phi_{records.name}_{digest}.pt"
    return read_cached(path, make, lambda whole: torch.load(whole, weights_only=True)["phi"])
