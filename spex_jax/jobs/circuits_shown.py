"""What a page shows of circuits by size: `curve.json`, and files for others.

`eap_ig.json` is EAP-IG's and MIB's, `circuit_tracer.json` is for the page of
circuit-tracer and Neuronpedia.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.circuits import circuit_files, curves, measured
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judged as judged_lib

_MOST = 400  # Edges of a circuit that is drawn.
_LARGE = 20_000  # Edges of a graph that is written for others, at most.


def save(
  workdir: pathlib.Path,
  curve: curves.Curve,
  choose: Callable[[int], graph_lib.Circuit],
  circuit: graph_lib.Circuit,
  judged: judged_lib.Judged,
  mean: np.ndarray,
  units: str,
  tokens: Sequence[str],
  able: measured.Measured,
) -> None:
  """Writes the files; graphs of many edges for ourselves alone.

  Args:
    workdir: the folder that the files are written to.
    curve: circuits of several sizes, with their faithfulness.
    choose: a number of edges to the circuit that was judged.
    circuit: the circuit that was chosen.
    judged: what that circuit does, and its faithfulness.
    mean: float `[E]`, the mean score of every edge.
    units: the units of the metric, such as "nat".
    tokens: the tokens of one prompt, as texts.
    able: what the whole model does on all pairs.
  """
  graph = circuit.graph
  sizes = np.maximum(1, np.round(curve.shares * graph.num_edges)).astype(int)
  small = [int(size) for size in sizes if size <= _MOST]
  chosen = [choose(size).numbers.tolist() for size in small]
  used = sorted({number for numbers in chosen for number in numbers})
  place = {number: i for i, number in enumerate(used)}
  strongest = lambda numbers: sorted(numbers, key=lambda i: -abs(mean[i]))
  low, high = judged.interval()[0]
  same = judged.identities
  body: dict[str, Any] = {
    "sizes": sizes.tolist(),
    "connected": np.asarray(curve.judged.connected).tolist(),
    "faithfulness": curve.faithfulness.tolist(),
    "random": curve.random.tolist(),
    "cmd": curve.areas.cmd,
    "cpr": curve.areas.cpr,
    "identities": {"full": float(same.full), "empty": float(same.empty)},
    "ablation": same.ablation,
    "units": units,
    "accuracy": able.accuracy,
    "clean": float(able.clean.mean()),
    "corrupted": float(able.corrupted.mean()),
    "faithful": float(judged.faithfulness()[0]),
    "interval": [float(low), float(high)],
    "edges_chosen": len(circuit),
    "num_pairs": judged.values.shape[1],
    "start": int(np.abs(np.log(sizes / max(len(circuit), 1))).argmin()),
    "edges": [graph.drawn(number, float(mean[number])) for number in used],
    "circuits": [[place[i] for i in strongest(numbers)] for numbers in chosen],
  }
  base.write_json(workdir / "curve.json", body)
  if graph.num_edges <= _LARGE:
    _write(workdir / "eap_ig.json", circuit_files.to_eap_ig(circuit, mean))
  if len(circuit) <= _MOST:
    _write(
      workdir / "circuit_tracer.json",
      circuit_files.to_circuit_tracer(circuit, mean, tokens),
    )


def _write(path: pathlib.Path, body: dict[str, Any]) -> None:
  """JSON without a checksum, which others would not know."""
  temporary = base.draft(path)
  temporary.write_text(json.dumps(body))
  temporary.replace(path)
