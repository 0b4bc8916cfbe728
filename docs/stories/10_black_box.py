"""
A black box
===========

FIND (Schwettmann et al. 2023) asks: given queries alone, what does a function
do? Functions of one number are of a family; some have an interval where they
are something else, or are noisy. An interpreter has 300 queries.
"""

# %%
# A wave of seed 0 with an odd interval. What is told of it is not much:

import dataclasses

import numpy as np
from matplotlib.figure import Figure

from spex_jax.agents.find import functions, generating
from spex_jax.agents.interpreters import piecewise

function = next(
  one
  for one in generating.generate(0, "numeric", 60)
  if "corruption" in one.truth and one.truth.get("family") == "cosine"
)
print("told:", dict(function.about))

# %%
# The interpreter fits families and change points, asks more where it is
# unsure, and needs no language model. Its queries are kept here to be drawn.

asked = []


def values(inputs):
  asked.extend(inputs)
  return function.values(inputs)


query = functions.Query(dataclasses.replace(function, values=values), 300)
answer = piecewise.run(query, 300)
print(f"{query.spent} queries")
print(answer.description)
print(answer.code)

# %%
# The truth, which it has not seen:

print(function.truth["code"])

# %%
names = {}
exec(answer.code, names)  # Our own interpreter's; others' run in a sandbox.
grid = np.linspace(-128, 128, 2049)
figure = Figure(figsize=(7, 3.2), layout="constrained")
axes = figure.subplots()
axes.plot(grid, function.clean(grid), color="0.7", lw=4, label="the family")
axes.plot(asked, function.values(asked), ".", color="#2166ac", label="queries")
axes.plot(
  grid, [names["f"](x) for x in grid], color="#b2182b", lw=1, label="the answer"
)
axes.set_xlabel("x")
axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
axes.spines[["top", "right"]].set_visible(False)
