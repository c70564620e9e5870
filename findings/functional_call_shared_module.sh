#!/usr/bin/env bash
# torch 2.15.0: torch.func.functional_call is to leave a module as it was. Where one layer stands in a module under two names, it
# leaves the tensor that it was handed in the layer, in place of the parameter: an optimizer made before then trains a parameter
# that the network no longer uses, without an error. It happens by default (tie_weights=True) with either name given, and with
# tie_weights=False where both are given; one name and tie_weights=False is safe.
#
# Seen: "one name, tied: lost; two names, tied: lost; two names, not tied: lost; one name, not tied: kept".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.15.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch import nn
from torch.func import functional_call


def after_a_call(names, tie_weights):
    """What becomes of the parameter of a layer that a network applies twice."""
    layer = nn.Linear(2, 2, bias=False)
    network, parameter = nn.Sequential(layer, nn.ReLU(), layer), layer.weight
    functional_call(network, dict.fromkeys(names, torch.zeros(2, 2)), (torch.ones(1, 2),), tie_weights=tie_weights)
    return "kept" if layer.weight is parameter else "lost"


both = ["0.weight", "2.weight"]
seen = {
    "one name, tied": after_a_call(both[:1], True),
    "two names, tied": after_a_call(both, True),
    "two names, not tied": after_a_call(both, False),
    "one name, not tied": after_a_call(both[:1], False),
}
print(f"torch {torch.__version__}")
print("; ".join(f"{case}: {end}" for case, end in seen.items()))
assert list(seen.values()) == ["lost", "lost", "lost", "kept"], "not what was seen"
PYTHON
