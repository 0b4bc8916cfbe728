"""How faithful circuits are: what they do of what the model does.

A circuit is run on the clean prompts; the edges outside carry what another run
writes (`ablations`). Its faithfulness is the share that it keeps of what the
whole model does above an empty circuit,

  f = (mean m(circuit) - mean m(empty)) / (mean m(full) - mean m(empty)),

a ratio of means over pairs; `judged.Judged.by_pair` has the ratio of every
pair, and a mean of these is another number (Miller et al. 2024, arXiv
2407.08734). Under resampling m(empty) is the metric on the corrupted prompts.

Two identities are checked in every run: the circuit of all edges does what the
unedited model does, and the one of none what the corrupted run does. Under the
other ablations an empty circuit does what one does that lacks only the edges to
the output.

Edges on no path from `embed` to the output are pruned before a circuit is run,
as EAP-IG has it. Under resampling that changes nothing.

Shapes: C circuits, N pairs, B of a batch, E edges, W writers, d width.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax import base
from spex_jax.circuits import ablations, many, metrics, runs, ungrouped
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import identities as identities_lib
from spex_jax.circuits import judged as judged_lib
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import cut_edges, sites

TOLERANCE = 1e-3  # Of an identity, in what the model does above the empty one.
ROWS = 256  # Circuits of a call, at most.
_HELD = 1 << 30  # Bytes of what corrupted prompts write, over all batches.

Progress = Callable[[int, int], None]


def faithfulness(
  net: sites.Network,
  params: Any,
  pairs: pairs_lib.Pairs,
  circuits: Sequence[graph_lib.Circuit] | Mapping[str, graph_lib.Circuit],
  metric: metrics.Metric,
  *,
  ablation: str = "resample",
  fixed: base.Array | None = None,
  prune: bool = True,
  size: int | None = None,
  at_once: int | None = None,
  tolerance: float = TOLERANCE,
  seed: int = 0,
  progress: Progress | None = None,
) -> judged_lib.Judged:
  """Runs many circuits in one compiled program.

  What the corrupted prompts write is computed once for a batch of pairs; equal
  circuits are run once, after pruning.

  Args:
    net: a network with edges.
    params: the parameters of the network.
    pairs: N pairs of prompts, a clean and a corrupted one.
    circuits: of this network's graph, or of its ungrouped one; with names or
      without. Edges and nodes go together, positions and neurons by themselves.
      The empty circuit of neurons has the MLPs of the other run, and all else.
    metric: one of `metrics.METRICS`, or one like it.
    ablation: one of `ablations.KINDS`: what edges outside carry.
    fixed: what that is, `[1, 1|P, W, d]`, where it was computed before.
    prune: whether dangling edges are left out first.
    size: pairs of a batch; `runs.batch_size` by default.
    at_once: circuits computed side by side; `many.at_once` by default.
    tolerance: of the identities, in mean |m(full) - m(empty)|.
    seed: of ablations that are learned.
    progress: called with the runs that are done, and their number.

  Raises:
    ValueError: no circuit, one of another graph, levels that do not go
      together, or an ablation that is not known, or not for neurons; a metric
      that is not of one example; NaN or infinity, with circuit and pair.
    RuntimeError: an identity that does not hold: values cannot be trusted.
  """
  named = _named(circuits)
  metrics.check(metric, net.config.vocab_size)
  net, params = fitting(net, params, next(iter(named.values())).graph)
  graph = graph_lib.Graph.of(net)
  for circuit in named.values():
    circuit.check(graph, graph_lib.LEVELS)
  pruned = {name: c.prune() if prune else c for name, c in named.items()}
  ran = {
    name: c.of_edges if c.level == "node" else c for name, c in pruned.items()
  }
  # Three circuits are run beside them, as checks: all, none, none read.
  one = next(iter(ran.values()))
  for circuit in ran.values():
    _ = one & circuit  # Refuses another level, or number of positions.
  level = one.level
  if level == "neuron" and ablation != "resample":
    raise ValueError(
      f"Neurons outside a circuit are resampled; got ablation={ablation!r}."
    )
  whole = one | ~one
  cut_off = whole.kept.copy()
  cut_off[..., graph.readers[-1].start :] = False
  checks = [whole, ~whole, dataclasses.replace(whole, kept=cut_off)]
  # Equal ones are run once.
  every = dict.fromkeys([*checks, *ran.values()])
  places = {circuit: number for number, circuit in enumerate(every)}
  # All in one call; what is known of the checks has to come out.
  judge = Judge(
    net, params, pairs, metric,
    ablation=ablation, fixed=fixed, size=size, at_once=at_once,
    seed=seed, progress=progress,
  )  # fmt: skip
  kept = np.stack([circuit.kept for circuit in places])
  values = judge(kept, level=level)
  who = np.array([places[c] for c in ran.values()])
  _check_finite(values[who], tuple(named))
  full, empty, off = (values[places[c]] for c in checks)
  expected = judge.corrupted if ablation == "resample" else off
  if level == "neuron":
    ablation, rest = "neurons", (~whole).of_edges
    expected = judge(rest.kept[None])[0]
  found = identities_lib.Identities(
    float(np.abs(full - judge.clean).max()),
    float(np.abs(empty - expected).max()),
    ablation,
  )
  identities_lib.check(found, full, empty, tolerance)
  return judged_lib.Judged(
    names=tuple(named),
    values=values[who],
    clean=judge.clean,
    corrupted=judge.corrupted,
    empty=empty,
    edges=np.array([len(c) for c in named.values()]),
    connected=np.array([c.connected for c in pruned.values()]),
    identities=found,
  )


class Judge:
  """The metric of circuits on given pairs: what their batches share is kept.

  Called with circuits bool `[C, E]`, it gives float64 `[C, N]`.

  Attributes:
    net: as given, without parameters; `model` is it, hashable.
    params: the parameters of the network.
    metric: one example's logits to a number, as it was given.
    graph: the graph that circuits are of.
    batches: the pairs in batches of one shape.
    clean: float64 `[N]`, the metric of the unedited clean run.
    corrupted: float64 `[N]`, of the corrupted one.
    runs: circuits times pairs that were run so far, the unedited two too.

  Raises:
    ValueError: `fixed` without the name of its ablation; see `Pairs.check`.
  """

  def __init__(
    self,
    net: sites.Network,
    params: Any,
    pairs: pairs_lib.Pairs,
    metric: metrics.Metric,
    *,
    ablation: str = "resample",
    fixed: base.Array | None = None,
    size: int | None = None,
    at_once: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
  ):
    pairs.check(net.config.vocab_size, net.config.max_positions)
    self.graph = graph_lib.Graph.of(net)
    self.model, self.params, self.metric = sites.Model(net), params, metric
    self.net = self.model.net
    size = runs.batch_size(pairs) if size is None else size
    if fixed is None:
      fixed = ablations.stand_ins(
        net, params, pairs, ablation, size=size, seed=seed
      )
    elif ablation == "resample":
      raise ValueError("`fixed` says what edges carry: name that ablation.")
    self._at_once = at_once or many.at_once(size * pairs.clean.shape[1])
    self._progress = progress or (lambda done, of: None)
    self.batches = list(runs.batches(pairs, size))
    self._begin = lambda batch: _begin(self.model, metric, params, batch, fixed)
    # What the corrupted prompts write is large: a part of it is held.
    self._held: list[tuple[runs.Ends, base.Array]] = []
    room, every = _HELD, []
    for batch in self.batches:
      ends, ref = self._begin(batch)
      every.append((ends.clean, ends.corrupted))
      if (room := room - ref.nbytes) >= 0:
        self._held.append((ends, ref))
    self.clean, self.corrupted = (self._joined(x) for x in zip(*every))
    self.runs = 2 * len(pairs)

  def ends(self, number: int) -> tuple[runs.Ends, base.Array]:
    """A batch's unedited runs, and what its cut edges carry."""
    if number < len(self._held):
      return self._held[number]
    return self._begin(self.batches[number])

  def __call__(
    self, kept: np.ndarray, start: int = 0, level: str = "edge"
  ) -> np.ndarray:
    """The metric of circuits bool `[C, E]` on every pair: float64 `[C, N]`.

    Args:
      kept: the circuits; `[C, P, E]` or `[C, F]` of another level.
      start: a block before which all of them are whole: then they run from
        there on. Every start has a program of its own.
      level: "edge", "position" or "neuron".
    """
    found = []
    done, of = 0, len(kept) * len(self.batches)
    for number, batch in enumerate(self.batches):
      ends, ref = self.ends(number)
      entered = _entered(self.model, start, self.params, batch)
      parts = []
      for begin in range(0, len(kept), ROWS):
        part = kept[begin : begin + ROWS]
        rows = many.padded(part, ROWS if len(kept) > ROWS else 0, self._at_once)
        out = _judged(
          self.model, self.metric, self._at_once, start, level,
          self.params, batch, ends.logits, ref, entered, rows, len(part),
        )  # fmt: skip
        parts.append(np.asarray(out, np.float64)[: len(part)].T)
        done += len(part)
        self._progress(done, of)
      found.append(np.concatenate(parts, axis=1))  # [B, C]
    self.runs += len(kept) * len(self.clean)
    return self._joined(found).T

  def _joined(self, found) -> np.ndarray:
    real = [runs.real_rows(*both) for both in zip(self.batches, found)]
    return np.concatenate(real).astype(np.float64)


