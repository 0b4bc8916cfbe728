"""A Gaussian process against sums over all characters, in plain NumPy."""

import tracemalloc

import jax
import numpy as np
import pytest

from spex_jax.proxies import gaussian, out_of_fold, spectrum
from tests.proxies import process

_EPS = np.finfo(np.float64).eps
_SHAPE = 40, 6  # Of every fit here: a compilation takes seconds.


def _data(seed=0, noise=0.3):
  """Masks, and values of two players, their pair and noise."""
  rng = np.random.default_rng(seed)
  masks = rng.random(_SHAPE) < 0.5
  values = 2.0 * masks[:, 0] - masks[:, 3] + 1.5 * masks[:, 0] * masks[:, 3]
  return masks, values + noise * rng.normal(size=len(masks))


@pytest.mark.parametrize(
  "seed, n, rank", [(0, 1, 0), (1, 2, 0), (2, 6, 0), (3, 6, 2), (4, 1, 4)]
)
def test_kernel_is_the_product_over_players(seed, n, rank):
  rng = np.random.default_rng(seed)
  params = process.draw_params(rng, n, rank)
  left, right = (
    1.0 - 2.0 * process.draw_masks(seed + i, b, n) for i, b in ((1, 5), (2, 3))
  )
  with jax.enable_x64(True):
    actual = np.asarray(jax.jit(gaussian.kernel)(params, left, right))
  expected = process.kernel(params, left, right)
  # Logarithms of n factors, each of size under 10, are added and raised; the
  # linear part may cancel.
  atol = 100 * n * _EPS * np.exp(params.linear).sum()
  np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=atol)


def test_conditioning_inverts_the_kernel_matrix():
  expected = process.draw(4, 25, 5)
  with jax.enable_x64(True):
    weights, inverse = jax.jit(gaussian.condition)(
      expected.params, expected.signs, expected.unit
    )
  np.testing.assert_allclose(weights, expected.weights, rtol=1e-9)
  np.testing.assert_allclose(inverse, expected.inverse, atol=1e-9)


def test_predictions_and_readings_in_parts_are_the_same(monkeypatch):
  posterior = process.draw(1, 20, 5)
  sets, test = (
    process.padded(5, process.subsets(5)),
    process.draw_masks(5, 33, 5),
  )

  def read():
    return (
      gaussian.predict_mean(posterior, test),
      spectrum.coefs(posterior, sets),
      spectrum.standard_errors(posterior, sets),
      spectrum.energy(posterior),
    )

  whole = read()
  monkeypatch.setattr(gaussian, "CELLS", 70)  # 3 masks at once.
  for actual, expected in zip(read(), whole):
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 2])
def test_predictions_are_the_posterior(rank):
  posterior = process.draw(1, 20, 5, rank=rank)
  test = process.draw_masks(5, 33, 5)
  signs = 1.0 - 2.0 * test
  cross = process.kernel(posterior.params, signs, posterior.signs)
  mean = gaussian.predict_mean(posterior, test)
  np.testing.assert_allclose(mean, 3.0 + 2.0 * cross @ posterior.weights)


def test_predictions_compile_nothing():
  compiled = []

  def listen(event, duration_secs, **about):
    if event == "/jax/core/compile/backend_compile_duration":
      compiled.append(about["fun_name"])

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    # Of a size that no other test has.
    posterior = process.draw(1, 37, 7, rank=2)
    gaussian.predict_mean(posterior, process.draw_masks(5, 35, 7))
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert not compiled, compiled


def test_no_masks_are_predicted_as_nothing():
  posterior = process.draw(1, 20, 5)
  mean = gaussian.predict_mean(posterior, np.zeros((0, 5), bool))
  assert mean.shape == (0,)
  with pytest.raises(ValueError, match="expected n=5"):
    gaussian.predict_mean(posterior, np.zeros((1, 4), bool))


