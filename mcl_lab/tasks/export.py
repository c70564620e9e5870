"""task=export: the networks of a run as files that need neither the run nor, but for one kind, mcl_lab.

B batch, C classes, N images.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from omegaconf import DictConfig, OmegaConf

from mcl_lab.assembly.device import use_device
from mcl_lab.assembly.restore import networks_of, read_trained
from mcl_lab.config.identity import file_name
from mcl_lab.errors import InputError
from mcl_lab.export.card import as_text, card_of, weights_of
from mcl_lab.export.comparison import as_trained, compared, subject_of
from mcl_lab.export.models import logged
from mcl_lab.export.programs import onnx_of, pt2_of, refuse_missing, traced, what_lacks
from mcl_lab.host.screen import say, screen, table
from mcl_lab.networks.portable import PortableNetwork
from mcl_lab.runs.failures import in_one_line
from mcl_lab.runs.folders import output_folder, write_outputs
from mcl_lab.runs.layout import RunFolder

FORMATS = ("safetensors", "onnx", "pt2")


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
    place = output_folder(RunFolder(trained.folder).export, folder, all_names)
    use_device(OmegaConf.merge(config.trainer, {"device": "cpu", "precision": "float32", "graphs": False}))
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


def files_of(
    network: PortableNetwork, stem: str, formats: Sequence[str], image_size: tuple[int, int]
) -> dict[str, bytes]:
    """The contents of a network's files by name."""
    made = {"safetensors": weights_of(network)} if "safetensors" in formats else {}
    if {"onnx", "pt2"} & set(formats):
        program = traced(network, tuple(image_size))
        made |= {name: write(program) for name, write in (("onnx", onnx_of), ("pt2", pt2_of)) if name in formats}
    return {f"{stem}.{name}": content for name, content in made.items()}
