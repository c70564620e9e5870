"""A config's training on images of noise, with everything that is to be measured of it within reach."""

from collections.abc import Callable, Iterator
from functools import cache

import torch
from omegaconf import DictConfig
from torch import Tensor

from mcl_lab.assembly.data import Data, DataFacts, evaluation_batches, training_batches
from mcl_lab.assembly.device import use_device
from mcl_lab.assembly.learners import build_learners
from mcl_lab.assembly.updates import build_updates
from mcl_lab.data.datasets import ImageSet
from mcl_lab.training.evaluation import evaluate
from mcl_lab.training.graphs import WARM_UP, Graphed
from mcl_lab.training.measurement import Stopwatch, copy_rate, count_multi_adds, count_operations, multi_adds_rate
from mcl_lab.training.memory import PeakMemory
from mcl_lab.training.randomness import seed_everything
from mcl_lab.training.step import Step

EVALUATED = 4  # batches, of which the time of a whole pass is made


@cache  # subjects that are compared share it, or each would count the other's as memory of its own
def noise(count: int, num_classes: int, size: int, device: torch.device) -> ImageSet:
    """Images of size x size, of each class in turn."""
    pixels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(count) % num_classes, tuple(map(str, range(num_classes)))).to(device)


class Subject:
    """A config's training on noise, standing anywhere in its first epochs."""

    def __init__(self, config: DictConfig, threads: int, images: int, test_images: int, num_classes: int, size: int):
        self.config, self.threads = config, threads
        self.device = self.use()
        seed_everything(config.seed)
        train, test = (noise(count, num_classes, size, self.device) for count in (images, test_images))
        mean, std = config.data.mean or [0.5] * 3, config.data.std or [0.25] * 3
        facts = DataFacts(train.classes, tuple(mean), tuple(std), checksum="")
        self.data = Data(train, {"test": test}, facts, [], [])
        self.learners = build_learners(config, num_classes, self.device, (size, size))
        self.updates = build_updates(config, self.learners)
        of_cohort = self.learners.cohort, self.learners.objective, self.updates.optimizer
        self.plain = Step(*of_cohort)
        self.step = Step(*of_cohort, config.trainer.compile, config.trainer.graphs)
        self.event = self.updates.meta_event
        if self.event is not None:
            event = self.event.hypergradient
            self.hypergradient = Graphed(event, self.device) if config.trainer.graphs else event
        self.batches = training_batches(config, self.data)
        self.endless = self._endless()
        self.test_batches = evaluation_batches(self.data.evaluated["test"], facts, config)
        self.learners.cohort.train()

    def use(self) -> torch.device:
        """Set threads and precision of the process as this config has them."""
        torch.set_num_threads(self.threads)
        return use_device(self.config.trainer)

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = 0
        while True:
            yield from self.batches.epoch(epoch)
            epoch += 1

    def time_step(self) -> dict[str, float]:
        """Seconds of a step and of each of its parts."""
        watch = Stopwatch(self.device)
        images, labels = next(self.endless)
        watch.mark("data")
        if self.config.trainer.graphs:
            self.step.gradients(images, labels)
            watch.mark("graph")
        else:
            output = self.step.forward(images)
            watch.mark("forward")
            terms = self.step.loss(output, labels)
            watch.mark("loss")
            self.step.backward(terms)
            watch.mark("backward")
        self.updates.optimizer.step()
        watch.mark("optimizer")
        parts = watch.seconds()
        return {"step": sum(parts.values()), **parts}

    def time_evaluation(self) -> dict[str, float]:
        """Seconds of a pass over all test images, from those of a few batches."""
        batches = [batch for batch, _ in zip(self.test_batches, range(EVALUATED), strict=False)]
        watch = Stopwatch(self.device)
        objective = self.learners.objective
        evaluate(self.learners.cohort, objective.ensembles, batches, objective.pair_weights, [objective])
        watch.mark("evaluation")
        share = sum(len(labels) for _, labels in batches) / len(self.data.evaluated["test"])
        return {"evaluation": watch.seconds()["evaluation"] / share}

    def time_meta_event(self) -> dict[str, float]:
        """Seconds of a meta event, nothing for a loss without."""
        if self.event is None:
            return {}
        images, labels = next(self.endless)
        watch = Stopwatch(self.device)
        self._apply(self.hypergradient, images, labels)
        watch.mark("meta_event")
        return watch.seconds()

    def _apply(self, hypergradient: Callable, images: Tensor, labels: Tensor) -> None:
        self.event.apply(hypergradient(images, labels, self.updates.optimizer.param_groups[0]["lr"]))

    def counts(self, warmup: int) -> dict:
        """What does not need to be measured again and again: memory, operations, arithmetic; warmed up on the way. Operations are
        those of a step or event as it is written, which compiling may fuse."""
        self.use()
        warmup = max(warmup, WARM_UP + 1) if self.config.trainer.graphs else warmup
        self.step(*next(self.endless))  # which compiles it, when it is to be
        images, labels = next(self.endless)
        output = self.learners.cohort(images)
        leaves = [[x.detach().requires_grad_() for x in stages] for stages in output.embeddings]
        logits = [[x.detach().requires_grad_() for x in stages] for stages in output.logits]
        detached = type(output)(leaves, logits)
        del output
        operations = {
            "step": count_operations(lambda: self.plain(images, labels)),
            "loss": count_operations(lambda: self.plain.backward(self.plain.loss(detached, labels))),
        }
        peak = PeakMemory(self.device)
        for _ in range(warmup):
            self.step(*next(self.endless))
        memory = {"step": peak.read()}
        multi_adds = {"step": count_multi_adds(lambda: self.plain(images, labels))}
        if self.event is not None:
            plain_event = self.event.hypergradient
            operations["meta_event"] = count_operations(lambda: self._apply(plain_event, images, labels))
            peak = PeakMemory(self.device)
            for _ in range(warmup if self.config.trainer.graphs else 1):
                self._apply(self.hypergradient, images, labels)
            memory["meta_event"] = peak.read()
        trainer = self.config.trainer
        dtype = torch.bfloat16 if trainer.precision == "bf16" else torch.float32
        return {
            "peers": {key: self.config.pair.peers[key].name for key in self.learners.cohort.peers},
            "loss": str(self.config.hydra.runtime.choices.loss),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "precision": trainer.precision,
            "channels_last": trainer.channels_last,
            "images": len(self.data.train),
            "test_images": len(self.data.evaluated["test"]),
            "batch_size": len(labels),
            "steps_an_epoch": len(self.batches),
            "events_an_epoch": self._events_an_epoch(),
            "epochs": trainer.epochs,
            "operations": {name: counted.count for name, counted in operations.items()},
            "step_bytes": operations["step"].bytes,
            "step_multi_adds": multi_adds["step"],
            "peak_memory": memory,
            "multi_adds_rate": multi_adds_rate(self.device, dtype),
            "copy_rate": copy_rate(self.device),
        }

    def _events_an_epoch(self) -> int:
        return 0 if self.event is None else sum(map(self.event.due, range(len(self.batches))))
