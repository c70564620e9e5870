"""The four mutual contrastive losses across all layers, in one batch of similarities (L-MCL, TPAMI 2023, section 3).

N peers, S_i stages of peer i, A = sum S_i embeddings in all (peer by peer, stage by stage), P = sum over ordered peers of
S_i S_j pairs of embeddings of different peers, B batch, d projection width. Index a, b: embeddings; r: anchors; c: contrasts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TERMS = ("vcl", "soft_vcl", "icl", "soft_icl")


class MutualContrastive(NamedTuple):
    """Scalar sums over all P pairs; None for a term that was not asked for."""

    vcl: Tensor | None
    soft_vcl: Tensor | None
    icl: Tensor | None
    soft_icl: Tensor | None


def mutual_contrastive(
    embeddings: Sequence[Sequence[Tensor]],
    labels: Tensor,
    pair_weights: Tensor | None = None,
    *,
    temperature: float = 0.1,
    kd_temperature: float = 3.0,
    terms: Sequence[str] = TERMS,
) -> MutualContrastive:
    """Vanilla and interactive contrastive losses, each against the labels and against another peer's distribution.

    embeddings: `embeddings[i][k]` (B, d), L2-normalised. labels: (B,).
    pair_weights: (P, B), a weight for each pair and anchor, in the order for i, for j != i, for k, for z; None: all 1.
    terms: the names of those to compute.

    With G^ab_rc = z_a,r . z_b,c / temperature, y the labels, T = kd_temperature and w the weight of pair (a, b):
        nce(G; w)   = -1/B sum_r w_r mean over {c != r: y_c = y_r} of (G_rc - log sum_{c' != r} exp G_rc')
        kl(S, Q; w) = T^2/B sum_r w_r KL(softmax(stopgrad(Q_r) / T) || softmax(S_r / T))
        vcl      = sum over pairs  nce(G^aa; w) + nce(G^bb; w)
        icl      = sum over pairs  nce(G^ab; w) + nce(G^ba; w)
        soft_vcl = sum over pairs  kl(G^aa, G^bb; w) + kl(G^bb, G^aa; w)
        soft_icl = sum over pairs  kl(G^ab, G^ba; w) + kl(G^ba, G^ab; w)
    An anchor with no other image of its class in the batch adds nothing to vcl and icl.

    nce and kl are linear in w, and pair (b, a) has the values of pair (a, b): so the weights are summed first, w_ab + w_ba,
    and every distribution is computed once. One Gram matrix holds all similarities.
    """
    z_ABd = torch.stack([z_Bd for stages in embeddings for z_Bd in stages])
    a_size, b_size, _ = z_ABd.shape
    z_flat = z_ABd.flatten(0, 1)
    similarity_AABB = (z_flat @ z_flat.T / temperature).view(a_size, b_size, a_size, b_size).transpose(1, 2)
    weight_AAB = _symmetric_weights(tuple(len(stages) for stages in embeddings), pair_weights, z_ABd)

    vcl = soft_vcl = icl = soft_icl = None
    if "vcl" in terms or "icl" in terms:
        nce_AAB = _nce(similarity_AABB, labels)
        if "vcl" in terms:
            vcl = (_own(nce_AAB) * weight_AAB.sum(1)).sum() / b_size
        if "icl" in terms:
            icl = (nce_AAB * weight_AAB).sum() / b_size
    if "soft_vcl" in terms or "soft_icl" in terms:
        scale = kd_temperature**2 / b_size
        log_q_AABB = torch.log_softmax(similarity_AABB / kd_temperature, -1)
        if "soft_vcl" in terms:
            soft_vcl = scale * (_kl_between_own(_own(log_q_AABB)) * weight_AAB).sum()
        if "soft_icl" in terms:
            soft_icl = scale * (_kl_to_mirrored(log_q_AABB) * weight_AAB).sum()
    return MutualContrastive(vcl, soft_vcl, icl, soft_icl)


def _symmetric_weights(stages: tuple[int, ...], pair_weights: Tensor | None, like_ABd: Tensor) -> Tensor:
    """w_ab + w_ba at every (a, b) of different peers and 0 elsewhere, (A, A, B)."""
    b_size = like_ABd.shape[1]
    sizes = [s_i * s_j for i, s_i in enumerate(stages) for j, s_j in enumerate(stages) if j != i]
    if pair_weights is None:
        pair_weights = like_ABd.new_ones(1, 1).expand(sum(sizes), b_size)
    blocks, rows = iter(pair_weights.split(sizes)), []
    for i, s_i in enumerate(stages):
        row = [
            like_ABd.new_zeros(s_i, s_i, b_size) if j == i else next(blocks).reshape(s_i, s_j, b_size)
            for j, s_j in enumerate(stages)
        ]
        rows.append(torch.cat(row, dim=1))
    weight_AAB = torch.cat(rows)
    return weight_AAB + weight_AAB.transpose(0, 1)


def _nce(similarity_AABB: Tensor, labels: Tensor) -> Tensor:
    """The label-contrastive loss of every block and anchor, (A, A, B)."""
    itself_BB = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive_BB = ((labels[:, None] == labels) & ~itself_BB).to(similarity_AABB.dtype)
    positives_B = positive_BB.sum(1)
    mean_positive_AAB = (similarity_AABB * positive_BB).sum(-1) / positives_B.clamp(min=1)
    nothing = torch.finfo(similarity_AABB.dtype).min  # its exponential is 0; with -inf a batch of one would give NaN
    log_sum_AAB = similarity_AABB.masked_fill(itself_BB, nothing).logsumexp(-1)
    return (log_sum_AAB - mean_positive_AAB) * (positives_B > 0)


def _kl_between_own(log_q_ABB: Tensor) -> Tensor:
    """KL(own distribution of b, held fixed || own distribution of a) at [a, b], (A, A, B)."""
    teacher_ABB = log_q_ABB.detach().exp()
    negentropy_AB = (teacher_ABB * log_q_ABB.detach()).sum(-1)
    return negentropy_AB - torch.einsum("arc,brc->abr", log_q_ABB, teacher_ABB)


def _kl_to_mirrored(log_q_AABB: Tensor) -> Tensor:
    """KL(distribution of (b, a), held fixed || distribution of (a, b)) at [a, b], (A, A, B)."""
    log_teacher_AABB = log_q_AABB.detach().transpose(0, 1)
    return (log_teacher_AABB.exp() * (log_teacher_AABB - log_q_AABB)).sum(-1)


def _own(x_AA: Tensor) -> Tensor:
    """The blocks of each embedding with itself, (A, A, ...) to (A, ...)."""
    return x_AA.diagonal(dim1=0, dim2=1).movedim(-1, 0)
