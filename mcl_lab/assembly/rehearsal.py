"""A config's training on images of noise, with everything that is to be measured of it within reach."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from omegaconf import DictConfig

from mcl_lab.assembly.data import Data, DataFacts, evaluation_batches, training_batches
from mcl_lab.assembly.device import use_device
from mcl_lab.assembly.learners import build_learners
from mcl_lab.assembly.method import build_method
from mcl_lab.data.datasets import ImageSet
from mcl_lab.training.graphs import WARM_UP
from mcl_lab.training.measurement import Stopwatch, copy_rate, count_multi_adds, count_operations, multi_adds_rate
from mcl_lab.training.memory import PeakMemory
from mcl_lab.training.protocols import Batch, CohortOutput
from mcl_lab.training.randomness import seed_everything
from mcl_lab.training.step import Step

EVALUATED = 4  # batches, of which the time of a whole pass is made


@cache  # configs that are compared share it, or each would count the other's as memory of its own
def noise(count: int, num_classes: int, size: int, device: torch.device) -> ImageSet:
    """Images of size x size, of each class in turn."""
    pixels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(count) % num_classes, tuple(map(str, range(num_classes)))).to(device)


class Rehearsal:
    """A config's training on noise, standing anywhere in its first epochs."""

    def __init__(self, config: DictConfig, threads: int, images: int, test_images: int, num_classes: int, size: int):
        self.config, self.threads = config, threads
        self.device = self.use()
        seed_everything(config.seed)
        train, test = (noise(count, num_classes, size, self.device) for count in (images, test_images))
        mean, std = config.data.mean or [0.5] * 3, config.data.std or [0.25] * 3
        facts = DataFacts(train.classes, tuple(mean), tuple(std), checksum="")
        self.data = Data(train, {"test": test}, facts, [], [], "")
        learners = build_learners(config, num_classes, self.device, (size, size))
        self.method = build_method(config, learners, (size, size))
        self.plain_step = Step(self.method.cohort, self.method.objective, self.method.optimizer)
        layout = {"channels_last": config.trainer.channels_last}
        self.batches = training_batches(
            config.data, self.data, class_balanced=config.loss.class_balanced, seed=config.seed, **layout
        )
        self.test_batches = evaluation_batches(test, facts, batch_size=config.data.batch_size, **layout)
        self.endless = self._endless()
        self.method.cohort.train()

    def use(self) -> torch.device:
        """Set threads and precision of the process as this config has them."""
        torch.set_num_threads(self.threads)
        return use_device(self.config.trainer)

    def _endless(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            yield from self.batches.epoch(epoch)
            epoch += 1

    def time_step(self) -> dict[str, float]:
        """Seconds of a step and of each of its parts."""
        watch, step = Stopwatch(self.device), self.method.step
        images, labels = next(self.endless)
        watch.mark("data")
        if self.config.trainer.graphs:
            step.gradients(images, labels)
            watch.mark("graph")
        else:
            output = step.forward(images)
            watch.mark("forward")
            terms = step.loss(output, labels)
            watch.mark("loss")
            step.backward(terms)
            watch.mark("backward")
        self.method.optimizer.step()
        watch.mark("optimizer")
        parts = watch.seconds()
        return {"step": sum(parts.values()), **parts}

    def time_evaluation(self) -> dict[str, float]:
        """Seconds of a pass over all test images, from those of a few batches."""
        batches = [batch for batch, _ in zip(self.test_batches, range(EVALUATED), strict=False)]
        watch = Stopwatch(self.device)
        self.method.evaluate(batches, layer_weights=True)
        watch.mark("evaluation")
        share = sum(len(labels) for _, labels in batches) / len(self.data.evaluated["test"])
        return {"evaluation": watch.seconds()["evaluation"] / share}

    def time_meta_event(self) -> dict[str, float]:
        """Seconds of a meta event, nothing for a loss without."""
        if self.method.meta_event is None:
            return {}
        images, labels = next(self.endless)
        watch = Stopwatch(self.device)
        self.method.apply(self.method.hypergradient(images, labels))
        watch.mark("meta_event")
        return watch.seconds()

    def counts(self, warmup: int) -> dict[str, Any]:
        """What does not need to be measured again and again: memory, operations, arithmetic; warmed up on the way. Operations are
        those of a step or event as it is written, which compiling may fuse."""
        self.use()
        warmup = max(warmup, WARM_UP + 1) if self.config.trainer.graphs else warmup
        method, plain = self.method, self.plain_step
        method.step(*next(self.endless))  # which compiles it, when it is to be
        images, labels = next(self.endless)
        output = _Leaves(method.cohort(images))
        operations = {
            "step": count_operations(lambda: plain(images, labels)),
            "loss": count_operations(lambda: plain.backward(plain.loss(output, labels))),
        }
        memory = {"step": self._peak_memory(lambda: method.step(*next(self.endless)), warmup)}
        multi_adds = count_multi_adds(lambda: plain(images, labels))
        if (event := method.meta_event) is not None:

            def plain_event() -> None:
                event.apply(event.hypergradient(images, labels, method.learning_rate))

            operations["meta_event"] = count_operations(plain_event)
            times = warmup if self.config.trainer.graphs else 1
            memory["meta_event"] = self._peak_memory(lambda: method.apply(method.hypergradient(images, labels)), times)
        trainer = self.config.trainer
        dtype = torch.bfloat16 if trainer.precision == "bf16" else torch.float32
        return {
            "peers": {key: self.config.pair.peers[key].name for key in method.cohort.peers},
            "loss": str(self.config.hydra.runtime.choices.loss),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "precision": trainer.precision,
            "channels_last": trainer.channels_last,
            "images": len(self.data.train),
            "test_images": len(self.data.evaluated["test"]),
            "batch_size": len(labels),
            "steps_an_epoch": len(self.batches),
            "events_an_epoch": sum(map(method.event_due, range(len(self.batches)))),
            "epochs": trainer.epochs,
            "operations": {name: counted.count for name, counted in operations.items()},
            "step_bytes": operations["step"].bytes,
            "step_multi_adds": multi_adds,
            "peak_memory": memory,
            "multi_adds_rate": multi_adds_rate(self.device, dtype),
            "copy_rate": copy_rate(self.device),
        }

    def _peak_memory(self, work: Callable[[], object], times: int) -> int | None:
        peak = PeakMemory(self.device)
        for _ in range(times):
            work()
        return peak.read()


class _Leaves:
    """What a cohort puts out, detached from it."""

    def __init__(self, output: CohortOutput):
        self.embeddings, self.logits = (
            [[x.detach().requires_grad_() for x in stages] for stages in peers]
            for peers in (output.embeddings, output.logits)
        )
