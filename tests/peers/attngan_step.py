"""A training step as AttnGAN's public code computes it (taoxugit/AttnGAN: trainer.py, miscc/losses.py).

The reference of a test and of a benchmark: its arithmetic, order and habits, on the networks of `finegan`.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn

from common.data.records import Sample
from finegan.conditions import pick
from finegan.discriminators import Discriminator
from finegan.model import FineGAN


class PublicStep:
    """The step of AttnGAN with the habits of its public code.

    The sequences of each batch go through the RNN; each discriminator has an Adam of its own; none is frozen while G's
    loss is made, which therefore fills their gradients too; BCE of probabilities, not of logits; the word loss takes
    the conditions one by one; one backward pass for all of G's loss; the average in a Python loop; losses are read at
    once; float32, NCHW, plain Adam. Terms of FineGAN that the model's `loss` has are made in the same manner. In its
    favour: images, masks and sequences come ready for the stages, and batches are not sorted by length.
    """

    def __init__(self, model: FineGAN) -> None:
        """Takes copies of the networks as they are. For a model with conditions, mismatch=shift and mask_fill=0."""
        assert model.conditions is not None
        assert (model.mismatch, model.mask_fill) == ("shift", 0)
        self.conditions, self.pyramid, self.mask_pyramid = model.conditions, model.pyramid, model.mask_pyramid
        self.masked, self.weights, self.gammas = model.masked, model.loss, model.gammas
        self.z_dim, self.c_dim = model.z_dim, model.c_dim
        encoders = deepcopy(nn.ModuleList([model.text_encoder, model.image_encoder]))  # type: ignore[list-item]
        self.text, self.image = encoders.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.generator = deepcopy(model.generator)
        self.discriminators, self.fg_discriminators = (
            [*deepcopy(nets or [])] for nets in (model.discriminator, model.discriminator_fg)
        )
        self.average = [p.detach().clone() for p in self.generator.parameters()]

        def adam(net: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.Adam(net.parameters(), lr=model.adam_options["lr"], betas=model.adam_options["betas"])

        self.opt_g, self.opts_d = (
            adam(self.generator),
            [adam(net) for net in (*self.discriminators, *self.fg_discriminators)],
        )
        self.read: list[float] = []

    def to(self, device: torch.device) -> "PublicStep":
        for net in (self.text, self.image, self.generator, *self.discriminators, *self.fg_discriminators):
            net.to(device)  # in place, so the optimisers keep their parameters
        self.average = [p.to(device) for p in self.average]
        return self

    def given(self, batch: Sample) -> tuple[object, ...]:
        """What a loader hands over, and noise, drawn in the order in which our step draws."""
        device, known = batch["image"].device, self.conditions
        index = known.sequences.of(batch["row"], batch.get("caption"))
        limit, share = known.max_len_train, known.subset_prob
        ids, lengths, _ = pick(known.sequences, index, max_len=limit, subset_prob=share, train=True)
        z, eps = (torch.randn(len(ids), width, device=device) for width in (self.z_dim, self.c_dim))
        masks = self.mask_pyramid(batch.get("mask"))
        return self.pyramid(batch["image"]), masks, ids.to(device), lengths.to(device), z, eps

    def __call__(
        self,
        batch: Sample,
        images: tuple[Tensor, ...],
        masks: tuple[Tensor, ...],
        ids: Tensor,
        lengths: Tensor,
        z: Tensor,
        eps: Tensor,
    ) -> dict[str, Tensor]:
        """images, masks: of each stage; ids B,L, lengths B, z B,z_dim, eps B,c_dim -> terms summed over the stages."""
        seen: dict[str, Tensor] = {}
        self.read = []
        words, sent = (code.detach() for code in self.text(ids, lengths))
        drawn = self.generator(z, sent, words, ids == 0, masks[2] if self.masked else None, eps)

        for k, net in enumerate(self.discriminators):
            net.zero_grad()
            self.add_up(d_terms(net, images[k], drawn.images[k].detach(), sent), "d", seen).backward()
            self.opts_d[k].step()
        for k, net in enumerate(self.fg_discriminators):
            net.zero_grad()
            shown = images[k] * masks[k], drawn.images[k].detach() * masks[k]
            self.add_up(fg_terms(net, *shown), "d", seen).backward()
            self.opts_d[3 + k].step()

        self.generator.zero_grad()
        total = torch.zeros((), device=ids.device)
        for k, net in enumerate(self.discriminators):
            terms = g_terms(net, drawn.images[k], sent)
            if self.fg_discriminators:
                found = g_terms(self.fg_discriminators[k], drawn.images[k] * masks[k], None)
                terms |= {"fg": found["uncond"]} | ({"fg_part": found["part"]} if "part" in found else {})
            total = total + self.add_up(terms, "g", seen)
        regions, code = self.image(drawn.images[2])
        w0, w1 = word_losses(regions, words, lengths, batch["label"], self.gammas)
        s0, s1 = sentence_losses(code, sent, batch["label"], self.gammas[2])
        kl = -0.5 * (1 + drawn.logvar - drawn.mu.pow(2) - drawn.logvar.exp()).mean()
        total = total + self.add_up({"damsm": w0 + w1 + s0 + s1}, "g", seen) + self.add_up({"kl": kl}, "g", seen)
        total.backward()
        self.opt_g.step()
        for p, mean in zip(self.generator.parameters(), self.average, strict=True):
            mean.mul_(0.999).add_(p.data, alpha=0.001)
        return seen

    def add_up(self, terms: dict[str, Tensor], side: str, seen: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the terms, read at once; adds them to those seen."""
        total = torch.stack([cost * (self.weights[side][name] or 0) for name, cost in terms.items()]).sum()
        for name, cost in terms.items():
            seen[f"{side}/{name}"] = seen.get(f"{side}/{name}", 0) + cost.detach()
        self.read.append(total.item())
        return total


