"""Conditions as the encoders read them: attributes or captions as sequences of tokens, and their frozen codes.

Sec. 3.1 of Li and Wang 2021 makes each attribute of an image one token; what it leaves open is decided here or follows
taoxugit/AttnGAN (AG). N images, M sequences, T tokens of the longest, A attributes, B batch, L tokens of the longest
in it, D width of a code. Token 0 is padding, token i is names[i - 1].
"""

import difflib
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from common.blocks import Frozen
from common.data.records import Records
from common.errors import UserError, choose
from common.files import sha256
from finegan.denoise import Denoised, read_denoised

log = logging.getLogger(__name__)

KINDS = ("raw", "clean", "class")  # of attributes
INPUTS = ("text", *KINDS)
CLASS_TABLE = "attributes/class_attribute_labels_continuous.txt"  # under CUB_200_2011: classes x attributes, 0 to 100
TYPICAL = 50.0  # per cent of a class's images: with inputs=class an attribute is present from here on
SPELLINGS = {"colour": "color", "coloured": "colored", "gray": "grey"}
RANGES = {"conditions.min_certainty": "int [1, 4]", "conditions.subset_prob": "[0, 1]"} | dict.fromkeys(
    ("conditions.max_len", "conditions.max_len_eval"), "int [1, inf)"
)
CHUNK = 1024  # sequences encoded at a time


@dataclass(frozen=True)
class Sequences:
    """All conditions of a data set as token ids, on the CPU."""

    ids: Tensor  # M,T int64, 0 = padding; attributes in ascending order
    lengths: Tensor  # M int64, 1 or more
    first: Tensor  # N int64, row -> its first sequence
    names: tuple[str, ...]  # names[i - 1] is what token i says
    inputs: str  # "text", "raw", "clean" or "class"
    certainty: Tensor | None = None  # M,T uint8: where a sequence is cut, the most certain stay; None = the first ones
    per_row: int | None = None  # sequences of each row, where all have as many

    @property
    def tokens(self) -> int:
        """Rows of the encoder's embedding."""
        return len(self.names) + 1

    def of(self, row: Tensor, caption: Tensor | None = None) -> Tensor:
        """Rows B and, for text, which caption of each B (None = the first) -> sequences B int64, on the CPU."""
        index = self.first[row.cpu()]
        return index if caption is None or self.inputs != "text" else index + caption.cpu()


# ---- attributes


def attribute_sequences(
    records: Records,
    *,
    inputs: str,
    denoised: str | Path | None = None,
    min_certainty: int = 1,
    percentages: np.ndarray | None = None,
) -> Sequences:
    """One sequence for each image: the attributes it has, in ascending order, never none.

    inputs: raw = as labelled, clean = those that denoising kept (`denoised` is its file), class = typical of the class.
    min_certainty: 2 leaves out labels of what was not visible, 3 guesses too. percentages: classes,A in [0, 100]; None
    = the table beside the data, else what the labels themselves say. An image left without attributes: by certainty,
    the limit is dropped; by denoising, the one of largest score - threshold stays; else the commonest of its class.
    """
    choose("model.inputs", inputs, KINDS)
    if records.attributes is None or not records.attributes.any():
        raise UserError(
            f"{records.name} in {records.root} has no attributes, which model.inputs={inputs} reads: choose data=cub, "
            "or model.inputs=text."
        )
    labelled, certainty = records.attributes.astype(bool), records.certainty
    if certainty is None:
        certainty = np.ones_like(records.attributes)
    of_class = _percentages(records, inputs) if percentages is None else percentages
    of_class = of_class[records.labels]
    if inputs == "class":
        present = of_class >= TYPICAL
    else:
        present = labelled & (certainty >= min_certainty)
        present |= labelled & ~present.any(1, keepdims=True)
        if inputs == "clean":
            present = _survivors(records, read_file(denoised), labelled, present)
    none = np.flatnonzero(~present.any(1))
    if len(lost := none[~of_class[none].any(1)]):
        lack = f"neither {records.keys[lost[0]]} nor its class has an attribute"
        raise UserError(f"{lack}: add some to {records.root}, or take the image out.")
    present[none, of_class[none].argmax(1)] = True
    order = torch.from_numpy(~present).to(torch.uint8).argsort(dim=1, stable=True)
    lengths = torch.from_numpy(present.sum(1))
    order = order[:, : int(lengths.max())]
    return Sequences(
        ids=(order + 1).masked_fill(padding(lengths, order.shape[1]), 0),
        lengths=lengths,
        first=torch.arange(len(records)),
        names=records.attribute_names,
        inputs=inputs,
        certainty=None if inputs == "class" else torch.from_numpy(certainty).gather(1, order),
        per_row=1,
    )


