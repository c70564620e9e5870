"""What exported files compute, beside the network that they were made of.

B batch, C classes, N images.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import torch
from omegaconf import DictConfig
from torch import Tensor

from mcl_lab.assembly.data import evaluation_batches
from mcl_lab.assembly.restore import Trained, data_of, names_data, test_images
from mcl_lab.data.datasets import ImageSet
from mcl_lab.errors import InputError, RunFailed
from mcl_lab.export.card import network_of
from mcl_lab.export.programs import Computing, run_onnx, run_pt2
from mcl_lab.host.screen import say
from mcl_lab.networks.cohort import Peer
from mcl_lab.networks.portable import PortableNetwork

NOISE = 64  # images
BATCH = 256
TOLERANCE = 1e-3  # of logits, relative to the largest: rounding is a hundredth of it


class ComparisonImages(NamedTuple):
    """The images that networks are compared on."""

    images: ImageSet
    labelled: bool
    words: str  # what they are

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.images.images.shape[-2:]
        return height, width


class ComparedFile(TypedDict):
    """A row of what task=export tells; the names are those of its JSON."""

    file: str | None  # None for the network as it was trained
    bytes: int | None
    top1: float | None  # in %; None without labels
    max_difference: float | None  # of its logits from those of the trained network


def comparison_images(trained: Trained, config: DictConfig, count: int | None) -> ComparisonImages:
    """So many test images, None for all, or noise for 0 and where they cannot be had. Raises InputError for a data set that the
    command line names and that cannot be had, or is of other classes."""
    if count != 0:
        try:
            data, images = test_images(trained, config)
        except InputError as error:
            if names_data(config):
                raise
            say(f"compared on noise, as the test images cannot be had: {error}")
        else:
            total, count = len(images), min(count or len(images), len(images))
            chosen = images.subset(torch.arange(count) * total // count)
            part = f"{count:,} of {total:,}" if count < total else f"{total:,}"
            return ComparisonImages(chosen, True, f"{part} test images of {data.name}")
    side = data_of(trained, config).images.get("size", 32)
    noise = torch.randint(256, (NOISE, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageSet(noise, torch.zeros(NOISE, dtype=torch.int64), trained.facts.classes)
    return ComparisonImages(images, False, f"{NOISE} images of noise, {side} x {side}")


def trained_logits(trained: Trained, network: PortableNetwork, images: ComparisonImages) -> Tensor:
    """Logits (N, C) as training and evaluation compute them."""
    peer = Peer(network.network, branches=False).eval()
    run = trained.config
    batches = evaluation_batches(
        images.images, trained.facts, batch_size=run.data.batch_size, channels_last=run.trainer.channels_last
    )
    with torch.inference_mode():
        return torch.cat([peer(batch)[1][-1] for batch, _ in batches])


def compare_files(
    files: Mapping[str, bytes], card: dict, expected: Tensor, images: ComparisonImages
) -> list[ComparedFile]:
    """A row for the network as it was trained, with logits `expected` (N, C), and for each of its files, by name, loaded back.

    Raises RunFailed for a file that computes something else.
    """
    rows: list[ComparedFile] = [{"file": None, "bytes": None, "top1": _top1(expected, images), "max_difference": None}]
    for name, content in files.items():
        computing = _load_back(name, content, card)
        row: ComparedFile = {"file": name, "bytes": len(content), "top1": None, "max_difference": None}
        if computing is None:
            say(f"{name} was not run, without onnxruntime: pip install onnxruntime")
        else:
            logits, row["max_difference"] = compare_logits(name, computing, expected, images)
            row["top1"] = _top1(logits, images)
        rows.append(row)
    return rows


def compare_logits(name: str, computing: Computing, expected: Tensor, images: ComparisonImages) -> tuple[Tensor, float]:
    """The logits (N, C) that something called `name` computes, and how much they differ from the expected at most. Raises
    RunFailed when that is more than rounding."""
    with torch.inference_mode():
        logits = torch.cat([computing(batch.float() / 255) for batch in images.images.images.split(BATCH)])
    difference = float((logits - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise RunFailed(f"{name} computes other logits than the network, by {difference:.1e}")
    return logits, difference


def _load_back(name: str, content: bytes, card: dict) -> Computing | None:
    """What a file computes; None for ONNX without onnxruntime."""
    computing: Computing | None
    match name.rpartition(".")[2]:
        case "safetensors":
            computing = network_of(card, content)
        case "pt2":
            computing = run_pt2(content)
        case "onnx":
            computing = run_onnx(content)
    return computing and torch.inference_mode()(computing)


def _top1(logits: Tensor, images: ComparisonImages) -> float | None:
    """Accuracy in %; None without labels."""
    return float(100 * (logits.argmax(-1) == images.images.labels).double().mean()) if images.labelled else None
