"""Tree ensembles of several libraries, read into one flat form.

Read are regression ensembles of one output: ours, LightGBM, XGBoost and
scikit-learn. Thresholds may lie anywhere: on a mask's bit a node either goes
one way for 0 and another for 1, or the same way for both. Nothing here
imports those libraries; their objects are known by the module they are from.

Shapes: V nodes of all trees together, M trees.
"""

import contextlib
import json
from typing import Any, NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.proxies import trees as trees_lib

# Objectives whose prediction is the plain sum of the leaves.
_LIGHTGBM = {
  "regression", "regression_l1", "huber", "fair", "quantile", "mape",
  "custom", "none",
}  # fmt: skip
_XGBOOST = {
  "reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror",
  "reg:quantileerror",
}  # fmt: skip
_SKLEARN_HIST = {"squared_error", "absolute_error", "quantile"}
_KNOWN = (
  "spex_jax Trees; lightgbm Booster, LGBMRegressor; xgboost Booster, "
  "XGBRegressor, XGBRFRegressor; scikit-learn DecisionTreeRegressor, "
  "ExtraTreeRegressor, RandomForestRegressor, ExtraTreesRegressor, "
  "GradientBoostingRegressor, HistGradientBoostingRegressor"
)


class Ensemble(NamedTuple):
  """f(m) = bias + sum over trees of the leaf that m ends in.

  Attributes:
    feature: int64 `[V]` the player that a node asks for; -1 for a leaf.
    zero: int64 `[V]` where a mask goes whose bit is 0.
    one: int64 `[V]` where it goes if the bit is 1; may be the same.
    value: float64 `[V]` the value of each leaf, in the units of the values.
    roots: int64 `[M]` the root of each tree.
    bias: the constant, in the units of the values.
  """

  feature: np.ndarray
  zero: np.ndarray
  one: np.ndarray
  value: np.ndarray
  roots: np.ndarray
  bias: float


def read(model: Any, n: int) -> Ensemble:
  """Reads a fitted regression ensemble.

  Args:
    model: one of those named in the module header. LightGBM and XGBoost
      regressors that stopped early are read up to their best iteration, as
      they predict.
    n: number of players.

  Raises:
    TypeError: another type of model.
    ValueError: a model that is not fitted, has several outputs, asks for a
      feature >= n, or does something else than add leaves (a link function,
      categories, linear leaves); the message says which.
  """
  n = base.check_integer(n, "The number of players n")
  library = type(model).__module__.split(".")[0]
  if isinstance(model, trees_lib.Trees):
    ensemble = _read_ours(model)
  elif library in ("lightgbm", "xgboost", "sklearn"):
    reader = {
      "lightgbm": _read_lightgbm,
      "xgboost": _read_xgboost,
      "sklearn": _read_sklearn,
    }[library]
    ensemble = reader(model)
  else:
    raise _unknown(model)
  inner = ensemble.feature[ensemble.feature >= 0]
  if inner.size and inner.max() >= n:
    raise ValueError(
      f"The ensemble asks for feature {inner.max()}, but there are n={n} "
      "players: it was fitted on other masks."
    )
  if not (np.isfinite(ensemble.value).all() and np.isfinite(ensemble.bias)):
    raise ValueError("The ensemble has leaves of NaN or infinity.")
  return ensemble


def _unknown(model):
  return TypeError(
    f"Cannot expand a {type(model).__module__}.{type(model).__qualname__}; "
    f"known are regression ensembles: {_KNOWN}."
  )


def _unfitted(model):
  return ValueError(f"This {type(model).__name__} is not fitted yet.")


def _join(parts, bias):
  """Joins per-tree (feature, zero, one, value), node 0 the root of each."""
  sizes = [len(part[0]) for part in parts]
  roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
  if not parts:
    empty = np.zeros(0, np.int64)
    return Ensemble(empty, empty, empty, np.zeros(0), empty, float(bias))
  moved = [
    (feature, zero + root, one + root, value)
    for (feature, zero, one, value), root in zip(parts, roots)
  ]
  feature, zero, one, value = map(np.concatenate, zip(*moved))
  return Ensemble(
    feature=feature.astype(np.int64),
    zero=zero.astype(np.int64),
    one=one.astype(np.int64),
    value=value.astype(np.float64),
    roots=roots,
    bias=float(bias),
  )


