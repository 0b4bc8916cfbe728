"""Small classifiers by name, to be retrained on many subsets.

Networks are trained by a recipe; logistic and ridge regression are solved
outright. Examples come as flat rows; those that need images get their shape
back.

Shapes: N examples, D features, C classes.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from spex_jax import base
from spex_jax.models import convnet, mlp, sites, vit
from spex_jax.training import learners, linear, loop

# A network is differentiated through by some methods: those of them whose
# loss of one example depends on this example alone.
PURE = ("mlp", "transformer")
NETWORKS = (*PURE, "convnet")
MODELS = (*NETWORKS, "logistic", "ridge")


@dataclasses.dataclass(frozen=True)
class Classifier:
  """A model, ready to be retrained.

  Attributes:
    learner: the learner, which answers the output that was asked for.
    by_loss: the same learner, which answers the cross-entropy.
    by_log_odds: the same, which answers the log odds.
    words: a description of the model for the reader.
    recipe: the recipe of a network; None for models that are solved.
    init: key to the parameters of a network, or None.
    penalty: the penalty of logistic regression, on the sum of losses; None for
      others.
  """

  learner: learners.Learner
  by_loss: learners.Learner
  by_log_odds: learners.Learner
  words: str
  recipe: loop.Recipe | None = None
  init: Callable[[base.Key], Any] | None = None
  penalty: float | None = None


def classifier(
  kind: str,
  shape: tuple[int, ...],
  num_classes: int | None,
  *,
  recipe: loop.Recipe,
  output: str = "margin",
  penalty: float = 1.0,
  widths: Sequence[int] = (64, 32),
  activation: str = "relu",
  width: int = 16,
  num_blocks: int = 1,
  num_heads: int = 2,
  patch_size: int = 2,
) -> Classifier:
  """A model by name.

  Args:
    kind: one of `MODELS`.
    shape: the shape of one example: `(D,)`, or that of an image, `(H, W)` or
      `(H, W, 3)`.
    num_classes: C; None for a response, of ridge alone, which answers its
      prediction.
    recipe: the recipe by which a network is trained.
    output: what it answers, see `learners.classifier`.
    penalty: the penalty of logistic and ridge regression.
    widths: the widths of the hidden layers of the MLP.
    activation: the activation of the MLP.
    width: the width of the transformer and the convnet.
    num_blocks: the number of blocks of the transformer.
    num_heads: the number of heads of each block; they divide the width.
    patch_size: the side of a patch of the transformer, in pixels.

  Raises:
    ValueError: a network of images for examples that are none, or sizes that
      do not fit.
  """
  # Models that are solved.
  if num_classes is None:
    if kind != "ridge":
      raise ValueError(f"kind={kind!r} needs classes; a response needs ridge.")
    read, lost = (
      linear.ridge(penalty, output=name) for name in ("prediction", "loss")
    )
    return Classifier(
      read, lost, read, f"ridge regression, penalty {penalty:g}"
    )
  if kind in ("logistic", "ridge"):
    make = _logistic if kind == "logistic" else _ridge
    return Classifier(
      make(penalty, num_classes, output),
      make(penalty, num_classes, "loss"),
      make(penalty, num_classes, "log_odds"),
      f"{kind} regression, penalty {penalty:g}",
      penalty=penalty if kind == "logistic" else None,
    )
  # Networks, which a recipe trains.
  more: Any = {}
  if kind == "mlp":
    init, logits, name = _mlp(shape, num_classes, widths, activation)
  elif kind == "transformer":
    init, logits, name = _transformer(
      shape,
      num_classes,
      width=width,
      num_blocks=num_blocks,
      num_heads=num_heads,
      patch_size=patch_size,
    )
  else:
    init, logits, name, more = _convnet(shape, num_classes, width)

  def trained(output: Any) -> learners.Learner:
    return learners.classifier(
      name, init, logits, num_classes, recipe, output=output, **more
    )

  epochs = _count(recipe.num_epochs, "epoch")
  words = (
    f"{name}, {epochs} of {recipe.optimizer} at {recipe.learning_rate:g}, "
    f"batches of {recipe.batch_size}"
  )
  return Classifier(
    trained(output),
    trained("loss"),
    trained("log_odds"),
    words,
    recipe,
    init,
  )


def _logistic(penalty, num_classes, output) -> learners.Learner:
  return linear.logistic(penalty, num_classes, output=output)


def _ridge(penalty, num_classes, output) -> learners.Learner:
  return linear.ridge(penalty, num_classes=num_classes, output=output)


def _count(number: int, what: str) -> str:
  return f"{number:,} {what}{'' if number == 1 else 's'}"


def _mlp(shape, num_classes, widths, activation):
  width = math.prod(shape)
  net = mlp.network(mlp.Config(width, num_classes, tuple(widths), activation))
  sizes = "-".join(map(str, (width, *widths, num_classes)))
  logits = lambda params, x: net.apply(params, features=x).logits
  return net.init, logits, f"MLP {sizes} {activation}"


def transformer(
  shape: tuple[int, ...],
  num_classes: int,
  *,
  width: int,
  num_blocks: int,
  num_heads: int,
  patch_size: int,
) -> tuple[sites.Network, str]:
  """A small vision transformer, and its name.

  Args:
    shape: the shape of an image.
    num_classes: C.
    width: the width of its stream.
    num_blocks: the number of blocks.
    num_heads: the number of heads of each block; they divide the width.
    patch_size: the side of a patch, in pixels.

  Raises:
    ValueError: sizes that do not fit, or examples that are no square images.
  """
  channels, height, across = _image("transformer", shape)
  if height != across:
    raise ValueError(
      "model.kind=transformer takes square images; these are "
      f"{height} by {across}."
    )
  if width % num_heads:
    raise ValueError(
      f"model.num_heads={num_heads} must divide model.width={width}."
    )
  head_width = width // num_heads
  net = vit.network(
    vit.Config(
      width=width,
      num_blocks=num_blocks,
      num_heads=num_heads,
      num_kv_heads=num_heads,
      head_width=head_width,
      num_neurons=4 * width,
      score_scale=head_width**-0.5,
      image_size=height,
      patch_size=patch_size,
      num_channels=channels,
      num_labels=num_classes,
    )
  )
  return net, (
    f"transformer of {_count(num_blocks, 'block')}, {num_heads} heads, width "
    f"{width}, patches of {patch_size}"
  )


def _transformer(shape, num_classes, **sizes):
  net, name = transformer(shape, num_classes, **sizes)
  logits = lambda params, x: (
    net.apply(params, pixel_values=_channels_first(x, shape)).logits
  )
  return net.init, logits, name


def _convnet(shape, num_classes, width):
  channels, _, _ = _image("convnet", shape)
  net = convnet.small(num_classes, channels, width)

  def logits(state, x, weights=None):
    return net.logits(state, _channels_first(x, shape), weights)

  def finish(params, data, weights):
    images = data | {"x": _channels_first(data["x"], shape)}
    return net.settle(params, images, weights)

  more = {"finish": finish, "settings": net.settings}
  name = f"convnet of {width} and {2 * width} filters"
  return net.init, logits, name, more


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
