"""The subject `table`: the columns of one row, as a classifier uses them."""

import dataclasses
import inspect
import pathlib
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from spex_jax import base, settings
from spex_jax.ablate import columns as masked
from spex_jax.ablate import evaluate, features
from spex_jax.datasets import casts, tabular
from spex_jax.fourier import score
from spex_jax.jobs import callables, fitted, fitted_networks, subjects
from spex_jax.models import mlp
from spex_jax.report import plots


@dataclasses.dataclass(frozen=True)
class Model(subjects.Mlp):
  """What learns a table."""

  kind: str = settings.field(
    # The default waits for no threads of OpenMP, unlike the histogram kind.
    "sklearn.ensemble:GradientBoostingClassifier",
    "boosting (scikit-learn's, of the kind that the target asks for), mlp, or "
    "module:Class with fit and predict, or of Flax's linen or NNX; with "
    "model.file of Flax's parameters the module's class",
  )
  file: str = settings.field(
    "",
    "a model that is fitted already: scikit-learn's or any other by joblib or "
    "pickle (.joblib, .pkl: loading one runs its code, so trust where it is "
    "from), LightGBM's .txt, XGBoost's .json or .ubj, Flax's parameters "
    "(.msgpack, or an Orbax directory)",
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
  response: bool | None = settings.field(
    None,
    "true: the target's numbers are predicted; false: they are classes; none: "
    "whole numbers and texts are classes",
  )
  row: int = settings.field(0, "of the table, from 0", low=0)
  model: Model = Model()

  def check(self) -> None:
    """Refuses a file in the place of a kind.

    Raises:
      ValueError: a kind of model that is the path of a file.
    """
    super().check()
    if pathlib.Path(self.model.kind).is_file():
      raise ValueError(
        f"model.kind={self.model.kind!r} is a file: a model that is fitted "
        f"already is --config.model.file={self.model.kind}."
      )


# The quick size.
QUICK = {"budget": 200, "training": {"num_epochs": 5}}


def subject(config: Table, workdir: pathlib.Path) -> subjects.Subject:
  """Fits, restores or loads the model, and masks columns of one row.

  Raises:
    ValueError: a setting out of range, or a model that cannot be had, named.
  """
  asked = _way(config.model.file)(config, workdir)

  def draw(interactions: subjects.Interactions, path: pathlib.Path) -> None:
    title = f"{config.table}, row {config.row}: {asked.what}"
    plots.save(plots.bars(interactions, title=title), path)

  return subjects.Subject(
    question=f"Which columns of row {config.row} of {config.table} move the "
    f"model's {asked.what}?",
    facts={
      "model": asked.fact,
      "value": f"{asked.what}; an absent player takes {asked.absent}",
    },
    evaluator=asked.evaluator,
    names=asked.names,
    units=asked.units,
    draw=draw,
    notes=(f"Asked about row {config.row} of {config.table}{asked.row}.",),
    game=asked.game,
  )


def _way(file: str) -> Callable[[Table, pathlib.Path], fitted.Asked]:
  """How a model is had: fitted here, or read from a file."""
  if not file:
    return _learned
  path = pathlib.Path(file)
  if not path.exists():
    raise ValueError(f"model.file={file!r} is no file.")
  if path.is_dir() or path.suffix == fitted_networks.SUFFIX:
    return fitted_networks.asked
  return fitted.asked


def _learned(config: Table, workdir: pathlib.Path) -> fitted.Asked:
  """A model that is fitted here, on the rows that are not tested."""
  data = _table(config)
  train, test = data.split(
    subjects.key_of(config.seed, "split"), config.test_fraction
  )
  part, _ = subjects.pick(
    "row", config.row, config.table, train.rows, test.rows
  )
  x = data.features[config.row]
  baseline, absent = subjects.baseline_of(config, x, train.features)
  kind = config.model.kind
  is_network = kind == "mlp" or fitted_networks.is_module(kind)
  make = _network if is_network else _scikit_learn
  found, what, units, fact = make(
    config, workdir, data, train, test, x, baseline, absent
  )
  if isinstance(found, base.Game):
    game = found
    evaluator = evaluate.compiled(game, batch_size=config.batch_size)
  else:
    game, evaluator = None, found
  row = f", {subjects.SEEN[part]}: {data.text(config.row)}"
  return fitted.Asked(
    evaluator, data.columns, what, units, fact, absent, row, game
  )


def _table(config: Table) -> tabular.Table:
  """A table by name or from a file."""
  column = config.target_column
  if pathlib.Path(config.table).suffix in (".csv", ".npz"):
    try:
      return tabular.read(config.table, column, config.response)
    except ValueError as error:
      if "drop or impute" not in str(error):
        raise
      raise ValueError(
        f"{error} Or fit a pipeline that takes them, and give it as "
        "--config.model.file=FILE.joblib."
      ) from error
  if config.response is not None:
    raise ValueError(
      f"response={config.response} is for a file; {config.table!r} is none."
    )
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


def _network(config, workdir, data, train, test, x, baseline, absent):
  """A Flax network on standardised columns, compiled with the masking."""
  import optax  # Slow to import.

  # In float64: what is centred and scaled, float32 can tell apart.
  mean, std = train.moments()
  scaled = data.standard(mean, std)
  own = scaled[config.row]
  stand_in = np.asarray((baseline - mean) / std, np.float32)
  classes = train.classes
  targets, centre, spread, depends = train.targets, 0.0, 1.0, {}
  if not classes:
    # Learned in units of its own spread, as columns are.
    centre = float(targets.mean())
    spread = float(targets.std()) or 1.0
    targets = (targets - centre) / spread
    targets = casts.narrow(targets[:, None], ("of the target",))[:, 0]
    depends = {"response": "standardised"}
  # Added again, unless it would swallow digits: float32 rounds beside it to
  # steps of more than 1e-4 of the spread, and networks learn finer ones.
  swallowed = not classes and (
    np.spacing(np.float32(abs(centre))) > 1e-4 * spread
    or casts.lost(train.targets, np.asarray(train.targets, np.float32)) > 0
  )
  shift = 0.0 if swallowed else centre
  kind, num_outputs = config.model.kind, max(1, len(classes))
  if kind == "mlp":
    net = mlp.network(
      mlp.Config(
        num_features=len(x),
        num_outputs=num_outputs,
        widths=config.model.widths,
        activation=config.model.activation,
      )
    )
    init = net.init
    outputs = lambda params, rows: net.apply(params, features=rows).logits
  else:
    arguments = dict(config.model.arguments)
    init, outputs = fitted_networks.trainable(
      kind, arguments, len(x), num_outputs
    )
    depends |= {"arguments": arguments, **callables.source(kind, "model.kind")}

  def losses(params, batch):
    answers = outputs(params, batch["features"])
    if not classes:
      return (answers[:, 0] - batch["targets"]) ** 2
    return optax.softmax_cross_entropy_with_integer_labels(
      answers, batch["targets"]
    )

  params, origin = subjects.trained(
    init,
    scaled[train.rows],
    targets,
    losses,
    workdir,
    seed=config.seed,
    training=config.training,
    depends=subjects.depends_on(config) | _contents(config.table) | depends,
  )
  answers = np.asarray(outputs(params, scaled[test.rows]))
  if classes:
    ranking = np.asarray(outputs(params, own[None])[0]).argsort()[::-1]
    first, second = int(ranking[0]), int(ranking[1])
    what = f"logit({classes[first]}) - logit({classes[second]})"
    guesses = answers.argmax(axis=1)
  else:
    first, second = 0, None
    what = f"response less {centre:.12g}" if swallowed else "response"
    guesses = answers[:, 0].astype(np.float64) * spread + centre

  def read(rows: jax.Array, params) -> jax.Array:
    answers = outputs(params, rows)
    values = answers[:, first]
    if second is None:
      return values * spread + shift
    return values - answers[:, second]

  widths = "-".join(map(str, (len(x), *config.model.widths, len(answers[0]))))
  name = f"MLP {widths}" if kind == "mlp" else f"{kind} of Flax"
  fact = f"{name}, {_score(test, guesses)}; {origin}"
  units = "logit" if classes else "response"
  players = features.columns(data.columns)
  game = features.game(
    read, players, own, stand_in, params, absent=absent, units=units
  )
  return game, what, units, fact


def _scikit_learn(config, workdir, data, train, test, x, baseline, absent):
  """Any estimator, fitted in a moment, masked on the host."""
  # Nothing is kept: pickles are not to be trusted.
  del workdir, absent
  kind = config.model.kind
  if kind == "boosting":
    # Waits for no threads of OpenMP, unlike the histogram kind.
    wanted = "Classifier" if train.classes else "Regressor"
    kind = f"sklearn.ensemble:GradientBoosting{wanted}"
  model = _estimator(kind, config.model.arguments, config.seed)
  baseline = np.atleast_2d(baseline)
  _check_kind(model, config, bool(train.classes))
  model, centred = _apart(model, data)
  model.fit(train.features, train.targets)
  answer, what, units = fitted.answer(model, x[None], train.classes)
  evaluator = masked.masked(
    answer, x, baseline, rows_per_call=config.batch_size * len(baseline)
  )
  score = _score(test, model.predict(test.features))
  return evaluator, what, units, f"{kind}{centred}, {score}"


# Estimators that read float32, whatever they are given.
_SINGLE = (
  "sklearn.tree",
  "sklearn.ensemble._forest",
  "sklearn.ensemble._gb",
  "sklearn.ensemble._iforest",
  "xgboost",
)


def _apart(model: Any, data: tabular.Table) -> tuple[Any, str]:
  """A model that tells all rows apart, and what was done for it, in words.

  Raises:
    ValueError: a column that it cannot, named.
  """
  if not type(model).__module__.startswith(_SINGLE):
    return model, ""
  cast = data.features.astype(np.float32)
  columns = range(len(data.columns))
  if not any(casts.lost(data.features[:, i], cast[:, i]) for i in columns):
    return model, ""
  from sklearn import pipeline, preprocessing  # Slow to import.

  # Trees do not mind where a column's zero is.
  casts.narrow(
    data.features - data.features.mean(axis=0),
    data.columns,
    "This model reads float32: clip what lies far off, or choose another.",
  )
  centre = preprocessing.StandardScaler(with_std=False)
  return pipeline.make_pipeline(centre, model), " on columns less their mean"


def _estimator(kind: str, given: Mapping[str, Any], seed: int) -> Any:
  module, _, name = kind.partition(":")
  try:
    make = getattr(callables.imported(module), name)
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


def _score(test: tabular.Table, guesses: np.ndarray) -> str:
  """How good the guesses for the test rows are, in words."""
  if test.classes:
    right = (guesses == test.targets).mean()
    return f"{right:.1%} of {test.num_examples} test rows right"
  found = score.r2_text(test.targets, guesses)
  return f"R2 {found} on {test.num_examples} test rows"
