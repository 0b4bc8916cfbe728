"""What the command on training examples can retrain."""

import jax
import numpy as np
import pytest

from spex_jax import cli, settings
from spex_jax.influence import classifiers
from spex_jax.jobs import retraining


def _config(kind, **changes):
  changes = {f"model.{name}": value for name, value in changes.items()}
  changes |= {"model.kind": kind, "training.num_epochs": 1}
  return cli.load_config("data_digits:quick", "attribute", changes)


def _classifier(kind, shape, **changes):
  config = _config(kind, **changes)
  return classifiers.classifier(
    shape=shape,
    num_classes=2,
    recipe=config.training.recipe,
    **settings.as_dict(config.model),
  )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformer", "convnet"])
def test_networks_of_images_are_retrained(kind):
  """Values depend on who is there, and not on what the others look like."""
  problem = retraining.problem_of(_config(kind))
  masks = np.arange(24) % 4 != np.arange(3)[:, None]
  values = problem.retrainer.run(masks).values
  assert values.shape == (3, 6) and np.isfinite(values).all()
  assert np.ptp(values, axis=0).max() > 1e-3
  shared = problem.retrainer._shared["data"]
  x = problem.data["x"].copy()
  x[~masks[0]] = 0.5
  shared["x"] = jax.numpy.asarray(x)  # An operand: nothing compiles again.
  again = problem.retrainer.run(masks).values
  np.testing.assert_array_equal(again[0], values[0])
  assert np.abs(again[1:] - values[1:]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformer", "convnet"])
def test_networks_of_images_learn(kind):
  """Most digits right, with all examples there, at the full size."""
  config = cli.load_config("data_digits", "attribute", {"model.kind": kind})
  problem = retraining.problem_of(config)
  margins = problem.retrainer.run(np.ones((1, 200), bool)).values
  assert (margins > 0).mean() > 0.9


def test_words_of_every_model():
  said = {kind: _classifier(kind, (8, 8)).words for kind in classifiers.MODELS}
  training = "1 epoch of adam at 0.01, batches of 8"
  assert said == {
    "mlp": f"MLP 64-8-2 relu, {training}",
    "transformer": "transformer of 1 block, 2 heads, width 8, patches of 4, "
    + training,
    "convnet": f"convnet of 8 and 16 filters, {training}",
    "logistic": "logistic regression, penalty 1",
    "ridge": "ridge regression, penalty 1",
  }


@pytest.mark.parametrize(
  ("kind", "shape", "changes", "message"),
  [
    ("convnet", (5,), {}, "takes images"),
    ("transformer", (8, 8, 2), {}, "takes images"),
    ("transformer", (8, 6), {}, "8 by 6"),
    ("transformer", (8, 8), {"num_heads": 3}, "must divide model.width=8"),
    ("transformer", (8, 8), {"patch_size": 3}, "do not divide an image of 8"),
  ],
)
def test_networks_that_do_not_fit(kind, shape, changes, message):
  with pytest.raises(ValueError, match=message):
    _classifier(kind, shape, **changes)


@pytest.mark.slow
def test_colours_are_the_last_axis():
  """The same as the network on channels first."""
  made = _classifier("convnet", (8, 8, 3))
  x = np.random.default_rng(0).random((4, 8, 8, 3)).astype(np.float32)
  params = made.init(jax.random.key(0))
  test = {"x": x.reshape(4, -1), "y": np.zeros(4, int)}
  net = classifiers.convnet.small(2, 3, 8)
  logits = net.logits(params, x.transpose(0, 3, 1, 2))
  np.testing.assert_array_equal(
    made.learner.read(params, test), logits[:, 0] - logits[:, 1]
  )