def _tree(feature, left, right, value, zero_left, one_left):
  """One tree whose leaves have feature < 0, from where each bit goes."""
  leaf = feature < 0
  zero = np.where(leaf, 0, np.where(zero_left, left, right))
  one = np.where(leaf, 0, np.where(one_left, left, right))
  return np.where(leaf, -1, feature), zero, one, np.where(leaf, value, 0.0)


def _read_ours(trees):
  num_trees, num_inner = trees.feature.shape
  inner = np.where(trees.feature < trees.n, trees.feature, trees.n)
  feature = np.concatenate([inner, np.full_like(trees.leaf, -1)], axis=1)
  value = np.concatenate([np.zeros(inner.shape), trees.leaf], axis=1)
  size = feature.shape[1]
  node = np.arange(size)
  roots = size * np.arange(num_trees)
  # A node that asks nothing sends everything to its first child; it may name
  # any player.
  asks = feature < trees.n
  zero = np.where(node < num_inner, 2 * node + 1, 0) + roots[:, None]
  one = zero + ((node < num_inner) & asks)
  feature = np.where(asks, feature, 0)
  return Ensemble(
    feature=feature.ravel().astype(np.int64),
    zero=zero.ravel(),
    one=one.ravel(),
    value=value.ravel(),
    roots=roots,
    bias=float(trees.bias),
  )


def _read_lightgbm(model):
  booster = getattr(model, "_Booster", model)
  if booster is None:
    raise _unfitted(model)
  if not hasattr(booster, "model_to_string"):
    raise _unknown(model)
  header, *blocks = booster.model_to_string().split("\nTree=")
  lines = header.splitlines()
  settings = dict(line.split("=", 1) for line in lines if "=" in line)
  objective = settings.get("objective", "none").split()
  if int(settings["num_tree_per_iteration"]) != 1:
    raise ValueError("This LightGBM model has several outputs; need one.")
  if objective[0] not in _LIGHTGBM or "sqrt" in objective:
    raise ValueError(
      f"LightGBM objective {' '.join(objective)!r} is no plain regression: "
      "its prediction is not the sum of its leaves."
    )
  parts = [_lightgbm_tree(block) for block in blocks]
  if "average_output" in lines:  # A random forest.
    parts = [(*rest, value / len(parts)) for *rest, value in parts]
  return _join(parts, 0.0)


def _lightgbm_tree(block):
  lines = block.split("\n\n", 1)[0].splitlines()
  fields = dict(line.split("=", 1) for line in lines if "=" in line)
  if fields.get("is_linear", "0") == "1":
    raise ValueError("LightGBM's linear trees have no constant leaves.")
  if fields.get("num_cat", "0") != "0":
    raise ValueError("LightGBM's categorical splits are not read.")
  array = lambda name, dtype: np.array(fields[name].split(), dtype)
  leaves = array("leaf_value", np.float64)
  if int(fields["num_leaves"]) == 1:
    nothing = np.zeros(1, np.int64)
    return nothing - 1, nothing, nothing, leaves[:1]
  feature = array("split_feature", np.int64)
  threshold = array("threshold", np.float64)
  kind = array("decision_type", np.int64)
  # Inner nodes first, then leaves: a child c < 0 is leaf ~c.
  num_inner = len(feature)
  left, right = (
    np.where(child < 0, num_inner + ~child, child)
    for child in (array("left_child", np.int64), array("right_child", np.int64))
  )
  # Bit 1 of the kind: missing values go left. Bits 2, 3 at 1: 0 is missing.
  default_left, zero_missing = (kind & 2) > 0, (kind >> 2 & 3) == 1
  zero_left = np.where(zero_missing, default_left, threshold >= 0)
  one_left = threshold >= 1
  zeros = np.zeros(len(leaves), np.int64)
  pad = lambda x: np.concatenate([x, zeros.astype(x.dtype)])
  return _tree(
    np.concatenate([feature, zeros - 1]),
    pad(left),
    pad(right),
    np.concatenate([np.zeros(num_inner), leaves]),
    pad(zero_left),
    pad(one_left),
  )


