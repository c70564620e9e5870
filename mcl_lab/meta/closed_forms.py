"""Convolution, BatchNorm and ReLU with closed forms for what forward mode over reverse mode asks of them.

A layer y = f(x, w) that is given g, the gradient by y, puts out the gradients by x and w; along a direction (dx, dw) it is
asked for dy and for what the two gradients change by when g changes by dg. PyTorch knows all of it, but goes many more
times through the feature maps than needed, and also computes the gradient by w itself, of which nobody asks more than its
change. So of gradients by leaves only the changes are right here, not all the gradients themselves. BatchNorm leaves
running statistics as they are.

A closed form returns NotImplemented where PyTorch's own function is to be called: when no input has a tangent, and for
forms of a layer that networks seldom take.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.nn import functional as F


def convolution(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """As torch.nn.functional.conv2d."""
    if isinstance(padding, str) or not (_has_tangent(input) or _has_tangent(weight)) or input.dim() != 4:
        return NotImplemented
    change_suffices = _is_part_of_a_leaf(weight)
    if torch.is_autocast_enabled(input.device.type):  # which casts what PyTorch's own function is given
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight, bias = (None if value is None else value.to(dtype) for value in (input, weight, bias))
    geometry = (_two(stride), _two(padding), _two(dilation), groups)
    y = _Convolution.apply(input, weight, geometry, change_suffices)
    return y if bias is None else y + bias.view(-1, 1, 1)


def batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """As torch.nn.functional.batch_norm."""
    if not training or not any(_has_tangent(value) for value in (input, weight, bias)):
        return NotImplemented
    weight = input.new_ones(input.shape[1]) if weight is None else weight
    bias = input.new_zeros(input.shape[1]) if bias is None else bias
    return _BatchNorm.apply(input, weight, bias, eps)[0]


def relu(input, inplace=False):
    """As torch.nn.functional.relu, not in place: PyTorch's forward mode would have to copy what it overwrites."""
    return _ReLU.apply(input) if _has_tangent(input) else NotImplemented


CLOSED_FORMS: dict[Callable, Callable] = {F.conv2d: convolution, F.batch_norm: batch_norm, F.relu: relu}
VIEWS = {"ViewBackward0", "SplitWithSizesBackward0"}  # of which the parts of one vector of parameters are made


class _Convolution(Function):
    """y = x * w: dy = dx * w + x * dw."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, geometry: tuple, change_suffices: bool) -> Tensor:
        stride, padding, dilation, groups = geometry
        return torch.conv2d(x, w, None, stride, padding, dilation, groups)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w, ctx.geometry, ctx.change_suffices = inputs
        ctx.save_for_backward(x, w)
        ctx.save_for_forward(x, w)

    @staticmethod
    def jvp(ctx, dx: Tensor, dw: Tensor, *_):
        x, w = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        dy = torch.conv2d(x, dw, None, stride, padding, dilation, groups)
        return dy.add_(torch.conv2d(dx, w, None, stride, padding, dilation, groups))

    @staticmethod
    def backward(ctx, g: Tensor):
        asked = ctx.needs_input_grad[:2]
        by_x, by_w = _ConvolutionGradient.apply(g, *ctx.saved_tensors, ctx.geometry, asked, ctx.change_suffices)
        return by_x, by_w, None, None


class _ConvolutionGradient(Function):
    """g_x is linear in (g, w) and g_w in (g, x), so each changes by two terms."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, w: Tensor, geometry: tuple, asked: tuple, change_suffices: bool) -> tuple:
        """Tensors or None: the gradient by x and, unless its change suffices, by w; else zeros."""
        by_x, by_w = _gradients(g, x, w, geometry, (asked[0], asked[1] and not change_suffices))
        return by_x, torch.zeros_like(w) if asked[1] and change_suffices else by_w

    @staticmethod
    def setup_context(ctx, inputs, output):
        g, x, w, ctx.geometry, ctx.asked, _ = inputs
        ctx.save_for_forward(g, x, w)

    @staticmethod
    def jvp(ctx, dg: Tensor, dx: Tensor, dw: Tensor, *_):
        g, x, w = ctx.saved_tensors
        changes = _gradients(dg, x, w, ctx.geometry, ctx.asked), _gradients(g, dx, dw, ctx.geometry, ctx.asked)
        return tuple(
            None if one is None or other is None else one.add_(other) for one, other in zip(*changes, strict=True)
        )


def _gradients(g: Tensor, x: Tensor, w: Tensor, geometry: tuple, asked: tuple) -> tuple[Tensor | None, Tensor | None]:
    """Those of x * w by x and by w, None for what is not asked for."""
    if not any(asked):
        return None, None
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution_backward(
        g, x, w, None, stride, padding, dilation, False, [0, 0], groups, [*asked, False]
    )[:2]


