"""Training as it is done against the whole method written out plainly: losses, gradients, meta events, updates.

B batch.
"""

from types import SimpleNamespace

import pytest
import torch
from plain import CONTRASTIVE, plain_mutual_contrastive, unrolled_hypergradient
from torch.func import functional_call
from torch.nn.functional import cross_entropy, normalize

from mcl_lab.assembly.learners import build_learners
from mcl_lab.assembly.method import build_method
from mcl_lab.config.compose import compose

B, STEPS, EVENTS = 12, 20, (0, 10)
LR, MOMENTUM, DECAY = 0.02, 0.9, 5e-4  # of both optimizers, with Nesterov momentum, and of the virtual steps
SMALL = ["pair=resnet8", "pair.peers.a.widths=[4,6,8]", "trainer=cpu", "tracking=none", f"optimizer.lr={LR}"]
PAIRS = {
    "homogeneous": [*SMALL, "pair.peers.b.widths=[4,6,8]"],
    "heterogeneous": [*SMALL, "pair.peers.b.widths=[4,10]", "pair.peers.b.blocks=[1,1]"],  # one stage less
}


def make(pair, dtype):
    """Learners as a run has them, and batches; of the same values in each dtype."""
    config = compose(PAIRS[pair])
    torch.manual_seed(0)
    learners = build_learners(config, 4, torch.device("cpu"), (16, 16))
    modules = torch.nn.ModuleList(
        [learners.cohort, learners.objective, learners.weight_network, learners.virtual_losses]
    )
    modules.to(dtype)
    images = torch.randn(STEPS, B, 3, 16, 16).to(dtype)
    labels = torch.stack([torch.randperm(B) % 4 for _ in range(STEPS)])
    method = build_method(config, learners)
    return SimpleNamespace(method=method, batches=list(zip(images, labels, strict=True)), **learners._asdict())


def plain_loss(learners, output, labels):
    embeddings, logits = output
    with torch.no_grad():
        weights = plain_weights(learners.weight_network, embeddings)
    ensembles = []
    for attention, e, scores in zip(learners.objective.aggregator.attention, embeddings, logits, strict=True):
        shares = torch.softmax(attention[2](torch.relu(attention[0](torch.cat(e, dim=1)))), dim=1)
        ensembles.append(sum(shares[:, k, None] * scores[k] for k in range(len(scores))))
    loss = sum(cross_entropy(scores, labels) for peer in logits for scores in peer)
    loss = loss + sum(cross_entropy(ensemble, labels) for ensemble in ensembles)
    for student in logits:
        for teacher in ensembles:
            q, s = torch.softmax(teacher.detach() / 3, dim=1), torch.softmax(student[-1] / 3, dim=1)
            loss = loss + 9 / B * (q * torch.log(q / s)).sum()
    return loss + plain_contrastive(learners.objective.terms["mutual_contrastive"], embeddings, labels, weights)


def plain_weights(weight_network, embeddings):
    """For i, for j != i, for k, for z."""
    u = [
        [normalize(layer(x), dim=1) for layer, x in zip(layers, peer, strict=True)]
        for layers, peer in zip(weight_network.projections, embeddings, strict=True)
    ]
    pairs = [(i, j) for i in range(len(u)) for j in range(len(u)) if j != i]
    return torch.stack([torch.sigmoid((a * b).sum(1)) for i, j in pairs for a in u[i] for b in u[j]])


def plain_contrastive(term, embeddings, labels, weights):
    z = [
        [normalize(head[2](torch.relu(head[0](x))), dim=1) for head, x in zip(heads, peer, strict=True)]
        for heads, peer in zip(term.projections, embeddings, strict=True)
    ]
    losses = plain_mutual_contrastive(z, labels, weights, 0.1, 3.0)
    return sum(weight * losses[name] for name, weight in CONTRASTIVE.items())