def fitting(
  net: sites.Network, params: Any, graph: graph_lib.Graph
) -> tuple[sites.Network, Any]:
  """The network whose graph this is: as given, or with keys and values apart.

  Raises:
    ValueError: the graph of another model, with both fingerprints.
  """
  own = graph_lib.Graph.of(net)
  if graph == own or graph != graph_lib.Graph.of(net, ungrouped=True):
    graph.empty.check(own)
    return net, params
  return ungrouped.network(net), ungrouped.params(net, params)


@functools.partial(jax.jit, static_argnames=("model", "metric"))
def _begin(model, metric, params, batch, fixed):
  """The unedited runs of a batch, and what its cut edges carry."""
  ref = ablations.of_batch(model.net, params, batch, fixed)
  return runs.ends(model.net, params, metric, batch), ref


def _entrance(net: sites.Network, start: int) -> str:
  """The site that holds the stream before a block, or behind the last."""
  last = start == net.config.num_blocks
  return "final_norm.in" if last else f"blocks.{start}.resid_pre"


@functools.partial(jax.jit, static_argnames=("model", "start"))
def _entered(model, start, params, batch):
  """What enters a block of the clean run, and what was written before it."""
  net = model.net
  if not start:
    return None
  enters = _entrance(net, start)
  line = net.sites.index(enters)
  wrote = [one for one in net.writer_sites if net.sites.index(one) < line]
  ids = jnp.asarray(batch.clean)
  out = net.apply(params, capture=(enters, *wrote), input_ids=ids)
  found = out.activations
  return found[enters], cut_edges.stacked([found[one] for one in wrote])


