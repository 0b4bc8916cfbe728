"""Shares of errors within what is stated, by hand and of games run here."""

import dataclasses

import jax
import numpy as np
import pytest

import spex_jax as spex
from experiments import bench_errors, games
from spex_jax.fourier import sparse


def _exact(value_fn, n):
  return spex.explain(value_fn, n, budget=1 << n, key=jax.random.key(0))


@pytest.mark.parametrize("name", sorted(bench_errors.GAMES))
def test_coefficients_and_shapley_values_are_exact(name):
  game = bench_errors.GAMES[name](6, 3)
  truth = bench_errors.coefs(game)
  found = _exact(game.clean, 6)
  known = {sum(1 << i for i in s): c for s, c in found.fourier.terms()}
  expected = [known.get(i, 0.0) for i in range(64)]
  np.testing.assert_allclose(truth, expected, atol=1e-13)
  values = dict(found.interactions("SV"))
  expected = [values.get((i,), 0.0) for i in range(6)]
  np.testing.assert_allclose(bench_errors.shapley(truth), expected, atol=1e-13)


def test_the_largest_of_sums_is_convex_with_kinks():
  value_fn = bench_errors.maxsum(7, 2).value_fn
  masks = np.random.default_rng(0).integers(2, size=(50, 7)) * 1.0
  halves = (value_fn(masks) + value_fn(masks[::-1])) / 2
  gap = halves - value_fn((masks + masks[::-1]) / 2)
  assert gap.min() > -1e-12 and gap.max() > 0.1


def test_shares_are_of_what_lies_within():
  truth = np.zeros(1 << 5)
  truth[[0, 1, 2, 3, 16]] = 5.0, 2.0, 1.0, 0.4, 0.01
  terms = {(): 0.0, (0,): 2.1, (1,): 1.5, (0, 1): 0.4, (2,): 0.1}
  found = _exact(lambda m: m @ np.arange(5.0), 5)
  found = dataclasses.replace(
    found,
    fourier=sparse.SparseFourier.from_terms(5, terms),
    coef_std=np.array([0.0, 0.1, 0.1, 0.1, 0.1]),
  )
  row = bench_errors.shares(found, truth)
  assert row["terms"] == 4
  # Errors of 1, 5, 0 and 1 of what is stated; {4} is not in the answer, and
  # sets that are 0 are among the 30 largest of 32.
  assert row["all"] == row["largest"] == 0.75
  assert row["ratio"] == round(np.sqrt((1 + 25 + 0 + 1) / 4), 3)
  # Values err by twice as much as coefficients of one player.
  assert row["values"] == round(2 / 3, 4)


def test_answers_without_errors_and_exact_ones_have_rows():
  game = games.planted(0, 6, 8, decibels=None)
  found = _exact(game.value_fn, 6)
  bare = bench_errors.shares(
    dataclasses.replace(found, coef_std=None), bench_errors.coefs(game)
  )
  assert set(bare) == {"spoke", "r2", "terms"}
  sure = np.zeros(found.fourier.coefs.shape)
  row = bench_errors.shares(
    dataclasses.replace(found, coef_std=sure), bench_errors.coefs(game)
  )
  assert row["all"] == row["values"] == 1 and "ratio" not in row


def test_the_table_has_means_and_the_least():
  row = {"game": "a", "largest": 1.0, "truth": None, "values": 0.5}
  measured = [row | {"all": 0.9}, row | {"all": 0.7, "truth": 0.25}]
  line = bench_errors.table(measured).splitlines()[-1]
  assert line == "| a | 0.80 (0.70) | 1.00 (1.00) | 0.25 (0.25) | 0.50 (0.50) |"


@pytest.mark.slow
def test_quick_rows():
  (row,) = bench_errors.run(bench_errors.CONFIGS["quick"])
  assert row["game"] == "maxsum" and row["terms"] > 30
  assert 0.6 < row["all"] < 1 and row["largest"] > 0.6
