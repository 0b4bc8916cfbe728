"""The readout of a Gaussian process against all 2^n sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spex_jax.proxies import gaussian, readout, spectrum
from tests.proxies import process


def _posterior(seed, n, num_masks=30, relevance=-1.0, mean=3.0, scale=2.0):
  """A process with given parameters, none of them tuned."""
  rng = np.random.default_rng(seed)
  params = gaussian.Params(
    linear=rng.normal(-2.0, 1.0, n),
    relevance=rng.normal(relevance, 1.0, n),
    amplitude=np.asarray(0.3),
    constant=np.asarray(-4.0),
    noise=np.asarray(-3.0),
  )
  signs = 1.0 - 2.0 * (rng.random((num_masks, n)) < 0.5)
  unit = rng.normal(size=num_masks)
  sets = process.subsets(n)
  x = np.stack([signs[:, list(s)].prod(axis=1) for s in sets], axis=1)
  w = spectrum.prior_variance(params, process.padded(n, sets))
  noise = np.exp(params.noise) + 1e-8
  inverse = np.linalg.inv((x * w) @ x.T + noise * np.eye(num_masks))
  return gaussian.Posterior(
    params, signs, inverse @ unit, inverse, unit, mean, np.float64(scale), 0.0
  )


def _every_coef(posterior):
  """All sets and their coefficients, by the definition of the posterior."""
  sets = process.subsets(posterior.n)
  coefs = spectrum.coefs(posterior, process.padded(posterior.n, sets))
  return dict(zip(sets, coefs))


def _candidates(log_rho, most, max_order):
  rows = readout.candidates(np.asarray(log_rho), most, max_order)
  n = len(log_rho)
  sets = [tuple(row[row < n].tolist()) for row in rows]
  assert len(set(sets)) == len(sets) <= max(most, 0)
  assert all(len(s) > 1 and list(s) == sorted(s) for s in sets)
  return sets


def _check_candidates(log_rho, most, max_order):
  """The largest products are taken, and no more are left out than must be."""
  sets = _candidates(log_rho, most, max_order)
  products = {
    s: sum(log_rho[i] for i in s)
    for s in process.subsets(len(log_rho))
    if 1 < len(s) <= max_order
  }
  assert set(sets) <= set(products)
  left = [products[s] for s in products if s not in set(sets)]
  if not left:
    return
  if sets:
    # Products are added in one order only; sums of up to 8 numbers under 100.
    assert min(products[s] for s in sets) >= max(left) - 1e-12
  # No more is left out than ties make needful.
  best = sorted(products.values(), reverse=True)
  threshold = best[most] if most < len(best) else -np.inf
  above = [p for p in best if p > threshold + 1e-9]
  assert len(sets) >= min(len(above), most)


@given(
  st.lists(st.floats(-50, -1e-3), min_size=1, max_size=7),
  st.integers(0, 140),
  st.integers(1, 8),
)
def test_candidates_are_those_of_an_exhaustive_search(log_rho, most, max_order):
  _check_candidates(sorted(log_rho, reverse=True), most, max_order)


@given(
  st.lists(st.sampled_from([-0.5, -1.0, -1.5]), min_size=1, max_size=7),
  st.integers(0, 140),
  st.integers(1, 8),
)
def test_candidates_with_ties(log_rho, most, max_order):
  _check_candidates(sorted(log_rho, reverse=True), most, max_order)


def test_candidates_by_hand():
  log_rho = [-1.0, -2.0, -4.0, -8.0]
  # Products: 01 -3, 02 -5, 12 -6, 012 -7, 03 -9, ...
  assert set(_candidates(log_rho, 4, 4)) == {(0, 1), (0, 2), (1, 2), (0, 1, 2)}
  assert len(_candidates(log_rho, 11, 4)) == 11
  assert len(_candidates(log_rho, 11, 2)) == 6


@pytest.mark.parametrize("most", [1, 7, 100])
def test_no_more_candidates_than_asked_where_all_are_equal(most):
  assert len(_candidates([-1.0] * 40, most, 40)) == most  # Of 780 pairs.


def test_candidates_below_what_an_exponential_can_hold():
  assert len(_candidates([-300.0] * 4, 11, 4)) == 11


def test_candidates_of_many_players():
  rng = np.random.default_rng(0)
  log_rho = -np.sort(rng.gamma(2.0, 2.0, 5000))
  rows = readout.candidates(log_rho, 3000, 5000)
  least = np.append(log_rho, 0.0)[rows].sum(axis=1).min()
  assert 2900 < len(rows) <= 3000
  pairs = np.add.outer(log_rho[:200], log_rho[:200])[np.triu_indices(200, 1)]
  wide = (rows < 5000).sum(axis=1)
  inside = (wide == 2) & (rows[:, 1] < 200)
  assert inside.sum() == (pairs >= least - 1e-12).sum()


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("num_terms", [0, 1, 10, 1000])
def test_expansion_is_the_largest_coefficients(n, num_terms):
  posterior = _posterior(n, n)
  every = _every_coef(posterior)
  out = readout.expand(posterior, num_terms)
  found = dict(out.fourier.terms())
  rest = sorted((abs(c) for s, c in every.items() if s), reverse=True)
  assert len(found) == 1 + min(num_terms, (1 << n) - 1)
  for players, coef in found.items():
    np.testing.assert_allclose(coef, every[players], rtol=1e-9, atol=1e-12)
  strengths = sorted((abs(c) for s, c in found.items() if s), reverse=True)
  np.testing.assert_allclose(strengths, rest[:num_terms], rtol=1e-9, atol=1e-12)
  missed = np.square(rest[num_terms:]).sum() / np.square(rest).sum()
  # A share of the energy, by subtraction from 1.
  np.testing.assert_allclose(out.missed, missed, atol=1e-10)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
  "relevance, num_terms, most, max_order",
  [
    (-1.0, 20, 10, None),
    (-4.0, 6, 12, None),
    (-9.0, 5, 12, None),
    (-9.0, 5, 10, 2),
    (-9.0, 5, 50, 1),
    (-1.0, 8, 50, 1),
    (-9.0, 100, 3, None),
    (-9.0, 5, 0, None),
  ],
)
def test_the_energy_of_the_rest_is_exact(
  seed, relevance, num_terms, most, max_order
):
  posterior = _posterior(seed, 7, relevance=relevance)
  every = _every_coef(posterior)
  out = readout.expand(posterior, num_terms, max_order=max_order, most=most)
  found = dict(out.fourier.terms())
  held = sum(c**2 for s, c in found.items() if s)
  total = sum(c**2 for s, c in every.items() if s)
  np.testing.assert_allclose(out.missed, 1 - held / total, atol=1e-10)
  assert max(map(len, found)) <= (max_order or 7)


def test_players_alone_do_not_hide_a_strong_pair():
  """Every set of up to `most` is looked at, not only the likeliest."""
  posterior = _posterior(3, 8)
  every = _every_coef(posterior)
  best = max((s for s in every if len(s) > 1), key=lambda s: abs(every[s]))
  out = readout.expand(posterior, 30)
  assert best in dict(out.fourier.terms())


@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e200, 1e-200])
def test_shares_have_no_units(scale):
  plain = readout.expand(_posterior(1, 6), 10)
  other = readout.expand(_posterior(1, 6, mean=3.0, scale=2.0 * scale), 10)
  np.testing.assert_allclose(other.missed, plain.missed, rtol=1e-9)
  assert 0.01 < plain.missed < 0.99


def test_a_constant_process_misses_nothing():
  posterior = _posterior(1, 5)
  flat = posterior.replace(weights=np.zeros(30), unit=np.zeros(30), mean=7.0)
  out = readout.expand(flat, 3)
  assert out.missed == 0
  assert all(c == (0.0 if s else 7.0) for s, c in out.fourier.terms())


def test_one_mask_of_one_player():
  out = readout.expand(_posterior(0, 1, num_masks=1))
  assert [s for s, _ in out.fourier.terms()] == [(), (0,)]
  assert out.missed < 1e-12
