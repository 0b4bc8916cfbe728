"""Tests of SPEX end to end: plans, every decoding, noise, and bad input."""

import pathlib
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest

from spex_jax.datasets import synthetic
from spex_jax.fourier import folding, peeling, spex

# One geometry serves most tests, so that it compiles once.
_N, _BITS, _T = 40, 4, 4


def _plan(seed=0):
  return spex.make_plan(jax.random.key(seed), _N, b=_BITS, t=_T)


def _planted(seed=0, num_terms=12, order=4, **kwargs):
  return synthetic.planted(seed, _N, num_terms, order, **kwargs)


def _support(fourier):
  return {s for s, c in fourier.terms() if s and c}


def _r2(f, fourier, n=_N):
  masks = np.random.default_rng(9).random((2000, n)) < 0.5
  truth = f(masks)
  return 1 - ((truth - fourier(masks)) ** 2).mean() / truth.var()


class TestPlan:
  def test_sizes_of_the_issue(self):
    # P = 36 at n = 100 and 51 at n = 1,000; the systematic code 41 and 56.
    sizes = {
      (n, code): spex.make_plan(jax.random.key(0), n, b=3, code=code).num_masks
      for n in (100, 1000)
      for code in ("raw", "systematic")
    }
    assert sizes == {
      (100, "raw"): 864,
      (100, "systematic"): 984,
      (1000, "raw"): 1224,
      (1000, "systematic"): 1344,
    }

  @pytest.mark.parametrize("budget", [1000, 1727, 1728, 5000])
  def test_largest_plan_within_the_budget(self, budget):
    plan = spex.make_plan(jax.random.key(0), 100, budget)
    assert plan.num_masks <= budget < 4 / 3 * plan.num_masks
    assert 3 <= plan.affine.num_groups <= 5

  def test_offsets_avoid_repeats(self):
    masks = spex.make_plan(jax.random.key(0), 100, b=3).masks()
    assert len(np.unique(masks, axis=0)) == 864

  @pytest.mark.slow
  def test_one_bank_serves_every_size(self):
    f, plan = _planted(num_terms=5), _plan()
    values = f(plan.masks())
    smaller, index = plan.shrink(_BITS - 1)
    np.testing.assert_array_equal(smaller.masks(), plan.masks()[index])
    result = spex.decode(smaller, values[index])
    assert _support(result.fourier) == {s for s, _ in f.terms()}

  def test_small_budget_names_the_least_and_what_fits(self):
    with pytest.raises(ValueError, match=r"216 masks.*t=4 \(needs 174\)"):
      spex.make_plan(jax.random.key(0), 100, 200)
    with pytest.raises(ValueError, match="Raise it"):
      spex.make_plan(jax.random.key(0), 100, 10)
    assert spex.least_budget(100) == 216

  @pytest.mark.parametrize(
    ("kwargs", "message"),
    [
      ({}, "either budget or b"),
      ({"b": 2, "budget": 9}, "either budget or b"),
      ({"b": 11}, r"b must lie in 0\.\.10; got 11"),
      ({"b": -1}, r"b must lie in 0\.\.10; got -1"),
      ({"b": 2, "groups": 1}, "at least 2 groups; got 1"),
      ({"b": 2, "t": 0}, "t must lie in 1..8; got 0"),
      ({"budget": 0}, "A budget of 0 masks is below"),
    ],
  )
  def test_bad_input(self, kwargs, message):
    with pytest.raises(ValueError, match=message):
      spex.make_plan(jax.random.key(0), 10, **kwargs)


