"""Every index against the sums or least squares that define it."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from spex_jax.fourier import sparse
from spex_jax.indices import table

_N = 6
_INTERACTION = ["BII", "SII", "k-SII", "STII", "FSII", "FBII", "Moebius"]


def _dense(n=_N, seed=0):
  """An expansion with every set, so that every order has a remainder."""
  supports = (np.arange(1 << n)[:, None] >> np.arange(n) & 1).astype(bool)
  coefs = np.random.default_rng(seed).normal(size=1 << n)
  return sparse.SparseFourier.from_supports(supports, coefs)


def _values(fourier):
  """f at all masks; bit i of the position is player i."""
  masks = (np.arange(1 << fourier.n)[:, None] >> np.arange(fourier.n)) & 1
  terms = fourier.terms()
  return np.array(
    [
      sum(c * (-1) ** sum(m[i] for i in s) for s, c in terms)
      for m in masks.tolist()
    ]
  )


def _code(players):
  return sum(1 << i for i in players)


def _sets(n, order):
  return [
    s for t in range(1, order + 1) for s in itertools.combinations(range(n), t)
  ]


def _derivative(values, players, rest):
  return sum(
    (-1) ** (len(players) - size) * values[rest | _code(sub)]
    for size in range(len(players) + 1)
    for sub in itertools.combinations(players, size)
  )


def _by_derivatives(values, n, players, weight):
  """`sum over m without the players of weight(|m|) times the derivative`."""
  inside = _code(players)
  return sum(
    weight(rest.bit_count()) * _derivative(values, players, rest)
    for rest in range(1 << n)
    if not rest & inside
  )


def _sii(values, n, players):
  left = n - len(players)
  return _by_derivatives(
    values, n, players, lambda m: 1 / ((left + 1) * math.comb(left, m))
  )


def _least_squares(values, n, order, weights, exact):
  """Coefficients of the best polynomial, `exact` masks met exactly."""
  sets = [(), *_sets(n, order)]
  design = np.array(
    [[_code(s) & m == _code(s) for s in sets] for m in range(1 << n)], float
  )
  gram = design.T @ (weights[:, None] * design)
  fixed = design[exact]
  zeros = np.zeros((len(exact), len(exact)))
  system = np.block([[gram, fixed.T], [fixed, zeros]])
  right = np.concatenate([design.T @ (weights * values), values[exact]])
  solution = np.linalg.lstsq(system, right, rcond=None)[0]
  return dict(zip(sets, solution[: len(sets)]))


def _by_definition(index, values, n, order):
  """All sets of size 1..order, and () for the baseline."""
  none, mean = values[0], values.mean()
  sets = _sets(n, order)
  if index == "Fourier":
    signs = [
      [(-1) ** (_code(s) & m).bit_count() for m in range(1 << n)] for s in sets
    ]
    return {(): mean} | {
      s: np.dot(g, values) / (1 << n) for s, g in zip(sets, signs)
    }
  if index == "Moebius":
    return {(): none} | {s: _derivative(values, s, 0) for s in sets}
  if index in ("BII", "BV"):
    out = {
      s: _by_derivatives(values, n, s, lambda m, s=s: 0.5 ** (n - len(s)))
      for s in sets
    }
    return {(): mean if index == "BII" else none} | out
  if index in ("SII", "SV"):
    out = {s: _sii(values, n, s) for s in sets}
    return {(): _sii(values, n, ()) if index == "SII" else none} | out
  if index == "k-SII":
    bernoulli = [1, -1 / 2, 1 / 6, 0, -1 / 30, 0, 1 / 42]
    sii = {s: _sii(values, n, s) for s in sets}
    out = {
      s: sum(
        bernoulli[len(r) - len(s)] * v
        for r, v in sii.items()
        if set(s) <= set(r)
      )
      for s in sets
    }
    return {(): none} | out
  if index == "STII":
    out = {
      s: _derivative(values, s, 0)
      if len(s) < order
      else _by_derivatives(
        values, n, s, lambda m: order / (n * math.comb(n - 1, m))
      )
      for s in sets
    }
    return {(): none} | out
  if index == "FBII":
    return _least_squares(values, n, order, np.ones(1 << n), [])
  assert index == "FSII"
  weights = np.array(
    [
      0.0
      if m.bit_count() in (0, n)
      else 1
      / (math.comb(n, m.bit_count()) * m.bit_count() * (n - m.bit_count()))
      for m in range(1 << n)
    ]
  )
  return _least_squares(values, n, order, weights, [0, (1 << n) - 1])


@pytest.mark.parametrize(
  "index, order",
  [(i, k) for i in [*_INTERACTION, "Fourier"] for k in (1, 2, 3, _N)]
  + [("SV", 1), ("BV", 1)],
)
def test_matches_definition(index, order):
  fourier = _dense()
  values = _values(fourier)
  actual = table.interactions(fourier, index, order)
  # Oracles sum 2^6 values of size up to 2^6, weighed up to 2^6; the normal
  # equations of least squares square a condition number below 1e3.
  for players, expected in _by_definition(index, values, _N, order).items():
    assert actual[players] == pytest.approx(expected, abs=1e-8), players


def test_every_index_is_tested():
  assert set(table.INDICES) == {*_INTERACTION, "Fourier", "SV", "BV"}


@pytest.mark.parametrize("order", [1, 2, 3, None])
@pytest.mark.parametrize("index", ["SV", "STII", "FSII", "k-SII"])
def test_efficient(index, order):
  assert table.INDICES[index].efficient
  if index == "SV" and order not in (1, None):
    return
  rng = np.random.default_rng(3)
  rows = np.argsort(rng.random((40, 30)), axis=1)[:, :5]
  fourier = sparse.SparseFourier.from_players(30, rows, rng.normal(size=40))
  none, full = fourier(np.array([[False] * 30, [True] * 30]))
  actual = table.interactions(fourier, index, order)
  # 40 terms of 32 subsets, weights up to 2^5.
  atol = 40 * 32 * 32 * np.finfo(np.float64).eps * 40
  assert actual.values.sum() == pytest.approx(full - none, abs=atol)
  assert actual.baseline == pytest.approx(none, abs=atol)


@pytest.mark.parametrize("index", table.INDICES)
def test_linear(index):
  one, two = _dense(5, 1), _dense(5, 2)
  order = table.INDICES[index].fixed_order or 2
  a, b, both = (
    table.interactions(f, index, order) for f in (one, two, one + two)
  )
  for players in [(), *_sets(5, order)]:
    assert both[players] == pytest.approx(a[players] + b[players], abs=1e-11)


@pytest.mark.parametrize("index", table.INDICES)
@hypothesis.settings(deadline=None, max_examples=10)
@hypothesis.given(seed=st.integers(0, 999), order=st.integers(1, 3))
def test_symmetry_and_dummy(index, seed, order):
  rng = np.random.default_rng(seed)
  order = table.INDICES[index].fixed_order or order
  rows = np.argsort(rng.random((6, 7)), axis=1)[:, : rng.integers(1, 5)]
  coefs = rng.normal(size=6)
  plain = table.interactions(
    sparse.SparseFourier.from_players(8, np.where(rows > 7, 8, rows), coefs),
    index,
    order,
  )
  rename = rng.permutation(8)
  renamed = table.interactions(
    sparse.SparseFourier.from_players(8, rename[rows], coefs), index, order
  )
  for players, value in plain:
    assert 7 not in players  # The dummy has no share in anything.
    assert renamed[rename[list(players)].tolist()] == pytest.approx(
      value, abs=1e-10
    )


def _std_by_unit_expansions(fourier, coef_std, index, order):
  """`sqrt(sum_S A[T, S]^2 std[S]^2)`; A by the index of each character."""
  variance = {}
  for (players, _), std in zip(fourier.terms(), coef_std):
    unit = sparse.SparseFourier.from_terms(fourier.n, {players: 1.0})
    for found, weight in table.interactions(unit, index, order):
      variance[found] = variance.get(found, 0.0) + (weight * std) ** 2
  return {players: math.sqrt(v) for players, v in variance.items()}


def _check_std(fourier, coef_std, index, order):
  plain = table.interactions(fourier, index, order)
  actual = table.interactions(fourier, index, order, coef_std=coef_std)
  assert list(actual) == list(plain)  # No set is listed for its error alone.
  expected = _std_by_unit_expansions(fourier, coef_std, index, actual.order)
  for (players, _), std in zip(actual, actual.std):
    # At most 2^6 squares are added, each of a few roundings, none negative.
    assert std == pytest.approx(expected[players], rel=1e-13, abs=0), players
  return actual


@pytest.mark.parametrize(
  "index, order",
  [(i, k) for i in [*_INTERACTION, "Fourier"] for k in (1, 2, 3, None)]
  + [("SV", 1), ("BV", 1)],
)
def test_std_matches_unit_expansions(index, order):
  fourier = _dense(5)
  coef_std = np.random.default_rng(7).exponential(size=32)
  assert len(_check_std(fourier, coef_std, index, order)) > 0


@pytest.mark.parametrize("index", table.INDICES)
@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(
  seed=st.integers(0, 999),
  num_terms=st.integers(0, 8),
  order=st.none() | st.integers(1, 4),
)
def test_std_on_sparse_supports(index, seed, num_terms, order):
  rng = np.random.default_rng(seed)
  n = int(rng.integers(4, 30))  # Listed subsets, beside the dense table above.
  sets = {
    tuple(sorted(rng.permutation(n)[: rng.integers(0, 5)].tolist()))
    for _ in range(num_terms)
  }
  # Equal sizes, so that values cancel where variances do not.
  fourier = sparse.SparseFourier.from_terms(
    n, {s: float(rng.choice([-1, 1])) for s in sets}
  )
  coef_std = rng.choice([0.0, 1e-3, 1.0, 50.0], size=len(sets))
  _check_std(
    fourier, coef_std, index, table.INDICES[index].fixed_order or order
  )


def test_std_of_values_that_cancel():
  # Moebius of {0}: -2 (1 - 1) = 0, and of {1}: -2 (-1). Rows of equal size are
  # in the order of their players, padding last.
  fourier = sparse.SparseFourier.from_terms(3, {(0,): 1.0, (0, 1): -1.0})
  assert [s for s, _ in fourier.terms()] == [(0, 1), (0,)]
  actual = table.interactions(fourier, "Moebius", coef_std=[4.0, 3.0])
  assert list(actual) == [((0, 1), -4.0), ((1,), 2.0)]
  assert actual.std.tolist() == [16.0, 8.0]
  actual = table.interactions(fourier, "Moebius", coef_std=[0.0, 3.0])
  assert actual.std.tolist() == [0.0, 0.0]  # Known exactly.


def test_std_of_fourier_coefficients_is_given_back():
  fourier = _dense(4)
  coef_std = np.random.default_rng(1).exponential(size=16)
  actual = table.interactions(fourier, "Fourier", coef_std=coef_std)
  given = dict(zip([s for s, _ in fourier.terms()], coef_std.tolist()))
  assert actual.std.tolist() == [given[players] for players, _ in actual]


@pytest.mark.slow
def test_std_has_the_spread_of_noisy_fits():
  # Independent errors, as the docstring takes them: 4,000 draws of a spread
  # are right to 1 / sqrt(8,000) = 1.1 %; 6 sigma allow 7 %.
  rng = np.random.default_rng(5)
  fourier = sparse.SparseFourier.from_terms(
    4, {(): 1.0, (0,): 2.0, (0, 1): -3.0, (1, 2, 3): 4.0, (0, 1, 2): 0.5}
  )
  coef_std = np.array([0.1, 0.2, 0.3, 0.1, 0.2])
  actual = table.interactions(fourier, "FSII", 2, coef_std=coef_std)
  draws = []
  for _ in range(4000):
    noisy = fourier.coefs + coef_std * rng.normal(size=5)
    one = fourier.replace(coefs=noisy)
    drawn = dict(table.interactions(one, "FSII", 2))
    draws.append([drawn.get(players, 0.0) for players, _ in actual])
  np.testing.assert_allclose(np.std(draws, axis=0), actual.std, rtol=0.07)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_std_needs_no_squares_of_units(scale):
  fourier = _dense(4)
  coef_std = np.random.default_rng(2).exponential(size=16)
  plain = table.interactions(fourier, "SII", 2, coef_std=coef_std)
  scaled = table.interactions(fourier, "SII", 2, coef_std=scale * coef_std)
  # Two roundings of each scaled error.
  np.testing.assert_allclose(scaled.std, scale * plain.std, rtol=1e-14)


def test_std_of_high_orders():
  # The squared weight, 2^1800, is beyond float64.
  large = tuple(range(900))
  fourier = sparse.SparseFourier.from_terms(1000, {large: 1.0, (2, 5): 1.0})
  actual = table.interactions(fourier, "BII", coef_std=[0.25, 0.5])
  found = {s: std for (s, _), std in zip(actual, actual.std)}
  assert [s for s, _ in fourier.terms()] == [large, (2, 5)]
  assert found == {large: 0.25 * 2.0**900, (2, 5): 0.5 * 4}
  fourier_index = table.interactions(fourier, "Fourier", coef_std=[0.25, 0.5])
  assert sorted(fourier_index.std) == [0.25, 0.5]


def test_std_ignores_padding_and_keeps_to_a_row():
  fourier = sparse.SparseFourier.stack(
    [
      sparse.SparseFourier.from_terms(4, {(3,): 1.0, (): 9.0, (0, 1): -5.0}),
      sparse.SparseFourier.from_terms(4, {(1,): 2.0}),
    ]
  )
  padded = sparse.SparseFourier(
    players=fourier.players[1],
    coefs=fourier.coefs[1],
    count=fourier.count[1],
    n=4,
  )
  actual = table.interactions(padded, "BII", coef_std=[0.5, 7.0, 7.0])
  assert list(actual) == [((1,), -4.0)]
  assert actual.std.tolist() == [1.0]
  # Rows are the expansion's: the empty set, then by size of coefficient.
  actual = table.interactions(
    fourier.target(0), "BII", coef_std=[100.0, 0.5, 0.25]
  )
  assert list(actual) == [((0, 1), -20.0), ((3,), -2.0)]
  assert actual.std.tolist() == [2.0, 0.5]


@pytest.mark.parametrize(
  "coef_std, message",
  [
    ([1.0], r"coef_std must be \[2\], one for each of fourier.coefs; got.*1,"),
    (0.5, r"coef_std must be \[2\].*got shape \(\)"),
    (np.ones((2, 1)), r"got shape \(2, 1\)"),
    ([0.5, np.nan], "row 1 is nan. Give coef_std=None if standard errors"),
    ([np.inf, 0.5], "finite and at least 0; row 0 is inf"),
    ([0.5, -1e-9], "finite and at least 0; row 1 is -1e-09"),
  ],
)
def test_bad_coef_std(coef_std, message):
  fourier = sparse.SparseFourier.from_terms(3, {(0,): 1.0, (1, 2): 2.0})
  with pytest.raises(ValueError, match=message):
    table.interactions(fourier, "SV", coef_std=coef_std)


def test_order_none_is_the_exact_expansion():
  fourier = _dense(5)
  moebius = table.interactions(fourier, "Moebius")
  for index in ("STII", "FSII", "FBII"):
    actual = table.interactions(fourier, index)
    assert actual.order == 5
    # Up to 2^5 terms, weights 2^5.
    for players, value in moebius:
      assert actual[players] == pytest.approx(value, abs=1e-10)


@pytest.mark.parametrize("index", [*_INTERACTION, "Fourier"])
def test_order_above_n_is_n(index):
  fourier = _dense(3)
  actual = table.interactions(fourier, index, 9)
  expected = table.interactions(fourier, index, 3)
  assert actual.order == 3
  assert list(actual) == list(expected)


def test_high_orders_go_where_the_order_is_limited():
  fourier = sparse.SparseFourier.from_terms(
    1000, {tuple(range(300)): 1.0, (2, 5): 1.0}
  )
  assert dict(table.interactions(fourier, "FBII", 2)) == {
    (2, 5): 4.0,
    (2,): -2.0,
    (5,): -2.0,
  }
  assert len(table.interactions(fourier, "SII", 2)) == 300 * 299 // 2
  # One set, though it has 2^300 subsets.
  assert table.interactions(fourier, "BII")[range(300)] == 2.0**300
  with pytest.raises(ValueError, match="order=3 or less"):
    table.interactions(fourier, "STII")


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("index", table.INDICES)
def test_tiny_and_constant(index, n):
  constant = sparse.SparseFourier.from_terms(n, {(): 2.5})
  actual = table.interactions(constant, index, coef_std=[1.0])
  assert len(actual) == 0 and actual.std.shape == (0,)
  assert actual.baseline == 2.5
  nothing = sparse.SparseFourier.from_terms(n, {})
  assert table.interactions(nothing, index, coef_std=[]).std.shape == (0,)


@pytest.mark.parametrize(
  "name, expected",
  [("Möbius", "Moebius"), ("mobius", "Moebius"), ("fbii", "FBII")],
)
def test_aliases(name, expected):
  assert table.interactions(_dense(2), name).index == expected


def test_bad_input():
  fourier = _dense(3)
  with pytest.raises(
    ValueError, match=r"'FBI'. Did you mean .*FBII.*Known: Fo"
  ):
    table.interactions(fourier, "FBI")
  with pytest.raises(ValueError, match=r"'zzz'. Known: Fourier"):
    table.interactions(fourier, "zzz")
  with pytest.raises(TypeError, match="named by a string; got 3"):
    table.interactions(fourier, 3)
  for order in (0, -1):
    with pytest.raises(ValueError, match=f"at least 1; got {order}"):
      table.interactions(fourier, "SII", order)
  with pytest.raises(TypeError, match="must be an integer; got 1.5"):
    table.interactions(fourier, "SII", 1.5)
  with pytest.raises(ValueError, match="SV has order 1 only; got order=2"):
    table.interactions(fourier, "SV", 2)
  with pytest.raises(ValueError, match="Need 3 names, one per player; got 2"):
    table.interactions(fourier, "SV", names=["a", "b"])
  both = sparse.SparseFourier.stack([fourier, fourier])
  with pytest.raises(ValueError, match=r"2 targets; choose one"):
    table.interactions(both, "SV")
