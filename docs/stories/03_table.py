"""
A table
=======

A fitted model of a table, one row, and the columns that decide it. The model
may be any that predicts: here boosted trees of scikit-learn.
"""

# %%
import jax
import numpy as np
from sklearn import datasets
from sklearn.ensemble import GradientBoostingClassifier

import spex_jax as spex
from spex_jax import report
from spex_jax.ablate import columns

data = datasets.load_breast_cancer(as_frame=True)
frame, target = data.data.iloc[:, :12], data.target
model = GradientBoostingClassifier(random_state=0).fit(
  frame[:400], target[:400]
)
print(f"{model.score(frame[400:], target[400:]):.1%} of 169 others right")

# %%
# An absent column takes its values in the rows of a background, over which
# predictions are averaged. Twelve columns have 4,096 masks: all are asked, so
# that nothing here is an estimate.

row = frame.iloc[405]
value_fn = columns.masked(model.decision_function, row, frame[:400:20])
explanation = spex.explain(
  value_fn, budget=4096, key=jax.random.key(0), units="nat"
)
print(explanation)

# %%
# Shapley values sum to f(all) - f(none). They are one index of ten; the same
# expansion gives them all.

shapley = explanation.interactions("SV")
none, everyone = explanation.ends
print(shapley)
print(
  f"sum {shapley.values.sum():+.4f}, f(all) - f(none) {everyone - none:+.4f}"
)
assert np.isclose(shapley.values.sum(), everyone - none)

# %%
# Pairs, by the faithful Shapley interaction index: what two columns are worth
# together beyond both alone.

pairs = explanation.interactions("FSII", order=2)
figure = report.bars(pairs, title="row 405: log odds of benign", top=10)

# %%
figure = report.network(pairs, title="row 405: log odds of benign", top=12)
