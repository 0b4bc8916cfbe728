"""The parity table with shapiq holds, and would show a difference."""

import pytest

from experiments import parity_shapiq
from spex_jax.indices import table


@pytest.mark.slow
def test_quick_table_covers_every_index_and_agrees():
  pytest.importorskip(
    "shapiq", reason="shapiq 1.4.1 is installed on Python 3.11 only."
  )
  rows = list(parity_shapiq.run(parity_shapiq.CONFIGS["quick"]))
  assert {r["index"] for r in rows} == set(table.INDICES) - {"Fourier"}
  assert [r for r in rows if not r["same"]] == []
  assert all(r["sets"] > 1 for r in rows)


def test_a_missing_or_other_value_is_a_difference():
  compare = parity_shapiq._compare
  assert compare({(): 1.0, (0,): 2.0}, {(): 1.0, (0,): 2.5}) == (0.5, 2)
  assert compare({(): 1.0}, {(): 1.0, (3,): -2.0}) == (2.0, 2)
  assert compare({(): 1.0, (1,): 3.0}, {}) == (3.0, 1)
