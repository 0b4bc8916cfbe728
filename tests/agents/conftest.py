"""A sandbox, for all that is judged in one."""

import pytest

from spex_jax.agents import sandbox


@pytest.fixture(scope="session")
def box():
  with sandbox.Sandbox(seconds=2) as own:
    yield own
