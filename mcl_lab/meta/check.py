"""Whether second derivatives of a module are right, and if not, in which of its parts they are not.

Products (second_derivatives.py) are held against central differences of the module's gradient, in float64 and near the
values that it has. Where a module holds something fixed, by `detach` or by a gradient that is not that of its output,
differences tell nothing; then its parts are looked at one by one.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from mcl_lab.meta.event import places_of, same_draws
from mcl_lab.meta.hypergradient import of_vector
from mcl_lab.meta.second_derivatives import OfVector, Product, gradient

Call = tuple[tuple, dict[str, Any]]  # positional and named arguments
RIGHT, UNKNOWN = "right", "unknown"  # unknown: differences tell nothing

# Of the values' size: the distance to where derivatives are looked at, as what is 0 or has converged hides them.
NEAR = 0.1
STEP = 1e-6  # of differences of the output
SHORT_STEP = 1e-9  # of differences of the gradient: kinks are not likely to lie on the way
TOLERANCE = 1e-3  # differences are nearer than this, wrong derivatives are not
BROKEN = (RuntimeError, TypeError, ValueError)  # what a module that cannot compute in float64 raises


class Culprit(NamedTuple):
    """A part, by its name in the module that it was found in ("" is the module itself), and what is wrong with it."""

    name: str
    part: nn.Module
    fault: str


def find_culprit(module: nn.Module, call: Call, along: Product) -> Culprit | None:
    """The innermost part of a module, as it is called, that `along` has no or wrong second derivatives of."""
    verdict = second_derivatives(module, call, along)
    if verdict == RIGHT:
        return None
    found = None if verdict == UNKNOWN else Culprit("", module, verdict)
    parts = {name: part for name, part in module.named_modules() if name}  # each before what is in it
    calls = calls_of(parts.values(), lambda: in_float64(module, call))
    for name, part in parts.items():
        if found and found.name and not name.startswith(f"{found.name}."):
            break
        fault = second_derivatives(part, calls[part], along) if part in calls else UNKNOWN
        if fault not in (RIGHT, UNKNOWN):
            found = Culprit(name, part, fault)
    return found


def second_derivatives(module: nn.Module, call: Call, along: Product) -> str:
    """RIGHT, UNKNOWN, or what is wrong with the second derivatives of a module by its parameters and inputs."""
    given, form = tree_flatten(call)
    parameters = {f"parameter {name}": value for name, value in module.named_parameters()}
    inputs = {f"input {place}": value for place, value in enumerate(given) if _is_floating(value)}
    values = {name: value.detach().double() for name, value in (parameters | inputs).items()}
    if not values:
        return RIGHT
    device = next(iter(values.values())).device
    random = torch.Generator(device).manual_seed(0)
    named, places = dict(module.named_parameters()), list(places_of(module))
    buffers = {buffer: _double(buffer) for buffer in module.buffers()}

    def outputs(values: dict[str, Tensor]) -> list[Tensor]:
        args, kwargs = tree_unflatten([values.get(f"input {place}", value) for place, value in enumerate(given)], form)
        put: dict[Tensor, Tensor] = {parameter: values[f"parameter {name}"] for name, parameter in named.items()}
        put |= {buffer: value.clone() for buffer, value in buffers.items()}
        state = {place: put[tensor] for place, tensor in places}
        with same_draws(device):
            result = functional_call(module, state, args, kwargs, tie_weights=False)
        return [x for x in tree_leaves(result) if _is_floating(x)]

    def loss(values: dict[str, Tensor]) -> Tensor:
        """Of which no second derivative vanishes."""
        pairs = zip(outputs(values), sizes, strict=True)
        return sum((torch.sin(x / size).flatten() * _directions(x)).sum() for x, size in pairs)  # type: ignore[return-value]

    size = torch.cat([_size(value).expand(value.numel()) for value in values.values()])
    theta = torch.cat([value.flatten() for value in values.values()])
    theta = theta + NEAR * size * torch.randn(theta.shape, generator=random, device=device, dtype=theta.dtype)
    shapes = {name: value.shape for name, value in values.items()}
    of_theta = of_vector(loss, shapes)
    try:
        with torch.no_grad():
            sizes = [_size(x) for x in of_vector(outputs, shapes)(theta)]  # type: ignore[arg-type]
        slope = gradient(of_theta, theta)
    except BROKEN:
        return UNKNOWN
    for _ in range(2):  # one may cross a kink
        direction = size * torch.randn(theta.shape, generator=random, device=device, dtype=theta.dtype)
        expected = _difference(lambda theta: gradient(of_theta, theta), theta, direction, SHORT_STEP)
        try:
            product, _ = along(of_theta, theta, direction, [], by_theta=True)
        except RuntimeError as error:
            return f"PyTorch has no second derivative of an operation in it ({str(error).splitlines()[0]})"
        distance = (size * (product - expected)).norm()
        # the loss is of size 1; with the second and third summand rounding is none of a derivative that vanishes
        if distance <= TOLERANCE * ((size * expected).norm() + TOLERANCE * ((size * slope).norm() + 1)):
            return RIGHT
    with torch.no_grad():
        along_direction = _difference(of_theta, theta, direction, STEP)
    is_gradient = (along_direction - slope @ direction).abs() <= TOLERANCE * (size * slope).norm()
    with _HeldFixed() as held_fixed:
        of_theta(theta.requires_grad_())
    known = is_gradient and distance.isfinite() and not held_fixed.seen
    return "second derivatives of it are wrong" if known else UNKNOWN


def calls_of(modules: Iterable[nn.Module], work: Callable[[], object]) -> dict[nn.Module, Call]:
    """The first call of each of the modules that `work` calls before it ends or breaks."""
    calls: dict[nn.Module, Call] = {}

    def note(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if module not in calls:
            calls[module] = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, (args, kwargs))

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
        with suppress(*BROKEN):
            work()
    return calls


def in_float64(module: nn.Module, call: Call) -> Any:
    """What a call puts out in float64, with nothing left behind."""
    args, kwargs = tree_map(_double, call)
    put = {tensor: _double(tensor).clone() for tensor in [*module.parameters(), *module.buffers()]}
    state = {place: put[tensor] for place, tensor in places_of(module)}
    with torch.no_grad(), same_draws(next(iter(put.values()), torch.empty(0)).device):
        return functional_call(module, state, args, kwargs, tie_weights=False)


class _HeldFixed(TorchFunctionMode):
    """Notices whether values are taken out of the graph, other than by a function with a gradient of its own."""

    seen = False
    ways = (Tensor.detach, Tensor.detach_, Tensor.data.__get__, Tensor.item, Tensor.tolist, Tensor.numpy)  # type: ignore[attr-defined]

    def __torch_function__(self, function: Callable, types, args=(), kwargs=None):
        without_graph = function is torch._C._set_grad_enabled and args == (False,)
        self.seen = self.seen or torch.is_grad_enabled() and (without_graph or function in self.ways)
        return function(*args, **kwargs or {})


def _difference(function: OfVector, theta: Tensor, direction: Tensor, step: float) -> Tensor:
    return (function(theta + step * direction) - function(theta - step * direction)) / (2 * step)


def _size(value: Tensor) -> Tensor:
    """Root mean square, 1 of zeros."""
    size = value.detach().square().mean().sqrt()
    return torch.where(size > 0, size, 1.0)


def _directions(value: Tensor) -> Tensor:
    return torch.arange(value.numel(), device=value.device, dtype=value.dtype).cos() / value.numel() ** 0.5


def _double(value: Any) -> Any:
    return value.detach().double() if _is_floating(value) else value


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
