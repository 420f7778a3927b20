"""Speed of FineGAN's and AttnGAN's training step, and of the word loss, against the same as public code writes it."""

import gc
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from pytorch_lightning.profilers import SimpleProfiler
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from common.blocks import Frozen
from common.data.module import ImageData, Reader
from common.data.records import Records
from common.losses import weighted
from finegan import losses
from finegan.checkpoints import Encoders
from finegan.conditions import Codes, caption_sequences
from finegan.encoders import ImageEncoder, RNNEncoder
from finegan.losses import mismatch, word_loss
from finegan.model import FineGAN
from tests.bench.bench_data import birds
from tests.bench.bench_step import ALL, ALL_CPU, CHANNELS_LAST, FIRST, NCHW, Case, Turns, alone, fit
from tests.bench.timing import Row, alternate
from tests.peers.attngan_step import PublicStep, word_losses
from tests.worlds.settings import settings

TERMS: dict[str, dict[str, float | None]] = {
    "d": {"real": 1 / 2, "cond_real": 1 / 2, "fake": 1 / 3, "cond_fake": 1 / 3, "mismatch": 1 / 3},
    "g": {"uncond": 1.0, "cond": 1.0, "damsm": 5.0, "kl": 1.0},
}
LOSSES = {
    weight: {side: terms | dict.fromkeys(("part", "fg", "fg_part"), weight) for side, terms in TERMS.items()}
    for weight in (None, 1.0)
}
CAPTIONS = {"inputs": "text", "max_len": 18, "max_len_eval": 25, "subset_prob": 0.0}
TINY: dict[str, Any] = {"ngf": 4, "ndf": 4, "code_dim": 16, "z_dim": 8, "c_dim": 8}


class Kind(NamedTuple):
    """A model as conf/model has it, but with mismatch=shift and the attributes as they are."""

    settings: dict[str, Any]
    reads: tuple[str, ...]


KINDS = {
    "AttnGAN": Kind({"loss": LOSSES[None], "masks": False, "legacy": True} | CAPTIONS, ("image", "caption")),
    "FineGAN": Kind({"loss": LOSSES[1.0], "inputs": "raw"}, ("image", "mask", "attributes")),
}
CASES = {
    "quick": [Case(32, 4, (FIRST, NCHW), rounds=1, alone=1, widths=TINY)],
    "cpu": [
        Case(64, 20, (FIRST, CHANNELS_LAST, ALL_CPU, NCHW), rounds=2, aim=2.0, alone=2),
        Case(256, 8, (NCHW,), rounds=1, aim=2.0),
    ],
    "cuda": [
        Case(256, 20, (FIRST, CHANNELS_LAST, ALL_CPU, ALL), rounds=5, turn=10, warm=15, aim=3.0, alone=60),
        Case(256, 64, (FIRST, ALL), rounds=3, turn=5, warm=10, aim=3.0, alone=30),
    ],
}


def finegan(folder: Path, *, device: torch.device, quick: bool) -> list[Row]:
    """The steps of AttnGAN (captions, no masks) and of FineGAN (attributes, masks, foregrounds, parts by crop), each in
    its Trainer and fed by the store, at the published widths; turn by turn, on the same batches and from the same
    weights, with the step as taoxugit/AttnGAN writes it: D is not frozen in G's step, the RNN runs on each batch, the
    word loss goes through the conditions one by one, one Adam for each D, losses are read at once; float32, NCHW, plain
    Adam. FineGAN's terms, which have no public code, are written the same way. That the losses of the first step are
    equal is checked in each run. DAMSM's encoders are untrained: Inception-v3 at 256 px, four convolutions at 64 px.
    The first row of a size is what shared work alone brings: G runs once in either way, so that it is the gradients of
    frozen weights and little else; the next rows add layout and precision. bf16 brings less than in SIMGAN, the more so
    the fewer the images: the discriminators' last layers have 2 to 34 million weights over 16 places of an image, and
    each pass casts and lays out all of them, on the CPU at greater cost with channels_last.
    """
    size = "quick" if quick else device.type
    images = 24 if quick else 2000 if device.type == "cuda" else 160
    reader = birds(folder, images, masks=True, attributes=True)
    records = reader.read()
    rows = []
    for case in CASES[size]:
        for kind in KINDS:
            what = f"{kind}, {case.side} px, batch {case.batch}"

            def once(case: Case, profiler: SimpleProfiler, kind: str = kind) -> Turns:
                return run(case, case.switches[-1], kind, reader, records, folder, device, profiler)

            for name in case.switches:
                turns = run(case, name, kind, reader, records, folder, device)
                ours, theirs = median(turns.ours), median(turns.theirs)
                aim = case.aim if name == case.switches[-1] else None
                rows.append(Row(f"{what}: {name}", case.batch / ours, case.batch / theirs, times=aim))
            if case.alone:
                rows += alone(case, f"{what}, alone", once, arithmetic(case, kind), device)
    return [*rows, word_row(device, quick)]


def build(case: Case, kind: str, **options: Any) -> FineGAN:
    """The model, still without encoders."""
    told = KINDS[kind].settings | dict(case.widths) | options
    return FineGAN(**settings("finegan", image_size=case.side, mismatch="shift", grad_norm_every=0, **told))


