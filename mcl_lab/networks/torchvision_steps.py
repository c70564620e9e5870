"""The steps of a torchvision model's `forward`: its children, and the functions that it calls between them.

They are read from its graph (torch.fx), which takes no image and no random number, and in which no value can hide a step.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

OPTIONAL = (nn.MaxPool2d, nn.Dropout, nn.Identity)  # what may be left out anywhere: small images need less pooling
# What our pooling takes the place of.
POOLING = (nn.AdaptiveAvgPool2d, nn.Flatten, functional.adaptive_avg_pool2d, torch.flatten, "flatten", "mean")


class Steps:
    """The steps of a model in evaluation mode, each with a name: a child's, else the one that torch.fx gives.

    names: of steps to find; a child among them is one step, whatever it consists of.
    Raises ValueError when `forward` cannot be followed.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]):
        self.network = network
        training = network.training
        try:
            self.nodes = list(_Tracer(names).trace(network.eval()).nodes)
        except Exception as error:  # of any kind: the model's own code runs on what has no values
            raise ValueError(f"its forward cannot be followed: {error}") from error
        finally:
            network.train(training)

    def module(self, name: str) -> nn.Module:
        """The child of that name, else the function of that name as a module. Raises ValueError when there is neither."""
        try:
            return self.network.get_submodule(name)
        except AttributeError:
            called = {node.name: node for node in self.nodes if node.op != "call_module" and _takes_one_value(node)}
            if name in called:
                return _Call(called[name])
            children = ", ".join(child for child, _ in self.network.named_children())
            raise ValueError(f"has no child {name!r}; its own are {children}") from None

    def difference(self, names: Iterable[str]) -> str | None:
        """What the model does that steps of these names, one after the other, do not; None when there is nothing.

        They may leave out max-pools and dropout, and end before the model does, but not between the last of its features
        and its pooling and classifier.
        """
        at, before = self.nodes[0], "the images"
        for name in names:
            node = next((node for node in self._after(at) if _name(node) == name), None)
            if node is None or (between := self._between(at, node)) is None:
                return f"does not call {name} on what comes of {before}"
            if lost := [step for step in between if not self._is(step, OPTIONAL)]:
                return _told(lost, before, name)
            at, before = node, name
        steps = self._up_to_weights(at)
        whole = any(self._is(step, POOLING) for step in steps)
        while steps and self._is(steps[-1], (*OPTIONAL, *POOLING)):
            steps.pop()
        if steps and whole:
            return _told(steps, before, "its classifier")
        return None

    def _after(self, node: fx.Node) -> list[fx.Node]:
        return self.nodes[self.nodes.index(node) + 1 :]

    def _between(self, start: fx.Node, end: fx.Node) -> list[fx.Node] | None:
        """The steps from `start`'s value to what `end` is given; None when that does not come of it."""
        needed, pending = {end}, [end]
        while pending:
            new = set(pending.pop().all_input_nodes) - needed
            needed |= new
            pending += new - {start}
        return [node for node in self._after(start) if node in needed - {end}] if start in needed else None

    def _up_to_weights(self, start: fx.Node) -> list[fx.Node]:
        """The steps that come of `start`'s value, until one that multiplies by matrices."""
        steps: list[fx.Node] = []
        for node in self._after(start):
            if node.op == "call_module" and any(p.dim() > 1 for p in self._child(node).parameters()):
                break
            if node.op != "output" and not {start, *steps}.isdisjoint(node.all_input_nodes):
                steps.append(node)
        return steps

    def _is(self, node: fx.Node, kinds: Sequence[Any]) -> bool:
        """Whether a step is of one of these kinds: classes of children, functions, names of methods."""
        if node.op == "call_module":
            return isinstance(self._child(node), tuple(kind for kind in kinds if isinstance(kind, type)))
        return node.target in kinds

    def _child(self, node: fx.Node) -> nn.Module:
        return self.network.get_submodule(str(node.target))


class _Tracer(fx.Tracer):
    """Looks into plain chains, and into what a step with a name is part of."""

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.names = names

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        inner = any(name.startswith(f"{module_qualified_name}.") for name in self.names)
        return module_qualified_name in self.names or not (inner or type(m) is nn.Sequential)


class _Call(nn.Module):
    """A function or a method of a tensor, with the other arguments that a model gives it."""

    def __init__(self, node: fx.Node):
        super().__init__()
        self.function = getattr(Tensor, node.target) if isinstance(node.target, str) else node.target
        self.arguments, self.options = node.args[1:], node.kwargs

    def forward(self, features: Tensor) -> Tensor:
        return self.function(features, *self.arguments, **self.options)


def _takes_one_value(node: fx.Node) -> bool:
    return len(node.all_input_nodes) == 1 and node.args[0] is node.all_input_nodes[0]


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op in ("call_module", "get_attr") else node.name


def _told(steps: Sequence[fx.Node], before: str, after: str) -> str:
    """What a model does in between, and what can be done about it."""
    nameable = all(step.op != "get_attr" and _takes_one_value(step) for step in steps)
    remedy = f"name {'it' if len(steps) == 1 else 'them'} too" if nameable else "a chain of named steps cannot do that"
    return f"also does {', '.join(map(_name, steps))} between {before} and {after}; {remedy}"
