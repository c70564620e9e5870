"""task=export: the networks of a run as files that need neither the run nor, but for one kind, mcl_lab.

B batch, C classes, N images.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mcl_lab.config.key import file_name
from mcl_lab.data.datasets import ImageSet
from mcl_lab.errors import InputError, RunFailed
from mcl_lab.networks.cohort import Peer
from mcl_lab.networks.portable import PortableNetwork
from mcl_lab.tasks import build
from mcl_lab.tasks.failures import in_one_line
from mcl_lab.tasks.folders import output_folder, write_outputs
from mcl_lab.tasks.portable import as_text, card_of, network_of, weights_of
from mcl_lab.tasks.programs import Computing, onnx_of, pt2_of, refuse_missing, run_onnx, run_pt2, traced, what_lacks
from mcl_lab.tasks.screen import say, screen, table
from mcl_lab.tasks.trained import Trained, data_of, names_data, networks_of, read_trained, test_images
from mcl_lab.tracking.delivery import NOT_INSTALLED, one_line
from mcl_lab.training.checkpoints import checksum_of_weights

FORMATS = ("safetensors", "onnx", "pt2")
NOISE = 64  # images
BATCH = 256
TOLERANCE = 1e-3  # of logits, relative to the largest: rounding is a hundredth of it


def export(
    config: DictConfig,
    *,
    checkpoint: Annotated[str, "not empty"],
    peer: Annotated[str, "not empty"] | None = None,
    folder: Annotated[str, "not empty"] | None = None,
    formats: Sequence[Literal["safetensors", "onnx", "pt2"]] | None = None,
    mlflow: bool = False,
    images: Annotated[int, ">= 0"] | None = 1000,
    format: Literal["table", "json"] = "table",
) -> None:
    """Write each peer's own network, without branches and in float32, as PEER-NETWORK.safetensors, .onnx and .pt2, with a
    card, PEER-NETWORK.json; before, load each back and compare what it computes with the network, on the CPU.

    checkpoint: a run folder, or a checkpoint file in one. peer: its key; null: all.
    folder: where to; null: `export` in the run folder, whose files are replaced; elsewhere none is.
    formats: of the files; null: all whose packages are installed; none, only with `mlflow`, writes none.
    mlflow: as models of the run in MLflow, for mlflow.pytorch.load_model; what is logged already with the same weights is
    left as it is.
    images: compared on so many test images, evenly taken from all; null: on all; 0, or without the data: on noise.
    Raises InputError, and RunFailed for a file that computes something else; then nothing is written.
    """
    if formats is None:
        formats = [name for name in FORMATS if not what_lacks(name)]
        for name in set(FORMATS) - set(formats):
            say(f"left out: {what_lacks(name)}")
    if not formats and not mlflow:
        raise InputError("task.formats", f"needs one of {', '.join(FORMATS)}")
    refuse_missing(formats)
    trained = read_trained(checkpoint)
    networks = networks_of(trained, peer)
    stems = {key: f"{key}-{file_name(trained.config.pair.peers[key].name)}" for key in networks}
    all_names = [f"{stem}.{kind}" for stem in stems.values() for kind in ("json", *FORMATS)]
    place = output_folder(trained.folder, "export", folder, all_names)
    build.use_device(OmegaConf.merge(config.trainer, {"device": "cpu", "precision": "float32", "graphs": False}))
    subject = subject_of(trained, config, images)

    contents, rows, models, expected = {}, [], {}, {}
    with in_one_line(trained.config, place):
        for key, network in networks.items():
            made = files_of(network, stems[key], formats, subject.images.images.shape[-2:])
            card = card_of(trained, key, tuple(subject.images.images.shape[-2:]), made)
            expected[key] = as_trained(trained, network, subject)
            rows += [{"peer": key, **row} for row in compared(expected[key], card, made, subject)]
            contents[f"{stems[key]}.json"] = as_text(card)  # first: without its card no file is taken for anything
            contents |= made
        if formats:
            write_outputs(place, contents)
            for name in set(all_names) - contents.keys():
                (place / name).unlink(missing_ok=True)  # of an earlier export, of which no card tells any more
        if mlflow:
            models = logged(trained.folder, networks, stems, expected, subject)
    if format == "json":
        told = {"folder": str(place), "compared_on": subject.words, "images": len(subject.images)}
        told |= {"files": rows, "models": models}
        print(json.dumps(told, indent=2))
        return
    console, names = screen(), {key: f"{key}: {trained.config.pair.peers[key].name}" for key in networks}
    shown = table(f"Compared on {subject.words}", ["peer", "file"], ["MB", "top-1", "max difference\nof logits"])
    for row in rows:
        size = "" if row["bytes"] is None else f"{row['bytes'] / 2**20:.2f}"
        top1 = "" if row["top1"] is None else f"{row['top1']:.2f}"
        difference = "" if row["max_difference"] is None else f"{row['max_difference']:.1e}"
        shown.add_row(names[row["peer"]], row["file"] or "(as trained)", size, top1, difference)
    console.print(shown)
    if formats:
        console.print(f"exported to {place}", soft_wrap=True)
    for key, address in models.items():
        console.print(f"{names[key]} in MLflow: mlflow.pytorch.load_model({address!r})", soft_wrap=True)


class Subject(NamedTuple):
    """What the networks are compared on."""

    images: ImageSet
    labelled: bool
    words: str


def subject_of(trained: Trained, config: DictConfig, count: int | None) -> Subject:
    """So many test images, or noise. Raises InputError for a data set that the command line names and that cannot be had,
    or is of other classes."""
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
            return Subject(chosen, True, f"{part} test images of {data.name}")
    side = data_of(trained, config).images.get("size", 32)
    noise = torch.randint(256, (NOISE, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(NOISE, dtype=torch.int64)
    return Subject(ImageSet(noise, labels, trained.facts.classes), False, f"{NOISE} images of noise, {side} x {side}")


def files_of(
    network: PortableNetwork, stem: str, formats: Sequence[str], image_size: tuple[int, int]
) -> dict[str, bytes]:
    """The contents of a network's files by name."""
    made = {"safetensors": weights_of(network)} if "safetensors" in formats else {}
    if {"onnx", "pt2"} & set(formats):
        program = traced(network, tuple(image_size))
        made |= {name: write(program) for name, write in (("onnx", onnx_of), ("pt2", pt2_of)) if name in formats}
    return {f"{stem}.{name}": content for name, content in made.items()}