# ---- adversarial terms of one discriminator


def bce(logits: Tensor, real: bool) -> Tensor:
    return nn.BCELoss()(torch.sigmoid(logits), torch.full_like(logits, float(real)))


def parts(net: Discriminator, x: Tensor) -> Tensor:
    """4B logits: the quadrants of x through the trunk (Eq. 4 of Li and Wang 2021)."""
    half, head = x.shape[-1] // 2, net.PART_DNET
    assert head is not None
    crops = [x[:, :, top : top + half, left : left + half] for top in (0, half) for left in (0, half)]
    return head(net.trunk(torch.cat(crops, 0))).flatten()


def d_terms(net: Discriminator, x: Tensor, f: Tensor, sent: Tensor) -> dict[str, Tensor]:
    h, h_f = net.trunk(x), net.trunk(f)
    terms = {"cond_real": bce(net.cond(h, sent), True), "cond_fake": bce(net.cond(h_f, sent), False)}
    terms["mismatch"] = bce(net.cond(h[:-1], sent[1:]), False)  # the neighbour's condition, whatever its class
    terms |= {"real": bce(net.uncond(h), True), "fake": bce(net.uncond(h_f), False)}
    if net.PART_DNET is not None:
        terms["part"] = bce(parts(net, x), True) + bce(parts(net, f), False)
    return terms


def fg_terms(net: Discriminator, x: Tensor, f: Tensor) -> dict[str, Tensor]:
    """x, f: under the mask."""
    terms = {"fg": bce(net.uncond(net.trunk(x)), True) + bce(net.uncond(net.trunk(f)), False)}
    if net.PART_DNET is not None:
        terms["fg_part"] = bce(parts(net, x), True) + bce(parts(net, f), False)
    return terms


def g_terms(net: Discriminator, f: Tensor, sent: Tensor | None) -> dict[str, Tensor]:
    h = net.trunk(f)
    terms = {} if sent is None else {"cond": bce(net.cond(h, sent), True)}
    terms["uncond"] = bce(net.uncond(h), True)
    if net.PART_DNET is not None:
        terms["part"] = bce(parts(net, f), True)
    return terms


# ---- DAMSM


def word_losses(
    regions: Tensor, words: Tensor, lengths: Tensor, labels: Tensor, gammas: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """W0 and W1 (Xu et al. 2018, Eq. 7 to 12), all images against one condition at a time.

    regions: B,D,h,w, words: B,D,L, lengths, labels: B.
    """
    size, columns, context = len(regions), [], regions.flatten(2)
    for i, length in enumerate(lengths.tolist()):
        word = words[i : i + 1, :, :length].repeat(size, 1, 1)  # B,D,T
        seen = attend(word, context, gammas[0])
        rows = [each.transpose(1, 2).contiguous().view(size * length, -1) for each in (word, seen)]
        norms = rows[0].norm(dim=1) * rows[1].norm(dim=1)
        cosine = ((rows[0] * rows[1]).sum(1) / norms.clamp(min=1e-8)).view(size, length)
        columns.append((gammas[1] * cosine).exp().sum(1, keepdim=True).log())
    return both_ways(gammas[2] * torch.cat(columns, 1), labels)


def attend(word: Tensor, context: Tensor, gamma: float) -> Tensor:
    """word: B,D,T, context: B,D,R -> what each word sees, B,D,T (GlobalAttention.py)."""
    scores = torch.bmm(context.transpose(1, 2).contiguous(), word)  # B,R,T
    share = torch.softmax(scores.flatten(0, 1), 1).view_as(scores).transpose(1, 2).contiguous()
    attention = torch.softmax(gamma * share.flatten(0, 1), 1).view_as(share)  # B,T,R
    return torch.bmm(context, attention.transpose(1, 2).contiguous())


def sentence_losses(code: Tensor, sent: Tensor, labels: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """S0 and S1 of the global codes, B,D each."""
    norms = code.norm(dim=1, keepdim=True) @ sent.norm(dim=1, keepdim=True).T
    return both_ways(gamma * (code @ sent.T) / norms.clamp(min=1e-8), labels)


def both_ways(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of rows and of columns. Others of an item's own class are no wrong pairs: masked row by row."""
    rows = []
    for i in range(len(labels)):
        row = labels == labels[i]
        row[i] = False
        rows.append(row)
    scores = scores.masked_fill(torch.stack(rows), -torch.inf)
    own = torch.arange(len(labels), device=labels.device)
    return nn.CrossEntropyLoss()(scores, own), nn.CrossEntropyLoss()(scores.T, own)
