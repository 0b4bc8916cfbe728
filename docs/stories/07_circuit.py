"""
A circuit
=========

A network of two layers reads tokens in an order that begins anew, and says what
comes next. Which edges between its heads do it? The answer is known: induction
(Olsson et al. 2022), a head of layer 0 that looks one token back feeds the keys
of a head of layer 1.
"""

# %%
# The network that ``spex circuit find`` trains when it is given none. A
# corrupted prompt has another token where the last one stood before, so that
# nothing matches it.

import pathlib
import tempfile

from spex_jax.circuits import (
  curves,
  draw,
  judges,
  metrics,
  scores,
  selection,
)
from spex_jax.jobs import circuits_toy
from spex_jax.report import circuit_plots as plots

folder = tempfile.TemporaryDirectory()
net, origin = circuits_toy.trained(
  circuits_toy.TOY, circuits_toy.TRAINING, 0, pathlib.Path(folder.name)
)
pairs = circuits_toy.pairs(circuits_toy.TOY, 40, 0)
ours, others = pairs[:24], pairs[24:]
print(origin.partition(" and ")[0])

# %%
# Scores of all edges from gradients between the two runs (EAP-IG), and beside
# them how well they agree with exact effects.

metric = metrics.logit_difference
found = scores.score(net, net.params, ours, metric, method="eap-ig")
graph, mean = found.graph, found.mean()
print(f"{graph.num_edges} edges; {found.agreement}")

# %%
# Circuits of six sizes, judged on pairs that gave no scores: an edge outside
# carries what it carries in the corrupted run. 1 is the whole network. Random
# circuits of the same sizes are the band.

curve = curves.curve(
  net,
  net.params,
  others,
  lambda n: selection.top(graph, mean, n),
  metric,
  fractions=(0.02, 0.05, 0.1, 0.2, 0.5, 1),
)
print(curve)

# %%
figure = plots.curves(
  curve.judged.edges,
  curve.faithfulness,
  random=curve.random,
  title="What is left of the network's answer",
)

# %%
# Eight edges, and what they look like. Dashed lines go into keys, dotted ones
# into values.

circuit = selection.greedy(graph, mean, 8)
print(judges.faithfulness(net, net.params, others, [circuit], metric))
drawing = draw.svg(circuit, mean)
folder.cleanup()
