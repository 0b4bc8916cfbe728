"""Context-sensitive tokens: how far each prediction moves with the context.

Step one of PECoRe (CTI). Both runs are rows of one batch, teacher-forced, so
that one forward gives every token's score by every metric:

  name                  of p with context, q without, and the token y
  "kl_divergence"       KL(q || p), nats; what Inseq computes by this name
  "kl_paper"            KL(p || q), nats; the paper's
  "likelihood_ratio"    p(y) / (p(y) + q(y)), in 0..1; the paper's
  "pcxmi"               log2 p(y) / q(y), bits; Inseq's sign, which is the
                        negative of what the paper prints
  "in_context_pvi"      ln p(y) / q(y), nats: the same in the units of `cite`
  "contrast_prob_diff"  q(y) - p(y): negative where the context helps
  "contrast_prob"       p(y)
  "contrast_logits_diff", "contrast_logits"   the same of logits
  "relative_saliency"   sum over the context's tokens of the L2 norm of
                        d (p(y) - q(y)) / d embedding, over that of all tokens;
                        q does not see the context, and the tokens that stand
                        in both runs are one variable, matched from both ends;
                        of an encoder-decoder, tokens are the encoder's

Shapes: R tokens of the response, V of the vocabulary.
Sources: Sarti et al., arXiv:2310.01188, section 3 and appendix; Inseq 0.7.1.
"""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.ablate import contrasts
from spex_jax.context import response_runs as runs_lib
from spex_jax.context import stepping, steps
from spex_jax.models import sites

_Metric = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
RELATIVE = "relative_saliency"
_log = jax.nn.log_softmax


def _ratio(p: jax.Array, q: jax.Array, y: jax.Array) -> jax.Array:
  """Ln p(y) - ln q(y)."""
  return steps.of(_log(p), y) - steps.of(_log(q), y)


def _probability(logits: jax.Array, y: jax.Array) -> jax.Array:
  return steps.of(jax.nn.softmax(logits), y)


# Of logits with and without context `[R, V]` and tokens `[R]`, to `[R]`.
METRICS: Mapping[str, _Metric] = {
  "kl_divergence": lambda p, q, y: contrasts.kl(_log(q), _log(p)),
  "kl_paper": lambda p, q, y: contrasts.kl(_log(p), _log(q)),
  "likelihood_ratio": lambda p, q, y: jax.nn.sigmoid(_ratio(p, q, y)),
  "pcxmi": lambda p, q, y: _ratio(p, q, y) / np.log(2).astype(np.float32),
  "in_context_pvi": _ratio,
  "contrast_prob_diff": lambda p, q, y: _probability(q, y) - _probability(p, y),
  "contrast_prob": lambda p, q, y: _probability(p, y),
  "contrast_logits_diff": lambda p, q, y: steps.of(q, y) - steps.of(p, y),
  "contrast_logits": lambda p, q, y: steps.of(p, y),
}
NAMES = (*METRICS, RELATIVE)


def logits(
  net: sites.Network, runs: runs_lib.Runs, params: Any = None
) -> tuple[jax.Array, jax.Array]:
  """The predictions of each token of the response: `[R, V]` twice, float32.

  With the context and without it, from one forward of two rows.

  Args:
    net: a causal model, or an encoder-decoder.
    runs: the response, with its context and without.
    params: the parameters of the network; its own by default.

  Raises:
    TypeError, ValueError: as `Runs.check`.
  """
  runs.check(net)
  params = net.given(params)
  found = stepping.run(sites.Model(net), params, runs.inputs(), runs.places())
  chex.assert_rank(found, 3)
  return found[0], found[1]


def scores(
  net: sites.Network,
  runs: runs_lib.Runs,
  metric: str = "kl_divergence",
  params: Any = None,
  *,
  predictions: tuple[jax.Array, jax.Array] | None = None,
) -> np.ndarray:
  """How much each token of the response depends on the context: float64 `[R]`.

  Args:
    net: a causal model, or an encoder-decoder.
    runs: the response, with its context and without.
    metric: how the two predictions are compared, of `NAMES`.
    params: the parameters of the network; its own by default.
    predictions: what `logits` gave, to read another metric of them.

  Raises:
    TypeError: as `logits`.
    ValueError: an unknown metric, scores that are not finite, or as `logits`.
  """
  if metric not in NAMES:
    raise ValueError(f"metric={metric!r}: choose from {', '.join(NAMES)}.")
  if metric == RELATIVE:
    params = net.given(params)
    found = _relative(net, runs, params)
  else:
    p, q = predictions or logits(net, runs, params)
    chex.assert_equal_shape([p, q])
    found = jax.jit(METRICS[metric])(p, q, jnp.asarray(runs.response))
  found = np.asarray(found, np.float64)
  if not np.isfinite(found).all():
    raise ValueError(f"Scores by {metric} are not finite: {found}.")
  return found


def _relative(net, runs, params) -> base.Array:
  runs.check(net)
  y = jnp.asarray(runs.response)

  def norms(params, inputs, places):
    def value(added):
      found = stepping.predictions(net, params, inputs, places, added)
      return _probability(found[0], y) - _probability(found[1], y)

    grads = stepping.slopes(value, stepping.zeros(net, params, inputs))
    # The encoder's of an encoder-decoder: the context stands there.
    site = stepping.input_sites(net)["input_ids"]
    return jax.lax.map(lambda c: _sizes(grads(c)[site], runs), jnp.eye(len(y)))

  inside, outside = jax.jit(norms)(params, runs.inputs(), runs.places())
  return inside / (inside + outside)


def _sizes(slope: jax.Array, runs) -> tuple[jax.Array, jax.Array]:
  """Norms `[2, P, d]` summed over the context, and over all others."""
  one, other = runs.with_context, runs.without_context
  start, end = runs.context
  n, m = len(one), len(other)
  ends = np.cumprod(
    [a == b for a, b in zip(one[end:][::-1], other[::-1])] or [0]
  ).sum()
  starts = np.cumprod(
    [a == b for a, b in zip(one[:start], other[: m - ends])] or [0]
  ).sum()
  # Where each token of the run without context has itself in the other.
  at = np.arange(m)
  at = np.where(at >= m - ends, at + n - m, at)
  paired = (np.arange(m) < starts) | (np.arange(m) >= m - ends)
  joined = slope[0, :n].at[at[paired]].add(slope[1, :m][paired])
  size = jnp.linalg.norm(joined, axis=-1)
  alone = jnp.linalg.norm(slope[1, :m][~paired], axis=-1).sum()
  inside = size[start:end].sum()
  return inside, size.sum() - inside + alone
