"""Accuracy of a cohort on a set of images, and the mean layer-matching weights on them.

N peers, S_i heads of peer i, B batch, C classes, D_i embedding width of peer i, P ordered pairs of embeddings of different
peers, K the larger rank counted (5, or C when that is less).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import NotRequired, TypedDict

import torch
from torch import Tensor

from mcl_lab.training.protocols import Batch, Cohort, CohortOutput, Embeddings, Module

Accuracies = dict[str, dict[str, float]]  # of each peer the heads' accuracies in %


class Scores(TypedDict):
    """The heads of a peer are `stage1`, `stage2`, ... (auxiliary), `own_head`, and `ensemble` when there is one."""

    top1: Accuracies
    top5: Accuracies
    layer_weights: NotRequired[dict[str, float]]  # mean over the images, {"a.stage1-b.own_head": mean}, each pair once


def evaluate(
    cohort: Cohort,
    ensembles: Callable[[CohortOutput], Sequence[Tensor] | None],
    batches: Iterable[Batch],
    pair_weights: Callable[[Embeddings], Tensor] | None = None,
    beside: Sequence[Module] = (),
) -> Scores:
    """Top-1 and top-5 accuracies of every head, and the layer weights if asked for.

    ensembles: the cohort's output to each peer's ensemble logits (B, C), or None. batches: one or more.
    pair_weights: embeddings to weights (P, B), symmetric, in the order for i, for j != i, for k, for z. With it
    the scores have `layer_weights`.
    beside: modules that `ensembles` and `pair_weights` are made of; like the cohort they are in evaluation mode meanwhile, and
    then in the mode they were in.
    """
    was_training = [(module, module.training) for module in (cohort, *beside)]
    for module, _ in was_training:
        module.eval()
    counts: list[Tensor] = []
    weights: list[Tensor] = []
    images = 0
    try:
        with torch.inference_mode():
            for inputs, labels in batches:
                output = cohort(inputs)
                ensemble = ensembles(output)
                heads = [
                    [*stages, *(ensemble[i : i + 1] if ensemble else [])] for i, stages in enumerate(output.logits)
                ]
                counts.append(_correct(torch.stack([scores for peer in heads for scores in peer]), labels))
                if pair_weights is not None:
                    weights.append(pair_weights(output.embeddings).double().sum(-1))
                images += len(labels)
    finally:
        for module, training in was_training:
            module.train(training)
    names = [
        (name, head)
        for name, peer in zip(cohort.peers, heads, strict=True)
        for head in _head_names(len(peer), ensemble is not None)
    ]
    found: Scores = {"top1": {}, "top5": {}}
    for (peer, head), (top1, top5) in zip(names, (100 * reduce(add, counts) / images).tolist(), strict=True):
        found["top1"].setdefault(peer, {})[head] = top1
        found["top5"].setdefault(peer, {})[head] = top5
    if pair_weights is not None:
        stages_of = zip(cohort.peers, output.logits, strict=True)
        embeddings = {name: _head_names(len(stages), ensemble=False) for name, stages in stages_of}
        found["layer_weights"] = _by_pair((reduce(add, weights) / images).tolist(), embeddings)
    return found


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
