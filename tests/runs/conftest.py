"""Nothing of the surroundings counts: no job of SLURM, no tracking server."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_foreign_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "MLFLOW_TRACKING_"))]:
        monkeypatch.delenv(name)
