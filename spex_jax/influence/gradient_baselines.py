"""Gradient baselines: what one more step, or one example less, would do.

  influence_functions  Koh and Liang 2017 (arXiv 1703.04730): a Newton step
                       without the example, by the exact Hessian or by
                       conjugate gradients on Hessian-vector products
  tracin               Pruthi et al. 2020 (arXiv 2002.08484), TracInCP: inner
                       products of gradients, summed over checkpoints
  (TRAK is in `trak`)

EK-FAC (Grosse et al. 2023) is not here: it needs the inputs and gradients of
each layer, which a pure `loss(params, example)` does not show; conjugate
gradients solve the same damped system without its approximation, at the cost of
passes over the data.

Both take pure functions of one example, `loss(params, example)` and
`output(params, example)`, each to one number, and parameters as a pytree.
Scores are f(with) less f(without): for `output = -loss` they have the sign of
the papers. Gradients are taken a chunk of examples at a time, in the dtype of
the parameters; inner products accumulate in it, too.

Shapes: N training examples, T test points, P parameters, c a chunk.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import flatten_util

from spex_jax import base
from spex_jax.indices import attribution

Params = Any
Example = Any  # A pytree of arrays; data has a leading axis more.
Scalar = Callable[[Params, Example], jax.Array]

_CHUNK = 256
_MOST_EXACT = 8192  # P: its Hessian has 512 MiB in float64.


def influence_functions(
  loss: Scalar,
  output: Scalar,
  params: Params,
  train: Example,
  test: Example,
  *,
  damping: float,
  solver: Literal["exact", "cg"] = "cg",
  chunk: int = _CHUNK,
  max_steps: int = 200,
  tolerance: float = 1e-6,
) -> attribution.Attribution:
  """First-order effect of leaving each example out, at a minimum.

  score = -1/N grad output' (H + damping)^-1 grad loss_i, with H the mean
  Hessian of the losses: exact to first order in 1/N where `params` minimise
  `1/N sum loss + damping / 2 |params|^2`. A penalty that training had belongs
  into `damping`, once; more of it makes the curvature of an unfinished or
  non-convex training positive, at the price of shrunk scores.

  Args:
    loss: params and one example to its loss.
    output: params and one test point to what is explained.
    params: a pytree of floats.
    train: pytree of arrays with a leading axis N.
    test: pytree of arrays with a leading axis T.
    damping: what is added to the Hessian's diagonal, at least 0.
    solver: "exact" forms H (P up to 8,192) and factors it, and refuses one
      that is not positive definite; "cg" solves for each test point by
      conjugate gradients, a pass over the data per step.
    chunk: the number of examples at once.
    max_steps: the most steps of conjugate gradients.
    tolerance: the relative residual to stop at; what is reached is noted.

  Returns:
    Scores `[T, N]`; predictions without one example, `attribution(masks)`,
    add to the output at `params`.

  Raises:
    ValueError: negative damping, an unknown solver, too many parameters for
      an exact Hessian, a Hessian that is not positive definite (the message
      names its lowest eigenvalue), no example, or NaN or infinity on the way.
  """
  if not 0 <= damping < np.inf:
    raise ValueError(f"damping must be finite and at least 0; got {damping}.")
  if solver not in ("exact", "cg"):
    raise ValueError(f"solver={solver!r}: choose exact or cg.")
  flat, unravel = flatten(params)
  count = num_examples(train, "train")
  here, slopes = output_gradients(output, flat, unravel, test, chunk)
  notes = ()
  if solver == "exact":
    if len(flat) > _MOST_EXACT:
      raise ValueError(
        f"{len(flat)} parameters are too many for an exact Hessian (at most "
        f"{_MOST_EXACT}); use solver='cg'."
      )
    hessian = _hessian(loss, flat, unravel, train, chunk)
    solved = _solve_exact(hessian, damping, slopes)
  else:
    solved, left = _solve_cg(
      loss, flat, unravel, train, chunk, damping, slopes, max_steps, tolerance
    )
    # Of 0 gradients nothing is left.
    notes = (
      f"conjugate gradients: relative residual {left:.1e} (asked for "
      f"{tolerance:.1e} in at most {max_steps} steps)",
    )
  scores = -along_gradients(loss, flat, unravel, train, solved, chunk) / count
  return finish(scores, here, "influence functions", notes)


def tracin(
  loss: Scalar,
  output: Scalar,
  checkpoints: Sequence[Params],
  rates: Sequence[float],
  train: Example,
  test: Example,
  *,
  chunk: int = _CHUNK,
) -> attribution.Attribution:
  """Sum over checkpoints of -rate grad output' grad loss_i.

  To first order, what steps on the example did to the output, one step per
  checkpoint: scale `rates` by the steps between checkpoints over the batch size
  to mean all of them. Ranks need no scale.

  Args:
    loss: params and one example to its loss.
    output: params and one test point to what is explained.
    checkpoints: parameters along training, one pytree each.
    rates: the learning rate at each checkpoint.
    train: pytree of arrays with a leading axis N.
    test: pytree of arrays with a leading axis T.
    chunk: the number of examples at once.

  Raises:
    ValueError: no checkpoint, not one rate for each, no example, or NaN or
      infinity on the way.
  """
  if not checkpoints or len(rates) != len(checkpoints):
    raise ValueError(
      f"Need at least one checkpoint and one rate for each; got "
      f"{len(checkpoints)} and {len(rates)}."
    )
  if not np.isfinite(np.asarray(rates, np.float64)).all():
    raise ValueError(f"rates must be finite; got {list(rates)}.")
  scores, here = np.zeros(()), np.zeros(())
  for params, rate in zip(checkpoints, rates):
    flat, unravel = flatten(params)
    here, slopes = output_gradients(output, flat, unravel, test, chunk)
    dots = along_gradients(loss, flat, unravel, train, slopes, chunk)
    scores = scores - rate * dots
  return finish(scores, here, "TracIn")


def flatten(params: Params) -> tuple[jax.Array, Callable[[jax.Array], Params]]:
  """Parameters as one vector `[P]`, and the way back."""
  flat, unravel = flatten_util.ravel_pytree(params)
  if not len(flat) or not jnp.issubdtype(flat.dtype, jnp.floating):
    raise ValueError(
      f"params must hold floats, at least one; got {len(flat)} of {flat.dtype}."
    )
  return flat, unravel


def num_examples(data: Example, name: str) -> int:
  """The common leading axis of a pytree of arrays.

  Raises:
    ValueError: no example, or leading axes that differ.
  """
  sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
  if len(sizes) != 1 or sizes in ({()}, {(0,)}):
    raise ValueError(
      f"{name} needs arrays of one leading axis, at least one example; got "
      f"{sorted(sizes)}."
    )
  return sizes.pop()[0]


def chunks(data: Example, chunk: int, name: str) -> Iterator[tuple[Any, int]]:
  """Pytrees of `[c, ...]`, one shape for all, and how many rows count.

  The last one is filled up with its first row, so that nothing is compiled
  twice.

  Raises:
    ValueError: a chunk below 1, or what `num_examples` refuses.
  """
  if base.check_integer(chunk, "chunk") < 1:
    raise ValueError(f"chunk must be at least 1; got {chunk}.")
  count = num_examples(data, name)
  chunk = min(chunk, count)
  for start in range(0, count, chunk):
    rows = np.arange(start, start + chunk)
    real = min(chunk, count - start)
    rows[real:] = start
    yield jax.tree.map(lambda leaf: np.asarray(leaf)[rows], data), real  # noqa: B023


def finish(
  scores: np.ndarray,
  here: np.ndarray,
  method: str,
  notes: tuple[str, ...] = (),
) -> attribution.Attribution:
  """Scores `[T, N]` whose prediction for everybody is `here` `[T]`."""
  chex.assert_rank([scores, here], [2, 1])
  scores = np.asarray(scores, np.float64)
  baseline = np.asarray(here, np.float64) - scores.sum(axis=1)
  return attribution.Attribution(scores, baseline, method, None, notes)


def output_gradients(
  output: Scalar, flat: jax.Array, unravel: Any, test: Example, chunk: int
) -> tuple[np.ndarray, jax.Array]:
  """Outputs `[T]` at test points, and their gradients `[T, P]`."""
  chex.assert_rank(flat, 1)
  one = lambda flat, example: output(unravel(flat), example)
  many = jax.jit(jax.vmap(jax.value_and_grad(one), in_axes=(None, 0)))
  values, slopes = [], []
  for rows, real in chunks(test, chunk, "test"):
    value, slope = many(flat, rows)
    values.append(np.asarray(value)[:real])
    slopes.append(slope[:real])
  return np.concatenate(values), jnp.concatenate(slopes)


def along_gradients(
  loss: Scalar,
  flat: jax.Array,
  unravel: Any,
  train: Example,
  directions: jax.Array,
  chunk: int,
) -> np.ndarray:
  """float64 `[T, N]`: gradients of the losses along directions `[T, P]`.

  Per chunk one product of `[T, P]` and `[P, c]`; gradients are not kept.
  """
  chex.assert_rank(flat, 1)
  chex.assert_shape(directions, (None, *flat.shape))
  one = jax.grad(lambda flat, example: loss(unravel(flat), example))

  @jax.jit
  def dots(flat, rows, directions):
    gradients = jax.vmap(one, in_axes=(None, 0))(flat, rows)
    return jnp.matmul(
      directions, gradients.T, precision=jax.lax.Precision.HIGHEST
    )

  out = []
  for rows, real in chunks(train, chunk, "train"):
    out.append(np.asarray(dots(flat, rows, directions), np.float64)[:, :real])
  return np.concatenate(out, axis=1)


def _hessian(loss, flat, unravel, train, chunk):
  """float64 `[P, P]`, the mean over examples."""
  chex.assert_rank(flat, 1)

  @jax.jit
  def part(flat, rows, weights):
    total = lambda flat: jnp.vdot(
      weights, jax.vmap(lambda row: loss(unravel(flat), row))(rows)
    )
    return jax.hessian(total)(flat)

  out = np.zeros((len(flat), len(flat)))
  for rows, real in chunks(train, chunk, "train"):
    size = len(jax.tree.leaves(rows)[0])
    weights = (np.arange(size) < real).astype(flat.dtype)
    out += np.asarray(part(flat, rows, weights), np.float64)
  return out / num_examples(train, "train")


def _solve_exact(hessian, damping, slopes):
  """`[T, P]`: (H + damping)^-1 times the slopes, in float64."""
  chex.assert_shape(hessian, (slopes.shape[1], slopes.shape[1]))
  import scipy.linalg  # Slow to import.

  if not np.isfinite(hessian).all():
    raise ValueError("The Hessian holds NaN or infinity.")
  damped = hessian + damping * np.eye(len(hessian))
  try:
    factor = scipy.linalg.cho_factor(damped, lower=True)
  except scipy.linalg.LinAlgError:
    lowest = float(np.linalg.eigvalsh(hessian)[0])
    raise ValueError(
      f"The Hessian plus damping={damping:.3g} is not positive definite: the "
      f"lowest eigenvalue of the Hessian is {lowest:.3g}. Train to a minimum, "
      "or give a damping above that."
    ) from None
  right = np.asarray(slopes, np.float64)
  solved = np.asarray(scipy.linalg.cho_solve(factor, right.T))
  return jnp.asarray(solved.T, slopes.dtype)


def _solve_cg(
  loss, flat, unravel, train, chunk, damping, slopes, max_steps, tolerance
):
  """The same without H, and the largest relative residual."""
  chex.assert_shape(slopes, (None, *flat.shape))
  count = num_examples(train, "train")
  stacked = [
    (rows, (np.arange(len(jax.tree.leaves(rows)[0])) < real) / count)
    for rows, real in chunks(train, chunk, "train")
  ]
  data = jax.tree.map(lambda *leaves: np.stack(leaves), *stacked)

  @functools.partial(jax.jit, static_argnames="steps")
  def solve(flat, data, slopes, steps):
    def curve(direction):
      """H times a direction: forward over reverse, chunk by chunk."""

      def add(total, chunk):
        rows, weights = chunk
        mean = lambda flat: jnp.vdot(
          weights.astype(flat.dtype),
          jax.vmap(lambda row: loss(unravel(flat), row))(rows),
        )
        slope = jax.jvp(jax.grad(mean), (flat,), (direction,))[1]
        return total + slope, None

      start = damping * direction
      return jax.lax.scan(add, start, data)[0]

    def one(slope):
      found = jax.scipy.sparse.linalg.cg(
        curve, slope, tol=tolerance, maxiter=steps
      )[0]
      size = jnp.linalg.norm(slope)
      left = jnp.linalg.norm(curve(found) - slope)
      return found, jnp.where(size > 0, left / jnp.where(size > 0, size, 1), 0)

    return jax.lax.map(one, slopes)

  solved, left = solve(flat, data, slopes, max_steps)
  largest = float(np.asarray(left).max())
  if not np.isfinite(largest):
    raise ValueError(
      "Conjugate gradients gave NaN or infinity: the curvature is not "
      "positive, or the losses are not finite. Raise the damping."
    )
  return solved, largest