def _read_xgboost(model):
  missing = getattr(model, "missing", None)
  booster = model
  if hasattr(model, "get_booster"):
    if not model.__sklearn_is_fitted__():
      raise _unfitted(model)
    booster = model.get_booster()
    with contextlib.suppress(AttributeError):  # Unless it stopped early.
      booster = booster[: model.best_iteration + 1]
  if not hasattr(booster, "save_raw"):
    raise _unknown(model)
  learner = json.loads(bytes(booster.save_raw("json")))["learner"]
  settings = learner["learner_model_param"]
  gradient = learner["gradient_booster"]
  objective = learner["objective"]["name"]
  if objective not in _XGBOOST:
    raise ValueError(
      f"XGBoost objective {objective!r} is no plain regression: its "
      "prediction is not the sum of its leaves."
    )
  if max(int(settings["num_class"]), int(settings.get("num_target", 1))) > 1:
    raise ValueError("This XGBoost model has several outputs; need one.")
  if gradient["name"] not in ("gbtree", "dart"):
    raise ValueError(f"XGBoost's {gradient['name']} has no trees.")
  stored = gradient.get("gbtree", gradient)["model"]
  # Of dart: beside the trees, or since 3.4 among them.
  weights = gradient.get("weight_drop") or stored.get("weight_drop")
  parts = []
  for index, tree in enumerate(stored["trees"]):
    if any(tree.get("split_type", ())):
      raise ValueError("XGBoost's categorical splits are not read.")
    left = np.array(tree["left_children"])
    condition = np.array(tree["split_conditions"], np.float64)
    goes_left = np.array(tree["default_left"]).astype(bool)
    leaf = left < 0
    parts.append(
      _tree(
        np.where(leaf, -1, tree["split_indices"]),
        left,
        np.array(tree["right_children"]),
        condition * (weights[index] if weights else 1.0),
        goes_left if missing == 0 else condition > 0,
        goes_left if missing == 1 else condition > 1,
      )
    )
  bias = [float(x) for x in settings["base_score"].strip("[]").split(",")]
  return _join(parts, bias[0])


def _read_sklearn(model):
  name = type(model).__name__
  if name == "HistGradientBoostingRegressor":
    return _read_hist(model)
  single = name in ("DecisionTreeRegressor", "ExtraTreeRegressor")
  forest = name in ("RandomForestRegressor", "ExtraTreesRegressor")
  if not (single or forest or name == "GradientBoostingRegressor"):
    raise _unknown(model)
  if not hasattr(model, "tree_" if single else "estimators_"):
    raise _unfitted(model)
  if getattr(model, "n_outputs_", 1) > 1:
    raise ValueError(f"This {name} has several outputs; need one.")
  if single:
    return _join([_sklearn_tree(model.tree_, 1.0)], 0.0)
  fitted = np.ravel(model.estimators_)
  bias, weight = 0.0, 1 / len(fitted)
  if not forest:
    weight = model.learning_rate
    if model.init_ != "zero":
      if type(model.init_).__name__ != "DummyRegressor":
        raise ValueError(
          "A GradientBoostingRegressor whose `init` is a model of its own is "
          "no sum of trees; fit it with init=None or 'zero'."
        )
      bias = float(np.ravel(model.init_.constant_)[0])
  return _join([_sklearn_tree(tree.tree_, weight) for tree in fitted], bias)


def _sklearn_tree(tree, weight):
  return _tree(
    np.where(tree.children_left < 0, -1, tree.feature),
    tree.children_left,
    tree.children_right,
    weight * tree.value[:, 0, 0],
    tree.threshold >= 0,
    tree.threshold >= 1,
  )


def _read_hist(model):
  if not hasattr(model, "_predictors"):
    raise _unfitted(model)
  if model.loss not in _SKLEARN_HIST:
    raise ValueError(
      f"HistGradientBoostingRegressor with loss {model.loss!r} is no plain "
      "regression: its prediction is not the sum of its leaves."
    )
  parts = []
  for (tree,) in model._predictors:
    nodes = tree.nodes
    if nodes["is_categorical"].any():
      raise ValueError("Categorical splits are not read.")
    parts.append(
      _tree(
        np.where(nodes["is_leaf"], -1, nodes["feature_idx"]),
        nodes["left"].astype(np.int64),
        nodes["right"].astype(np.int64),
        nodes["value"],
        nodes["num_threshold"] >= 0,
        nodes["num_threshold"] >= 1,
      )
    )
  return _join(parts, np.ravel(model._baseline_prediction)[0])
