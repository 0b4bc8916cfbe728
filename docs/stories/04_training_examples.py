"""
Training examples
=================

Which training examples make a network right about a digit, which harm it, and
which are worth less together, because each can stand in for the other? The
network is retrained without them, thousands of times in one compiled program.
"""

# %%
import tempfile

import jax
import numpy as np

import spex_jax as spex
from spex_jax.datasets import images
from spex_jax.indices import judging
from spex_jax.influence import bank, corners, datamodels, examples
from spex_jax.masks import sampling
from spex_jax.models import mlp
from spex_jax.report import example_plots as pictures
from spex_jax.training import learners, loop

digits = images.digits()
digits = digits.take(np.flatnonzero(np.isin(digits.labels, (3, 8))))
x = digits.pixels.reshape(-1, 64)
y = (digits.labels == 8).astype(np.int32)
train, test = slice(0, 60), slice(60, 64)

net = mlp.network(mlp.Config(64, 2, (16,), "relu"))
learner = learners.classifier(
  "mlp 64-16-2",
  net.init,
  lambda params, x: net.apply(params, features=x).logits,
  2,
  loop.Recipe(num_epochs=8, batch_size=20, learning_rate=0.01),
)
retrainer = examples.Retrainer(
  learner,
  {"x": x[train], "y": y[train]},
  {"x": x[test], "y": y[test]},
  key=jax.random.key(0),
  seeds="common",
  batch_size=64,
)

# %%
# 2,000 networks, each trained on a random half of 60 examples; their margins at
# four test digits go into a bank, which a later run extends.

folder = tempfile.TemporaryDirectory()
outputs = bank.Bank(f"{folder.name}/bank", retrainer)
masks = sampling.uniform(jax.random.key(1), 2000, 60)
values = outputs.ask(masks, [0])[:, 0]
fit, fresh = slice(1800), slice(1800, None)

# %%
# One score for each example (a linear datamodel), and how well its sums rank
# networks that it has not seen: the linear datamodeling score.

scores = datamodels.least_squares(masks[fit], values[fit])
print(judging.lds(scores, masks[fresh], values[fresh]))

# %%
# Sets, from the same networks. R² beside that of single examples alone.

names = [f"{digits.rows[i]} ({digits.labels[i]})" for i in range(60)]
answer = spex.decode(
  masks[fit], values[fit], method="gram", max_order=2, names=names
)
print(judging.surrogate(answer.fourier, masks[fresh], values[fresh]))

# %%
# Who helps and harms the test digit that hangs on its examples most.

target = int(answer.fourier.coefs[:, 1:].std(axis=1).argmax())
found = answer.interactions("BII", order=2, target=target)
singles = [pictures.Shown(s, v) for s, v in found if len(s) == 1]
pairs = [pictures.Shown(s, v) for s, v in found if len(s) == 2]
point = pictures.Point(
  f"test: a {digits.labels[60 + target]}",
  helpful=[one for one in singles if one.value > 0][:3],
  harmful=[one for one in singles if one.value < 0][:3],
  synergy=[pair for pair in pairs if pair.value > 0][:1],
  redundancy=[pair for pair in pairs if pair.value < 0][:1],
)
figure = pictures.images(
  [point],
  [digits.pixels[60 + target, 0]],
  digits.pixels[:60, 0],
  names,
  units="logit",
  title="Who moves the margin of the right digit?",
)

# %%
# No trust without a test: the network is retrained on the four corners of each
# of the strongest pairs, in 40 contexts and under eight seeds.

seeds = [lambda m, s=s: outputs.ask(m, [s])[:, 0] for s in range(8)]
contexts = sampling.uniform(jax.random.key(2), 40, 60)
claims = corners.reported(found, 3, target=target)
print(corners.four_corners(claims, seeds, contexts, names=names))
folder.cleanup()
