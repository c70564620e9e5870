"""Networks as models of their run in MLflow, in the format of torch.export. Imports MLflow and, through it, PyTorch: it is for
processes that do not train.

B batch, C classes.
"""

import re
from pathlib import Path
from typing import Any

import mlflow.pytorch
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from mcl_lab.errors import RunFailed
from mcl_lab.host.uri import connectable_uri
from mcl_lab.runs.journal import read_record
from mcl_lab.tracking.delivery import read_delivery
from mcl_lab.tracking.mlflow.store import KEY_TAG
from mcl_lab.tracking.moved import refuse_moved

WEIGHTS_TAG = "mcl_lab.weights"


class RunModels:
    """The models of a recorded run. Raises RunFailed when MLflow does not have the run, InputError for a store that was moved."""

    def __init__(self, folder: Path):
        record = read_record(folder)
        delivery = read_delivery(folder, record) if record else None
        if record is None or delivery is None or delivery["mlflow_run"] is None:
            raise RunFailed(f"{folder} is not recorded in MLflow; deliver it with: task=sync task.runs={folder}")
        refuse_moved(record["uri"], record["experiment"])
        self.record = record
        uri = connectable_uri(record["uri"])
        self.client = MlflowClient(tracking_uri=uri)
        self.run_id, self.experiment_id = delivery["mlflow_run"], delivery["experiment_id"]
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(experiment_id=self.experiment_id)  # or a model would be no neighbour of its run

    def log(self, name: str, network: Any, image_size: tuple[int, int], classes: int, weights: str) -> str:
        """Log a network, which maps images (B, 3, H, W) float32 to logits (B, C), for any B, and return its address.

        name: of the model. weights: their checksum; a model of that name that has them already is left as it is, another
        gives way. Raises what MLflow raises.
        """
        name = re.sub(r"[^\w-]", "_", name)  # what MLflow takes
        for model in self._named(name):
            if model.status == LoggedModelStatus.READY and model.tags.get(WEIGHTS_TAG) == weights:
                return model.model_uri
            self.client.delete_logged_model(model.model_id)
        import torch

        images, logits = (
            Schema([TensorSpec(np.dtype("float32"), shape)]) for shape in ((-1, 3, *image_size), (-1, classes))
        )
        logged = Model.log(
            artifact_path=None,
            name=name,
            flavor=mlflow.pytorch,
            run_id=self.run_id,
            pytorch_model=network,
            input_example=np.zeros((2, 3, *image_size), np.float32),
            signature=ModelSignature(inputs=images, outputs=logits),
            serialization_format="pt2",
            # Asking MLflow to find out takes longer.
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            tags={WEIGHTS_TAG: weights, KEY_TAG: self.record["run_key"]},
        )
        return logged.model_uri

    def load(self, address: str) -> Any:
        """What everybody else gets of a model."""
        return mlflow.pytorch.load_model(address)

    def _named(self, name: str) -> list:
        wanted = f"name = '{name}' AND source_run_id = '{self.run_id}'"
        return list(self.client.search_logged_models([self.experiment_id], filter_string=wanted))


__all__ = ["MlflowException", "RunModels"]
