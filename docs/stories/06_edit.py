"""
An edit
=======

A network is to forget one digit and know the others as before. Which of its
filters are to go? None is trained: filters are scored by what their absence
does (COAR), and as many as validation allows are removed for good.
"""

# %%
import jax
import jax.numpy as jnp
import numpy as np

from spex_jax.ablate import components, readouts
from spex_jax.components import coar, editing
from spex_jax.datasets import images
from spex_jax.models import convnet
from spex_jax.training import learners, loop

train, rest = images.digits().split(jax.random.key(0), 0.4)
scored, chosen, test = (
  rest.take(part) for part in np.array_split(np.arange(rest.num_examples), 3)
)
layers = convnet.small(10, width=24)
learner = learners.classifier(
  "small",
  layers.init,
  layers.logits,
  10,
  loop.Recipe(8, 50, 3e-3, schedule="cosine"),
  finish=layers.settle,
  settings=layers.settings,
)
data = {"x": jnp.asarray(train.pixels), "y": jnp.asarray(train.labels)}
state, finite = jax.jit(learner.fit)(
  jax.random.key(1), jax.random.key(2), data, jnp.ones(train.num_examples)
)
net = convnet.network(layers, 8, jax.tree.map(np.asarray, state))

# %%
# Scores of every filter for every example of the first part: how much it raises
# the margin of the right digit, while a tenth of the filters is absent.

players = components.filters(
  components.shapes(net, net.params, pixel_values=scored.pixels)
)
value_fn = components.evaluator(
  net,
  players,
  {"pixel_values": scored.pixels},
  readouts.margins(scored.labels),
)
scores = coar.attribute(
  value_fn, players.n, key=jax.random.key(3), budget=600, keep=0.9
)
print(*scores.notes)

# %%
# Filters that serve the digit 6 more than the others, and how many of them may
# go before the second part says that others suffer by more than 4 %.

forget = 6
statistic = editing.welch(
  scores.scores, scored.labels == forget, scored.labels != forget
)
margins = components.evaluator(
  net,
  players,
  {"pixel_values": chosen.pixels},
  readouts.margins(chosen.labels),
)


def validate(masks):
  """The share of sixes that are wrong, and of others that are right."""
  right = margins(masks) > 0
  own = chosen.labels == forget
  return np.stack([1 - right[:, own].mean(1), right[:, ~own].mean(1)], axis=1)


choice = editing.choose(
  statistic,
  validate,
  direction="lower",
  grid=editing.ladder(players.n // 2),
  allowed=0.04,
)
print(choice)

# %%
# The edit as an object: it is saved, joined with others, applied to parameters,
# and undone bit for bit. What it does to digits that had no say in it:

edit = editing.Edit.of(net, net.params, players, choice.removed)
print(edit)
applied = editing.Applied.of(net, net.params, edit)
accuracy = []
for params in (net.params, applied.params):
  logits = net.apply(params, pixel_values=test.pixels).logits
  right = np.asarray(logits).argmax(axis=1) == test.labels
  accuracy.append([right[test.labels == digit].mean() for digit in range(10)])
print("before", np.round(accuracy[0], 2))
print("after ", np.round(accuracy[1], 2))

# %%
from matplotlib.figure import Figure

figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
digit = np.arange(10)
axes.bar(digit - 0.2, accuracy[0], 0.4, color="#2166ac", label="before")
axes.bar(digit + 0.2, accuracy[1], 0.4, color="#b2182b", label="after")
axes.set_xticks(digit)
axes.set_xlabel("digit")
axes.set_ylabel("share that is right")
figure.legend(frameon=False, ncols=2, loc="outside upper center")
axes.spines[["top", "right"]].set_visible(False)