def _survivors(records: Records, denoised: Denoised, labelled: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Those of `present`, N,A bool, that denoising kept (and those it added to `labelled`), or the best one of each."""
    again = "make them again with task=prepare prepare=attributes"
    if tuple(denoised.names) != records.attribute_names:
        raise UserError(f"the denoised attributes are not the {labelled.shape[1]} of {records.name}: {again}.")
    place = {key: row for row, key in enumerate(denoised.keys)}
    if absent := [key for key in records.keys if key not in place]:
        some = f"{len(absent):,} of {len(records):,} are absent, such as {absent[0]}"
        raise UserError(f"the denoised attributes are of other images than {records.name}, {some}: {again}.")
    rows = np.array([place[key] for key in records.keys])
    kept = denoised.present[rows].astype(bool) & ~(labelled & ~present)
    margin = np.where(present & ~denoised.skipped, denoised.score[rows] - denoised.threshold, -np.inf)
    best = present & (margin == margin.max(1, keepdims=True))
    some = present.any(1) & ~kept.any(1)
    kept[some, best[some].argmax(1)] = True
    return kept


def read_file(denoised: str | Path | None) -> Denoised:
    """What `prepare=attributes` wrote. UserError without a file."""
    if denoised is None:
        raise UserError(
            "model.inputs=clean reads a file of denoised attributes: run task=prepare prepare=attributes and set "
            "model.denoised to what it wrote, or choose model.inputs=raw."
        )
    return read_denoised(Path(denoised))


def denoised_hash(denoised: str | Path) -> str:
    """8 hexadecimal digits of which labels a file of denoising keeps, of which images: what an encoder was taught."""
    file = read_file(denoised)
    words = "\n".join([*file.keys, *file.names]).encode()
    return sha256(words + np.packbits(file.present.astype(bool)).tobytes())[:8]


def _percentages(records: Records, inputs: str) -> np.ndarray:
    """How many in 100 images of each class have each attribute, classes,A; without the file, how many are labelled."""
    path = records.root / CLASS_TABLE
    size = len(records.classes), len(records.attribute_names)
    if not path.is_file():
        if inputs == "class":
            raise UserError(f"model.inputs=class reads {path}, which is absent: unpack CUB_200_2011.tgz again.")
        return np.eye(size[0])[records.labels].T @ records.attributes
    try:
        return np.array(path.read_text(encoding="utf-8-sig").split(), dtype=np.float64).reshape(size)
    except ValueError:
        raise UserError(
            f"{path} is not a table of {size[0]} classes and {size[1]} attributes: unpack CUB_200_2011.tgz again."
        ) from None


def groups(names: Sequence[str]) -> dict[str, list[int]]:
    """Tokens by group, in order: "wing_color" -> [10, ..., 24]; 28 groups for CUB."""
    found: dict[str, list[int]] = {}
    for token, name in enumerate(names, 1):
        found.setdefault(name.partition("::")[0].removeprefix("has_"), []).append(token)
    return found


def readable(name: str) -> str:
    """ "has_wing_color::red" -> "wing color: red"."""
    group, _, value = name.removeprefix("has_").partition("::")
    return f"{group}: {value}".replace("_", " ") if value else name


def parse_attributes(texts: Iterable[str], names: Sequence[str]) -> list[int]:
    """Tokens of attributes as people write them, ascending and each once.

    "wing color: red", "Wing colour red", "wing_color::red" and "has_wing_color::red" are the same. UserError, with the
    nearest names, for one that does not exist.
    """
    known = {_key(name): token for token, name in reversed(list(enumerate(names, 1)))}
    found = set()
    for text in texts:
        token = known.get(_key(text))
        if token is None:
            near = [names[known[key] - 1] for key in difflib.get_close_matches(_key(text), known, n=3, cutoff=0)]
            raise UserError(f"there is no attribute '{text}': the nearest are {', '.join(map(repr, near))}.")
        found.add(token)
    return sorted(found)


def _key(name: str) -> str:
    words = re.findall(r"[a-z0-9]+", name.lower())
    return " ".join(SPELLINGS.get(word, word) for word in words if word != "has")


# ---- captions


def caption_sequences(records: Records, *, names: Sequence[str] | None = None) -> Sequences:
    """A sequence for each caption of each image, words in their order.

    names: the vocabulary of an encoder, whose unknown words are left out as in AG; None = all words of all captions. A
    caption of unknown words only is replaced by the image's first that has a known one.
    """
    if not records.captions:
        raise UserError(
            f"{records.name} in {records.root} has no captions, which model.inputs=text reads: add them, or choose "
            "another model.inputs."
        )
    texts = [[words(caption) for caption in captions] for captions in records.captions]
    if names is None:
        names = sorted({word for captions in texts for caption in captions for word in caption})
    tokens = {name: token for token, name in enumerate(names, 1)}
    rows: list[Tensor] = []
    for key, captions in zip(records.keys, texts, strict=True):
        own = [[tokens[word] for word in caption if word in tokens] for caption in captions]
        spare = next((ids for ids in own if ids), None)
        if spare is None:
            raise UserError(
                f"no word of the captions of {key} is known to the encoder: train model=damsm on this data."
            )
        rows += [torch.tensor(ids or spare) for ids in own]
    counts = torch.tensor([len(captions) for captions in texts])
    return Sequences(
        ids=pad_sequence(rows, batch_first=True),
        lengths=torch.tensor([len(row) for row in rows]),
        first=counts.cumsum(0) - counts,
        names=tuple(names),
        inputs="text",
        per_row=int(counts[0]) if (counts == counts[0]).all() else None,
    )


def words(sentence: str) -> list[str]:
    r"""Lower case, `\w+`, ASCII letters only (AG datasets.py)."""
    found = (word.encode("ascii", "ignore").decode() for word in re.findall(r"\w+", sentence.lower()))
    return [word for word in found if word]


def parse_sentence(text: str, names: Sequence[str]) -> list[int]:
    """Tokens of a user's sentence; a warning names the words left out. UserError when no word is known."""
    tokens = {name: token for token, name in enumerate(names, 1)}
    said = words(text)
    known = [tokens[word] for word in said if word in tokens]
    if not known:
        some = ", ".join(names[:: max(1, len(names) // 8)][:8])
        raise UserError(f"no word of the sentence '{text}' is known: use words of the captions, such as {some}.")
    if unknown := [word for word in dict.fromkeys(said) if word not in tokens]:
        log.warning("words that the encoder does not know are left out: %s", ", ".join(unknown))
    return known


# ---- sequences to codes


def padding(lengths: Tensor, width: int) -> Tensor:
    """B,L bool, True = padding."""
    return torch.arange(width) >= lengths[:, None]


def pick(
    sequences: Sequences, index: Tensor, *, max_len: int, subset_prob: float = 0.0, train: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sequences B as the encoder shall read them: ids B,L, lengths B, and changed B bool = some tokens are left out.

    Training: those beyond `max_len` give way to a random subset of that size in its order (AG's rule for captions), and
    with probability `subset_prob` a sequence becomes a random subset of uniform size >= 1, since Fig. 10 feeds a single
    attribute; from torch's global generator of the CPU. Else: the most certain stay, ties by position.
    """
    ids, full = sequences.ids[index], sequences.lengths[index]
    sizes = full.clamp_max(max_len)
    if train:
        rank_by, luck, share = torch.rand(ids.shape), torch.rand(len(ids)), torch.rand(len(ids))
        sizes = torch.where(luck < subset_prob, 1 + (share * sizes).long(), sizes)
    elif sequences.certainty is None:
        rank_by = torch.zeros(ids.shape)
    else:
        rank_by = -sequences.certainty[index].float()
    rank_by = rank_by.masked_fill(padding(full, ids.shape[1]), torch.inf)
    rank = rank_by.argsort(dim=1, stable=True).argsort(dim=1)
    left_out = (rank >= sizes[:, None]).to(torch.uint8)
    order = left_out.argsort(dim=1, stable=True)[:, : int(sizes.max())]  # what is kept, in its order
    ids = ids.gather(1, order).masked_fill(padding(sizes, order.shape[1]), 0)
    return ids, sizes, sizes < full


class Codes(NamedTuple):
    """What the networks read of B conditions."""

    words: Tensor  # B,D,L: local codes, one for each token; 0 at padding
    sent: Tensor  # B,D: global codes
    pad: Tensor  # B,L bool, True = padding


@torch.no_grad()
def encode(encoder: Frozen, ids: Tensor, lengths: Tensor) -> Codes:
    """ids B,L and lengths B on the CPU -> codes on the encoder's device, float32."""
    device = next(encoder.parameters()).device
    with torch.autocast(device.type, enabled=False):
        local, sent = encoder(ids.to(device), lengths)
    return Codes(local, sent, padding(lengths, ids.shape[1]).to(device))


class Conditions:
    """Codes of the images of a data set by a frozen encoder.

    Sequences that no random subset touches are encoded once, at first use, and looked up from then on (`cache`).
    """

    def __init__(
        self,
        *,
        encoder: Frozen,
        sequences: Sequences,
        max_len_train: int,
        max_len_eval: int,
        subset_prob: float = 0.0,
        cache: bool = True,
    ) -> None:
        """encoder: of an RNNEncoder with as many tokens as the sequences. max_len_*: tokens kept at most."""
        known = len(encoder.net.get_parameter("encoder.weight"))
        if sequences.tokens != known:
            data = f"the data have {sequences.tokens} tokens"
            raise UserError(f"{data} and the encoder knows {known}: give one that was trained on these data.")
        self.encoder, self.sequences, self.cache = encoder, sequences, cache
        self.max_len_train, self.max_len_eval, self.subset_prob = max_len_train, max_len_eval, subset_prob
        self.table: tuple[Tensor, Tensor] | None = None
        lengths = sequences.lengths.clamp_max(max_len_eval)
        self.offsets = lengths.cumsum(0) - lengths  # sequence -> its first code in the table

    @staticmethod
    def of_ids(encoder: Frozen, ids: Sequence[Sequence[int]], max_len: int | None = None) -> Codes:
        """Codes of free conditions: tokens of each, of which the first `max_len` count."""
        rows = [torch.tensor(list(tokens)[:max_len], dtype=torch.int64) for tokens in ids]
        if not rows or not all(map(len, rows)):
            raise UserError("a condition is empty: name at least one attribute, or write at least one known word.")
        return encode(encoder, pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows]))

    def encode(self, ids: Sequence[Sequence[int]]) -> Codes:
        """`of_ids` with this encoder and evaluation's limit."""
        return self.of_ids(self.encoder, ids, self.max_len_eval)

    @torch.no_grad()
    def codes(self, row: Tensor, caption: Tensor | None = None, *, train: bool) -> Codes:
        """Codes of the images' own conditions, on the encoder's device. row, caption: B int64.

        train: cut and thinned out at random as `pick` says; else always the same.
        """
        index = self.sequences.of(row, caption)
        limit = self.max_len_train if train else self.max_len_eval
        ids, lengths, changed = pick(self.sequences, index, max_len=limit, subset_prob=self.subset_prob, train=train)
        if not self.cache:
            return encode(self.encoder, ids, lengths)
        local, sent = self.looked_up()
        device, width = sent.device, ids.shape[1]
        pad = padding(lengths, width).to(device)
        place = (self.offsets[index, None] + torch.arange(width)).clamp_max(len(local) - 1)
        found = Codes(local[place.to(device)].masked_fill(pad[..., None], 0), sent[index.to(device)], pad)
        fresh = (changed | (lengths > self.max_len_eval)) & train  # the table holds evaluation's version
        if fresh.any():
            longest = int(lengths[fresh].max())
            new, at = encode(self.encoder, ids[fresh, :longest], lengths[fresh]), fresh.nonzero()[:, 0].to(device)
            found.words[at, :longest] = new.words.mT
            found.sent[at] = new.sent
        return found._replace(words=found.words.mT.contiguous())

    def looked_up(self) -> tuple[Tensor, Tensor]:
        """The table on the encoder's device: local codes of all tokens one after another, D each, and sent M,D."""
        device = next(self.encoder.parameters()).device
        if self.table is None:
            local, sent = [], []
            for index in torch.arange(len(self.sequences.ids)).split(CHUNK):
                ids, lengths, _ = pick(self.sequences, index, max_len=self.max_len_eval, train=False)
                codes = encode(self.encoder, ids, lengths)
                local.append(codes.words.mT[~codes.pad])
                sent.append(codes.sent)
            self.table = torch.cat(local), torch.cat(sent)
        elif self.table[1].device != device:  # Lightning moves the model to the CPU after a fit
            self.table = self.table[0].to(device), self.table[1].to(device)
        return self.table

    def condition_text(self, row: Tensor, caption: Tensor | None = None) -> list[str]:
        """The images' own conditions in words, as evaluation cuts them."""
        index = self.sequences.of(row, caption)
        ids, lengths, _ = pick(self.sequences, index, max_len=self.max_len_eval, train=False)
        names, text = self.sequences.names, self.sequences.inputs == "text"
        said = [[names[i - 1] for i in row[:n]] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)]
        return [" ".join(each) if text else ", ".join(map(readable, each)) for each in said]
