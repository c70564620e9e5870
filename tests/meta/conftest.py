"""The oracle of hypergradients."""

import pytest
from plain import unrolled_hypergradient


@pytest.fixture(scope="session")
def unrolled():
    return unrolled_hypergradient