class TestDecode:
  @pytest.mark.slow_where("0-soft", "0-hard")
  @pytest.mark.parametrize("decoding", ["hard", "soft", "joint"])
  @pytest.mark.parametrize("seed", range(3))
  def test_noiseless_is_exact(self, decoding, seed):
    f, plan = _planted(seed), _plan(seed)
    result = spex.decode(plan, f(plan.masks()), decoding=decoding)
    assert _support(result.fourier) == {s for s, _ in f.terms()}
    found = dict(result.fourier.terms())
    for s, coef in f.terms():
      assert found[s] == pytest.approx(coef, abs=1e-12)
    assert result.status == "explained"
    assert result.energy_left < 1e-20

  @pytest.mark.slow
  def test_systematic_code_too(self):
    f = _planted()
    plan = spex.make_plan(jax.random.key(0), _N, b=3, t=4, code="systematic")
    result = spex.decode(plan, f(plan.masks()))
    assert _support(result.fourier) == {s for s, _ in f.terms()}

  @pytest.mark.slow
  @pytest.mark.parametrize("groups", [2, 4])
  def test_other_group_counts(self, groups):
    f = _planted(num_terms=6)
    plan = spex.make_plan(jax.random.key(0), _N, b=4, t=4, groups=groups)
    result = spex.decode(plan, f(plan.masks()))
    assert _support(result.fourier) == {s for s, _ in f.terms()}

  @pytest.mark.parametrize("scale", [1e30, 1.0, 1e-30])
  @pytest.mark.parametrize("offset", [0.0, 1e4])
  def test_units_and_offsets_change_nothing(self, scale, offset):
    f, plan = _planted(), _plan()
    values = (f(plan.masks()) + offset) * scale
    result = spex.decode(plan, values)
    assert _support(result.fourier) == {s for s, _ in f.terms()}
    empty = dict(result.fourier.terms())[()]
    # float64 keeps 16 digits of the offset.
    assert empty / scale == pytest.approx(offset, abs=1e-9)

  @pytest.mark.slow
  def test_targets_equal_single_decodes(self):
    plan = _plan()
    functions = [_planted(seed, 4 + seed) for seed in range(3)]
    values = [f(plan.masks()) for f in functions] + [np.full(plan.num_masks, 2)]
    joined = spex.decode(plan, np.stack(values, axis=1))
    assert joined.fourier.num_targets == 4
    for t, single in enumerate(values):
      alone = spex.decode(plan, single)
      assert joined.status[t] == alone.status
      ours, theirs = joined.fourier.target(t).terms(), alone.fourier.terms()
      assert [s for s, _ in ours] == [s for s, _ in theirs]
      # Means over one axis of [N, T] and over [N] round differently.
      np.testing.assert_allclose(
        [c for _, c in ours], [c for _, c in theirs], rtol=1e-12, atol=1e-12
      )

  def test_refit_off_leaves_the_peeled_estimates(self):
    f, plan = _planted(), _plan()
    result = spex.decode(plan, f(plan.masks()), refit=False)
    found = dict(result.fourier.terms())
    for s, coef in f.terms():
      # Conjugate gradients in float32, in units of the deviation (about 2).
      assert found[s] == pytest.approx(coef, abs=1e-5)

  @pytest.mark.slow
  @pytest.mark.parametrize("refit", ["lasso", "ridge", "none"])
  def test_noise_leaves_a_faithful_and_clean_support(self, refit):
    f, plan = _planted(num_terms=15), _plan()
    noisy = synthetic.noisy(f, 0, synthetic.noise_std(f.variance, 10))
    result = spex.decode(plan, noisy(plan.masks()), refit=refit)
    truth = {s for s, _ in f.terms()}
    # Every coefficient is over 12 standard errors; least squares on the true
    # support has R^2 above .99.
    assert truth <= _support(result.fourier)
    assert _r2(f, result.fourier) > 0.985
    assert result.energy_left == pytest.approx(1 / 11, rel=0.35)

  @pytest.mark.slow
  def test_joint_reading_beats_soft_where_no_scan_is_affordable(
    self, monkeypatch
  ):
    monkeypatch.setattr(spex, "_SCAN_FLOPS", 0)
    f = _planted(num_terms=15, min_order=3)
    recalls = {"soft": 0, "joint": 0}
    for seed in range(3):
      plan = _plan(seed)
      noisy = synthetic.noisy(f, seed, synthetic.noise_std(f.variance, 0))
      values = noisy(plan.masks())
      for decoding in recalls:
        result = spex.decode(plan, values, decoding=decoding, refit="none")
        found = _support(result.fourier)
        recalls[decoding] += len(found & {s for s, _ in f.terms()})
    assert recalls["joint"] > 2 * recalls["soft"] > 0

  def test_noise_of_few_players_is_none(self):
    """Their plans have masks several times, of which each tells once."""
    found = []
    for seed in range(6):
      plan = spex.make_plan(jax.random.key(seed), 7, b=4, t=3)
      masks = plan.masks()
      assert len(np.unique(masks, axis=0)) < len(masks) // 3
      table = np.random.default_rng(seed).normal(size=1 << 7)
      noise = spex.decode(plan, table[masks @ (1 << np.arange(7))])
      found.append(int(noise.fourier.count) - 1)
      s = 1.0 - 2.0 * masks
      known = s[:, 0] + 0.5 * s[:, 1] * s[:, 2] - 0.7 * s[:, 3:6].prod(axis=1)
      exact = spex.decode(plan, known)
      assert exact.status == "explained"
      assert _support(exact.fourier) == {(0,), (1, 2), (3, 4, 5)}
    # A tenth of a false set is expected in each scan.
    assert sum(found) <= 4

  @pytest.mark.slow
  def test_pure_noise_is_no_structure(self):
    plan = _plan()
    values = np.random.default_rng(0).normal(size=plan.num_masks)
    result = spex.decode(plan, values)
    assert result.status == "stalled"
    assert len(_support(result.fourier)) <= 2
    assert result.energy_left > 0.9

  @pytest.mark.parametrize("value", [0.0, -3.5, 1e30])
  def test_constant_answers_at_once(self, value):
    plan = _plan()
    result = spex.decode(plan, np.full(plan.num_masks, value))
    assert result.fourier.terms() == [((), pytest.approx(value))]
    assert (result.status, result.rounds) == ("explained", 0)

  def test_integers_and_booleans_are_values(self):
    plan = _plan()
    masks = plan.masks()
    for values in (masks[:, 3], masks[:, 3].astype(int)):
      found = dict(spex.decode(plan, values).fourier.terms())
      assert found == {(): pytest.approx(0.5), (3,): pytest.approx(-0.5)}

  @pytest.mark.slow
  def test_one_player(self):
    plan = spex.make_plan(jax.random.key(0), 1, b=1, t=1)
    values = np.where(plan.masks()[:, 0], 5.0, 1.0)
    found = dict(spex.decode(plan, values).fourier.terms())
    assert found == {(): pytest.approx(3.0), (0,): pytest.approx(-2.0)}

  @pytest.mark.parametrize("n", [2, 3])
  def test_all_sets_of_few_players_are_exact(self, n):
    plan = spex.make_plan(jax.random.key(0), n, b=1, t=n)
    masks = plan.masks()
    assert len(np.unique(masks, axis=0)) == 1 << n
    table = np.random.default_rng(n).normal(size=1 << n)
    values = table[masks @ (1 << np.arange(n))]
    found = spex.decode(plan, values)
    assert found.status == "explained"
    np.testing.assert_allclose(found.fourier(masks), values, atol=1e-9)

  @pytest.mark.slow
  def test_decoding_is_deterministic(self):
    f, plan = _planted(), _plan()
    noisy = synthetic.noisy(f, 0, 1.0)(plan.masks())
    first, again = spex.decode(plan, noisy), spex.decode(plan, noisy)
    assert first.fourier.terms() == again.fourier.terms()

  @pytest.mark.parametrize(
    ("change", "error", "message"),
    [
      (lambda v: v[:-1], ValueError, "one value per mask"),
      (
        lambda v: np.where(np.arange(len(v)) == 7, np.nan, v),
        ValueError,
        r"NaN or infinity for 1 of \d+ masks \(first at row 7\)",
      ),
      (
        lambda v: np.where(np.arange(len(v)) == 0, np.inf, v),
        ValueError,
        "NaN or infinity",
      ),
      (lambda v: v.astype(complex), TypeError, "real numbers"),
      (lambda v: v[:, None, None], ValueError, "one value per mask"),
    ],
  )
  def test_bad_values(self, change, error, message):
    plan = _plan()
    with pytest.raises(error, match=message):
      spex.decode(plan, change(np.zeros(plan.num_masks)))

  def test_bad_choices(self):
    plan = _plan()
    values = np.zeros(plan.num_masks)
    with pytest.raises(ValueError, match="decoding must be one of"):
      spex.decode(plan, values, decoding="medium")
    with pytest.raises(ValueError, match="refit must be"):
      spex.decode(plan, values, refit="elastic")


