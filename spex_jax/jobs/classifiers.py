"""What `spex attribute data` trains, from `config.model` and `config.training`.

Networks are trained by `config.training`; logistic and ridge regression are
solved outright. Examples come as flat rows; those that need images get their
shape back.

Shapes: N examples, D features, C classes.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import ml_collections

from spex_jax import base
from spex_jax.models import convnet, mlp, sites, vit
from spex_jax.report.tables import count
from spex_jax.training import learners, linear, loop

# A network is differentiated through by some methods: those of them whose
# loss of one example depends on this example alone.
PURE = ("mlp", "transformer")
NETWORKS = (*PURE, "convnet")
MODELS = (*NETWORKS, "logistic", "ridge")
SIZES = ("width", "num_blocks", "num_heads", "patch_size")


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A model, ready to be retrained.

  Attributes:
    learner: which answers `config.model.output`.
    by_loss: the same learner, which answers the cross-entropy.
    by_log_odds: the same, which answers the log odds.
    words: for the reader.
    recipe: of a network; None for models that are solved.
    init: key to the parameters of a network, or None.
  """

  learner: learners.Learner
  by_loss: learners.Learner
  by_log_odds: learners.Learner
  words: str
  recipe: loop.Recipe | None = None
  init: Callable[[base.Key], Any] | None = None


def classifier(
  config: ml_collections.ConfigDict, shape: tuple[int, ...], num_classes: int
) -> Classifier:
  """The model of a configuration.

  Args:
    config: with `model` and `training`.
    shape: of one example: `(D,)`, or of an image `(H, W)` or `(H, W, 3)`.
    num_classes: C.

  Raises:
    ValueError: a network of images for examples that are none, or sizes that
      do not fit.
  """
  model = config.model
  if model.kind in ("logistic", "ridge"):
    make = _logistic if model.kind == "logistic" else _ridge
    return Classifier(
      make(model, num_classes, model.output),
      make(model, num_classes, "loss"),
      make(model, num_classes, "log_odds"),
      f"{model.kind} regression, penalty {model.penalty:g}",
    )
  init, logits, name, more = _NETWORKS[model.kind](model, shape, num_classes)
  recipe = loop.Recipe(**config.training)

  def trained(output: Any) -> learners.Learner:
    return learners.classifier(
      name, init, logits, num_classes, recipe, output=output, **more
    )

  epochs = count(recipe.num_epochs, "epoch")
  words = (
    f"{name}, {epochs} of {recipe.optimizer} at {recipe.learning_rate:g}, "
    f"batches of {recipe.batch_size}"
  )
  return Classifier(
    trained(model.output),
    trained("loss"),
    trained("log_odds"),
    words,
    recipe,
    init,
  )


def _logistic(model, num_classes, output) -> learners.Learner:
  return linear.logistic(model.penalty, num_classes, output=output)


def _ridge(model, num_classes, output) -> learners.Learner:
  return linear.ridge(model.penalty, num_classes=num_classes, output=output)


def _mlp(model, shape, num_classes):
  width = math.prod(shape)
  net = mlp.network(
    mlp.Config(width, num_classes, tuple(model.widths), model.activation)
  )
  sizes = "-".join(map(str, (width, *model.widths, num_classes)))
  logits = lambda params, x: net.apply(params, features=x).logits
  return net.init, logits, f"MLP {sizes} {model.activation}", {}


def transformer(
  model: ml_collections.ConfigDict, shape: tuple[int, ...], num_classes: int
) -> tuple[sites.Network, str]:
  """A small vision transformer, and its name.

  Args:
    model: with `SIZES`.
    shape: of an image.
    num_classes: C.

  Raises:
    ValueError: sizes that do not fit, or examples that are no square images.
  """
  channels, height, width = _image("transformer", shape)
  if height != width:
    raise ValueError(
      "model.kind=transformer takes square images; these are "
      f"{height} by {width}."
    )
  if model.num_heads < 1 or model.width % model.num_heads:
    raise ValueError(
      f"model.num_heads={model.num_heads} must divide model.width="
      f"{model.width}."
    )
  head_width = model.width // model.num_heads
  net = vit.network(
    vit.Config(
      width=model.width,
      num_blocks=model.num_blocks,
      num_heads=model.num_heads,
      num_kv_heads=model.num_heads,
      head_width=head_width,
      num_neurons=4 * model.width,
      score_scale=head_width**-0.5,
      image_size=height,
      patch_size=model.patch_size,
      num_channels=channels,
      num_labels=num_classes,
    )
  )
  return net, (
    f"transformer of {count(model.num_blocks, 'block')}, {model.num_heads} "
    f"heads, width {model.width}, patches of {model.patch_size}"
  )


def _transformer(model, shape, num_classes):
  net, name = transformer(model, shape, num_classes)
  logits = lambda params, x: (
    net.apply(params, pixel_values=_channels_first(x, shape)).logits
  )
  return net.init, logits, name, {}


def _convnet(model, shape, num_classes):
  channels, _, _ = _image("convnet", shape)
  net = convnet.small(num_classes, channels, model.width)

  def logits(state, x, weights=None):
    return net.logits(state, _channels_first(x, shape), weights)

  def finish(params, data, weights):
    images = data | {"x": _channels_first(data["x"], shape)}
    return net.settle(params, images, weights)

  more = {"finish": finish, "settings": net.settings}
  name = f"convnet of {model.width} and {2 * model.width} filters"
  return net.init, logits, name, more


_NETWORKS: dict[str, Callable[..., tuple[Any, Any, str, dict[str, Any]]]] = {
  "mlp": _mlp,
  "transformer": _transformer,
  "convnet": _convnet,
}


def _image(kind, shape) -> tuple[int, int, int]:
  """Channels, height and width."""
  if len(shape) != 2 and not (len(shape) == 3 and shape[2] == 3):
    raise ValueError(
      f"model.kind={kind} takes images, [N, H, W] or [N, H, W, 3]; the "
      f"examples are of shape {shape}. Choose mlp, logistic or ridge."
    )
  return (shape[2] if len(shape) == 3 else 1), shape[0], shape[1]


def _channels_first(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """`[B, D]` to `[B, C, H, W]`."""
  x = x.reshape(len(x), *shape, *(() if len(shape) == 3 else (1,)))
  return x.transpose(0, 3, 1, 2)