def compared(expected: Tensor, card: dict, files: Mapping[str, bytes], subject: Subject) -> list[dict]:
    """A row for the network as it was trained, with logits `expected` (N, C), and for each file of it.

    Raises RunFailed for a file that computes something else.
    """
    rows = [{"file": None, "bytes": None, "top1": _top1(expected, subject), "max_difference": None}]
    for name, content in files.items():
        computing = _loaded_back(name, content, card)
        row = {"file": name, "bytes": len(content), "top1": None, "max_difference": None}
        if computing is None:
            say(f"{name} was not run, without onnxruntime: pip install onnxruntime")
        else:
            logits, difference = refuse_other(name, computing, expected, subject)
            row |= {"top1": _top1(logits, subject), "max_difference": difference}
        rows.append(row)
    return rows


def logged(
    run: Path,
    networks: Mapping[str, PortableNetwork],
    stems: Mapping[str, str],
    expected: Mapping[str, Tensor],
    subject: Subject,
) -> dict[str, str]:
    """Each peer's network as a model of its run in MLflow, by address.

    run: its folder. stems: the models' names, and expected: the logits (N, C), by peer.
    Raises InputError without MLflow, and RunFailed when it fails or gives something else back.
    """
    try:
        from mcl_lab.tracking.mlflow_models import MlflowException, RunModels  # costs seconds
    except ImportError as error:
        raise InputError("task.mlflow", NOT_INSTALLED) from error
    try:
        models, found = RunModels(run), {}
        for key, network in networks.items():
            weights = checksum_of_weights({key: network.network.state_dict()})
            size = tuple(subject.images.images.shape[-2:])
            found[key] = models.log(stems[key], network, size, len(network.classes), weights)
            refuse_other(found[key], models.load(found[key]), expected[key], subject)
    except MlflowException as error:
        raise RunFailed(f"not logged to MLflow: {one_line(error)}") from error
    return found


def refuse_other(name: str, computing: Computing, expected: Tensor, subject: Subject) -> tuple[Tensor, float]:
    """The logits (N, C) that something computes, and how much they differ at most. Raises RunFailed when they are others."""
    with torch.inference_mode():
        logits = torch.cat([computing(batch.float() / 255) for batch in subject.images.images.split(BATCH)])
    difference = float((logits - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise RunFailed(f"{name} computes other logits than the network, by {difference:.1e}")
    return logits, difference


def as_trained(trained: Trained, network: PortableNetwork, subject: Subject) -> Tensor:
    """Logits (N, C) as training and evaluation compute them."""
    peer = Peer(network.network, branches=False).eval()
    batches = build.evaluation_batches(subject.images, trained.facts, trained.config)
    with torch.inference_mode():
        return torch.cat([peer(images)[1][-1] for images, _ in batches])


def _loaded_back(name: str, content: bytes, card: dict) -> Computing | None:
    match name.rpartition(".")[2]:
        case "safetensors":
            computing = network_of(card, content)
        case "pt2":
            computing = run_pt2(content)
        case "onnx":
            computing = run_onnx(content)
    return computing and torch.inference_mode()(computing)


def _top1(logits: Tensor, subject: Subject) -> float | None:
    """Accuracy in %; None without labels."""
    return float(100 * (logits.argmax(-1) == subject.images.labels).double().mean()) if subject.labelled else None