def plain_event_gradients(learners, images, labels):
    """By one graph through all virtual steps."""
    cohort, term = learners.cohort, learners.objective.terms["mutual_contrastive"]

    class Losses(torch.nn.ModuleDict):
        def forward(self, inner):
            embeddings, logits = cohort(images)
            if not inner:
                return sum(cross_entropy(scores, labels) for peer in logits for scores in peer)
            return plain_contrastive(term, embeddings, labels, plain_weights(learners.weight_network, embeddings))

    modules = Losses({"cohort": cohort, "term": term})
    buffers = {name: value.clone() for name, value in modules.named_buffers()}

    def loss(theta, inner):
        return functional_call(modules, {**theta, **buffers}, (inner,))

    return unrolled_hypergradient(
        lambda theta: loss(theta, True),
        lambda theta: loss(theta, False),
        dict(modules.named_parameters()),
        list(learners.weight_network.parameters()),
        inner_steps=2, outer_steps=1, lr=LR, momentum=MOMENTUM, weight_decay=DECAY,
    )  # fmt: skip


def plain_update(parameters, gradients, buffers):
    """SGD with Nesterov momentum; buffers: of the steps before, None before the first."""
    with torch.no_grad():
        decayed = [g + DECAY * p for g, p in zip(gradients, parameters, strict=True)]
        buffers = decayed if buffers is None else [MOMENTUM * m + g for m, g in zip(buffers, decayed, strict=True)]
        for p, g, m in zip(parameters, decayed, buffers, strict=True):
            p -= LR * (g + MOMENTUM * m)
    return buffers


def state(learners):
    tensors = [*learners.cohort.state_dict().items(), *learners.objective.state_dict().items()]
    tensors += [*learners.weight_network.state_dict().items()]
    return torch.cat([value.double().flatten() for name, value in tensors if "num_batches" not in name])


def train(pair, dtype):
    learners = make(pair, dtype)
    step, event = learners.method.step, learners.method.meta_event
    for number, (images, labels) in enumerate(learners.batches):
        step(images.contiguous(memory_format=torch.channels_last), labels)
        if number in EVENTS:
            event.apply(event.hypergradient(images, labels, LR))
    return state(learners)


def train_plainly(pair):
    learners = make(pair, torch.float64)
    learners.cohort.to(memory_format=torch.contiguous_format)
    trained = [*learners.cohort.parameters(), *learners.objective.parameters()]
    weights = [*learners.weight_network.parameters()]
    momenta = weight_momenta = None
    for number, (images, labels) in enumerate(learners.batches):
        loss = plain_loss(learners, learners.cohort(images), labels)
        momenta = plain_update(trained, torch.autograd.grad(loss, trained), momenta)
        if number in EVENTS:
            weight_momenta = plain_update(weights, plain_event_gradients(learners, images, labels), weight_momenta)
    return state(learners)


@pytest.mark.parametrize("pair", PAIRS)
def test_one_step_and_event_in_float64(pair):
    ours, plain = make(pair, torch.float64), make(pair, torch.float64)
    images, labels = ours.batches[0]
    loss = sum(ours.objective(ours.cohort(images), labels).values())
    plainly = plain_loss(plain, plain.cohort(images), labels)
    trained = [*ours.cohort.parameters(), *ours.objective.parameters()]
    same = [*plain.cohort.parameters(), *plain.objective.parameters()]
    event = ours.method.meta_event
    for a, b in [
        (loss, plainly),
        *zip(torch.autograd.grad(loss, trained), torch.autograd.grad(plainly, same), strict=True),
        *zip(event.hypergradient(images, labels, LR), plain_event_gradients(plain, images, labels), strict=True),
    ]:
        assert (a - b).abs().max() <= 1e-12 * b.abs().max()


@pytest.mark.parametrize("pair", ["homogeneous", pytest.param("heterogeneous", marks=pytest.mark.full)])
def test_twenty_steps_with_two_events(pair):
    """Within rounding: in float64, and in float32, where it may put a ReLU's input on the other side of zero."""
    begun, ended = state(make(pair, torch.float64)), train_plainly(pair)
    way = (ended - begun).norm()
    assert (train(pair, torch.float64) - ended).norm() <= 1e-11 * way
    assert (train(pair, torch.float32) - ended).norm() <= 1e-3 * way
