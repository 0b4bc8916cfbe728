"""Tests of sparse functions on masks; the oracle sums characters one by one."""

import errno
import os

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from spex_jax.fourier import sparse

_Sparse = sparse.SparseFourier


def _by_definition(terms, masks):
  out = np.zeros(len(masks))
  for members, coef in terms:
    for b, mask in enumerate(masks):
      out[b] += coef * (-1) ** sum(bool(mask[i]) for i in members)
  return out


def _random(n, num_terms, order, seed=0):
  rng = np.random.default_rng(seed)
  return [
    (
      tuple(rng.choice(n, rng.integers(0, order + 1), replace=False).tolist()),
      float(rng.normal()),
    )
    for _ in range(num_terms)
  ]


@st.composite
def _functions(draw):
  n = draw(st.integers(0, 9))
  sets = st.sets(st.integers(0, max(0, n - 1)), max_size=n)
  coefs = st.floats(-1e3, 1e3)
  return n, [
    (tuple(members), coef)
    for members, coef in draw(st.lists(st.tuples(sets, coefs), max_size=12))
  ]


@pytest.mark.slow
@hypothesis.given(_functions(), st.integers(0, 99))
def test_evaluation_matches_definition(function, seed):
  """Terms that repeat a set are added; the order of players is free."""
  n, terms = function
  masks = np.random.default_rng(seed).random((7, n)) < 0.5
  fourier = _Sparse.from_terms(n, terms)
  expected = _by_definition(terms, masks)
  size = sum(abs(c) for _, c in terms)
  atol = 1e-14 * size
  actual = fourier(masks)
  assert actual.dtype == np.float64
  np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)
  # As a kernel: float32, traced, unjitted and jitted.
  single = fourier.replace(coefs=jnp.asarray(fourier.coefs, jnp.float32))
  for wrap in (lambda f: f, jax.jit):
    actual = wrap(sparse.evaluate)(single, masks)
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * size)


@hypothesis.given(_functions())
def test_normal_form(function):
  n, terms = function
  fourier = _Sparse.from_terms(n, terms)
  found = fourier.terms()
  sets = [members for members, _ in found]
  assert len(set(sets)) == len(sets) == int(fourier.count)
  assert set(sets) == {tuple(sorted(members)) for members, _ in terms}
  assert all(list(s) == sorted(s) for s in sets)
  assert () not in sets or sets[0] == ()
  strengths = [abs(c) for s, c in found if s]
  assert strengths == sorted(strengths, reverse=True)
  again = _Sparse.from_supports(fourier.supports, fourier.coefs)
  assert again.terms() == found
  np.testing.assert_array_equal(fourier.orders, [len(s) for s in sets])


@hypothesis.given(_functions(), st.integers(0, 14))
def test_truncation_keeps_the_strongest(function, num_terms):
  n, terms = function
  fourier = _Sparse.from_terms(n, terms)
  full = [t for t in fourier.terms() if t[0]]
  kept = [t for t in fourier.truncate(num_terms).terms() if t[0]]
  assert kept == full[:num_terms]


@pytest.mark.parametrize(
  "energy, count", [(0.5, 1), (0.8, 1), (0.81, 2), (1, 3)]
)
def test_truncation_by_energy(energy, count):
  # Squares 16, 3.9, 0.1 of 20, and an empty set that does not count.
  terms = {(): 9.0, (0,): 4.0, (1, 2): -(3.9**0.5), (2,): 0.1**0.5}
  kept = _Sparse.from_terms(3, terms).truncate(energy=energy)
  assert len(kept.terms()) == count + 1


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_truncation_by_energy_in_any_units(unit):
  terms = {(0,): 4 * unit, (1, 2): -2 * unit, (2,): 0.3 * unit}
  fourier = _Sparse.from_terms(3, terms)
  sets = [s for s, _ in fourier.truncate(energy=0.9).terms()]
  assert sets == [(0,), (1, 2)]  # 16, 4 and 0.09 of 20.09.
  assert len(fourier.truncate(energy=0.79).terms()) == 1


def test_truncation_by_energy_of_zeros():
  fourier = _Sparse.from_terms(3, {(): 2.0, (0,): 0.0, (1,): 0.0})
  assert fourier.truncate(energy=0.5).terms()[0] == ((), 2.0)


def test_energy_beyond_float64_is_an_error():
  fourier = _Sparse.from_terms(3, {(0,): 1e200, (1, 2): 1.0})
  with pytest.raises(OverflowError, match=r"size 1e\+200\. Scale the value"):
    fourier.energy_by_order()
  fourier = _Sparse.from_terms(3, {(0,): 1e154, (1,): 1e154})
  with pytest.raises(OverflowError, match="exceeds float64"):
    fourier.energy_by_order()  # Each square fits; their sum does not.


def test_energy_by_order_and_parseval():
  terms = _random(8, 20, 4)
  fourier = _Sparse.from_terms(8, terms)
  expected = np.zeros(5)
  for members, coef in fourier.terms():
    expected[len(members)] += coef**2
  np.testing.assert_allclose(fourier.energy_by_order(), expected)
  from spex_jax.masks import sampling

  values = fourier(sampling.enumerate_masks(8))
  np.testing.assert_allclose((values**2).mean(), expected.sum(), rtol=1e-12)


