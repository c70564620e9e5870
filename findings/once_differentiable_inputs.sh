#!/usr/bin/env bash
# torch 2.15.0: a Function marked @once_differentiable is to raise an error when it is differentiated twice. It does in
# `gradient.backward()`, but `torch.autograd.grad(gradient, x)` leaves its part out and returns the rest, without an error: of
# x * x^3, with x^3 such a Function, the second derivative at 2 comes out as 12 and is 48.
#
# Seen: "backward: an error; grad: 12.0, right is 48.0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.15.0
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.autograd import Function, grad
from torch.autograd.function import once_differentiable


class Cube(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, by_output):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * by_output


x = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
(gradient,) = grad(x * Cube.apply(x), x, create_graph=True)
(second,) = grad(gradient, x, retain_graph=True)
try:
    gradient.backward()
    backward = "no error"
except RuntimeError:
    backward = "an error"
print(f"torch {torch.__version__}")
print(f"backward: {backward}; grad: {second.item()}, right is {12 * x.item() ** 2}")
assert (backward, second.item()) == ("an error", 12.0), "not what was seen"
PYTHON