def untrained(case: Case, model: FineGAN, names: tuple[str, ...]) -> Encoders:
    """DAMSM's encoders for these tokens."""
    trunk = "inception_v3" if case.side >= 256 else "conv"
    text = RNNEncoder(tokens=len(names) + 1, word_dim=300, code_dim=model.code_dim, dropout=0.5)
    image = ImageEncoder(
        trunk=trunk, code_dim=model.code_dim, image_size=299, bn_train=True, legacy=model.hparams["generator"]["legacy"]
    )
    return Encoders(Frozen(text), Frozen(image), names, model.inputs, "untrained", {"code_dim": model.code_dim})


@torch.no_grad()
def settle(net: nn.Module) -> None:
    """Batch statistics of noise: without them what an untrained Inception says shrinks to nothing on its way."""
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.momentum = 1.0
        layer.train()
    net(torch.randn(2, 3, 299, 299))
    for layer in norms:
        layer.momentum = 0.1
        layer.eval()


def run(
    case: Case,
    name: str,
    kind: str,
    reader: Reader,
    records: Records,
    folder: Path,
    device: torch.device,
    profiler: SimpleProfiler | None = None,
) -> Turns:
    """A fit with these switches; with a profiler our steps alone."""
    gc.collect()  # networks of the run before, which hang in cycles
    torch.manual_seed(0)
    names = caption_sequences(records).names if KINDS[kind].settings["inputs"] == "text" else records.attribute_names
    model = build(case, kind)
    encoders = untrained(case, model, names)
    settle(encoders.image)
    model.take_encoders(encoders)
    model.read_conditions(records)
    other = PublicStep(model).to(device) if profiler is None else None
    options: dict[str, Any] = {"reads": KINDS[kind].reads, "bbox_crop": True, "store": folder / "stores"}
    data = ImageData(dataset=reader, image_size=case.side, batch_size=case.batch, **options)
    return fit(case, name, model, other, data, device, profiler)


def arithmetic(case: Case, kind: str) -> int:
    """Floating-point operations of one image in one step, counted on tensors without numbers.

    Two images are counted, since one has no neighbour; 64 tokens, or 18 for captions, as long as they are cut at.
    """
    count = 2

    def whole(pad: Tensor, most: int) -> list[tuple[Tensor, int]]:
        return [(torch.arange(len(pad)), pad.shape[1])]

    with FakeTensorMode(), patch.object(losses, "parts", whole):  # a length would be a number
        model = build(case, kind, **{"average.decay": None})
        model.image_encoder = untrained(case, model, ()).image
        images = torch.empty(count, 3, case.side, case.side)
        masks = model.mask_pyramid(torch.empty(count, 1, case.side, case.side) if model.masked else None)
        width, length = model.code_dim, model.hparams["conditions"]["max_len"]
        words, sent, labels = torch.empty(count, width, length), torch.empty(count, width), torch.arange(count)
        codes = Codes(words, sent, torch.zeros(count, length, dtype=torch.bool))
        z, mask = torch.empty(count, model.z_dim), masks[2] if model.masked else None
        with FlopCounterMode(display=False) as counter:
            drawn = model.generator(z, sent, words, codes.pad, mask)
            other, real = mismatch(labels, "shift"), model.pyramid(images)
            for k in range(3):
                terms = model.d_terms(k, real[k], drawn.images[k].detach(), masks[k], sent, other)
                weighted(terms, {name: model.loss["d"][name] for name in terms}).backward()
            for nets in (model.discriminator, model.discriminator_fg or nn.ModuleList()):
                nets.requires_grad_(False)
            ends = [*drawn.images, drawn.mu, drawn.logvar]
            leaves = [end.detach().requires_grad_() for end in ends]
            for terms in model.g_terms(leaves, masks, codes, labels):
                weighted(terms, {name: model.loss["g"][name] for name in terms}).backward()
            torch.autograd.backward(ends, [leaf.grad for leaf in leaves])
    return counter.get_total_flops() // count


def word_row(device: torch.device, quick: bool) -> Row:
    """The word loss forward and backward, all pairs at once against one condition at a time."""
    size, length, width, side, rounds = (4, 8, 16, 4, 1) if quick else (20, 64, 256, 17, 10)
    torch.manual_seed(0)
    regions = torch.randn(size, width, side, side, device=device, requires_grad=True)
    words, labels = torch.randn(size, width, length, device=device), torch.arange(size, device=device)
    lengths = torch.randint(1, length + 1, (size,)).to(device)
    lengths[0] = length
    pad = torch.arange(length, device=device) >= lengths[:, None]

    def at_once() -> tuple[Tensor, Tensor]:
        return word_loss(regions, words, pad, labels, gammas=(4.0, 5.0, 10.0), length_norm=False)

    def one_by_one() -> tuple[Tensor, Tensor]:
        return word_losses(regions, words, lengths, labels, (4.0, 5.0, 10.0))

    torch.testing.assert_close(at_once(), one_by_one(), rtol=1e-3, atol=1e-3)
    ways = [lambda way=way: sum(way()).backward() for way in (at_once, one_by_one)]  # type: ignore[misc]
    ours, other = alternate(*ways, rounds=rounds, device=device)
    return Row(f"word loss, {size} pairs, {length} tokens, {side**2} regions", 1 / ours, 1 / other, unit="losses/s")
