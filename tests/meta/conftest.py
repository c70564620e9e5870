"""The oracle of hypergradients."""

import pytest
import torch


@pytest.fixture(scope="session")
def unrolled():
    """`hypergradient` by one graph through all virtual steps."""

    def gradients(inner_loss, outer_loss, params, meta_params, *, inner_steps, outer_steps, lr, momentum, weight_decay):
        theta = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
        buffers = None
        for loss in [inner_loss] * inner_steps + [outer_loss] * outer_steps:
            values = list(theta.values())
            slopes = torch.autograd.grad(loss(theta), values, create_graph=True, materialize_grads=True)
            decayed = [g + weight_decay * value for g, value in zip(slopes, values, strict=True)]
            buffers = decayed if buffers is None else [momentum * b + g for b, g in zip(buffers, decayed, strict=True)]
            theta = {name: value - lr * b for (name, value), b in zip(theta.items(), buffers, strict=True)}
        return torch.autograd.grad(outer_loss(theta), meta_params, materialize_grads=True)

    return gradients