@functools.partial(
  jax.jit, static_argnames=("model", "metric", "at_once", "start", "level")
)
def _judged(
  model, metric, at_once, start, level, params, batch, logits, ref, entered,
  kept, count,
):  # fmt: skip
  """The metric of circuits bool `[C, ...]`: `[C, B]`."""
  net, graph = model.net, graph_lib.Graph.of(model.net)
  chex.assert_axis_dimension(kept, -1, graph.size(level))
  ends = np.cumsum([0, *graph.neurons])
  named = graph.neuron_sites if level == "neuron" else ()
  if named:
    ids = jnp.asarray(batch.corrupted)
    other = net.apply(params, capture=named, input_ids=ids).activations
  line = net.sites.index(_entrance(net, start)) if start else -1

  def one(kept):
    if level == "neuron":
      gone = [~kept[None, None, a:b] for a, b in itertools.pairwise(ends)]
      replace = {n: (x, other[n]) for n, x in zip(named, gone)}
      edits = sites.Edits(replace=replace)
      return runs.measured(net, params, metric, batch, logits, edits)
    cut = graph.cut(kept)
    late = {name: x for name, x in cut.items() if net.sites.index(name) >= line}
    edits = sites.Edits(cut=late, ref=ref)
    if entered is None:
      return runs.measured(net, params, metric, batch, logits, edits)
    x, written = entered
    given = runs.inputs(batch)
    out = net.resume(params, start, x, edits, written=written, **given)
    return runs.read(metric, out.logits[:, 0], logits, batch)

  return many.mapped(one, jnp.asarray(kept), count, at_once)


def _named(circuits) -> dict[str, graph_lib.Circuit]:
  if not isinstance(circuits, Mapping):
    circuits = {str(number): one for number, one in enumerate(circuits)}
  if not circuits:
    raise ValueError("There is no circuit to judge.")
  for name, one in circuits.items():
    if not isinstance(one, graph_lib.Circuit):
      raise TypeError(f"{name} is no Circuit but {type(one).__name__}.")
  return dict(circuits)


def _check_finite(values, names) -> None:
  if not (finite := np.isfinite(values)).all():
    c, pair = np.argwhere(~finite)[0]
    raise ValueError(
      f"The metric of circuit {names[c]!r} on pair {pair} is "
      f"{values[c, pair]}. Look for an answer outside the vocabulary, or "
      "weights that overflow."
    )