class TestHundredPlayers:
  """n = 100 and 30 sets on 864 masks: eight bins a group, crowded."""

  @pytest.mark.slow
  @pytest.mark.parametrize("order", [4, 5])
  def test_noiseless_is_exact_for_many_functions(self, order):
    for seed in range(12):
      f = synthetic.planted(seed, 100, 30, order, magnitudes=None)
      plan = spex.make_plan(jax.random.key(seed), 100, b=3)
      result = spex.decode(plan, f(plan.masks()))
      assert _support(result.fourier) == {s for s, _ in f.terms()}, seed
      assert result.status == "explained"

  @pytest.mark.slow
  def test_noise_with_sets_that_no_scan_reaches(self):
    scores = []
    for seed in range(4):
      f = synthetic.planted(seed, 100, 25, 5, magnitudes=None)
      plan = spex.make_plan(jax.random.key(seed), 100, b=3)
      noisy = synthetic.noisy(f, seed, synthetic.noise_std(f.variance, 10))
      result = spex.decode(plan, noisy(plan.masks()))
      scores.append(_r2(f, result.fourier, 100))
    assert np.median(scores) > 0.9

  @pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="needs Linux's /proc"
  )
  @pytest.mark.slow
  def test_memory_under_noise_is_bounded(self):
    # Signs of all players in float64 would take .7 GB, and copies of them more.
    code = """
import jax, numpy as np
from spex_jax.datasets import synthetic
from spex_jax.fourier import spex
f = synthetic.planted(0, 20_000, 40, 3)
plan = spex.make_plan(jax.random.key(0), 20_000, b=5, t=3)
f = synthetic.noisy(f, 0, synthetic.noise_std(f.variance, 10))
values = np.concatenate(
  [f(plan.masks(i, i + 256)) for i in range(0, plan.num_masks, 256)]
)
spex.decode(plan, values)
# ru_maxrss would count what this process was forked from.
status = open("/proc/self/status").read()
print(status.split("VmHWM:")[1].split()[0])
"""
    done = subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1.4 * 2**20  # KiB.


