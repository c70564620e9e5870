"""The method as plainly as it can be written, slow and for small cohorts: the oracle of what is done faster.

N peers, S_i stages of peer i, P pairs, B batch, d width; G a matrix of similarities, w the weight of every row.
"""

import torch

CONTRASTIVE = {"vcl": 0.1, "soft_vcl": 1.0, "icl": 0.1, "soft_icl": 1.0}  # the weights of the paper


def plain_mutual_contrastive(embeddings, labels, weights, temperature, kd_temperature):
    B = len(labels)

    def similarity(a, b):
        return a @ b.T / temperature

    def nce(G, w):
        loss = 0
        for r in range(B):
            others = [c for c in range(B) if c != r]
            positives = [c for c in others if labels[c] == labels[r]]
            if positives:
                log_sum = torch.log(torch.exp(G[r, others]).sum())
                loss = loss - w[r] * (G[r, positives] - log_sum).sum() / len(positives)
        return loss / B

    def kl(student, teacher, w):
        s = torch.softmax(student / kd_temperature, dim=1)
        q = torch.softmax(teacher.detach() / kd_temperature, dim=1)
        return kd_temperature**2 / B * (w * (q * torch.log(q / s)).sum(dim=1)).sum()

    losses, p = dict.fromkeys(CONTRASTIVE, 0), 0
    for i in range(len(embeddings)):
        for j in range(len(embeddings)):
            if j == i:
                continue
            for a in embeddings[i]:
                for b in embeddings[j]:
                    w = weights[p]
                    aa, bb, ab, ba = similarity(a, a), similarity(b, b), similarity(a, b), similarity(b, a)
                    losses["vcl"] += nce(aa, w) + nce(bb, w)
                    losses["icl"] += nce(ab, w) + nce(ba, w)
                    losses["soft_vcl"] += kl(aa, bb, w) + kl(bb, aa, w)
                    losses["soft_icl"] += kl(ab, ba, w) + kl(ba, ab, w)
                    p += 1
    assert p == len(weights)
    return losses


def unrolled_hypergradient(
    inner_loss, outer_loss, params, meta_params, *, inner_steps, outer_steps, lr, momentum, weight_decay
):
    """`hypergradient` by one graph through all virtual steps."""
    theta = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    buffers = None
    for loss in [inner_loss] * inner_steps + [outer_loss] * outer_steps:
        values = list(theta.values())
        slopes = torch.autograd.grad(loss(theta), values, create_graph=True, materialize_grads=True)
        decayed = [g + weight_decay * value for g, value in zip(slopes, values, strict=True)]
        buffers = decayed if buffers is None else [momentum * b + g for b, g in zip(buffers, decayed, strict=True)]
        theta = {name: value - lr * b for (name, value), b in zip(theta.items(), buffers, strict=True)}
    return torch.autograd.grad(outer_loss(theta), meta_params, materialize_grads=True)
