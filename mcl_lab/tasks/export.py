"""task=export: the networks of a run as files that need neither the run nor, but for one kind, mcl_lab.

B batch, C classes, N images.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from omegaconf import DictConfig, OmegaConf

from mcl_lab.assembly.device import use_device
from mcl_lab.assembly.restore import networks_of, read_trained
from mcl_lab.config.identity import file_name
from mcl_lab.errors import InputError
from mcl_lab.export.card import as_text, card_of, weights_of
from mcl_lab.export.comparison import compare_files, comparison_images, trained_logits
from mcl_lab.export.models import log_models
from mcl_lab.export.programs import NEEDED, Format, onnx_of, pt2_of, refuse_missing, traced, what_lacks
from mcl_lab.host.screen import say
from mcl_lab.networks.portable import PortableNetwork
from mcl_lab.runs.failures import in_one_line
from mcl_lab.runs.folders import output_folder, write_outputs
from mcl_lab.runs.layout import RunFolder
from mcl_lab.terminal.export import show_export
from mcl_lab.terminal.output import put_out


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
        formats = [name for name in NEEDED if not what_lacks(name)]
        for name in NEEDED.keys() - set(formats):
            say(f"left out: {what_lacks(name)}")
    if not formats and not mlflow:
        raise InputError("task.formats", f"needs one of {', '.join(NEEDED)}")
    refuse_missing(formats)
    trained = read_trained(checkpoint)
    networks = networks_of(trained, peer)
    stems = {key: f"{key}-{file_name(trained.config.pair.peers[key].name)}" for key in networks}
    all_names = [f"{stem}.{kind}" for stem in stems.values() for kind in ("json", *NEEDED)]
    place = output_folder(RunFolder(trained.folder).export, folder, all_names)
    plain_device = {"device": "cpu", "precision": "float32", "graphs": False}
    use_device(cast(DictConfig, OmegaConf.merge(config.trainer, plain_device)))
    compared_on = comparison_images(trained, config, images)

    contents: dict[str, bytes] = {}
    files: list[dict[str, Any]] = []
    expected, models = {}, {}
    with in_one_line(trained.config, place):
        for key, network in networks.items():
            made = files_of(network, stems[key], formats, compared_on.size)
            card = card_of(trained, key, compared_on.size, made)
            expected[key] = trained_logits(trained, network, compared_on)
            files += [{"peer": key, **row} for row in compare_files(made, card, expected[key], compared_on)]
            contents[f"{stems[key]}.json"] = as_text(card)  # first: without its card no file is taken for anything
            contents |= made
        if formats:
            write_outputs(place, contents)
            for file in set(all_names) - contents.keys():
                (place / file).unlink(missing_ok=True)  # of an earlier export, of which no card tells any more
        if mlflow:
            models = log_models(trained.folder, networks, stems, expected, compared_on)
    told = {"folder": str(place), "compared_on": compared_on.words, "images": len(compared_on.images)}
    told |= {"files": files, "models": models}
    names = {key: f"{key}: {trained.config.pair.peers[key].name}" for key in networks}
    written_to = place if formats else None
    put_out(format, told, lambda console: show_export(console, names, compared_on.words, files, written_to, models))


def files_of(
    network: PortableNetwork, stem: str, formats: Sequence[Format], image_size: tuple[int, int]
) -> dict[str, bytes]:
    """The contents of a network's files by name."""
    made = {"safetensors": weights_of(network)} if "safetensors" in formats else {}
    if {"onnx", "pt2"} & set(formats):
        program = traced(network, image_size)
        made |= {name: write(program) for name, write in (("onnx", onnx_of), ("pt2", pt2_of)) if name in formats}
    return {f"{stem}.{name}": content for name, content in made.items()}