class TestPeel:
  @pytest.mark.slow
  @pytest.mark.parametrize(
    ("settings", "status"),
    [({"capacity": 4}, "FULL"), ({"max_rounds": 1}, "ROUNDS")],
  )
  def test_limits_are_kept_and_reported(self, settings, status):
    f, plan = _planted(num_terms=20), _plan()
    settings = peeling.Settings(**settings)
    geometry = folding.make_geometry(plan.affine, plan.code)
    players = np.full((settings.capacity, _T), _N, np.int32)
    used = np.arange(settings.capacity) == 0
    values = f(plan.masks())
    bins = spex.fold(plan, (values - values.mean()) / values.std())
    found = jax.jit(peeling.peel, static_argnames="settings")(
      geometry, bins, players, used, settings
    )
    assert peeling.Status(int(found.status)).name == status
    assert found.terms.used.sum() <= settings.capacity
    assert 1 <= found.rounds <= settings.max_rounds

  def test_compiles_once(self):
    plan = _plan()
    settings = peeling.Settings(readings=("hard",), capacity=64)
    geometry = folding.make_geometry(plan.affine, plan.code)
    players = np.full((64, _T), _N, np.int32)
    used = np.arange(64) == 0
    chex.clear_trace_counter()
    fn = jax.jit(
      chex.assert_max_traces(
        lambda bins: peeling.peel(geometry, bins, players, used, settings), n=1
      )
    )
    for seed in range(2):
      f = _planted(seed)
      state = fn(spex.fold(plan, f(plan.masks())))
      assert state.status == peeling.Status.EXPLAINED

  @pytest.mark.slow
  def test_memory_is_bounded_by_the_chunk(self):
    # n = 1,000 and 43,008 samples: all bins, patterns and positions in one
    # array would take over 20 GiB.
    plan = spex.make_plan(jax.random.key(0), 1000, b=8, code="systematic")
    assert plan.num_masks == 43_008
    geometry = folding.make_geometry(plan.affine, plan.code)
    capacity = 2048
    bins = jax.ShapeDtypeStruct((3, 256, 56), np.float32)
    players = np.full((capacity, 5), 1000, np.int32)
    for readings in (("hard", "soft"), ("hard", "joint")):
      settings = peeling.Settings(readings=readings, capacity=capacity)
      compiled = (
        jax.jit(peeling.peel, static_argnames="settings")
        .lower(geometry, bins, players, np.arange(capacity) == 0, settings)
        .compile()
      )
      analysis = compiled.memory_analysis()
      assert analysis.temp_size_in_bytes < 2**29
