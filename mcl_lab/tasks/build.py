"""From a config to the objects of a run. All that they refuse is an InputError, and nothing is written."""

import copy
import hashlib
import inspect
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mcl_lab.data.datasets import ImageSet, Splits, channel_statistics, split_validation
from mcl_lab.data.image_files import first_few
from mcl_lab.data.loaders import EvaluationBatches, TrainingBatches
from mcl_lab.errors import InputError
from mcl_lab.losses.classification import classification
from mcl_lab.losses.objective import Objective
from mcl_lab.losses.term import LossInput
from mcl_lab.networks.cohort import Cohort
from mcl_lab.networks.staged import StagedNetwork
from mcl_lab.tasks.failures import is_out_of_memory
from mcl_lab.training.memory import keep_freed_memory

FUSED = {f"torch.optim.{name}" for name in ("SGD", "Adam", "AdamW")}  # that update all parameters by a kernel or a few


def create(key: str, node: DictConfig, **offered):
    """The object that a `_target_` node names, from its arguments and those of the offered ones that it takes.

    Raises InputError(key) for what the constructor refuses.
    """
    try:
        target = hydra.utils.get_object(node._target_)
    except ImportError as error:
        raise InputError(f"{key}._target_", f"cannot be imported: {error}") from error
    asked = inspect.signature(target).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in asked.values())
    arguments = OmegaConf.to_container(node, resolve=True)
    arguments = {name: value for name, value in arguments.items() if name != "_target_"}
    try:
        return target(**arguments, **{name: value for name, value in offered.items() if takes_all or name in asked})
    except (ValueError, RuntimeError) as error:  # what constructors raise, PyTorch's among them
        raise InputError(key, str(error)) from error
    except TypeError as error:
        if not takes_all or "argument" not in str(
            error
        ):  # else an argument that **kwargs handed on to what has no such
            raise
        raise InputError(key, str(error)) from error


def device_of(trainer: DictConfig) -> torch.device:
    """The device that trainer.device means, a CUDA device with its number. Raises InputError("trainer.device")."""
    name = trainer.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        return device
    device, count = torch.device("cuda", device.index or 0), torch.cuda.device_count()
    if device.index >= count:
        raise InputError("trainer.device", f"{name} is not there ({count} CUDA devices); use cpu or auto")
    return device


def use_device(trainer: DictConfig) -> torch.device:
    """The device to train on, with threads, precision and determinism set. Raises InputError("trainer.device")."""
    device = device_of(trainer)
    if device.type == "cuda":
        try:
            torch.cuda.set_device(device)  # whose stream events and copies are then on
            torch.zeros(1, device=device)
        except RuntimeError as error:  # another process has it to itself; a GPU that this PyTorch has no kernels for
            reason = str(error).partition("\n")[0]
            raise InputError("trainer.device", f"{device} cannot be used: {reason}; use another, or cpu") from error
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    if device.type == "cpu":
        keep_freed_memory()
    if trainer.precision == "tf32" and device.type == "cpu":
        raise InputError("trainer.precision", "tf32 needs a CUDA device; use float32 or bf16")
    if trainer.graphs and device.type == "cpu":
        raise InputError("trainer.graphs", "true needs a CUDA device; they are CUDA graphs")
    torch.backends.cudnn.allow_tf32 = trainer.precision == "tf32"  # of convolutions; losses stay float32
    torch.backends.cuda.matmul.allow_tf32 = False  # which an environment variable may have changed
    torch.backends.cudnn.benchmark = not trainer.deterministic
    os.environ.setdefault(
        "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
    )  # asked for by deterministic algorithms, harmless without
    torch.use_deterministic_algorithms(trainer.deterministic)
    return device


class DataFacts(NamedTuple):
    """What of the data goes with the trained networks: `mean` and `std` per channel, of images in [0, 1]; `checksum` of
    the training images and labels (SHA-256, first 16 digits), `test_checksum` of those that are evaluated, the test images and
    what was held out; None in checkpoints of older code."""

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checksum: str
    test_checksum: str | None = None


@dataclass(frozen=True)
class Data:
    """Images on the device they are used on. `left_out`: what could not be read of either part; `warnings`: in short."""

    train: ImageSet
    evaluated: dict[str, ImageSet]  # test, and validation when some were held out
    facts: DataFacts
    warnings: list[str]
    left_out: list[str]


def read_images(data: DictConfig) -> Splits:
    """Both parts. Raises InputError "data.images" for parts that do not go together, whatever the source promises."""
    splits = create("data.images", data.images, root=data.get("root"))
    train, test = splits
    if train.classes != test.classes:
        raise InputError("data.images", "the test images have other classes than the training images, or in another order")
    if train.images.shape[2:] != test.images.shape[2:]:
        sizes = " and ".join("{}x{}".format(*part.images.shape[2:]) for part in splits)
        raise InputError("data.images", f"training and test images must be of one size, these are {sizes}")
    for name, part in splits._asdict().items():
        if not len(part):
            raise InputError("data.images", f"there are no {name} images")
    return splits


