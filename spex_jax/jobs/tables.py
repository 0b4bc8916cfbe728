"""The subject `table`: the columns of one row, as a classifier uses them."""

import dataclasses
import importlib
import inspect
import pathlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from spex_jax import base, settings
from spex_jax.ablate import evaluate, features
from spex_jax.datasets import tabular
from spex_jax.jobs import subjects
from spex_jax.models import mlp
from spex_jax.report import plots


@dataclasses.dataclass(frozen=True)
class Model(subjects.Mlp):
  """What learns a table."""

  kind: str = settings.field(
    # The default waits for no threads of OpenMP, unlike the histogram kind.
    "sklearn.ensemble:GradientBoostingClassifier",
    "boosting (scikit-learn's, of the kind that the target asks for), mlp, or "
    "module:Class with fit and predict",
  )
  arguments: Mapping[str, Any] = settings.field(
    {}, "of that class, as in \"{'n_estimators': 50}\""
  )


@dataclasses.dataclass(frozen=True)
class Table(subjects.Trained):
  """Which row of which table is asked about."""

  subject: str = settings.field("table", choices=("table",))
  batch_size: int = settings.field(1024, "masks in a batch", low=1)
  table: str = settings.field(
    "breast_cancer",
    "a .csv with a header, an .npz with x and y, or breast_cancer, diabetes, "
    "iris, wine",
  )
  target_column: str = settings.field(
    "", "of a .csv file; the last where empty"
  )
  row: int = settings.field(0, "of the test set", low=0)
  model: Model = Model()


# The quick size.
QUICK = {"budget": 200, "training": {"num_epochs": 5}}


def subject(config: Table, workdir: pathlib.Path) -> subjects.Subject:
  """Fits or restores the model, and masks columns of one test row.

  Raises:
    ValueError: a setting out of range, or a model that cannot be had, named.
  """
  data = _table(config)
  train, test = data.split(
    subjects.key_of(config.seed, "split"), config.test_fraction
  )
  row = subjects.pick("row", config.row, test.num_examples)
  x = test.features[row]
  players = features.columns(data.columns)
  baseline, absent = subjects.baseline_of(config, x, train.features)
  make = _network if config.model.kind == "mlp" else _scikit_learn
  asked, what, units, fact = make(
    config, workdir, train, test, x, players, baseline, absent
  )
  if isinstance(asked, base.Game):
    game = asked
    evaluator = evaluate.compiled(game, batch_size=config.batch_size)
  else:
    game, evaluator = None, asked

  def draw(interactions: subjects.Interactions, path: pathlib.Path) -> None:
    title = f"{config.table}, test row {row}: {what}"
    plots.save(plots.bars(interactions, title=title), path)

  return subjects.Subject(
    question=f"Which columns of test row {row} of {config.table} move "
    f"the model's {what}?",
    facts={
      "model": fact,
      "value": f"{what}; an absent player takes {absent}",
    },
    evaluator=evaluator,
    names=data.columns,
    units=units,
    draw=draw,
    game=game,
  )


def _table(config: Table) -> tabular.Table:
  """A table by name or from a file."""
  column = config.target_column
  if pathlib.Path(config.table).suffix in (".csv", ".npz"):
    return tabular.read(config.table, column)
  if column:
    raise ValueError(
      f"target_column={column!r} is for a .csv file; {config.table!r} is none."
    )
  return tabular.load(config.table)


def _contents(table: str) -> dict[str, Any]:
  """A table's name, with the contents of a file."""
  path = pathlib.Path(table)
  data = {"data": zlib.crc32(path.read_bytes())} if path.is_file() else {}
  return {"table": table} | data


def _network(config, workdir, train, test, x, players, baseline, absent):
  """A Flax MLP on standardised columns, compiled with the masking."""
  import optax  # Slow to import.

  mean, std = train.moments()
  classes = train.classes
  net = mlp.network(
    mlp.Config(
      num_features=len(x),
      num_outputs=max(1, len(classes)),
      widths=config.model.widths,
      activation=config.model.activation,
    )
  )

  def outputs(params, rows):
    scaled = (rows - mean[None]) / std[None]
    return net.apply(params, features=scaled).logits

  def losses(params, batch):
    answers = outputs(params, batch["features"])
    if not classes:
      return (answers[:, 0] - batch["targets"]) ** 2
    return optax.softmax_cross_entropy_with_integer_labels(
      answers, batch["targets"]
    )

  params, origin = subjects.trained(
    net,
    train.features,
    train.targets,
    losses,
    workdir,
    seed=config.seed,
    training=config.training,
    depends=subjects.depends_on(config) | _contents(config.table),
  )
  answers = np.asarray(outputs(params, test.features))
  if classes:
    ranking = np.asarray(outputs(params, x[None])[0]).argsort()[::-1]
    first, second = int(ranking[0]), int(ranking[1])
    what = f"logit({classes[first]}) - logit({classes[second]})"
    guesses = answers.argmax(axis=1)
  else:
    first, second = 0, None
    what, guesses = "response", answers[:, 0]

  def read(rows: jax.Array, params) -> jax.Array:
    answers = outputs(params, rows)
    values = answers[:, first]
    return values if second is None else values - answers[:, second]

  widths = "-".join(map(str, (len(x), *config.model.widths, len(answers[0]))))
  fact = f"MLP {widths}, {_score(test, guesses)}; {origin}"
  units = "logit" if classes else "response"
  game = features.game(
    read, players, x, baseline, params, absent=absent, units=units
  )
  return game, what, units, fact


