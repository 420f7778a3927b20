"""The table of sentence vectors: every caption of a data set encoded once, so that no RNN runs in a GAN's loop."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from common.data.records import Records
from common.files import read_cached, sha256

log = logging.getLogger(__name__)


class Encoder(Protocol):
    """A frozen text encoder. hash: of all that its vectors depend on."""

    hash: str

    def encode(self, sentences: Sequence[str], /) -> Tensor:
        """M sentences -> M,D."""
        ...


def sentence_table(
    encoder: Encoder, records: Records, cache: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The vectors of all sentences on the CPU: N,C,D, C the largest number of captions; unused places are 0.

    With `cache` it is kept there as phi_<data>_<hash>.pt {names, texts, phi}; the hash is of encoder and sentences, and
    of the type where it is not float32.
    """
    texts = [sentence for captions in records.captions for sentence in captions]
    counts = [len(captions) for captions in records.captions]
    kind = [] if dtype == torch.float32 else [str(dtype)]
    digest = sha256("\n".join([encoder.hash, *kind, *records.keys, *texts]))[:8]

    def encode() -> Tensor:
        flat = encoder.encode(texts).to("cpu", dtype)
        table = torch.zeros(len(records), max(counts), flat.shape[1], dtype=dtype)
        table[torch.arange(table.shape[1])[None] < torch.tensor(counts)[:, None]] = flat
        return table

    def make(part: Path) -> None:
        torch.save({"names": list(records.keys), "texts": texts, "phi": encode()}, part)
        log.info("encoded %d sentences for %s", len(texts), cache)

    if cache is None:
        return encode()
    path = Path(cache) / f"phi_{records.name}_{digest}.pt"
    return read_cached(path, make, lambda whole: torch.load(whole, weights_only=True)["phi"])
