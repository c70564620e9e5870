"""Networks as models of their run in MLflow."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from mcl_lab.errors import InputError, RunFailed
from mcl_lab.export.comparison import ComparisonImages, compare_logits
from mcl_lab.networks.portable import PortableNetwork
from mcl_lab.runs.checkpoints import checksum_of_weights
from mcl_lab.tracking.delivery import NOT_INSTALLED, one_line


def log_models(
    run: Path,
    networks: Mapping[str, PortableNetwork],
    stems: Mapping[str, str],
    expected: Mapping[str, Tensor],
    images: ComparisonImages,
) -> dict[str, str]:
    """Log each peer's network as a model of its run in MLflow; returns their addresses by peer.

    run: its folder. stems: the models' names, and expected: the logits (N, C), by peer.
    Raises InputError without MLflow, and RunFailed when it fails or gives something else back.
    """
    try:
        from mcl_lab.tracking.mlflow.models import MlflowException, RunModels  # costs seconds
    except ImportError as error:
        raise InputError("task.mlflow", NOT_INSTALLED) from error
    try:
        models, found = RunModels(run), {}
        for key, network in networks.items():
            weights = checksum_of_weights({key: network.network.state_dict()})
            found[key] = models.log(stems[key], network, images.size, len(network.classes), weights)
            compare_logits(found[key], models.load(found[key]), expected[key], images)
    except MlflowException as error:
        raise RunFailed(f"not logged to MLflow: {one_line(error)}") from error
    return found
