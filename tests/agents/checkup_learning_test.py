"""MoCo against NumPy, its queue and gradients; views, probes, pictures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from spex_jax.agents.checkup import (
  augmenting,
  encoders,
  learning,
  moco,
  picture_sets,
  probes,
)
from spex_jax.datasets import images

_SIDE = 32
_SETTINGS = moco.Settings(
  steps=3,
  batch_size=8,
  queue=24,
  width=6,
  groups=2,
  learning_rate=0.1,
  optimizer="sgd",
  weight_decay=1e-4,
)
_ENCODER = encoders.Encoder(dataclasses.replace(
  encoders.small(4).config, hidden_sizes=(4, 16), depths=(1, 1)
))  # fmt: skip


@pytest.fixture(scope="module")
def given():
  return picture_sets.dead_leaves(np.random.default_rng(0), 12, _SIDE)


@pytest.fixture(scope="module")
def stepped(given):
  """A state, and what one step makes of it."""
  state = moco.start(jax.random.key(0), _ENCODER, _SETTINGS)
  x = jnp.asarray(given[:8], jnp.float32) / 255
  step = jax.jit(lambda s, k: moco.step(s, k, x, _ENCODER, _SETTINGS))
  return state, *step(state, jax.random.key(1)), step


def _nce(query, key, queue, temperature):
  """In float64, a logarithm of a share."""
  near = np.exp(query @ key / temperature)
  far = np.exp(queue @ query / temperature).sum()
  return -np.log(near / (near + far))


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_the_loss_is_numpys(temperature):
  rng = np.random.default_rng(1)
  rows = rng.normal(size=(50, 16))
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  expected = _nce(rows[0], rows[1], rows[2:], temperature)
  with jax.enable_x64(True):
    found = moco.info_nce(rows[0], rows[1], rows[2:], temperature)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)
  x = jnp.asarray(rows, jnp.float32)
  single = moco.info_nce(x[0], x[1], x[2:], temperature)
  # In float32 a number of 8 to 16 nats has steps of 1e-6 itself.
  assert abs(float(single) - expected) < 1e-6 * max(1, expected)


def test_no_gradient_reaches_the_keys(given):
  state = moco.start(jax.random.key(0), _ENCODER, _SETTINGS)
  x = jnp.asarray(given[:8], jnp.float32) / 255

  def loss(keys, query):
    own = dataclasses.replace(state, keys=keys, query=query)
    return moco.step(own, jax.random.key(1), x, _ENCODER, _SETTINGS)[1]

  # The key encoder follows the query's: its own start has momentum's weight.
  keys, query = jax.jit(jax.grad(loss, (0, 1)))(state.keys, state.query)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(keys))
  assert all(np.any(leaf) for leaf in jax.tree.leaves(query["head"]))
  kernel = query["encoder"]["embedder"]["kernel"]
  assert np.abs(kernel).max() > 0


def test_the_oldest_keys_leave_first():
  queue, place = jnp.zeros((6, 1)), jnp.zeros((), jnp.int32)
  kept: list[float] = [0.0] * 6
  for number in range(1, 6):
    keys = jnp.array([[number], [number + 0.5]])
    queue, place = moco.enqueue(queue, place, keys)
    kept = [*kept[2:], number, number + 0.5]
    turned = np.roll(queue[:, 0], -int(place))  # The oldest first.
    assert turned.tolist() == kept


def test_a_step_moves_the_queue_and_the_keys(stepped):
  state, after, loss, step = stepped
  assert np.isfinite(loss) and int(after.place) == 8
  np.testing.assert_array_equal(after.queue[8:], state.queue[8:])
  np.testing.assert_allclose(np.linalg.norm(after.queue, axis=1), 1, rtol=1e-5)
  # As they were alike at first, the keys have not moved yet; next they follow.
  again, _ = step(after, jax.random.key(2))
  expected = moco.follow(after.keys, after.query, _SETTINGS.momentum)
  for found, own, old in zip(
    *map(jax.tree.leaves, (again.keys, expected, after.keys))
  ):
    np.testing.assert_allclose(found, own, rtol=1e-6, atol=1e-9)
    assert not np.array_equal(found, old) or not np.any(found)


def test_following_is_a_mean():
  found = moco.follow({"a": jnp.ones(2)}, {"a": jnp.full(2, 3.0)}, 0.75)
  np.testing.assert_array_equal(found["a"], [1.5, 1.5])


@pytest.mark.slow
def test_devices_and_repetition_change_nothing(given):
  small = dataclasses.replace(_SETTINGS, groups=4)
  auto = (jax.sharding.AxisType.Auto,)
  mesh = jax.make_mesh((4,), ("batch",), axis_types=auto)
  runs = [
    moco.pretrain(jax.random.key(3), given, _ENCODER, small, m)
    for m in (None, mesh)
  ]
  assert runs[0].losses.shape == (3,) and np.isfinite(runs[0].losses).all()
  # Sums of a batch in another order; three steps of them.
  np.testing.assert_allclose(runs[0].losses, runs[1].losses, rtol=1e-4)


@pytest.mark.parametrize(
  ("wrong", "complaint"),
  [
    ({"queue": 20}, "multiple of batch_size=8"),
    ({"groups": 3}, "multiple of groups=3"),
    ({"temperature": 0.0}, "temperature=0.0 above 0"),
    ({"momentum": 1.5}, "momentum=1.5"),
    ({"steps": 0}, "at least 1"),
    ({"optimizer": "lion"}, "choose from"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(wrong, complaint):
  with pytest.raises(ValueError, match=complaint):
    dataclasses.replace(_SETTINGS, **wrong)


def test_settled_encoders_answer_for_each_picture_alone(given):
  params = jax.jit(_ENCODER.init)(jax.random.key(0))
  settle = jax.jit(_ENCODER.settle, static_argnames="batch_size")
  settled = settle(params, given, batch_size=12)
  read = jax.jit(_ENCODER.read)
  features = read(settled, given)
  # Of this one batch the recorded statistics are its own.
  of = jax.jit(_ENCODER.features, static_argnames="groups")
  own = of(params, jnp.asarray(given))
  np.testing.assert_allclose(features, own, rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(
    read(settled, given[:3]), features[:3], rtol=1e-4, atol=1e-5
  )
  parts = of(params, jnp.asarray(given), groups=2)
  half = of(params, jnp.asarray(given[6:]))
  np.testing.assert_allclose(parts[6:], half, rtol=1e-3, atol=1e-4)


def test_crops_are_exact():
  whole = augmenting.crop(jnp.zeros(()), jnp.ones(()), 8)
  np.testing.assert_allclose(whole, np.eye(8), atol=1e-6)
  line = np.arange(8.0)
  half = augmenting.crop(jnp.asarray(0.25), jnp.asarray(0.5), 8) @ line
  # Centres of eighths of the middle half, between those of the pixels.
  np.testing.assert_allclose(half, 1.75 + 0.5 * np.arange(8), atol=1e-5)
  edge = augmenting.crop(jnp.zeros(()), jnp.asarray(0.25), 8) @ np.ones(8)
  np.testing.assert_allclose(edge, 1, atol=1e-6)


def test_views_without_changes_are_the_picture(given):
  still = augmenting.Views(1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
  x = jnp.asarray(given[0], jnp.float32) / 255
  see = jax.jit(augmenting.view, static_argnames="views")
  np.testing.assert_allclose(see(jax.random.key(0), x, still), x, atol=2e-5)
  grey = dataclasses.replace(still, grey=1.0)
  found = np.asarray(see(jax.random.key(0), x, grey))
  np.testing.assert_allclose(np.ptp(found, axis=0), 0, atol=2e-5)
  turned = see(jax.random.key(0), x, dataclasses.replace(still, negative=1.0))
  np.testing.assert_allclose(turned, 1 - x, atol=2e-5)
  many = see(jax.random.key(0), x, augmenting.VIEWS)
  np.testing.assert_array_equal(
    many, see(jax.random.key(0), x, augmenting.VIEWS)
  )
  assert not np.allclose(many, see(jax.random.key(1), x, augmenting.VIEWS))
  assert np.min(many) >= 0 and np.max(many) <= 1


def test_neighbours_vote_as_written_out():
  rng = np.random.default_rng(0)
  known, labels = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
  asked = rng.normal(size=(9, 4))
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  right = []
  for one in unit(asked):
    near = unit(known) @ one
    scores = np.zeros(3)
    for row in np.argsort(-near)[:5]:
      scores[labels[row]] += np.exp(near[row] / 0.07)
    right.append(scores.argmax())
  assert probes.knn(known, labels, asked, np.array(right), 5) == 1
  wrong = (np.array(right) + 1) % 3
  assert probes.knn(known, labels, asked, wrong, 5) == 0
  scaled, other = probes.standardised(3 * known + 5, 3 * asked + 5)
  np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-12)
  expected = (asked - known.mean(0)) / known.std(0)
  np.testing.assert_allclose(other, expected, rtol=1e-9, atol=1e-12)
  same = probes.linear(scaled, labels, scaled, labels)
  assert 0.4 < same <= 1


def test_made_pictures_are_as_the_seed_has_them():
  digits = images.digits().take(np.arange(4))
  for make in (
    lambda rng: picture_sets.dead_leaves(rng, 4, _SIDE),
    lambda rng: picture_sets.drawings(rng, 4, _SIDE),
    lambda rng: picture_sets.coloured_digits(rng, digits, _SIDE),
    lambda rng: picture_sets.grey_digits(digits, _SIDE),
  ):
    found = make(np.random.default_rng(5))
    assert found.shape == (4, 3, _SIDE, _SIDE) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, make(np.random.default_rng(5)))
    assert all(np.ptp(own) > 0 for own in found)


def test_folders_tell_what_is_blank_or_broken(tmp_path):
  with pytest.raises(FileNotFoundError, match="no such folder"):
    picture_sets.folder(tmp_path / "none", _SIDE)
  with pytest.raises(ValueError, match="has no picture"):
    picture_sets.folder(tmp_path, _SIDE)
  rng = np.random.default_rng(0)
  for name in "ab":
    (tmp_path / name).mkdir()
    (tmp_path / name / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    Image.new("RGB", (40, 40), "red").save(tmp_path / name / "blank.png")
  with pytest.raises(ValueError, match="none of 4 pictures can be used"):
    picture_sets.folder(tmp_path, _SIDE)
  own = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
  Image.fromarray(own).save(tmp_path / "b" / "sound.png")
  found = picture_sets.folder(tmp_path, _SIDE)
  assert found.pictures.shape == (1, 3, _SIDE, _SIDE)
  assert found.classes == ("b",) and found.labels.tolist() == [0]
  assert len(found.left_out) == 4
  assert any("blank" in why for why in found.left_out.values())


def test_training_that_diverges_is_told(given):
  wild = dataclasses.replace(_SETTINGS, learning_rate=1e30, steps=8)
  asked = learning.Asked(given, np.arange(12) % 2, given, np.arange(12) % 2)
  trainer = learning.Trainer(_ENCODER, wild)
  with pytest.raises(FloatingPointError, match="lower learning_rate"):
    trainer.params(0, "dead_leaves", given, asked)
