"""Attribution by gradients, of models that JAX can differentiate.

A player is not kept or absent here but kept to a degree: strengths s in [0, 1]
mix what it is with what stands for it, `b + s (x - b)`, entry by entry of its
pixels, columns or embeddings. So f(1) is the value with every player kept,
f(0) with every one absent, and the gradient at s sums `(x - b) df/dx` over all
that a player owns:

  gradient_x_input       df/ds at s = 1 (Shrikumar et al. 2016,
                         arXiv 1605.01713; with the baseline taken off)
  integrated_gradients   the mean of df/ds on the line from s = 0 to s = 1
                         (Sundararajan et al. 2017, arXiv 1703.01365, equation
                         1); by the midpoint rule, where the paper has a
                         Riemann sum

Values of the latter sum to f(1) - f(0), up to the gap that is returned.

Shapes: n players, S steps, T targets, P tokens, d width.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import absent, features, readouts
from spex_jax.ablate import text as text_lib
from spex_jax.models import sites, tokens

METHODS = ("gradient_x_input", "integrated_gradients")
STEPS = 64

# Strengths `[n]` and what is shared to a scalar, or `[T]`; traceable.
Value = Callable[[jax.Array, Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Differentiable:
  """A value as a differentiable function of players' strengths.

  Attributes:
    value: see `Value`. At strengths of 0 and 1 it is the value function.
    n: players.
    shared: pytree of arrays that `value` is given: parameters and inputs.
    where: what is mixed, in words: "pixels", "embeddings".
    baseline: what absent players are, in words.
  """

  value: Value
  n: int
  shared: Any
  where: str
  baseline: str


class Gradients(NamedTuple):
  """Values of players, and what they should sum to.

  Attributes:
    values: float64 `[n]`, or `[T, n]`.
    kept: f(1), a float or `[T]`.
    absent: f(0), the same.
    gap: the sum of the values less f(1) - f(0): 0 where they are complete.
    num_gradients: gradients that were computed.
  """

  values: np.ndarray
  kept: Any
  absent: Any
  gap: Any
  num_gradients: int


def gradient_x_input(model: Differentiable) -> Gradients:
  """Gradient times input less baseline, summed over each player's entries.

  Raises:
    ValueError: values or gradients that are NaN or infinite.
  """
  at = np.ones(1, np.float32)
  return _summed(model, at)


def integrated_gradients(
  model: Differentiable, *, steps: int = STEPS, batch_size: int = 8
) -> Gradients:
  """Integrated gradients from all players absent to all kept.

  Args:
    model: what to differentiate.
    steps: S; 20 to 300 in the paper. The error falls as 1 / S^2 where the
      model is smooth, as 1 / S where it has kinks; see `gap`.
    batch_size: gradients computed at once, for memory.

  Raises:
    TypeError: steps or a batch size that is no integer.
    ValueError: one below 1, or values or gradients that are NaN or infinite.
  """
  steps = base.check_integer(steps, "steps")
  batch_size = base.check_integer(batch_size, "batch_size")
  if steps < 1 or batch_size < 1:
    raise ValueError(
      f"steps and batch_size must be at least 1; got {steps}, {batch_size}."
    )
  at = (np.arange(steps, dtype=np.float32) + 0.5) / steps
  return _summed(model, at, batch_size)


def mean_gradient(
  value: Value, n: int, at: base.Array, shared: Any, *, batch_size: int = 1
) -> jax.Array:
  """Mean of df/ds `[n]`, or `[T, n]`, where all strengths are `at[k]`.

  Args:
    value: as in `Differentiable`.
    n: players.
    at: float `[S]`.
    shared: for `value`.
    batch_size: gradients computed at once.
  """
  slope = jax.jacrev(value)

  def one(strength):
    return slope(jnp.full(n, strength), shared)

  return jax.lax.map(one, jnp.asarray(at), batch_size=batch_size).mean(axis=0)


def _summed(model, at, batch_size=1):
  def run(shared):
    at_ends = jnp.asarray([1.0, 0.0])
    ends = jax.lax.map(
      lambda s: model.value(jnp.full(model.n, s), shared), at_ends
    )
    slopes = mean_gradient(
      model.value, model.n, at, shared, batch_size=min(batch_size, len(at))
    )
    return slopes, ends

  slopes, ends = jax.jit(run)(model.shared)
  values, kept, gone = (np.asarray(x, np.float64) for x in (slopes, *ends))
  if kept.ndim > 1:
    raise ValueError(f"A value must be a scalar or [T]; got {kept.shape}.")
  for what, x in (("gradients", values), ("values", np.append(kept, gone))):
    if not np.isfinite(x).all():
      raise ValueError(
        f"The model's {what} hold NaN or infinity at its own input or on the "
        f"way to the baseline ({model.baseline})."
      )
  gap = values.sum(axis=-1) - (kept - gone)
  if not kept.ndim:
    kept, gone, gap = float(kept), float(gone), float(gap)
  return Gradients(values, kept, gone, gap, len(at))


def inputs(
  read: Callable[[jax.Array, Any], jax.Array],
  players: features.Players,
  x: base.Array,
  baseline: base.Array,
  params: Any,
  *,
  where: str,
  stands_in: str,
) -> Differentiable:
  """Players that own entries of an input: pixels, columns.

  Args:
    read: a batch of inputs `[R, ...]` and `params` to values `[R]` or
      `[R, T]`, which are averaged, as over stand-ins.
    players: owners of the entries; what nobody owns is always kept.
    x: `[...]`, floating.
    baseline: `[...]`, or `[R, ...]` for R stand-ins. One that depends on the
      mask, such as inpainting or a conditional sampler, has no line to it.
    params: given to `read`.
    where: as in `Differentiable`.
    stands_in: the baseline, in words.

  Raises:
    ValueError: shapes that do not fit.
    TypeError: an input of integers.
  """
  x, baseline = jnp.asarray(x), jnp.asarray(baseline)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f"An input must be floating to be mixed; got {x.dtype}.")
  if x.shape != players.owner.shape or baseline.shape[-x.ndim :] != x.shape:
    raise ValueError(
      f"Players own an input of shape {players.owner.shape}; got an input "
      f"{x.shape} and a baseline {baseline.shape}."
    )
  stand_ins = baseline.reshape(-1, *x.shape)

  def value(strengths, shared):
    params, x, stand_ins = shared
    share = _of_entries(strengths, players)[None]
    mixed = stand_ins + share * (x[None] - stand_ins)
    return read(mixed, params).mean(axis=0)

  return Differentiable(
    value, players.n, (params, x, stand_ins), where, stands_in
  )


def text(
  net: sites.Network,
  params: Any,
  prompt: text_lib.Prompt,
  tokenizer: tokens.Tokenizer,
  read: readouts.Readout,
  *,
  way: str = "mask",
  token: int | str | None = None,
  capture: tuple[str, ...] = (),
  **fixed: base.Array,
) -> Differentiable:
  """Players that own tokens of a text: their embeddings are mixed.

  The baseline is the all-absent input: in an absent player's places stand the
  embeddings of the mask token, or of `token`.

  Args:
    net: any with the site `embed.tokens` (T5: `encoder.embed.tokens`).
    params: of `net`.
    prompt: tokens and players.
    tokenizer: of the model.
    read: of the output. Given the ids of the whole text, so that one which
      reads the tokens themselves (`log_perplexity`) has no baseline here.
    way: "mask"; the others of `absent.WAYS` move or hide tokens, which has no
      derivative.
    token: as for `absent.inputs`.
    capture: sites that `read` asks for.
    **fixed: inputs that do not depend on the mask, of one row.

  Raises:
    ValueError: another way, no such site, or as `absent.inputs`.
  """
  if way != "mask":
    raise ValueError(
      f"way={way!r}: gradients need absent tokens to stay in their places as "
      "another token, way='mask'. For other ways use a method of masks."
    )
  site = next((s for s in net.sites if s.endswith("embed.tokens")), None)
  if site is None:
    raise ValueError("The network has no site 'embed.tokens' to differentiate.")
  see = absent.inputs(prompt, tokenizer, way, token=token)
  whole, nothing = see(np.ones(prompt.n, bool)), see(np.zeros(prompt.n, bool))

  def embeddings(params, given):
    # The rest of the network is not run: the compiler drops it.
    inputs: dict[str, Any] = {**fixed, **given}
    return net.apply(params, capture=(site,), **inputs).activations[site]

  embed = jax.jit(embeddings)
  x, stand_in = embed(params, whole), embed(params, nothing)

  def value(strengths, shared):
    params, x, stand_in, whole = shared
    share = _of_entries(strengths, prompt.players)[None, :, None]
    mixed = stand_in + share.astype(x.dtype) * (x - stand_in)
    edits = sites.Edits(replace={site: (jnp.ones((1, 1, 1), bool), mixed)})
    given: dict[str, Any] = {**fixed, **whole}
    output = net.apply(params, edits, capture=capture, **given)
    return read(output, given)[0]

  # The token that stands for the absent ones, as absent.inputs chose it.
  owned = np.flatnonzero(prompt.players.owner < prompt.n)[0]
  name = tokenizer.token(int(np.asarray(nothing["input_ids"])[0, owned]))
  return Differentiable(
    value,
    prompt.n,
    (params, x, stand_in, whole),
    "embeddings",
    f"the embedding of {name!r} for each token",
  )


def _of_entries(strengths: jax.Array, players: features.Players) -> jax.Array:
  """The strength of each entry; 1 for what nobody owns."""
  return jnp.append(strengths, 1.0)[players.owner]


BY_NAME: Mapping[str, Callable[..., Gradients]] = {
  "gradient_x_input": gradient_x_input,
  "integrated_gradients": integrated_gradients,
}
