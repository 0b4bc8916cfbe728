"""A linear head on embeddings, fitted on labelled examples.

Shapes: N examples, d width, K classes.
"""

from typing import NamedTuple

import numpy as np

_FOLDS = 5


class Head(NamedTuple):
  """A linear classifier of embeddings.

  Attributes:
    kernel: float32 `[d, K]`.
    bias: float32 `[K]`.
    accuracy: in cross-validation, or NaN where a class has one text only.
  """

  kernel: np.ndarray
  bias: np.ndarray
  accuracy: np.ndarray


def fit(vectors: np.ndarray, labels: np.ndarray, c: float) -> Head:
  """Logistic regression, as scikit-learn's, with its accuracy.

  Of two classes the logits are half the decision value each way, so that
  their difference is that value.

  Args:
    vectors: `[N, d]`.
    labels: int `[N]`, every class of 0..K-1 among them.
    c: inverse strength of the ridge penalty.

  Raises:
    ValueError: a `c` that is not above 0.
  """
  from sklearn import linear_model, model_selection  # Slow to import.

  if not 0 < c < np.inf:
    raise ValueError(f"The inverse penalty c must be above 0; got {c}.")
  model = linear_model.LogisticRegression(C=c, max_iter=5000)
  folds = min(_FOLDS, int(np.bincount(labels).min()))
  accuracy = np.nan
  if folds > 1:
    accuracy = model_selection.cross_val_score(
      model, vectors, labels, cv=folds
    ).mean()
  model.fit(vectors, labels)
  kernel, bias = model.coef_.T, model.intercept_
  if kernel.shape[1] == 1:
    kernel = np.concatenate([-kernel, kernel], axis=1) / 2
    bias = np.concatenate([-bias, bias]) / 2
  return Head(*(np.asarray(x, np.float32) for x in (kernel, bias, accuracy)))
