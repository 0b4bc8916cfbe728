"""Which edges or heads matter together: what one score for each cannot say.

Players are edges (`ablate.edges`) or heads (`ablate.components.heads`); an
absent one carries what it is on the corrupted prompt. Two heads that back each
other up are an OR: neither matters alone. Scores one by one, by gradients or by
exact effects, miss them; Fourier coefficients of pairs do not.

  game       the metric of pairs of prompts, as players are kept to a degree
  screen     all pairs, by random masks or by curvature along the path from the
             corrupted to the clean run; cheap, to choose among many players
  explain    sets of players, by SPEX and its like on random masks
  gates      pairs by their four values: AND, OR, XOR, or none of these
  optimum    the circuit of a given size that an expansion says is closest to
             the model

The curvature at one end misleads where the metric is saturated: with everything
clean, a backed-up head has none. Its mean along the straight path is the
Shapley interaction index where the game is multilinear (Owen 1972; Grabisch and
Roubens 1999); a network's is not, so that a screen is a place to look, and no
answer.

Shapes: n players, N pairs of prompts, M masks, E edges, K pairs of players.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import api, base
from spex_jax.ablate import components, evaluate, parts, readouts
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judges, metrics, runs
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.indices import optimum as optimum_lib
from spex_jax.models import sites

KINDS: Mapping[str, tuple[int, int, int]] = {
  "AND": (0, 0, 1), "OR": (1, 1, 1), "XOR": (1, 1, 0),
}  # fmt: skip
SCREENS = ("curvature", "masks")
_ADDITIVE = 0.2  # An interaction below this share of the effects is none.
_CLEAR = 0.8  # Of the effects' squares, the share that names a gate.


def game(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  players: parts.Players,
  metric: metrics.Metric,
  *,
  by_pair: bool = False,
) -> base.Game:
  """The mean metric of pairs as players are kept to a degree.

  All pairs are one batch, and what they write on the corrupted prompts is held
  for all: take a few.

  Args:
    net: a causal language model, with edges if players own some.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one, in one batch.
    players: of edges or of other parts.
    metric: one of `metrics.METRICS`, or one like it.
    by_pair: whether it has N targets instead, one of each pair.

  Returns:
    A game; `evaluate.compiled` makes a value function of it.
  """
  metrics.check(metric, net.config.vocab_size)
  pairs.check(net.config.vocab_size, net.config.max_positions)
  (batch,) = runs.batches(pairs, len(pairs))
  begun = _begun(
    sites.Model(net), tuple(players.owner), bool(players.edges), params, batch
  )
  logits, ref, absent = begun
  at = jnp.asarray(batch.last)[:, None]

  def of(found, inputs):
    del inputs
    return runs.read(metric, found[:, 0], logits, batch)

  def whole(output, inputs):
    found = jnp.take_along_axis(output.logits, at[..., None], axis=1)
    return of(found, inputs)

  read = readouts.Prediction(whole, lambda inputs: at, of, fixed=True)
  made = components.game(
    net, players, {"input_ids": batch.clean}, read,
    absent=absent if players.owner else None, ref=ref, params=params,
    units=metrics.UNITS.get(getattr(metric, "__name__", ""), ""),
  )  # fmt: skip
  if by_pair:
    return made
  mean = lambda strengths, given: jnp.mean(made.value(strengths, given))
  return dataclasses.replace(made, value=mean)


class Screened(NamedTuple):
  """Pairs of players by how much their effects are not sums.

  Attributes:
    pairs: int `[K, 2]`, i < j, the largest |interaction| first.
    values: float64 `[K]`, in the units of the metric.
    between: float64 `[n, n]`, symmetric. By curvature the mean of the second
      derivative along the path, the own one of a player on the diagonal; by
      masks the Banzhaf interaction index, an estimate, 0 on the diagonal.
    slopes: float64 `[n]`, of single players: the mean of the first derivative
      along the path, integrated gradients; or the Banzhaf value.
  """

  pairs: np.ndarray
  values: np.ndarray
  between: np.ndarray
  slopes: np.ndarray


def screen(
  made: base.Game,
  *,
  by: str = "curvature",
  points: int | Sequence[float] = 5,
  budget: int | None = None,
  key: base.Key | None = None,
  count: int | None = None,
  at_once: int = 1,
) -> Screened:
  """All pairs of players, the strongest interactions first.

  "curvature" costs n products of the Hessian with a vector at every point, each
  some four forwards of all pairs of prompts. "masks" costs `budget` forwards:
  the interaction of two players is four times the mean over uniform masks, each
  with its complement, of the game less its mean times the players' signs (+1
  kept, -1 absent). Of the two masks is the better screen: they see what players
  do when much else is gone, and a gate whose slope is flat on the whole path.

  Args:
    made: a game of one target, from `game`.
    by: how interactions are estimated, one of `SCREENS`.
    points: of curvature: strengths that all players have on the path, or the
      number of midpoints between none and all; (1.0,) is the clean run alone.
    budget: of masks; by default as many forwards as 5 points of curvature.
    key: a random key, consumed by the draw of masks; needed by "masks" alone.
    count: pairs of players to return; all by default.
    at_once: products or masks computed at once.

  Raises:
    ValueError: another screen, masks without a key or fewer than 2 of them,
      fewer than two players or no point; NaN.
  """
  if by not in SCREENS:
    raise ValueError(f"by={by!r}: choose from {', '.join(SCREENS)}.")
  if isinstance(points, int):
    points = tuple((np.arange(points) + 0.5) / max(points, 1))
  if made.n < 2 or not len(points):
    raise ValueError(
      f"A pair needs two players and a point; got {made.n} and {len(points)}."
    )
  if by == "masks":
    budget = 20 * made.n if budget is None else budget
    if key is None or budget < 2:
      raise ValueError(f"Masks need a key and a budget of 2; got {budget}.")
    slopes, between = _by_masks(made, key, budget, at_once)
  else:
    at = np.asarray(points, np.float32)
    found = _curvature(made.value, made.n, made.head, at_once)(
      jnp.asarray(at), made.shared
    )
    slopes, between = (np.asarray(x, np.float64) for x in found)
  if not (np.isfinite(between).all() and np.isfinite(slopes).all()):
    raise ValueError("The metric or its derivatives hold NaN or infinity.")
  between = (between + between.T) / 2
  first, second = np.triu_indices(made.n, 1)
  values = between[first, second]
  order = np.argsort(-np.abs(values), kind="stable")[:count]
  pairs = np.stack([first, second], axis=1)[order]
  return Screened(pairs, values[order], between, slopes)


def _by_masks(made, key, budget, at_once):
  """Slopes `[n]` and interactions `[n, n]` from uniform masks."""
  half = np.asarray(jax.random.bernoulli(key, 0.5, (budget // 2, made.n)))
  masks = np.concatenate([half, ~half])
  ask = evaluate.compiled(made, batch_size=64, microbatch=at_once)
  values = np.asarray(ask(masks), np.float64).reshape(len(masks))
  signs = 2.0 * masks - 1
  off = (values - values.mean())[:, None] * signs / len(masks)
  between = 4 * off.T @ signs
  np.fill_diagonal(between, 0)
  return 2 * off.sum(0), between


def _curvature(value, n, head, at_once):
  """Points `[S]` and what is shared to slopes `[n]` and curvature `[n, n]`."""

  def run(points, shared):
    chex.assert_rank(points, 1)
    given = shared if head is None else (head(shared), shared)
    slope = jax.grad(lambda strengths: value(strengths, given))

    def product(at):
      point, player = at
      strengths = jnp.full(n, point, points.dtype)
      # Backwards twice: cut edges have no derivatives forwards.
      return jax.grad(lambda s: slope(s)[player])(strengths)

    one = lambda point: slope(jnp.full(n, point, points.dtype))
    slopes = jax.lax.map(one, points).mean(0)
    every = jnp.repeat(points, n), jnp.tile(jnp.arange(n), len(points))
    found = jax.lax.map(product, every, batch_size=at_once)
    return slopes, found.reshape(len(points), n, n).mean(0)

  return jax.jit(run)


def explain(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  players: parts.Players,
  metric: metrics.Metric,
  *,
  key: base.Key,
  budget: int = 1000,
  method: str = "auto",
  max_order: int | None = None,
  microbatch: int | None = None,
  batch_size: int = 64,
  **settings: Any,
) -> api.Explanation:
  """Sets of edges or heads that matter together: the mean over pairs, expanded.

  Args:
    net: as for `game`.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    players: n edges, or other parts of the network.
    metric: one example's logits to a number: what is read.
    key: a random key, consumed.
    budget: masks, each a forward of all pairs.
    method: how the game is expanded, one of `api.METHODS`.
    max_order: the largest number of players in a set; None for the method's
      own.
    microbatch: how many masks are computed at once; None for a whole batch.
    batch_size: how many masks a call has.
    **settings: further arguments of `api.explain`.
  """
  made = game(net, params, pairs, players, metric)
  ask = evaluate.compiled(made, batch_size=batch_size, microbatch=microbatch)
  return api.explain(
    ask, made.n, key=key, budget=budget, method=method, max_order=max_order,
    names=players.names, units=made.units or None, **settings,
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Gate:
  """What two players do together, the others held as they are.

  Attributes:
    players: the numbers of the two players.
    names: the names of the two players.
    values: with none of them, the first, the second, both.
    kind: "AND" (both are needed), "OR" (either is enough), "XOR" (one is
      enough and both cancel), "ADD" (each has its own effect), or "mixed".
    clear: how much of the effects' squares that kind has; of "ADD", one less
      the share of the interaction.
  """

  players: tuple[int, int]
  names: tuple[str, str]
  values: tuple[float, float, float, float]
  kind: str
  clear: float

  @property
  def interaction(self) -> float:
    """both - first - second + none: 0 where effects add up."""
    none, first, second, both = self.values
    return both - first - second + none

  def __str__(self) -> str:
    none, first, second, both = self.values
    return (
      f"{self.kind:5s} {self.interaction:+.3g}  {self.names[0]} | "
      f"{self.names[1]}  (none {none:.3g}, first {first:.3g}, second "
      f"{second:.3g}, both {both:.3g})"
    )


def gates(
  value_fn: base.ValueFn,
  n: int,
  some: base.Array | Sequence[Sequence[int]],
  *,
  others: bool = True,
  names: Sequence[str] | None = None,
) -> tuple[Gate, ...]:
  """Pairs of players by the four values that they have.

  Args:
    value_fn: masks bool `[M, n]` to `[M]`, such as
      `evaluate.compiled` makes of a game.
    n: the number of players.
    some: int `[K, 2]`, pairs of players, by number.
    others: whether all others are kept, or absent.
    names: n names; their numbers by default.

  Returns:
    A gate of every pair, in their order.

  Raises:
    ValueError: a pair that is none.
  """
  pairs = np.asarray(some, int).reshape(-1, 2)
  if ((pairs < 0) | (pairs >= n)).any() or (pairs[:, 0] == pairs[:, 1]).any():
    raise ValueError(f"Pairs are two different players of 0..{n - 1}.")
  masks = np.full((len(pairs), 4, n), others)
  rows = np.arange(len(pairs))
  for corner in range(4):
    masks[rows, corner, pairs[:, 0]] = corner % 2 == 1
    masks[rows, corner, pairs[:, 1]] = corner >= 2
  values = np.asarray(value_fn(masks.reshape(-1, n)), np.float64)
  known = tuple(map(str, range(n))) if names is None else tuple(names)
  found = []
  for (i, j), four in zip(pairs.tolist(), values.reshape(-1, 4)):
    kind, clear = classify(four)
    none, first, second, both = (float(x) for x in four)
    found.append(
      Gate(
        (i, j), (known[i], known[j]), (none, first, second, both), kind, clear
      )
    )
  return tuple(found)


def classify(values: base.Array) -> tuple[str, float]:
  """The gate of four values (none, first, second, both), and how clear it is.

  Effects over none are a, b and c. Where |c - a - b| is below a fifth of the
  largest, they add up. Otherwise the gate is that of `KINDS` whose pattern of
  effects, up to a factor, is nearest, if it has four fifths of their squares.
  """
  values = np.asarray(values, np.float64)
  chex.assert_shape(values, (4,))
  effects = values[1:] - values[0]
  size = np.abs(effects).max()
  between = abs(effects[2] - effects[0] - effects[1])
  if between <= _ADDITIVE * size:
    return "ADD", float(1 - between / size if size else 1.0)
  shares = {
    kind: (effects @ np.array(shape)) ** 2 / (effects @ effects) / sum(shape)
    for kind, shape in KINDS.items()
  }
  best = max(shares, key=lambda kind: shares[kind])
  clear = float(shares[best])
  return (best if clear >= _CLEAR else "mixed"), clear


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
  """A circuit by the optimum of an expansion.

  Attributes:
    circuit: the circuit of the size that was asked for.
    closeness: float, measured: minus the mean of |m(circuit) - m(clean)| over
      pairs, in the mean of |m(clean) - m(corrupted)|; 0 is best.
    by_scores: the same of the circuit of the first groups.
    proposed: the same of the expansion's optimum itself.
    explanation: the expansion, of the closeness as groups are kept.
    runs: forwards that it took, in pairs.
  """

  circuit: graph_lib.Circuit
  closeness: float
  by_scores: float
  proposed: float
  explanation: api.Explanation
  runs: int


def optimum(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  metric: metrics.Metric,
  scores: base.Array,
  edges: int,
  *,
  key: base.Key,
  sure: graph_lib.Circuit,
  pool: graph_lib.Circuit,
  groups: int = 48,
  budget: int = 500,
  method: str = "auto",
  **settings: Any,
) -> Chosen:
  """The circuit of a size that an expansion over groups of edges finds closest.

  Sure edges stay; the others of the pool, in the order of scores, are split
  into groups of one size, the players. How close a circuit comes to the model
  is expanded over them from random masks, and the best mask of the expansion
  that keeps as many groups as there is room for is taken, if it is as good as
  it says: measured, it has to beat the first groups by scores and the best
  masks of the right size that were tried.

  Args:
    net: a network with edges.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    metric: one example's logits to a number: what is to stay.
    scores: float `[E]`, one for each edge; larger sizes come first.
    edges: of the circuit; a few less where groups do not come out even.
    key: a random key, consumed.
    sure: edges that stay, fewer than `edges`.
    pool: more than `edges`, the sure ones among them or not.
    groups: n, how many groups there are at most.
    budget: masks, each a run of all pairs.
    method: how closeness is expanded, one of `api.METHODS`.
    **settings: further arguments of `judges.Judge`.

  Raises:
    ValueError: sizes that leave nothing to choose; as `judges.faithfulness`.
  """
  graph = sure.graph
  net, params = judges.fitting(net, params, graph)
  rest = (pool - sure).numbers
  if not len(sure) < edges < len(sure) + len(rest):
    raise ValueError(
      f"{len(sure)} edges are sure and {len(rest)} more in the pool: there is "
      f"no choice of {edges}."
    )
  size = np.abs(np.asarray(scores, np.float64)[rest])
  rest = rest[np.argsort(-size, kind="stable")]
  # As many in a group as divide what is chosen best.
  each = max(1, -(-len(rest) // groups))
  taken = max(1, (edges - len(sure)) // each)
  count = len(rest) // each
  if count <= taken:
    raise ValueError(
      f"{count} groups of {each} edges, {taken} to be kept: no choice. Give a "
      "larger pool, or more groups."
    )
  # Masks of groups to circuits, and how close these are to the clean run.
  owner = np.full(graph.num_edges, count)
  owner[rest[: count * each]] = np.arange(count).repeat(each)
  judge = judges.Judge(net, params, pairs, metric, **settings)
  effect = np.abs(judge.clean - judge.corrupted).mean()

  def kept(masks):
    inside = np.append(
      np.asarray(masks, bool), np.zeros((len(masks), 1), bool), 1
    )
    return inside[:, owner] | sure.kept

  def value(masks):
    off = np.abs(judge(kept(masks)) - judge.clean).mean(axis=1)
    return -off / effect

  asked: dict[bytes, float] = {}

  def remembered(masks):
    found = value(masks)
    for mask, one in zip(masks, found):
      if mask.sum() == taken:
        asked[mask.tobytes()] = float(one)
    return found

  # Expanded; the best mask of all that were tried is the circuit.
  explanation = api.explain(
    remembered, count, key=key, budget=budget, method=method, batch_size=64
  )
  best = optimum_lib.best_mask(explanation.fourier, exactly=taken).mask
  first = np.arange(count) < taken
  proposed, by_scores = (float(x) for x in value(np.stack([best, first])))
  asked |= {best.tobytes(): proposed, first.tobytes(): by_scores}
  top = max(asked, key=lambda mask: asked[mask])
  mask = np.frombuffer(top, bool)
  circuit = graph_lib.Circuit(graph, kept(mask[None])[0])
  return Chosen(
    circuit, asked[top], by_scores, proposed, explanation, judge.runs
  )


@functools.partial(jax.jit, static_argnames=("model", "owned", "cuts"))
def _begun(model, owned, cuts, params, batch):
  """Logits of the clean run, and what the corrupted run writes and has."""
  net = model.net
  ids = jnp.asarray(batch.corrupted)
  ref = runs.written(net, params, batch, corrupted=True) if cuts else None
  found = net.apply(params, capture=owned, input_ids=ids).activations
  return runs.logits(net, params, batch), ref, found