@pytest.mark.parametrize("num_masks, rank", [(2, 0), (15, 0), (15, 2)])
def test_leave_one_out_leaves_one_out(num_masks, rank):
  posterior = process.draw(7, num_masks, 4, rank=rank)
  masks = posterior.signs < 0
  mean, std = gaussian.leave_one_out(posterior)
  for i in range(num_masks):
    rest = np.delete(np.arange(num_masks), i)
    other = process.condition(
      posterior.params, masks[rest], posterior.unit[rest], 3.0, 2.0
    )
    expected = gaussian.predict_mean(other, masks[i : i + 1])
    np.testing.assert_allclose(mean[i], expected[0], rtol=1e-10)
    own = posterior.signs[i : i + 1]
    cross = process.kernel(posterior.params, own, other.signs)
    variance = process.kernel(posterior.params, own, own)
    variance = variance - cross @ other.inverse @ cross.T
    with_noise = variance + process.noise_variance(posterior.params)
    np.testing.assert_allclose(std[i] ** 2, 4.0 * with_noise[0, 0], rtol=1e-10)


def _nats(params, signs, values, spread):
  """The negative log posterior of the parameters, by its definition."""
  gram = process.kernel(params, signs, signs)
  gram += process.noise_variance(params) * np.eye(len(values))
  nats = 0.5 * values @ np.linalg.solve(gram, values)
  nats += 0.5 * np.linalg.slogdet(gram)[1]
  nats += 0.5 * ((params.noise + 3) / 3) ** 2
  for each in (params.linear, params.relevance):
    nats += ((each - each.mean()) ** 2).sum() / (2 * spread**2)
  return nats + (params.directions**2).sum() / 2