def test_addition():
  a, b = _random(6, 10, 3, 0), _random(6, 10, 3, 1)
  masks = np.random.default_rng(0).random((20, 6)) < 0.5
  total = _Sparse.from_terms(6, a) + _Sparse.from_terms(6, b)
  np.testing.assert_allclose(
    total(masks), _by_definition(a + b, masks), atol=1e-13
  )
  with pytest.raises(ValueError, match="n=6 and n=7"):
    _ = _Sparse.from_terms(6, a) + _Sparse.from_terms(7, a)


class TestTargets:
  def _stack(self):
    parts = [
      _Sparse.from_terms(5, terms)
      for terms in ({(): 1.0}, {(0, 1, 2): 2.0, (4,): -3.0}, {})
    ]
    return parts, _Sparse.stack(parts)

  def test_stack_and_target(self):
    parts, stacked = self._stack()
    masks = np.random.default_rng(0).random((9, 5)) < 0.5
    assert stacked.num_targets == 3 and parts[0].num_targets is None
    values = stacked(masks)
    assert values.shape == (9, 3)
    for t, part in enumerate(parts):
      assert stacked.target(t).terms() == part.terms()
      np.testing.assert_allclose(values[:, t], part(masks))
    np.testing.assert_allclose(
      stacked.energy_by_order(), [[1, 0, 0, 0], [0, 9, 0, 4], [0, 0, 0, 0]]
    )

  @pytest.mark.parametrize("t", [-1, 3, 99])
  def test_no_such_target(self, t):
    _, stacked = self._stack()
    with pytest.raises(IndexError, match=rf"No target {t}; they are 0\.\.2"):
      stacked.target(t)

  def test_a_target_is_an_integer(self):
    _, stacked = self._stack()
    assert stacked.target(np.int64(1)).terms() == stacked.target(1).terms()
    with pytest.raises(TypeError, match="target must be an integer; got 1.0"):
      stacked.target(1.0)

  @pytest.mark.parametrize("what", ["terms", "truncate"])
  def test_single_functions_only(self, what):
    _, stacked = self._stack()
    with pytest.raises(ValueError, match=r"needs one target; choose by"):
      getattr(stacked, what)()
    with pytest.raises(ValueError, match="single target already"):
      stacked.target(0).target(0)
    with pytest.raises(ValueError, match="at least one function"):
      _Sparse.stack([])
    with pytest.raises(ValueError, match="share their n"):
      _Sparse.stack([_Sparse.from_terms(n, []) for n in (2, 3)])


class TestFiles:
  @pytest.mark.parametrize("num_targets", [None, 2])
  def test_round_trip(self, tmp_path, num_targets):
    fourier = _Sparse.from_terms(9, [*_random(9, 15, 3), ((), 1e-300)])
    if num_targets:
      fourier = _Sparse.stack([fourier, _Sparse.from_terms(9, {(1,): 0.1})])
    fourier.save(tmp_path / "f.json")
    back = _Sparse.load(tmp_path / "f.json")
    assert back.n == 9
    np.testing.assert_array_equal(back.players, fourier.players)
    np.testing.assert_array_equal(back.coefs, fourier.coefs)
    np.testing.assert_array_equal(back.count, fourier.count)

  def test_a_hand_written_file_is_read(self, tmp_path):
    path = tmp_path / "f.json"
    path.write_text('{"n": 3, "terms": [[[2, 0], 1.5], [[], 2]]}')
    assert _Sparse.load(path).terms() == [((), 2.0), ((0, 2), 1.5)]

  @pytest.mark.parametrize(
    "content, message",
    [
      ("{}", "need keys 'n' and 'terms'"),
      ('{"n": 3, "terms": [[1.5]]}', "no saved expansion|not enough values"),
      ('{"n": 3, "terms": [[[3], 1.5]]}', "from 0 to 2"),
      ('{"n": 3, "terms": [[[0.5], 1.5]]}', "must be an integer; got 0.5"),
      ('{"n": 3.5, "terms": []}', "n must be an integer; got 3.5"),
      ("nonsense", "is not JSON"),
    ],
  )
  def test_other_files(self, tmp_path, content, message):
    path = tmp_path / "f.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
      _Sparse.load(path)

  def test_damage_and_a_full_disk(self, tmp_path, monkeypatch):
    path = tmp_path / "f.json"
    _Sparse.from_terms(3, {(1,): 2.5}).save(path)
    good = path.read_text()
    path.write_text(good.replace("2.5", "2.6"))
    with pytest.raises(ValueError, match="is damaged"):
      _Sparse.load(path)
    path.write_text(good[: len(good) // 2])
    with pytest.raises(ValueError, match="is not JSON"):
      _Sparse.load(path)
    path.write_text(good)

    def full(*args):
      raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
      _Sparse.from_terms(3, {(1,): 9.0}).save(path)
    assert path.read_text() == good and os.listdir(tmp_path) == ["f.json"]


@pytest.mark.parametrize(
  "build, message",
  [
    (lambda: _Sparse.from_terms(3, {(3,): 1.0}), r"\(3,\).*from 0 to 2"),
    (lambda: _Sparse.from_terms(3, {(-1,): 1.0}), "from 0 to 2"),
    (lambda: _Sparse.from_terms(3, [((1, 1), 1.0)]), "distinct players"),
    (lambda: _Sparse.from_terms(3, {(1,): np.nan}), "must be finite"),
    (lambda: _Sparse.from_terms(3, {(1,): np.inf}), "must be finite"),
    (lambda: _Sparse.from_players(3, [[0, 4]], [1.0]), r"in 0\.\.2"),
    (lambda: _Sparse.from_players(3, [[0, 0]], [1.0]), "a player twice"),
    (lambda: _Sparse.from_players(3, [[0]], [1.0, 2.0]), "Need players"),
    (lambda: _Sparse.from_terms(3, []).truncate(-1), "at least 0"),
    (lambda: _Sparse.from_terms(3, []).truncate(energy=0), r"in \(0, 1\]"),
    (lambda: _Sparse.from_terms(3, []).truncate(), "either num_terms or"),
    (lambda: _Sparse.from_terms(3, [])(np.ones((1, 4))), "expected n=3"),
  ],
)
def test_bad_input(build, message):
  with pytest.raises(ValueError, match=message):
    build()


@pytest.mark.parametrize("player", [0.5, 1.0, True, np.True_, "1", None])
def test_players_are_integers(player):
  for terms in ([((player,), 1.0)], {(0, player): 1.0}):
    with pytest.raises(TypeError) as error:
      _Sparse.from_terms(3, terms)
    assert f"must be an integer; got {player!r}" in str(error.value)
    assert "A player of the set (" in str(error.value)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, bool, object, "U1"])
