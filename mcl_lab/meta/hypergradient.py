"""The exact gradient of an outer loss through unrolled SGD steps, by reverse mode with recomputation.

With g_t = grad loss_t(theta_t) + decay * theta_t, the virtual steps are
    m_0 = g_0,   m_t = momentum * m_{t-1} + g_t,   theta_{t+1} = theta_t - lr * m_t.
Let a and b be the derivatives of the final outer loss by theta_{t+1} and by m_t. Going back over the steps,
    b <- momentum * b - lr * a,   meta gradient += d/d meta (g_t . b),   a <- a + decay * b + d/d theta (grad loss_t . b),
so that the graph of one step exists at a time, where a plain unroll keeps those of all.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mcl_lab.meta.closed_forms import ClosedForms

Loss = Callable[[dict[str, Tensor]], Tensor]


def hypergradient(
    inner_loss: Loss,
    outer_loss: Loss,
    params: Mapping[str, Tensor],
    meta_params: Sequence[Tensor],
    *,
    inner_steps: int,
    outer_steps: int = 1,
    lr: float | Tensor,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> list[Tensor]:
    """Gradient by `meta_params`, in their order, of `outer_loss` after virtual SGD steps: `inner_steps` on `inner_loss`, then
    `outer_steps` on `outer_loss`.

    lr: a number or a scalar tensor.
    inner_loss, outer_loss: map a dict with the names and shapes of `params` to a scalar; called again with the same values
    they give the same scalar. Only `inner_loss` depends on `meta_params`, tensors that require gradient.
    One momentum buffer runs through all steps (its first value is the gradient itself, no Nesterov); the weight decay is on
    every tensor, with or without a gradient of its own. What a loss detaches is held fixed in second derivatives as well.
    `params` and every `.grad` are left as they are.
    """
    shapes = {name: value.shape for name, value in params.items()}
    theta = torch.cat([value.detach().flatten() for value in params.values()])
    losses = [_of_vector(inner_loss, shapes)] * inner_steps + [_of_vector(outer_loss, shapes)] * outer_steps

    visited, buffer = [], torch.zeros_like(theta)
    for loss in losses:
        visited.append(theta)
        buffer = momentum * buffer + _gradient(loss, theta) + weight_decay * theta
        theta = theta - lr * buffer

    by_theta = _gradient(_of_vector(outer_loss, shapes), theta)
    by_buffer = torch.zeros_like(theta)
    by_meta = [torch.zeros_like(value) for value in meta_params]
    for step in reversed(range(len(losses))):
        by_buffer = momentum * by_buffer - lr * by_theta
        asked = list(meta_params) if step < inner_steps else []
        # nobody asks for the derivative by the values that the steps started from
        through_theta, through_meta = _along(losses[step], visited[step], by_buffer, asked, by_theta=step > 0)
        by_theta = by_theta + weight_decay * by_buffer + through_theta
        if asked:
            by_meta = [total + part for total, part in zip(by_meta, through_meta, strict=True)]
    return by_meta


def _of_vector(loss: Loss, shapes: dict[str, torch.Size]) -> Callable[[Tensor], Tensor]:
    """The loss as a function of one vector, the parameters end to end, so that steps and products read as formulas."""
    sizes = [shape.numel() for shape in shapes.values()]

    def of_vector(theta: Tensor) -> Tensor:
        parts = theta.split(sizes)
        return loss({name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)})

    return of_vector


def _gradient(loss: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    theta = theta.detach().requires_grad_()
    return _derivatives(loss(theta), [theta])[0]


def _along(
    loss: Callable[[Tensor], Tensor], theta: Tensor, direction: Tensor, meta_params: list[Tensor], *, by_theta: bool
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of (grad loss . direction) by theta, zeros unless `by_theta`, and by each of `meta_params`.

    As second derivatives are symmetric, these are the derivatives along the direction of the loss's own gradients: forward
    mode over reverse mode, which keeps the graph of the loss alone and not that of its gradient. Without `by_theta` reverse
    mode has only what lies between `meta_params` and the loss to go back through.
    """
    try:
        return _forward_over_reverse(loss, theta, direction, meta_params, by_theta=by_theta)
    except NotImplementedError:  # an operation of somebody's network has no forward mode
        return _reverse_over_reverse(loss, theta, direction, meta_params, by_theta=by_theta)


def _forward_over_reverse(loss, theta, direction, meta_params, *, by_theta):
    with warnings.catch_warnings(), forward_ad.dual_level(), ClosedForms():
        warnings.filterwarnings("ignore", "`torch.jit")  # PyTorch's own forward mode still uses it
        theta = forward_ad.make_dual(theta.detach().requires_grad_(by_theta), direction)
        asked = [theta] * by_theta + meta_params
        gradients = _derivatives(loss(theta), asked) if asked else []
        tangents = [forward_ad.unpack_dual(gradient).tangent for gradient in gradients]
    along = [torch.zeros_like(of) if by is None else by for by, of in zip(tangents, asked, strict=True)]
    return along[0] if by_theta else torch.zeros_like(direction), along[by_theta:]


def _reverse_over_reverse(loss, theta, direction, meta_params, *, by_theta):
    theta = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(theta), theta, create_graph=True, materialize_grads=True)
    by, *by_meta = _derivatives(gradient, [theta, *meta_params], direction)
    return by if by_theta else torch.zeros_like(by), by_meta


def _derivatives(value: Tensor, by: Sequence[Tensor], direction: Tensor | None = None) -> tuple[Tensor, ...]:
    """Gradients of (value . direction), zeros by what it does not depend on; autograd refuses a value that depends on
    nothing, as the gradient of a linear loss does."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(variable) for variable in by)
    return torch.autograd.grad(value, by, grad_outputs=direction, materialize_grads=True)
