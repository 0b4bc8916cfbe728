"""
Context cues
============

A model continues a text. Which tokens of its answer depend on the context that
stood before, and on which of its tokens? PECoRe (Sarti et al. 2024) compares
the run with its context to the run without.
"""

# %%
# The network of the story before, which repeats what it has seen. Letters stand
# for its tokens.

import pathlib
import tempfile

import jax
import numpy as np

from spex_jax import context
from spex_jax.jobs import circuits_toy
from spex_jax.report import circuit_plots as plots

folder = tempfile.TemporaryDirectory()
net, _ = circuits_toy.trained(
  circuits_toy.TOY, circuits_toy.TRAINING, 0, pathlib.Path(folder.name)
)
folder.cleanup()
letters = "ABCDEFGHIJKLMNOPQRSTUVWX"
ids = lambda text: [letters.index(letter) for letter in text]

# %%
# The context says what stands behind A: B, C, D, E. The answer says BCD, turns
# to A again, where the context would have it go on to E, and repeats BC, which
# by now it can copy from itself.

before, prompt, response = "KABCDEFM", "A", "BCDABC"
runs = context.Runs.of_ids(
  net,
  ids(before + prompt + response),
  ids(prompt + response),
  ids(response),
  context=(0, len(before)),
)
found = context.pecore(
  net,
  runs,
  metric="pcxmi",
  method="auto",
  target="shift_bits",
  targets="all",
  budget=256,
  key=jax.random.key(0),
)
for token, bits in zip(response, found.sensitivity):
  print(f"{token}: {bits:+.2f} bits from the context")

# %%
# Cues of every token, by masks: what is lost without a token of the context, on
# average over the others. All 256 subsets of the context are asked.

cues = np.array([cue.scores for cue in found.cues])
figure = plots.heatmap(
  cues,
  [f"{place} {token}" for place, token in enumerate(response, 1)],
  list(before),
  row_name="answer",
  column_name="context",
  units="bits",
  title="What each token of the answer owes to the context",
)

# %%
# The same masks say which tokens are needed together. For the first B:

print(
  found.sets.interactions("FBII", order=2, names=list(before), target=0).top(6)
)