def test_arrays_of_players_are_integers(dtype):
  with pytest.raises(TypeError, match="Players must be integers; got"):
    _Sparse.from_players(3, np.ones((1, 1)).astype(dtype), [1.0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64, jnp.int32])
def test_any_integers_are_players(dtype):
  players = np.array([[2, 0], [3, 1]]).astype(dtype)
  fourier = _Sparse.from_players(np.int64(3), players, [1.0, 2.0])
  assert fourier.terms() == [((1,), 2.0), ((0, 2), 1.0)]
  assert type(fourier.n) is int
  members = tuple(players[0])
  assert _Sparse.from_terms(3, {members: 1.0}).terms() == [((0, 2), 1.0)]


def test_a_number_of_players_is_an_integer_not_below_0():
  with pytest.raises(TypeError, match="n must be an integer; got 3.0"):
    _Sparse.from_terms(3.0, [])
  with pytest.raises(TypeError, match="n must be an integer; got True"):
    _Sparse.from_players(True, [[0]], [1.0])
  with pytest.raises(ValueError, match="n must be at least 0; got -1"):
    _Sparse.from_terms(-1, [])


def test_ten_thousand_terms_in_little_memory():
  """The compiled evaluation of 10,000 terms on 10,000 masks, by its plan."""
  rng = np.random.default_rng(0)
  n, num_terms, num_masks = 1000, 10_000, 10_000
  players = np.sort(
    np.stack([rng.choice(n, 5, replace=False) for _ in range(num_terms)])
  )
  fourier = _Sparse.from_players(n, players, rng.normal(size=num_terms))
  masks = rng.random((num_masks, n)) < 0.5
  with jax.enable_x64(True):
    compiled = sparse._evaluate_jit.lower(fourier, masks).compile()
  memory = compiled.memory_analysis()
  assert memory.temp_size_in_bytes < 200e6  # A dense design would be 800 MB.
  rows = slice(0, 3)
  expected = [
    sum(c * (-1) ** int(mask[list(s)].sum()) for s, c in fourier.terms())
    for mask in masks[rows]
  ]
  np.testing.assert_allclose(fourier(masks)[rows], expected, atol=1e-10)


def test_repr_is_one_line():
  f = sparse.SparseFourier.from_terms(4, [((0, 1), 2.0), ((), 1.0)])
  assert repr(f) == "SparseFourier(n=4, 2 coefficients)"
  joined = sparse.SparseFourier.stack([f, f])
  assert repr(joined) == "SparseFourier(n=4, 2x2 coefficients)"


def test_a_weighted_sum_of_functions_of_unlike_orders():
  one = sparse.SparseFourier.from_terms(4, {(): 1.0, (0,): 2.0})
  two = sparse.SparseFourier.from_terms(4, {(0,): 4.0, (1, 2, 3): -1.0})
  found = sparse.weighted_sum([one, two], [0.5, -0.25])
  # 0.5 * 2 - 0.25 * 4 is 0: kept, as a set that was named.
  assert dict(found.terms()) == {(): 0.5, (0,): 0.0, (1, 2, 3): 0.25}