def build_data(data: DictConfig, device: torch.device) -> Data:
    """Read the images, hold out those for validation, and bring them to the device."""
    splits = read_images(data)
    train, evaluated = parts_of(splits, data.validation)
    mean, std = (data.mean, data.std) if data.mean and data.std else channel_statistics(train.images)
    checksums = checksum(train), checksum(*evaluated.values())
    return Data(
        train=train.to(device),
        evaluated={name: images.to(device) for name, images in evaluated.items()},
        facts=DataFacts(train.classes, tuple(data.mean or mean), tuple(data.std or std), *checksums),
        warnings=[line for name, part in splits._asdict().items() for line in left_out_warning(name, part)],
        left_out=[f"{name} {file}" for name, part in splits._asdict().items() for file in part.left_out],
    )


def parts_of(splits: Splits, validation: float) -> tuple[ImageSet, dict[str, ImageSet]]:
    """What is trained on, and all that is evaluated: the test images and, if a share was asked for, those held out."""
    train, test = splits
    if validation == 0:
        return train, {"test": test}
    train, held_out = split_validation(train, validation, seed=0)  # whatever the run's seed, so that seeds can be compared
    return train, {"test": test, "validation": held_out}


def left_out_warning(name: str, images: ImageSet) -> list[str]:
    """A line about the images that could not be read, when there are any; name: of that part of the data set."""
    count = len(images.left_out)
    said = f"{count} of {len(images) + count} {name} images cannot be read and are left out: "
    return [said + first_few(images.left_out, between="; ")] if count else []


def checksum(*sets: ImageSet) -> str:
    """Of images and labels: SHA-256, its first 16 digits."""
    content = hashlib.sha256()
    for images in sets:
        content.update(images.images.contiguous().numpy())
        content.update(images.labels.contiguous().numpy())
    return content.hexdigest()[:16]


def training_batches(config: DictConfig, data: Data) -> TrainingBatches:
    """Batches as the loss wants them: class-balanced or plainly shuffled."""
    return TrainingBatches(
        data.train,
        batch_size=config.data.batch_size,
        class_balanced=config.loss.class_balanced,
        augmentation=create("data.augmentation", config.data.augmentation) if config.data.augmentation else None,
        mean=data.facts.mean,
        std=data.facts.std,
        seed=config.seed,
        channels_last=config.trainer.channels_last,
    )


def evaluation_batches(images: ImageSet, facts: DataFacts, config: DictConfig) -> EvaluationBatches:
    """All of `images`, normalised as the training images are."""
    return EvaluationBatches(
        images,
        batch_size=max(256, config.data.batch_size),
        mean=facts.mean,
        std=facts.std,
        channels_last=config.trainer.channels_last,
    )


@dataclass(frozen=True)
class Learners:
    """What learns: `weight_network` and `virtual_losses` when the loss has trained layer-matching weights."""

    cohort: Cohort
    objective: Objective
    weight_network: nn.Module | None
    virtual_losses: nn.Module | None


def build_learners(
    config: DictConfig, num_classes: int, device: torch.device, image_size: tuple[int, int] = (32, 32)
) -> Learners:
    """The cohort and its objective, freshly initialised from PyTorch's random state."""
    cohort = Cohort(
        {key: build_network(config.pair.peers[key], key, num_classes) for key in sorted(config.pair.peers)},
        branches=config.loss.branches,
        autocast=torch.bfloat16 if config.trainer.precision == "bf16" else None,
    ).to(device)
    if config.trainer.channels_last:
        cohort = cohort.to(memory_format=torch.channels_last)

    for name in config.loss:
        if hasattr(nn.ModuleDict(), str(name)) or "." in str(name):
            raise InputError(f"loss.{name}", "is a name that PyTorch's modules use themselves; choose another")
    nodes = {}
    for name, node in sorted(config.loss.items()):
        if isinstance(node, DictConfig) and name != "meta_event":
            made = create(f"loss.{name}", node, widths=cohort.widths, heads=cohort.heads, num_classes=num_classes)
            if not isinstance(made, nn.Module):
                raise InputError(f"loss.{name}._target_", f"{node._target_} is no torch.nn.Module")
            nodes[str(name)] = made.to(device)
    weight_network = nodes.pop("weight_network", None)
    aggregator = nodes.pop("aggregator", None)
    if not nodes and aggregator is None:
        raise InputError("loss", "has no term left")
    weighted = [term for term in nodes.values() if getattr(term, "uses_pair_weights", False)]
    if not weighted:
        weight_network = None  # there is nothing to weigh
    objective = Objective(nodes, aggregator=aggregator, pair_weights=_without_gradient(weight_network))
    virtual_losses = VirtualLosses(cohort, weighted) if weight_network is not None else None
    _refuse_useless(cohort, objective, torch.zeros(2, 3, *image_size, device=device), config.data.batch_size)
    return Learners(cohort, objective, weight_network, virtual_losses)


