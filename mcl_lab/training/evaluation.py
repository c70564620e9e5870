"""Accuracy of a cohort on a set of images, and the mean layer-matching weights on them.

N peers, S_i heads of peer i, B batch, C classes, D_i embedding width of peer i, P ordered pairs of embeddings of different
peers, K the larger rank counted (5, or C when that is less).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

Accuracies = dict[str, dict[str, float]]


def evaluate(
    cohort: nn.Module,
    ensembles: Callable[[object], list[Tensor] | None],
    batches: Iterable[tuple[Tensor, Tensor]],
    pair_weights: Callable[[Sequence[Sequence[Tensor]]], Tensor] | None = None,
    beside: Sequence[nn.Module] = (),
) -> dict[str, Accuracies | dict[str, float]]:
    """Top-1 and top-5 accuracies in %: `{"top1": {peer: {head: %}}, "top5": ...}`, and `"layer_weights"` if asked for.

    The heads of a peer are `stage1`, `stage2`, ... (auxiliary), `own_head`, and `ensemble` when there is one.
    cohort: its `peers` are named, its output holds `embeddings[i][k]` (B, D_i) and `logits[i][k]` (B, C). ensembles: that
    output to each peer's ensemble logits (B, C), or None. batches: images (B, 3, H, W) and labels (B,).
    pair_weights: embeddings to weights (P, B), symmetric, in the order for i, for j != i, for k, for z. With it
    `"layer_weights"` holds their means over the images, `{"a.stage1-b.own_head": mean}`, each two embeddings once.
    beside: modules that `ensembles` and `pair_weights` are made of; like the cohort they are in evaluation mode meanwhile, and
    then in the mode they were in.
    """
    was_training = [(module, module.training) for module in (cohort, *beside)]
    for module, _ in was_training:
        module.eval()
    counts, weights, images = 0, 0, 0
    try:
        with torch.inference_mode():
            for inputs, labels in batches:
                output = cohort(inputs)
                ensemble = ensembles(output)
                heads = [
                    [*stages, *(ensemble[i : i + 1] if ensemble else [])] for i, stages in enumerate(output.logits)
                ]
                counts = counts + _correct(torch.stack([scores for peer in heads for scores in peer]), labels)
                if pair_weights is not None:
                    weights = weights + pair_weights(output.embeddings).double().sum(-1)
                images += len(labels)
    finally:
        for module, training in was_training:
            module.train(training)
    names = [
        (name, head)
        for name, peer in zip(cohort.peers, heads, strict=True)
        for head in _head_names(len(peer), ensemble is not None)
    ]
    accuracies: dict[str, Accuracies] = {"top1": {}, "top5": {}}
    for (peer, head), correct in zip(names, (100 * counts / images).tolist(), strict=True):
        accuracies["top1"].setdefault(peer, {})[head] = correct[0]
        accuracies["top5"].setdefault(peer, {})[head] = correct[1]
    if pair_weights is None:
        return accuracies
    embeddings = {
        name: _head_names(len(stages), ensemble=False) for name, stages in zip(cohort.peers, output.logits, strict=True)
    }
    return accuracies | {"layer_weights": _by_pair((weights / images).tolist(), embeddings)}


def _by_pair(weights: Sequence[float], embeddings: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Weights in the order for i, for j != i, for k, for z by name, those with i before j."""
    pairs = [
        (i < j, f"{first}.{k}-{second}.{z}")
        for i, (first, first_heads) in enumerate(embeddings.items())
        for j, (second, second_heads) in enumerate(embeddings.items())
        if j != i
        for k in first_heads
        for z in second_heads
    ]
    return {name: weight for (in_order, name), weight in zip(pairs, weights, strict=True) if in_order}


def _correct(logits_HBC: Tensor, labels: Tensor) -> Tensor:
    """How many labels are the first, and among the first K, of each head: (H, 2)."""
    ranked_HBK = logits_HBC.topk(min(5, logits_HBC.shape[-1]), dim=-1).indices
    hit_HBK = ranked_HBK == labels[:, None]
    return torch.stack([hit_HBK[..., 0].sum(-1), hit_HBK.any(-1).sum(-1)], dim=-1).double()


def _head_names(count: int, ensemble: bool) -> list[str]:
    stages = count - 2 if ensemble else count - 1
    return [*(f"stage{k + 1}" for k in range(stages)), "own_head", *(["ensemble"] if ensemble else [])]
