"""The exact gradient of an outer loss through unrolled SGD steps, by reverse mode with recomputation.

With g_t = grad loss_t(theta_t) + decay * theta_t, the virtual steps are
    m_0 = g_0,   m_t = momentum * m_{t-1} + g_t,   theta_{t+1} = theta_t - lr * m_t.
Let a and b be the derivatives of the final outer loss by theta_{t+1} and by m_t. Going back over the steps,
    b <- momentum * b - lr * a,   meta gradient += d/d meta (g_t . b),   a <- a + decay * b + d/d theta (grad loss_t . b),
so that the graph of one step exists at a time, where a plain unroll keeps those of all.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mcl_lab.meta.second_derivatives import OfVector, Product, by_either, gradient

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
    along: Product = by_either,
) -> list[Tensor]:
    """Gradient by `meta_params`, in their order, of `outer_loss` after virtual SGD steps: `inner_steps` on `inner_loss`, then
    `outer_steps` on `outer_loss`.

    lr: a number or a scalar tensor.
    inner_loss, outer_loss: map a dict with the names and shapes of `params` to a scalar; called again with the same values
    they give the same scalar. Only `inner_loss` depends on `meta_params`, tensors that require gradient.
    One momentum buffer runs through all steps (its first value is the gradient itself, no Nesterov); the weight decay is on
    every tensor, with or without a gradient of its own. What a loss detaches is held fixed in second derivatives as well.
    along: how products with second derivatives are computed.
    `params` and every `.grad` are left as they are.
    """
    shapes = {name: value.shape for name, value in params.items()}
    theta = torch.cat([value.detach().flatten() for value in params.values()])
    losses = [of_vector(inner_loss, shapes)] * inner_steps + [of_vector(outer_loss, shapes)] * outer_steps

    visited, buffer = [], torch.zeros_like(theta)
    for loss in losses:
        visited.append(theta)
        buffer = momentum * buffer + gradient(loss, theta) + weight_decay * theta
        theta = theta - lr * buffer

    by_theta = gradient(of_vector(outer_loss, shapes), theta)
    by_buffer = torch.zeros_like(theta)
    by_meta = [torch.zeros_like(value) for value in meta_params]
    for step in reversed(range(len(losses))):
        by_buffer = momentum * by_buffer - lr * by_theta
        asked = list(meta_params) if step < inner_steps else []
        # nobody asks for the derivative by the values that the steps started from
        through_theta, through_meta = along(losses[step], visited[step], by_buffer, asked, by_theta=step > 0)
        by_theta = by_theta + weight_decay * by_buffer + through_theta
        if asked:
            by_meta = [total + part for total, part in zip(by_meta, through_meta, strict=True)]
    return by_meta


def of_vector(loss: Loss, shapes: Mapping[str, torch.Size]) -> OfVector:
    """The loss as a function of one vector, the parameters end to end, so that steps and products read as formulas."""
    sizes = [shape.numel() for shape in shapes.values()]

    def value(theta: Tensor) -> Tensor:
        parts = theta.split(sizes)
        # Other kernels of attention have no second derivative, and dropout of their own.
        with sdpa_kernel(SDPBackend.MATH):
            return loss({name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)})

    return value
