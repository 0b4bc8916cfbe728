"""What is read from a network's output: the value that a mask is given.

A readout takes what `Network.apply` returned and the inputs that it was given,
and gives one number per row, or one per row and target. Any function of these
two will do; those here are the usual ones, each traceable.

Which token is the last one follows from `attention_mask`, so that the same
readout serves prompts of which tokens are masked, hidden or removed.

Shapes: B rows, P positions, V classes or tokens, T targets, d width.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import absent, shapes
from spex_jax.models import sites

# Output and inputs to `[B]` or `[B, T]`.
Readout: TypeAlias = Callable[
  [sites.Output, Mapping[str, base.Array]], jax.Array
]
Targets: TypeAlias = int | Sequence[int]


@dataclasses.dataclass(frozen=True)
class Prediction:
  """A readout of a causal model's predictions at a few positions.

  Called like any other, it takes them from all logits. Who knows it for what
  it is (`value`, `forward`) has only those computed.

  Attributes:
    whole: an output and its inputs to what is read, as any readout.
    where: inputs to the positions that are read, int `[B, k]`.
    of: logits there, `[B, k, V]`, and the inputs to `[B]` or `[B, T]`.
    fixed: it reads at a place in the row that is given as a number, not at
      what attention sees: rows must keep one length.
  """

  whole: Readout
  where: Callable[[Mapping[str, base.Array]], jax.Array]
  of: Callable[[jax.Array, Mapping[str, base.Array]], jax.Array]
  fixed: bool = False

  def __call__(
    self, output: sites.Output, inputs: Mapping[str, base.Array]
  ) -> jax.Array:
    return self.whole(output, inputs)


def forward(
  net: sites.Network,
  read: Readout,
  inputs: Mapping[str, base.Array],
  run: Callable[..., sites.Output],
  capture: Sequence[str] = (),
) -> jax.Array:
  """Runs a network and reads its output, with no more logits than are read.

  Args:
    net: the network that is run.
    read: what is read of the output.
    inputs: the inputs of the network, B rows.
    run: keyword inputs to the output, such as `net.apply` with parameters.
    capture: what `run` captures; then nothing is left out.

  Returns:
    `[B]` or `[B, T]`.
  """
  few = isinstance(read, Prediction) and "logits_to_keep" in net.optional
  if few and not capture and "logits_to_keep" not in inputs:
    assert isinstance(read, Prediction)
    out = run(**inputs, logits_to_keep=read.where(inputs))
    return read.of(out.logits, inputs)
  return read(run(**inputs), inputs)


def value(
  net: sites.Network,
  see: Callable[[base.Array], Mapping[str, base.Array]],
  read: Readout,
  *,
  capture: Sequence[str] = (),
  edits: sites.Edits | None = None,
  **fixed: base.Array,
) -> Callable[[base.Array, Any], jax.Array]:
  """The function that `evaluate.compiled` lifts, with parameters shared.

  Args:
    net: the network that is run.
    see: one mask `[n]` to inputs of one row, as `absent.inputs` makes it.
      Where that has several lengths, `read` must be of what attention sees,
      not of numbered places in the row.
    read: what is read of the output.
    capture: names of the sites that `read` asks for.
    edits: what is done to the network under every mask; its positions are
      places in the row. Large arrays become operands where `value` itself is
      traced: `lambda mask, s: value(net, see, read, edits=s[1])(mask, s[0])`.
    **fixed: inputs that do not depend on the mask, of one row.

  Returns:
    `f(mask, params)`, a scalar or `[T]`; a `shapes.Shaped` where rows have
    several lengths. They have one alone where the network does not allow more
    (`absent.Inputs.fit`), where a prediction is read at a fixed place, and
    beside `capture`, `edits` or fixed inputs (but a decoder's), which have
    places of their own.
  """

  def lift(see) -> Callable[[base.Array, Any], jax.Array]:
    def f(mask: base.Array, params: Any) -> jax.Array:
      inputs: dict[str, Any] = {**fixed, **see(mask)}
      run = functools.partial(net.apply, params, edits, capture=capture)
      return forward(net, read, inputs, run, capture)[0]

    return f

  placed = any(not name.startswith("decoder_") for name in fixed)
  placed |= edits is not None or bool(capture)
  if not isinstance(see, absent.Inputs) or placed:
    return lift(see)
  return packed(see, net, read, lambda length: lift(see.at(length)))


def packed(
  see: absent.Inputs,
  net: sites.Network,
  read: Readout,
  at: Callable[[int], Callable[..., jax.Array]],
) -> Callable[..., jax.Array]:
  """A value function of a text at the lengths of `see` that are allowed.

  Args:
    see: a mask to inputs, at several lengths.
    net: the network that is run on them.
    read: what is read of the output.
    at: a length to the value function in rows of it.

  Returns:
    A `shapes.Shaped`, or `at(P)` where that is the one length.
  """
  lengths = see.fit(net)
  if len(lengths) == 1 or (isinstance(read, Prediction) and read.fixed):
    return at(lengths[-1])
  return shapes.Shaped(lengths, at, see.need)


def logit(targets: Targets | None, position: int | None = None) -> Prediction:
  """The logit of a class or token, or of several.

  Args:
    targets: one of them gives `[B]`, T of them `[B, T]`; None for all of the
      classes or the vocabulary, `[B, V]`.
    position: the position of a language model's prediction; None for the last
      token that attention sees. A classifier has none. One that is fixed is a
      place in the row: where absent tokens are removed, other tokens move
      there, and a hidden token is read all the same.

  Raises:
    TypeError: targets that are no integers.
    ValueError: no target. When read: one outside the vocabulary or the
      classes, or a position outside the text.
  """
  wanted = _wanted(targets)
  return prediction(lambda scores: pick(scores, wanted), position)


def log_probability(
  targets: Targets | None, position: int | None = None
) -> Prediction:
  """The same of log-probabilities, in nats; None for the distribution."""
  wanted = _wanted(targets)
  return prediction(
    lambda scores: pick(jax.nn.log_softmax(scores), wanted), position
  )


def probability(
  targets: Targets | None, position: int | None = None
) -> Prediction:
  """The same of probabilities, in 0..1; None for the distribution."""
  wanted = _wanted(targets)
  return prediction(
    lambda scores: pick(jax.nn.softmax(scores), wanted), position
  )


def margin(
  target: int, rivals: Targets | None = None, position: int | None = None
) -> Prediction:
  """The logit of `target` above the largest of its rivals'.

  Args:
    target: the number of a class, or a token's id.
    rivals: one or several others; None for all others.
    position: where it is read, as for `logit`.

  Raises:
    TypeError: targets that are no integers.
    ValueError: `target` among its rivals. When read: one outside the
      vocabulary or the classes, or no other class at all.
  """
  own = targets_of(target)
  others = None if rivals is None else np.atleast_1d(targets_of(rivals))
  if others is not None and own in others:
    raise ValueError(f"Target {own} is among its rivals {others.tolist()}.")

  def above(scores):
    top = pick(scores, own)
    if others is not None:
      return top - pick(scores, others).max(axis=-1)
    _check_rivals(scores)
    at_target = jnp.arange(scores.shape[-1])[None] == own
    return top - jnp.where(at_target, -jnp.inf, scores).max(axis=-1)

  return prediction(above, position)


def margins(labels: base.Array, position: int | None = None) -> Prediction:
  """Each row's own margin: its right class's logit less the largest other.

  What COAR (Shah et al. 2024, arXiv 2404.11534, section 4) reads of
  classifiers, and datamodels of images.

  Args:
    labels: int `[B]`, each row's right class, or next token.
    position: where it is read, as for `logit`.

  Raises:
    TypeError: labels that are no integers.
    ValueError: no label. When read: another number of rows, or a label outside
      the vocabulary or the classes, or no other class at all.
  """
  right = np.atleast_1d(targets_of(labels))

  def above(scores):
    if len(scores) != len(right):
      raise ValueError(f"{len(right)} labels for {len(scores)} rows.")
    check_targets(right, scores.shape[-1])
    _check_rivals(scores)
    at_right = jax.nn.one_hot(right, scores.shape[-1], dtype=bool)
    top = jnp.where(at_right, scores, 0).sum(axis=-1)
    return top - jnp.where(at_right, -jnp.inf, scores).max(axis=-1)

  return prediction(above, position)


def targets_of(targets: Any) -> np.ndarray:
  """Targets as int32 `[]` or `[T]`.

  Raises:
    TypeError: targets that are no integers.
    ValueError: masked entries, none or too many axes, or a target out of range.
  """
  base.check_unmasked(targets, "Targets")
  array = np.asarray(targets)
  if array.ndim > 1 or array.size == 0:
    raise ValueError(f"Need one target or [T] of them; got {targets!r}.")
  if array.dtype.kind not in "iu":
    raise TypeError(f"Targets must be integers; got {targets!r}.")
  if (array < 0).any():
    raise ValueError(f"Target {array.min()} is below 0.")
  if (array > np.iinfo(np.int32).max).any():  # The cast would wrap it round.
    raise ValueError(f"Target {array.max()} is beyond every vocabulary.")
  return array.astype(np.int32)


def check_targets(targets: np.ndarray, size: int) -> None:
  """Raises ValueError for a target that is not below `size`."""
  if targets.max() >= size:
    raise ValueError(
      f"Target {targets.max()} lies outside the {size} classes or tokens, "
      f"0..{size - 1}."
    )


def _check_rivals(scores: jax.Array) -> None:
  if scores.shape[-1] < 2:
    raise ValueError("A margin needs a second class; there is one.")


def _wanted(targets: Targets | None) -> np.ndarray | None:
  return None if targets is None else targets_of(targets)


def pick(scores: jax.Array, targets: np.ndarray | None) -> jax.Array:
  """The targets' of `[B, V]`: `[B]` or `[B, T]`; None for all."""
  if targets is None:
    return scores
  check_targets(targets, scores.shape[-1])
  return scores[:, targets]


def prediction(
  score: Callable[[jax.Array], jax.Array], position: int | None
) -> Prediction:
  """`score` of the classes' logits `[B, V]`, or of the tokens' at a position.

  Args:
    score: float32 `[B, V]` to what is read.
    position: where it is read, as for `logit`.
  """

  def where(inputs):
    shape = np.shape(inputs["input_ids"])
    if position is None:
      return ends(seen_tokens(inputs, shape))[1][:, None]
    _check_position(position, shape[1])
    return jnp.full((shape[0], 1), position % shape[1])

  return Prediction(
    lambda output, inputs: score(_predictions(output, inputs, position)),
    where,
    lambda logits, inputs: score(logits[:, 0].astype(jnp.float32)),
    position is not None,
  )


def _check_position(position: int, length: int) -> None:
  if not -length <= position < length:
    raise ValueError(
      f"position={position} lies outside the {length} predictions."
    )


def _predictions(
  output: sites.Output, inputs: Mapping[str, base.Array], position: int | None
) -> jax.Array:
  """Logits `[B, V]` of the classes, or at a position, in float32."""
  logits = output.logits.astype(jnp.float32)
  if logits.ndim == 2:
    if position is not None:
      raise ValueError(
        f"position={position}: logits {logits.shape} have no positions."
      )
    return logits
  if logits.ndim != 3:
    raise ValueError(f"Logits must be [B, V] or [B, P, V]; got {logits.shape}.")
  if position is not None:
    _check_position(position, logits.shape[1])
    return logits[:, position]
  if "decoder_input_ids" in inputs:
    return logits[:, -1]
  at = ends(seen_tokens(inputs, logits.shape[:2]))[1]
  return jnp.take_along_axis(logits, at[:, None, None], axis=1)[:, 0]


def seen_tokens(
  inputs: Mapping[str, base.Array], shape: tuple[int, ...]
) -> jax.Array:
  """Which positions attention sees: bool `[B, P]`.

  Raises:
    ValueError: an attention mask of another shape.
  """
  mask = inputs.get("attention_mask")
  if mask is None:
    return jnp.ones(shape, bool)
  if np.shape(mask) != shape:
    raise ValueError(
      f"The attention mask {np.shape(mask)} does not fit the {shape} positions "
      "that are read."
    )
  return jnp.asarray(mask).astype(bool)


def ends(seen: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The first and the last position seen, `[B]` each."""
  return seen.argmax(axis=1), seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)