def build_network(node: DictConfig, key: str, num_classes: int) -> nn.Module:
    """A peer's network from its node of the config."""
    if hasattr(nn.ModuleDict(), key):
        raise InputError(f"pair.peers.{key}", "is a name that PyTorch's modules use themselves; choose another")
    arguments = OmegaConf.masked_copy(node, [name for name in node if name != "name"])
    network = create(f"pair.peers.{key}", arguments, num_classes=num_classes)
    if not isinstance(network, StagedNetwork):
        raise InputError(f"pair.peers.{key}._target_", f"{node._target_} is no StagedNetwork (mcl_lab.networks.staged)")
    return network


def build_optimizer(config: DictConfig, params: Iterable[nn.Parameter]) -> tuple[Optimizer, LRScheduler]:
    """An optimizer of `params` with its schedule."""
    chosen = {"foreach", "fused", "differentiable"} & set(config.optimizer)
    fused = {} if chosen or config.optimizer._target_ not in FUSED else {"fused": True}
    optimizer = create("optimizer", config.optimizer, params=list(params), **fused)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError(
            "optimizer._target_", "LBFGS evaluates the loss several times a step, which the trainer does not"
        )
    schedule = create("schedule", config.schedule, optimizer=optimizer, epochs=config.trainer.epochs)
    if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise InputError(
            "schedule._target_", "ReduceLROnPlateau goes by a figure; the schedule is a function of the epoch"
        )
    return optimizer, schedule


class Updates(NamedTuple):
    """What changes the learners. `parts`: optimizers and schedules by name, all that has a state."""

    optimizer: Optimizer
    schedules: list[LRScheduler]
    meta_event: object | None  # trains the weight network; None when the loss leaves it as it is
    parts: dict[str, object]


def build_updates(config: DictConfig, learners: Learners) -> Updates:
    """Optimizers with their schedules, one for what the loss trains, one for the weight network, and the meta event."""
    trained = [*learners.cohort.parameters(), *learners.objective.parameters()]
    optimizer, schedule = build_optimizer(config, trained)
    parts, schedules, meta_event = {"optimizer": optimizer, "schedule": schedule}, [schedule], None
    if learners.weight_network is not None:
        weight_optimizer, weight_schedule = build_optimizer(config, learners.weight_network.parameters())
        parts |= {"weight_optimizer": weight_optimizer, "weight_schedule": weight_schedule}
        schedules.append(weight_schedule)
        meta_event = build_meta_event(config, learners, weight_optimizer)
    return Updates(optimizer, schedules, meta_event, parts)


def build_meta_event(config: DictConfig, learners: Learners, optimizer: Optimizer):
    """The event that trains the weight network by `optimizer`; None when the loss leaves the network as it is."""
    if config.loss.get("meta_event") is None:
        return None
    return create(
        "loss.meta_event",
        config.loss.meta_event,
        losses=learners.virtual_losses,
        weight_network=learners.weight_network,
        optimizer=optimizer,
    )


class VirtualLosses(nn.Module):
    """What the virtual steps of a meta event change, the cohort and the terms' own parameters, and what they descend on."""

    def __init__(self, cohort: Cohort, weighted_terms: Iterable[nn.Module]):
        super().__init__()
        self.cohort = cohort
        self.weighted_terms = nn.ModuleList(weighted_terms)

    def forward(self, images: Tensor, labels: Tensor, weight_network: nn.Module | None) -> Tensor:
        """The terms under the weight network's weights; without one the heads' cross-entropy, which judges the weights."""
        embeddings, logits = self.cohort(images)
        if weight_network is None:
            return classification(logits, labels)
        batch = LossInput(embeddings, logits, None, labels, weight_network(embeddings))
        return sum(loss for term in self.weighted_terms for loss in term(batch).values())


def _refuse_useless(cohort: Cohort, objective: Objective, images: Tensor, batch_size: int) -> None:
    """A trial on blank images (2, 3, H, W), which may be too small for a network, and of an objective, which has no terms when
    all its weights are 0. A copy of the objective is tried, as terms may remember what they have seen, and on as many labels
    as a batch has."""
    cohort.eval()
    with torch.no_grad():
        try:
            output = cohort(images)
        except (RuntimeError, ValueError) as error:
            own = [peer.network for peer in cohort.peers.values() if not type(peer.network).__module__.startswith("mcl_lab.")]
            if own or is_out_of_memory(error):  # where somebody's own breaks, the traceback tells
                raise
            size = "{}x{}".format(*images.shape[2:])
            raise InputError("pair.peers", f"a network cannot take images of {size}: {error}") from error
        output = type(output)(*([[x[:1].repeat(batch_size, 1) for x in stages] for stages in peers] for peers in output))
        labels = torch.arange(batch_size, device=images.device) // 2 % output.logits[0][0].shape[-1]
        trial = copy.deepcopy(objective).eval()
        trial.pair_weights = None
        terms = trial(output, labels)
    cohort.train()
    if not terms:
        raise InputError("loss", "every term has weight 0")


def _without_gradient(weight_network: nn.Module | None):
    """As a function, so that the objective does not take the weight network for one of its own modules."""
    if weight_network is None:
        return None

    @torch.no_grad()
    def pair_weights(embeddings):
        return weight_network(embeddings)

    return pair_weights