def _scikit_learn(config, workdir, train, test, x, players, baseline, absent):
  """Any estimator, fitted in a moment, masked on the host."""
  # Nothing is kept: pickles are not to be trusted.
  del workdir, absent
  kind = config.model.kind
  if kind == "boosting":
    # Waits for no threads of OpenMP, unlike the histogram kind.
    wanted = "Classifier" if train.classes else "Regressor"
    kind = f"sklearn.ensemble:GradientBoosting{wanted}"
  model = _estimator(kind, config.model.arguments, config.seed)
  _check_kind(model, config, bool(train.classes))
  model.fit(train.features, train.targets)
  answer, what, units = _answer(model, x, train.classes)
  stand_ins = np.atleast_2d(np.asarray(baseline))

  def value(masks: np.ndarray) -> np.ndarray:
    kept = masks[:, players.owner]
    total = np.zeros(len(masks))
    for stand_in in stand_ins:
      total += answer(np.where(kept, x, stand_in))
    return total / len(stand_ins)

  evaluator = evaluate.host(value, players.n, batch_size=config.batch_size)
  score = _score(test, model.predict(test.features))
  return evaluator, what, units, f"{kind}, {score}"


def _estimator(kind: str, given: Mapping[str, Any], seed: int) -> Any:
  module, _, name = kind.partition(":")
  try:
    make = getattr(importlib.import_module(module), name)
  except (Exception, SystemExit) as error:  # Whatever the module does.
    raise ValueError(
      f"model.kind={kind!r} is neither 'mlp' nor 'boosting' nor a "
      f"module:Class that can be imported: {error}."
    ) from error
  arguments = dict(given)
  try:
    if "random_state" in inspect.signature(make).parameters:
      arguments = {"random_state": seed} | arguments
    model = make(**arguments)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"model.arguments do not fit {kind}: {error}. Give those of this "
      "class, as --config.model.arguments=\"{'n_jobs': 1}\" does."
    ) from error
  if not (hasattr(model, "fit") and hasattr(model, "predict")):
    raise ValueError(f"{kind} has no `fit` and `predict`.")
  return model


def _check_kind(model: Any, config: Table, classes: bool) -> None:
  """A classifier for a table of classes, a regressor for one of responses."""
  tags = getattr(model, "__sklearn_tags__", None)
  kind = tags().estimator_type if tags else None
  wanted = "classifier" if classes else "regressor"
  if tags and kind != wanted:
    what = "classes" if classes else "a response"
    suffix = wanted.capitalize()
    example = f"sklearn.ensemble:GradientBoosting{suffix}"
    raise ValueError(
      f"model.kind={config.model.kind!r} is a {kind or 'model'} of "
      f"scikit-learn, and {config.table} has {what}: choose a {wanted}, as "
      f"--config.model.kind={example} does, or mlp."
    )


def _answer(
  model: Any, x: np.ndarray, classes: tuple[str, ...]
) -> tuple[Callable[[np.ndarray], np.ndarray], str, str]:
  """How to read one number per row off a model, what it is, and its units."""
  if not classes:
    return model.predict, "response", "response"
  if not hasattr(model, "classes_"):
    raise ValueError(
      f"{type(model).__name__} has no classes_ once fitted: no classifier."
    )
  # Labels need not be the classes' numbers, nor all be in the training part.
  column = int(np.flatnonzero(model.classes_ == model.predict(x[None])[0])[0])
  name = classes[int(model.classes_[column])]
  if hasattr(model, "decision_function"):
    shape = np.shape(model.decision_function(x[None]))
    if shape != (1,) and shape != (1, len(model.classes_)):
      raise ValueError(
        f"decision_function of {type(model).__name__} gives {shape[1:]} scores "
        f"for {len(model.classes_)} classes, such as one for each pair of "
        "them; one for each class is needed. For scikit-learn's SVC leave out "
        "decision_function_shape='ovo'."
      )

    def decision(rows):
      scores = model.decision_function(rows)
      if scores.ndim == 1:  # Two classes: one score, for the second.
        return scores if column == 1 else -scores
      return scores[:, column]

    return decision, f"decision value for {name}", "decision value"
  if hasattr(model, "predict_proba"):
    probability = lambda rows: model.predict_proba(rows)[:, column]
    return probability, f"probability of {name}", "probability"
  raise ValueError(
    f"{type(model).__name__} has neither decision_function nor predict_proba; "
    "a hard class cannot be explained."
  )


def _score(test: tabular.Table, guesses: np.ndarray) -> str:
  """How good the guesses for the test rows are, in words."""
  if test.classes:
    right = (guesses == test.targets).mean()
    return f"{right:.1%} of {test.num_examples} test rows right"
  residual = ((guesses - test.targets) ** 2).sum()
  total = ((test.targets - test.targets.mean()) ** 2).sum()
  return f"R2 {1 - residual / total:.3f} on {test.num_examples} test rows"