class _BatchNorm(Function):
    """In training. Means and sums run over all dimensions of x (B, C, ...) but C. With mean mu and sigma = sqrt(variance +
    eps) of each channel, X = (x - mu) / sigma, and the projection P v = v - mean(v) - X mean(v X), which is symmetric,
        y = gamma X + beta,
        dX = P dx / sigma,                     dy = gamma dX + dgamma X + dbeta,
        g_x = gamma P g / sigma,               g_gamma = sum(g X),  g_beta = sum(g),
        dg_x = gamma (P dg - mean(g X) dX - mean(g dX) X) / sigma + (dgamma - gamma mean(dx X) / sigma) P g / sigma,
        dg_gamma = sum(dg X) + sum(g dX),      dg_beta = sum(dg).
    For P v / sigma there is a kernel: that of the gradient.
    """

    @staticmethod
    def forward(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """y, mu and 1 / sigma."""
        return torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, eps)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, gamma, _, _ = inputs
        _, mu, by_sigma = output
        ctx.mark_non_differentiable(mu, by_sigma)
        ctx.save_for_backward(x, gamma, mu, by_sigma)
        ctx.save_for_forward(x, gamma, mu, by_sigma)

    @staticmethod
    def jvp(ctx, dx: Tensor, dgamma: Tensor, dbeta: Tensor, _):
        x, gamma, mu, by_sigma = ctx.saved_tensors
        dy, _, _ = _projected(dx, x, mu, by_sigma, gamma)
        return _add_normalised(dy, x, mu, by_sigma, times=dgamma, plus=dbeta), None, None

    @staticmethod
    def backward(ctx, g: Tensor, *_):
        return *_BatchNormGradient.apply(g, *ctx.saved_tensors)[:3], None


class _BatchNormGradient(Function):
    @staticmethod
    def forward(g: Tensor, x: Tensor, gamma: Tensor, mu: Tensor, by_sigma: Tensor) -> tuple[Tensor, ...]:
        """The gradients by x, gamma and beta, and P g / sigma."""
        projected, by_gamma, by_beta = _projected(g, x, mu, by_sigma)
        return (projected * _channels(gamma, x)).to(x.dtype), by_gamma, by_beta, projected

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, x, gamma, mu, by_sigma = inputs
        _, by_gamma, _, projected = output
        ctx.mark_non_differentiable(projected)
        ctx.save_for_forward(x, gamma, mu, by_sigma, by_gamma, projected)

    @staticmethod
    def jvp(ctx, dg: Tensor, dx: Tensor, dgamma: Tensor, *_):
        x, gamma, mu, by_sigma, by_gamma, projected = ctx.saved_tensors
        others = [dim for dim in range(x.dim()) if dim != 1]
        dX, dx_with_X = _projected(dx, x, mu, by_sigma)[:2]
        dby_x, dg_with_X, dby_beta = _projected(dg, x, mu, by_sigma, gamma)
        g_with_dX = (projected * dx).sum(others, dtype=mu.dtype)  # = sum(g dX), as P is symmetric
        scale = gamma * by_sigma / (x.numel() / x.shape[1])
        dby_x = _add(dby_x, dX, times=-scale * by_gamma)
        dby_x = _add(dby_x, projected, times=dgamma - scale * dx_with_X)
        dby_x = _add_normalised(dby_x, x, mu, by_sigma, times=-scale * g_with_dX)
        return dby_x, dg_with_X + g_with_dX, dby_beta, None


def _projected(v: Tensor, x: Tensor, mu: Tensor, by_sigma: Tensor, gamma: Tensor | None = None) -> tuple[Tensor, ...]:
    """P v / sigma, times gamma if given; sum(v X) and sum(v)."""
    gamma = torch.ones_like(mu) if gamma is None else gamma  # without one, CUDA puts out no sums
    return torch.ops.aten.native_batch_norm_backward(
        v, x, gamma, None, None, mu, by_sigma, True, 0.0, [True, True, True]
    )


def _add_normalised(
    total: Tensor, x: Tensor, mu: Tensor, by_sigma: Tensor, *, times: Tensor, plus: Tensor | float = 0.0
) -> Tensor:
    """total + times X + plus, into `total`."""
    slope = times * by_sigma
    return _add(total, x, times=slope, plus=plus - slope * mu)


def _add(total: Tensor, x: Tensor, *, times: Tensor, plus: Tensor | None = None) -> Tensor:
    """total + times x + plus, into `total`; times and plus (C,)."""
    if total.dtype == torch.bfloat16:  # in which a CPU is slow at what is both in place and broadcast
        scaled = x * _channels(times.to(x.dtype), x)
        return total.add_(scaled if plus is None else scaled + _channels(plus.to(x.dtype), x))
    total.addcmul_(x, _channels(times, x))
    return total if plus is None else total.add_(_channels(plus, x))


def _channels(value: Tensor, x: Tensor) -> Tensor:
    """(C,) to a shape that goes with x (B, C, ...)."""
    return value.view(-1, *[1] * (x.dim() - 2))


class _ReLU(Function):
    """y = max(x, 0): all that changes does so where y > 0."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.relu(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def jvp(ctx, dx: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward(dx, *ctx.saved_tensors, 0)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        return _WherePositive.apply(g, *ctx.saved_tensors)


class _WherePositive(Function):
    @staticmethod
    def forward(g: Tensor, y: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward(g, y, 0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def jvp(ctx, dg: Tensor, _) -> Tensor:
        return torch.ops.aten.threshold_backward(dg, *ctx.saved_tensors, 0)


def _is_part_of_a_leaf(value: Tensor) -> bool:
    """Whether it is a leaf, or only views lie between it and one, which hand on the change of a gradient by itself."""
    node = value.grad_fn
    while node is not None and node.name() in VIEWS:
        ((node, _),) = node.next_functions
    return node is None or node.name() == "torch::autograd::AccumulateGrad"


def _has_tangent(value: Tensor | None) -> bool:
    return value is not None and forward_ad.unpack_dual(value).tangent is not None


def _two(value: int | tuple[int, ...] | list[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
