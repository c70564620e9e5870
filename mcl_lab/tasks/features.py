"""task=features: what the networks of a run see in a data set, and how much of its classes can be told by it.

N images, D embedding width, C classes.
"""

import io
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mcl_lab.assembly.data import left_out_warning, read_images, remarks
from mcl_lab.assembly.device import use_device
from mcl_lab.assembly.restore import data_of, networks_of, read_trained, tell_other_images
from mcl_lab.config.identity import file_name
from mcl_lab.data.datasets import ImageSet
from mcl_lab.errors import InputError
from mcl_lab.host.screen import say
from mcl_lab.networks.portable import PortableNetwork
from mcl_lab.runs.failures import in_one_line
from mcl_lab.runs.folders import output_folder, write_outputs
from mcl_lab.runs.layout import RunFolder
from mcl_lab.terminal.features import show_features
from mcl_lab.terminal.output import put_out
from mcl_lab.training.probes import knn_accuracy, probe_accuracy

BATCH = 256


def features(
    config: DictConfig,
    *,
    checkpoint: Annotated[str, "not empty"],
    peer: Annotated[str, "not empty"] | None = None,
    folder: Annotated[str, "not empty"] | None = None,
    k: Annotated[int, ">= 1"] = 20,
    probe_c: Annotated[float, "> 0"] = 1.0,
    probe_iterations: Annotated[int, ">= 1"] = 1000,
    format: Literal["table", "json"] = "table",
) -> None:
    """Write each peer's embeddings of a data set as PEER-NETWORK-DATA.npz, and print what accuracies (%) on the test images
    they allow. Arrays: `train_embeddings` (N, D) float32, `train_labels` (N,) int64, places in `classes`, the same of test,
    and `classes` (C,).

    The data set is the run's own, unless the command line names another (`data=...`), of whatever classes; all its
    training images are taken, those too that a run held out; nothing is augmented. The networks compute in float32 and
    normalise the images as in training.
    checkpoint: a run folder, or a checkpoint file in one. peer: its key; null: all.
    folder: where to; null: `features` in the run folder, whose files are replaced; elsewhere none is.
    k: each test image gets the class that its k nearest training images by cosine vote for, each with weight
    exp(cosine / 0.07). probe_c, probe_iterations: of the linear probe, scikit-learn's LogisticRegression on embeddings
    standardised by the training images: the inverse of its regularisation, and the most iterations. Raises InputError.
    """
    trained = read_trained(checkpoint)
    networks = networks_of(trained, peer)
    data = data_of(trained, config)
    names = {key: trained.config.pair.peers[key].name for key in networks}
    files = {key: f"{key}-{file_name(name)}-{file_name(data.name)}.npz" for key, name in names.items()}
    place = output_folder(RunFolder(trained.folder).features, folder, files.values())
    device = use_device(cast(DictConfig, OmegaConf.merge(config.trainer, {"precision": "float32"})))
    splits = read_images(data)
    for part, images in splits._asdict().items():
        for line in [*left_out_warning(part, images), *remarks(part, images)]:
            say(line)
    tell_other_images(trained, config, splits)
    train, test = splits
    if k > len(train):
        raise InputError("task.k", f"must be at most {len(train)}, the number of training images, not {k}")
    if len(train.labels.unique()) < 2:
        raise InputError("data", f"{data.name} has training images of one class only, which cannot be told from others")

    peers: dict[str, dict[str, Any]] = {}
    contents: dict[str, bytes] = {}
    with in_one_line(trained.config, place):
        for key, network in networks.items():
            network.to(device)
            arrays = arrays_of(network, train, test)
            contents[files[key]] = npz_of(arrays)
            linear_probe, converged = probe_accuracy(arrays, probe_c, probe_iterations)
            if not converged:
                remedy = f"raise task.probe_iterations={probe_iterations}, or lower task.probe_c"
                say(f"{key}: {names[key]}: the linear probe has not converged; {remedy}")
            peers[key] = {
                "network": names[key],
                "width": network.network.width,
                "file": files[key],
                "knn": knn_accuracy(arrays, k),
                "linear_probe": linear_probe,
                "own_head": own_head_accuracy(network, arrays) if test.classes == network.classes else None,
            }
            network.cpu()
        write_outputs(place, contents)
    counts = {"train_images": len(train), "test_images": len(test), "k": k}
    told = {"folder": str(place), "dataset": data.name, **counts, "peers": peers}
    put_out(format, told, lambda console: show_features(console, data.name, len(train), k, peers, place))


def arrays_of(network: PortableNetwork, train: ImageSet, test: ImageSet) -> dict[str, np.ndarray]:
    """The arrays of a peer's file."""
    return {
        "train_embeddings": _embeddings(network, train.images).numpy(),
        "train_labels": train.labels.numpy(),
        "test_embeddings": _embeddings(network, test.images).numpy(),
        "test_labels": test.labels.numpy(),
        "classes": np.array(test.classes),
    }


def npz_of(arrays: dict[str, np.ndarray]) -> bytes:
    """The content of an npz file; nothing in it is pickled."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # NumPy's types take any name for allow_pickle
    return buffer.getvalue()


def own_head_accuracy(network: PortableNetwork, arrays: dict[str, np.ndarray]) -> float:
    """Accuracy (%) of the network's own classifier on the test embeddings."""
    classifier = network.network.classifier
    with torch.inference_mode():
        logits = classifier(torch.from_numpy(arrays["test_embeddings"]).to(classifier.weight.device))
    return 100 * float((logits.argmax(-1).cpu().numpy() == arrays["test_labels"]).mean())


def _embeddings(network: PortableNetwork, images: Tensor) -> Tensor:
    """Images (N, 3, H, W) uint8 to embeddings (N, D) float32 on the CPU, computed where the network is."""
    device = network.mean.device
    with torch.inference_mode():
        return torch.cat([network.embeddings(part.to(device).float() / 255).cpu() for part in images.split(BATCH)])
