"""Products of second derivatives with a vector: by forward over reverse mode, else by double backward.

PyTorch has neither for some operations, and wrong ones for others. FORMS has both, right, for those that networks are
commonly made of; docs/second_derivatives.md lists what holds for which operation, and check.py finds out what holds for a
module.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mcl_lab.meta.closed_forms import CLOSED_FORMS

OfVector = Callable[[Tensor], Tensor]  # a scalar loss of the parameters, end to end


class Product(Protocol):
    def __call__(
        self, loss: OfVector, theta: Tensor, direction: Tensor, meta_params: list[Tensor], *, by_theta: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradients of (grad loss(theta) . direction) by theta, zeros unless `by_theta`, and by each of `meta_params`."""


def by_either(loss, theta, direction, meta_params, *, by_theta):
    """`forward_over_reverse` where all operations have a forward mode, else `double_backward`."""
    try:
        return forward_over_reverse(loss, theta, direction, meta_params, by_theta=by_theta)
    except NotImplementedError:  # an operation without a forward mode, SiLU for one
        return double_backward(loss, theta, direction, meta_params, by_theta=by_theta)


def forward_over_reverse(loss, theta, direction, meta_params, *, by_theta):
    """As second derivatives are symmetric, these are the derivatives along the direction of the loss's own gradients: forward
    mode over reverse mode, which keeps the graph of the loss alone and not that of its gradient. Without `by_theta` reverse
    mode has only what lies between `meta_params` and the loss to go back through.
    """
    with warnings.catch_warnings(), forward_ad.dual_level(), _Replaced(FORMS | CLOSED_FORMS):
        warnings.filterwarnings("ignore", "`torch.jit")  # PyTorch's own forward mode still uses it
        theta = forward_ad.make_dual(theta.detach().requires_grad_(by_theta), direction)
        asked = [theta] * by_theta + meta_params
        gradients = _derivatives(loss(theta), asked) if asked else []
        tangents = [forward_ad.unpack_dual(gradient).tangent for gradient in gradients]
    along = [torch.zeros_like(of) if by is None else by for by, of in zip(tangents, asked, strict=True)]
    return along[0] if by_theta else torch.zeros_like(direction), along[by_theta:]


def double_backward(loss, theta, direction, meta_params, *, by_theta):
    """The gradient's own graph, gone back through."""
    theta = theta.detach().requires_grad_()
    with _Replaced(FORMS):
        value = loss(theta)
    (gradient,) = torch.autograd.grad(value, theta, create_graph=True, materialize_grads=True)
    by, *by_meta = _derivatives(gradient, [theta, *meta_params], direction)
    return by if by_theta else torch.zeros_like(by), by_meta


def gradient(loss: OfVector, theta: Tensor) -> Tensor:
    theta = theta.detach().requires_grad_()
    return _derivatives(loss(theta), [theta])[0]


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """w = g v / |v|, the norm over all dimensions but `dim`, or over all for -1. PyTorch's kernel has no forward mode and a wrong
    double backward."""
    norm = torch.linalg.vector_norm(v) if dim == -1 else torch.norm_except_dim(v, 2, dim)
    return v * (g / norm)


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """PyTorch has the first derivative alone."""
    return F.relu6(input + 3) / 6


FORMS: dict[Callable, Callable] = {torch._weight_norm: _weight_norm, F.hardsigmoid: _hardsigmoid}


class _Replaced(TorchFunctionMode):
    """While it is on, each function of a table is replaced, unless what takes its place returns NotImplemented."""

    def __init__(self, forms: dict[Callable, Callable]):
        super().__init__()
        self.forms = forms

    def __torch_function__(self, function: Callable, types, args=(), kwargs=None):
        form = self.forms.get(function)
        found = form(*args, **kwargs or {}) if form else NotImplemented
        return function(*args, **kwargs or {}) if found is NotImplemented else found


def _derivatives(value: Tensor, by: Sequence[Tensor], direction: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gradients of (value . direction), zeros by what it does not depend on; autograd refuses a value that depends on
    nothing, as the gradient of a linear loss does."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(variable) for variable in by)
    return torch.autograd.grad(value, by, grad_outputs=direction, materialize_grads=True)
