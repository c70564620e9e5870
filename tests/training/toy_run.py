"""A run small enough to be interrupted everywhere: two peers of a few weights, with dropout, BatchNorm, an objective
that has a parameter of its own, and a meta event that trains another."""

import io
from collections import namedtuple
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mcl_lab.training.method import Method, Update
from mcl_lab.training.randomness import seed_everything
from mcl_lab.training.schedules import Cosine
from mcl_lab.training.trainer import Trainer

CLASSES, PIXELS = 3, 12
Output = namedtuple("Output", "embeddings logits")


class Peer(nn.Module):
    """Two heads: one on the images, the network's own behind BatchNorm and dropout."""

    def __init__(self):
        super().__init__()
        self.stage1 = nn.Linear(PIXELS, CLASSES)
        self.norm = nn.BatchNorm1d(PIXELS)
        self.own = nn.Linear(PIXELS, CLASSES)

    def forward(self, images):
        pixels = images.flatten(1)
        return [self.stage1(pixels), self.own(nn.functional.dropout(self.norm(pixels), 0.3, self.training))]


class ToyCohort(nn.Module):
    def __init__(self):
        super().__init__()
        self.peers = nn.ModuleDict({"a": Peer(), "b": Peer()})

    def forward(self, images):
        logits = [peer(images) for peer in self.peers.values()]
        return Output(logits, logits)


class ToyObjective(nn.Module):
    """`hook(step)` is called in each training step, to send signals from."""

    pair_weights = None

    def __init__(self, weight, hook=lambda step: None):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.weight = weight
        self.hook = hook
        self.calls = 0

    def forward(self, output, labels):
        self.calls += 1
        self.hook(self.calls)
        heads = [cross_entropy(self.scale * logits, labels) for peer in output.logits for logits in peer]
        return {"own": heads[1] + heads[3], "inner": self.weight.detach() * (heads[0] + heads[2])}

    def ensembles(self, output):
        return [sum(peer) for peer in output.logits]


class ToyMetaEvent:
    """Moves the weight by a gradient that depends on the cohort, the batch and the learning rate."""

    def __init__(self, cohort, weight, optimizer, every, hook=lambda: None):
        self.cohort, self.weight, self.optimizer, self.every, self.hook = cohort, weight, optimizer, every, hook
        self.events = []

    def due(self, batch):
        return batch % self.every == 0

    def hypergradient(self, images, labels, lr):
        with torch.no_grad():
            self.cohort.eval()
            gradient = lr * sum(cross_entropy(peer[1], labels) for peer in self.cohort(images).logits) - self.weight
            self.cohort.train()
        self.hook()
        return [gradient]

    def apply(self, gradients):
        self.events.append(gradients[0].item())
        self.weight.grad = gradients[0]
        self.optimizer.step()


class ToyBatches:
    """`batches` batches of four images an epoch, a function of the epoch alone."""

    def __init__(self, batches=5):
        self.batches = batches

    def __len__(self):
        return self.batches

    def epoch(self, epoch, start=0):
        generator = torch.Generator().manual_seed(100 + epoch)
        images = torch.randn(self.batches, 4, 3, 2, 2, generator=generator)
        labels = torch.randint(CLASSES, (self.batches, 4), generator=generator)
        yield from list(zip(images, labels, strict=True))[start:]


class Shown:
    """Remembers what a person would have seen."""

    def __init__(self):
        self.steps, self.epochs = [], []

    def of(self, *, epochs, steps, done):
        self.total, self.done = steps, done
        return nullcontext()

    def step(self, epoch, step, metrics):
        self.steps.append((epoch, step, metrics))

    def epoch(self, record):
        self.epochs.append(record)


class ToyRun:
    """A trainer with all that it was made of, and the checkpoints and records it wrote, in the order of writing."""

    def __init__(
        self,
        *,
        epochs=3,
        max_steps=None,
        checkpoint_steps=None,
        every=2,
        meta=True,
        in_step=lambda step: None,
        in_event=lambda: None,
        test=None,
        seed=0,
        lr=0.1,
        graphs=False,
    ):
        seed_everything(seed)
        self.cohort, self.weight = ToyCohort(), nn.Parameter(torch.tensor(0.5))
        self.objective = ToyObjective(self.weight, in_step)
        params = [*self.cohort.parameters(), *self.objective.parameters()]
        optimizer = torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True)
        weight_optimizer = torch.optim.SGD([self.weight], lr=lr, momentum=0.9)
        self.saved, self.journal, self.written, self.shown = [], [], [], Shown()
        self.meta_event = ToyMetaEvent(self.cohort, self.weight, weight_optimizer, every, in_event) if meta else None
        method = Method(
            self.cohort,
            self.objective,
            Update(optimizer, Cosine(optimizer, epochs)),
            weight_network=nn.ParameterList([self.weight]) if meta else None,
            weight_update=Update(weight_optimizer, Cosine(weight_optimizer, epochs)) if meta else None,
            meta_event=self.meta_event,
            graphs=graphs,
        )
        self.trainer = Trainer(
            method,
            ToyBatches(),
            {"test": test or list(ToyBatches(3).epoch(-1))},
            epochs=epochs,
            max_steps=max_steps,
            checkpoint_steps=checkpoint_steps,
            save=self._save,
            record=self._record,
            progress=self.shown,
        )

    def _save(self, state, _, step):
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.saved.append((step, buffer.getvalue()))
        self.written.append(("checkpoint", step))

    def _record(self, record):
        self.journal.append(record)
        self.written.append(("record", record["step"]))

    def resume(self, content):
        """Stand at a checkpoint, read as a new process would read it."""
        self.trainer.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))
        return self

    def outcome(self):
        """All that must not depend on interruptions: states of all parts, and the records but for the clock."""
        return self.trainer.method.state_dict(), [timeless(record) for record in self.trainer.records]


def timeless(record):
    clock = ("seconds", "images_per_second")
    metrics = {name: value for name, value in record["metrics"].items() if not name.endswith(clock)}
    return {**record, "metrics": metrics, "time_ms": None}


def equal(first, second):
    """Whether two nested values are the same, tensors to the bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second
