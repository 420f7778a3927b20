"""FineGAN's own terms as functions: KL, the mismatched condition, and DAMSM's match of image and condition (Sec. 3).

B images, M conditions (as many and in the same order in a loss), L tokens, D width of the codes, R = h w regions. What
the paper leaves open follows taoxugit/AttnGAN (AG losses.py, GlobalAttention.py). float32 at least, under autocast too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from common.blocks import upcast

LARGEST = 1 << 26  # values of B,M,L,R held at once; what is more goes in parts, computed again on the way back
FEW = 4  # conditions at once on the CPU
EPS = 1e-8  # least product of norms under a cosine (AG cosine_similarity)


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, 1)) of B,c_dim statistics, the mean over batch and dimensions (AG KL_loss)."""
    mu, logvar = upcast(mu), upcast(logvar)
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).mean()


def mismatch(labels: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    """Indices (i, j) of images and of conditions e' that are not theirs (Eq. 5).

    labels: B int64. "shift": j = i + 1 for all but the last, whatever its class (AG). "class": the first j = i + 1,
    i + 2, ... (mod B) of another class; i without one is left out, so that both may be empty.
    """
    every = torch.arange(len(labels), device=labels.device)
    if mode == "shift":
        return every[:-1], every[1:]
    ahead = (every[:, None] + every + 1) % max(len(labels), 1)  # row i: i + 1, i + 2, ..., i
    other = labels[ahead] != labels[:, None]
    kept = other.any(1).nonzero().flatten()
    return kept, ahead[kept, other[kept].int().argmax(1)]


def region_attention(regions: Tensor, words: Tensor, pad: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """alpha and the similarities s = <w_l, v_r> of every image and condition: B,M,L,R each (AG func_attention).

    regions: B,D,R, words: M,D,L, pad: M,L. s-bar is the softmax of s over the tokens, alpha that of gamma_1 s-bar over
    the regions.
    """
    size, (conditions, _, length) = len(regions), words.shape
    rows = words.transpose(1, 2).flatten(0, 1).expand(size, -1, -1)  # B,ML,D: one matrix product for each image
    s = torch.bmm(rows, regions).unflatten(1, (conditions, length))
    share = s.masked_fill(pad[:, :, None], -torch.inf).softmax(2)
    return (gamma * share).softmax(3), s


def match(regions: Tensor, words: Tensor, pad: Tensor, gammas: tuple[float, float, float], length_norm: bool) -> Tensor:
    """gamma_3 R of every image and condition: B,M. Shapes as in `region_attention`."""
    attention, s = region_attention(regions, words, pad, gammas[0])
    seen = torch.bmm(attention.flatten(1, 2), regions.transpose(1, 2)).unflatten(1, s.shape[1:3])  # B,M,L,D: ctx_l
    norms = words.norm(dim=1) * seen.norm(dim=3)
    cosine = (attention * s).sum(3) / norms.clamp_min(EPS)  # <w_l, ctx_l> = sum_r alpha_lr s_lr
    scores = (gammas[1] * cosine).masked_fill(pad, -torch.inf).logsumexp(2)
    if length_norm:  # the mean of the exponentials in place of their sum, which favours long conditions
        scores = scores - (~pad).sum(1).log()
    return gammas[2] * scores


def word_scores(regions: Tensor, words: Tensor, pad: Tensor, *, gammas: tuple[float, ...], length_norm: bool) -> Tensor:
    """gamma_3 R_ij, R = log sum_l exp(gamma_2 cos(w_l, ctx_l)), of image i and condition j: B,M (AG words_loss).

    regions: B,D,h,w, words: M,D,L, pad: M,L bool (True = padding).
    """
    with torch.autocast(regions.device.type, enabled=False):
        flat, words = upcast(regions).flatten(2), upcast(words)
        first, second, third = gammas
        most = max(1, LARGEST // (len(flat) * words.shape[2] * max(flat.shape[1:])))  # conditions at once
        found, order = [], []
        for rows, length in parts(pad, most):
            given = (flat, words[rows, :, :length], pad[rows, :length], (first, second, third), length_norm)
            found.append(match(*given) if most >= len(words) else checkpoint(match, *given, use_reentrant=False))
            order.append(rows)
        return torch.cat(found, 1)[:, torch.cat(order).argsort()]


def parts(pad: Tensor, most: int) -> list[tuple[Tensor, int]]:
    """Conditions in parts of at most `most`, each with its number of tokens; pad: M,L.

    On the CPU a few of like lengths go together: little padding is computed, and a part stays in the cache. On a GPU it
    is all at once, for reading a length there would be a wait.
    """
    if pad.device.type != "cpu":
        return [(rows, pad.shape[1]) for rows in torch.arange(len(pad), device=pad.device).split(most)]
    lengths = pad.shape[1] - (~pad).flip(1).int().argmax(1)
    return [(rows, int(lengths[rows].max())) for rows in lengths.argsort().split(min(most, FEW))]


def contrast(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """-log of the share that the own pair has among the wrong ones, B,B scores: image to condition, and the other way.

    Wrong pairs of the image's own class are left out (AG class mask); labels: B.
    """
    same = (labels[:, None] == labels).fill_diagonal_(False)
    scores = scores.masked_fill(same, -torch.inf)
    target = torch.arange(len(labels), device=labels.device)
    return F.cross_entropy(scores, target), F.cross_entropy(scores.T, target)


def word_loss(
    regions: Tensor,
    words: Tensor,
    pad: Tensor,
    labels: Tensor,
    *,
    gammas: tuple[float, ...],
    length_norm: bool,
) -> tuple[Tensor, Tensor]:
    """W0 (image to condition) and W1 of regions B,D,h,w and words B,D,L, pad B,L, labels B."""
    return contrast(word_scores(regions, words, pad, gammas=gammas, length_norm=length_norm), labels)


def sentence_loss(code: Tensor, sent: Tensor, labels: Tensor, *, gamma: float) -> tuple[Tensor, Tensor]:
    """S0 and S1: the same with gamma_3 cos of the global codes of image and condition, B,D each (AG sent_loss)."""
    with torch.autocast(code.device.type, enabled=False):
        code, sent = upcast(code), upcast(sent)
        norms = code.norm(dim=1)[:, None] * sent.norm(dim=1)
        return contrast(gamma * (code @ sent.T) / norms.clamp_min(EPS), labels)


def damsm_loss(
    regions: Tensor,
    code: Tensor,
    words: Tensor,
    sent: Tensor,
    pad: Tensor,
    labels: Tensor,
    *,
    gammas: tuple[float, ...],
    length_norm: bool,
) -> dict[str, Tensor]:
    """w0, w1, s0, s1 of regions B,D,h,w, code B,D, words B,D,L, sent B,D, pad B,L, labels B; Eq. 7 takes their sum."""
    w0, w1 = word_loss(regions, words, pad, labels, gammas=gammas, length_norm=length_norm)
    s0, s1 = sentence_loss(code, sent, labels, gamma=gammas[2])
    return {"w0": w0, "w1": w1, "s0": s0, "s1": s1}