@pytest.mark.parametrize("rank", [0, 2])
def test_objective_and_its_gradient(rank):
  rng = np.random.default_rng(3)
  n, spread = 3, 0.7
  params = process.draw_params(rng, n, rank)
  signs, values = 1.0 - 2.0 * process.draw_masks(3, 9, n), rng.normal(size=9)
  with jax.enable_x64(True):
    actual, slope = jax.jit(jax.value_and_grad(gaussian.objective))(
      params, signs, values, spread
    )
    slope = jax.tree.map(np.asarray, slope)
  expected = _nats(params, signs, values, spread)
  np.testing.assert_allclose(actual, expected, rtol=1e-10)
  # Central differences err by about h^2 of the third derivative, and by
  # rounding over h: 1e-10 each.
  h = 1e-5
  for leaf, name in zip(slope, params._fields):
    for i in np.ndindex(leaf.shape):
      sides = []
      for sign in (1, -1):
        moved = np.array(getattr(params, name))
        moved[i] += sign * h
        moved_params = params._replace(**{name: moved})
        sides.append(_nats(moved_params, signs, values, spread))
      difference = (sides[0] - sides[1]) / (2 * h)
      np.testing.assert_allclose(leaf[i], difference, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_tuning_lowers_the_objective_and_finds_who_matters():
  masks, values = _data()
  posterior = gaussian.fit(masks, values)
  signs, start = 1.0 - 2.0 * masks, gaussian.start(6)
  found = posterior.params
  spread = gaussian.SPREADS[-1]
  before = _nats(start, signs, posterior.unit, spread)
  after = _nats(found, signs, posterior.unit, spread)
  assert after < before - 5
  used, unused = [0, 3], [1, 2, 4, 5]
  assert found.linear[used].min() > found.linear[unused].max()
  assert found.relevance[used].min() > found.relevance[unused].max()
  # The noise is 0.3; 40 values tell its size to a factor of two.
  assert 0.15 < posterior.noise_std < 0.6
  test, truth = _data(1, noise=0.0)
  mean = gaussian.predict_mean(posterior, test)
  error = np.sqrt(((mean - truth) ** 2).mean())
  assert error < 0.4  # Guessing the mean errs by 1.3.


def test_a_wide_spread_tells_players_apart_more_than_a_narrow_one():
  masks, values = _data()
  narrow, wide = (
    gaussian.fit(masks, values, spread=spread).params.relevance
    for spread in (0.1, 2.0)
  )
  assert np.std(narrow) < 0.2 < 0.4 < np.std(wide)


def test_a_step_to_nowhere_is_taken_back():
  masks, values = _data()
  signs, unit = 1.0 - 2.0 * masks, (values - values.mean()) / values.std()
  start = gaussian.start(6)
  # Steps of 1,000: the next amplitude is e^1000, infinite.
  with jax.enable_x64(True):
    found, path = jax.tree.map(
      np.asarray, gaussian._tune(start, signs, unit, 1.0, 60, 1000.0)
    )
  path = path[:60]
  assert np.isfinite(path[0]) and not np.isfinite(path).all()
  assert all(np.isfinite(leaf).all() for leaf in found)
  # They are a point of the way, not one beyond it.
  nats = _nats(found, signs, unit, 1.0)
  assert np.isclose(path, nats, rtol=1e-9, atol=0).any()


def test_all_condition_where_a_part_is_tuned_on():
  masks, values = _data()
  order = np.argsort(np.arange(40) * 0.6180339887498949 % 1, kind="stable")
  rest = order[20:]
  changed = values.copy()
  changed[rest] = values[rest[::-1]]  # The same values: the same scale.
  one = gaussian.fit(masks, values, most_tuned=20)
  other = gaussian.fit(masks, changed, most_tuned=20)
  for a, b in zip(one.params, other.params):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  assert len(one.weights) == 40
  assert np.abs(one.weights - other.weights).max() > 0.01


def _ridge(seed, num_masks=400, n=16):
  """A function of one direction, which no product kernel knows."""
  rng = np.random.default_rng(seed)
  masks = rng.random((num_masks, n)) < 0.5
  along = (1.0 - 2.0 * masks) @ np.linspace(0.05, 0.3, n)
  return masks, np.tanh(2.0 * along)


@pytest.mark.slow
def test_directions_learn_a_function_of_one_direction():
  masks, values = _ridge(0)
  test, truth = _ridge(1)
  plain = gaussian.fit(masks, values)
  begin = gaussian.with_directions(plain.params)
  assert begin.directions.shape == (16, 4)
  directed = gaussian.fit(masks, values, params=begin)
  before, after = (
    np.mean((gaussian.predict_mean(one, test) - truth) ** 2)
    for one in (plain, directed)
  )
  assert after < 0.8 * before


@pytest.mark.slow
def test_directions_of_a_group_are_tuned_on_the_others():
  masks, values = _ridge(0)
  plain = out_of_fold.predict(masks, values)
  directed = out_of_fold.predict(masks, values, warm_start=plain)
  part, _ = plain.groups[0]
  np.testing.assert_array_equal(directed.groups[0][0], part)
  changed = values.copy()
  changed[part] = np.roll(values[part], 1)
  other = out_of_fold.predict(
    masks,
    changed,
    warm_start=plain._replace(
      groups=out_of_fold.predict(masks, changed).groups
    ),
  )
  # Only the rescaling of the values differs; rounding grows over the steps.
  np.testing.assert_allclose(
    other.groups[0][1].directions, directed.groups[0][1].directions, rtol=1e-4
  )
  left = np.abs(
    other.groups[1][1].directions - directed.groups[1][1].directions
  )
  assert left.max() > 0.1
  error = ((directed.mean - values) ** 2).mean()
  assert error < 0.8 * ((plain.mean - values) ** 2).mean()


@pytest.mark.parametrize("groups", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_groups_do_not_leak(monkeypatch, groups):
  """Nor, of four, through the steps that two of them share."""
  if groups == 4:
    monkeypatch.setattr(gaussian, "FIRST", 10)
  masks, values = _data()
  whole = out_of_fold.predict(masks, values, groups=groups)
  order = np.argsort(np.arange(40) * 0.6180339887498949 % 1, kind="stable")
  size = 40 // groups
  for g, (part, params) in enumerate(whole.groups):
    # As `regress.spread_order` parts the masks.
    assert set(part) == set(order[g * size : (g + 1) * size])
    changed = values.copy()
    changed[part] = 2.0 + 3.0 * np.random.default_rng(g).normal(size=size)
    other = out_of_fold.predict(masks, changed, groups=groups)
    # The values are rescaled; rounding grows over 60 steps of Adam.
    for a, b in zip(params, other.groups[g][1]):
      np.testing.assert_allclose(a, b, rtol=1e-6)
    moved = other.groups[g - 1][1].linear - whole.groups[g - 1][1].linear
    assert np.abs(moved).max() > 0.01


def test_a_value_does_not_enter_its_own_prediction():
  masks, values = _data()
  whole = out_of_fold.predict(masks, values, groups=2)
  for i in (0, 17):
    changed = values.copy()
    changed[i] += 4.0
    other = out_of_fold.predict(masks, changed, groups=2)
    # Rounding grows over 60 steps of Adam.
    np.testing.assert_allclose(other.mean[i], whole.mean[i], rtol=1e-6)
    np.testing.assert_allclose(other.std[i], whole.std[i], rtol=1e-6)
    assert np.abs(np.delete(other.mean - whole.mean, i)).max() > 0.05


def test_out_of_fold_predictions_are_calibrated():
  masks, values = _data()
  found = out_of_fold.predict(masks, values)
  z = (values - found.mean) / found.std
  # 14 parameters tuned on 20 masks leave the process too sure of itself; but
  # it is not off by more than a factor of two.
  assert 0.25 < (z**2).mean() < 4.0
  assert ((values - found.mean) ** 2).mean() < 0.2 * values.var()


def test_one_fit_predicts_each_value_by_the_others():
  rng = np.random.default_rng(3)
  masks = rng.random((450, 6)) < 0.5
  noise = 0.5 * rng.normal(size=450)
  values = np.tanh((2.0 * masks - 1) @ rng.normal(size=6)) + noise
  posterior = gaussian.fit(masks, values)
  found = out_of_fold.by_fit(posterior)
  # The oracle: a solve for the others, by these parameters.
  signs, params = 1.0 - 2.0 * masks, posterior.params
  gram = gaussian.kernel(params, signs, signs, np)
  variance = np.exp(params.noise) + gaussian.LEAST_NOISE
  for i in (0, 201, 449):
    others = np.delete(np.arange(450), i)
    unit = (values[others] - posterior.mean) / posterior.scale
    inner = gram[np.ix_(others, others)] + variance * np.eye(449)
    weights = np.linalg.solve(inner, gram[others, i])
    mean = weights @ unit * posterior.scale + posterior.mean
    left = gram[i, i] + variance - weights @ gram[others, i]
    np.testing.assert_allclose(found.mean[i], mean, rtol=1e-8)
    std = np.sqrt(left) * posterior.scale
    np.testing.assert_allclose(found.std[i], std, rtol=1e-8)
  # Every row is of one group, with the parameters of all.
  rows = np.sort(np.concatenate([part for part, _ in found.groups]))
  np.testing.assert_array_equal(rows, np.arange(450))
  assert all(own is params for _, own in found.groups)
  # 15 parameters know little of 450 values: the noise is not explained.
  error = ((found.mean - values) ** 2).mean()
  assert 0.92 < error / (noise**2).mean() < 1.4


def test_two_masks_are_a_group_each():
  found = out_of_fold.predict(np.eye(2, 3) == 1, np.array([1.0, 3.0]))
  # Each is predicted from the other alone.
  np.testing.assert_allclose(found.mean, [3.0, 1.0], rtol=1e-12)
  assert np.isfinite(found.std).all() and np.isfinite(found.rising)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_units_and_offset_change_nothing(scale, offset):
  masks, values = _data()
  plain = gaussian.fit(masks, values)
  other = gaussian.fit(masks, (values + offset) * scale)
  # An offset of 1e6 costs six digits, and Adam's steps some of the rest.
  rtol = 1e-4 if offset else 1e-6
  for a, b in zip(plain.params, other.params):
    np.testing.assert_allclose(a, b, rtol=rtol)
  sets = process.padded(6, process.subsets(6)[1:])
  for reading in (spectrum.coefs, spectrum.standard_errors):
    expected = reading(plain, sets)
    np.testing.assert_allclose(
      reading(other, sets) / scale,
      expected,
      rtol=0,
      atol=rtol * np.abs(expected).max(),
    )
  energy = spectrum.energy(plain)
  np.testing.assert_allclose(spectrum.energy(other), energy, rtol=rtol)
  left = (gaussian.leave_one_out(other)[0] / scale - offset) - values
  expected = gaussian.leave_one_out(plain)[0] - values
  np.testing.assert_allclose(left, expected, atol=10 * rtol)


def test_constant_values():
  masks, _ = _data()
  posterior = gaussian.fit(masks, np.full(40, 7.0))
  sets = process.padded(6, process.subsets(6))
  np.testing.assert_array_equal(
    spectrum.coefs(posterior, sets), [7.0] + [0.0] * 63
  )
  assert spectrum.energy(posterior) == 0
  mean = gaussian.predict_mean(posterior, masks)
  np.testing.assert_array_equal(mean, np.full(40, 7.0))
  np.testing.assert_array_equal(
    out_of_fold.predict(masks, np.full(40, 7.0)).mean, np.full(40, 7.0)
  )


def test_two_distinct_values():
  masks, _ = _data()
  values = np.where(masks[:, 2], 1.0, -1.0)
  posterior = gaussian.fit(masks, values)
  found = spectrum.coefs(posterior, np.array([[2], [0]]))
  np.testing.assert_allclose(found, [-1.0, 0.0], atol=1e-3)


def test_one_mask_is_its_own_mean():
  posterior = gaussian.fit(np.ones((1, 3), bool), [4.0])
  mean = gaussian.predict_mean(posterior, process.draw_masks(0, 5, 3))
  np.testing.assert_array_equal(mean, np.full(5, 4.0))


def test_equal_masks_share_their_mean():
  rng = np.random.default_rng(0)
  pair = np.array([[True] * 6, [False, True] * 3])
  masks = np.repeat(pair, 20, axis=0)
  values = np.repeat([1.0, -1.0], 20) + 0.1 * rng.normal(size=40)
  posterior = gaussian.fit(masks, values)
  mean = gaussian.predict_mean(posterior, pair)
  # Of 20 values each, and shrunk by at most their share of the noise.
  expected = [values[:20].mean(), values[20:].mean()]
  np.testing.assert_allclose(mean, expected, atol=0.02)


def test_noise_alone_is_told_as_noise():
  rng = np.random.default_rng(5)
  masks, _ = _data()
  values = rng.normal(size=40)
  found = out_of_fold.predict(masks, values)
  # Predicted no worse than by twice the variance: it does not chase noise.
  assert ((found.mean - values) ** 2).mean() < 1.5 * values.var()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("take", [gaussian.fit, out_of_fold.predict])
def test_values_that_are_not_finite(bad, take):
  masks, values = _data()
  values[3] = bad
  with pytest.raises(ValueError, match=r"NaN or infinity for 1 of 40.*row 3"):
    take(masks, values)


@pytest.mark.parametrize("take", [gaussian.fit, out_of_fold.predict])
def test_too_many_masks_allocate_nothing(take):
  masks, values = np.zeros((16385, 3), bool), np.zeros(16385)
  tracemalloc.start()
  try:
    with pytest.raises(ValueError, match="up to 16384 masks; got 16385"):
      take(masks, values)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < 1 << 21  # A kernel matrix would take 2^31 bytes.


def test_bad_input():
  masks, values = _data()
  targets = np.stack([values, values], axis=1)
  for take in (gaussian.fit, out_of_fold.predict):
    with pytest.raises(ValueError, match=r"one target, \[B\]; got \(40, 2\)"):
      take(masks, targets)
    with pytest.raises(ValueError, match=r"a player; got shape \(40, 0\)"):
      take(masks[:, :0], values)
    with pytest.raises(ValueError, match="spread must be positive.*got 0"):
      take(masks, values, spread=0)
    with pytest.raises(ValueError, match="one value per mask"):
      take(masks, values[:5])
  with pytest.raises(ValueError, match="at least one mask"):
    gaussian.fit(masks[:0], values[:0])
  with pytest.raises(ValueError, match="at least 2 masks; got 1"):
    out_of_fold.predict(masks[:1], values[:1])


def test_a_kernel_beyond_float64_is_an_error(monkeypatch):
  masks, values = _data()
  monkeypatch.setattr(gaussian, "_tune", lambda p, *_: (p, np.zeros(64)))
  huge = gaussian.start(6)._replace(amplitude=np.asarray(800.0))
  with pytest.raises(FloatingPointError, match="not positive definite"):
    gaussian.fit(masks, values, params=huge)
