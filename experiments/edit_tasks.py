"""The five tasks of COAR-Edit (arXiv:2404.11534, section 5), at hand's size.

Each chooses an edit on some examples and judges it on fresh ones:

  errors       mends single wrong answers, and breaks single right ones
  forget       unlearns a class
  subgroups    raises the worst group's accuracy under a spurious mark
  backdoor     removes a learnt backdoor, and finds a planted one
  typographic  makes an image-text model look instead of read

Shapes: n components, N examples, R random edits.
"""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np

from experiments import edit_digits, edit_pictures, edit_study
from spex_jax import base
from spex_jax.ablate import components
from spex_jax.components import editing
from spex_jax.fourier import score
from spex_jax.models import convnet, sites

Answer = edit_study.Answer
Examples = edit_study.Examples
Study = edit_study.Study

# Accuracy elsewhere that an edit may cost where k is chosen; less where attacks
# are to be undone.
_LOSS, _STRICT = 0.01, 0.005
_SLACK = 1.0  # Logits by which a mended or broken answer is to be so.


@dataclasses.dataclass(frozen=True)
class Config:
  """How large the tasks are.

  Attributes:
    sizes: of COAR and of edits.
    width: filters of the first of two layers; the second has twice as many.
    num_train: digits to train on, where errors are to be left.
    num_more: digits to train on elsewhere.
    num_scored: digits that score components.
    num_chosen: digits that choose k.
    num_epochs: of training.
    num_edits: single answers to mend, and to break.
    num_copies: noisy copies of each, on which an edit is to hold.
    classes: to be forgotten, one at a time.
    pictures: to train the image-text model on.
    picture_width: filters of its first of three layers; 2 and 6 times as many
      in the others.
    picture_epochs: of its training.
    picture_tests: fresh pictures.
  """

  sizes: edit_study.Sizes
  width: int = 64
  num_train: int = 300
  num_more: int = 700
  num_scored: int = 160
  num_chosen: int = 300
  num_epochs: int = 20
  num_edits: int = 10
  num_copies: int = 20
  classes: tuple[int, ...] = tuple(range(10))
  pictures: int = 3000
  picture_width: int = 16
  picture_epochs: int = 12
  picture_tests: int = 400


@dataclasses.dataclass(frozen=True)
class Task:
  """A network and examples for `errors` and `forget`.

  Attributes:
    study: the network.
    scored: examples that score components.
    scores: float64 `[N, n]`, COAR's for them.
    chosen: those that choose k.
    test: fresh ones.
    noise: of copies of an example, by its input's name; () for none.
  """

  study: Study
  scored: Examples
  scores: np.ndarray
  chosen: Examples
  test: Examples
  noise: tuple[tuple[str, float], ...] = ()


def digits(key: base.Key, config: Config) -> Task:
  """A small network on few digits, which leaves errors."""
  keys = jax.random.split(key, 3)
  data = {
    name: edit_digits.examples(part.pixels, part.labels)
    for name, part in edit_digits.parts(
      keys[0],
      {
        "train": config.num_train,
        "scored": config.num_scored,
        "chosen": config.num_chosen,
      },
    ).items()
  }
  net = edit_digits.train(
    keys[1],
    convnet.small(10, width=config.width),
    data["train"],
    config.num_epochs,
  )
  study = _study(net, config.sizes)
  return Task(
    study,
    data["scored"],
    study.scores(keys[2], data["scored"]).scores,
    data["chosen"],
    data["test"],
    (("pixel_values", 0.05),),
  )


def errors(key: base.Key, config: Config, task: Task) -> Iterator[Answer]:
  """Mends wrong answers one by one, and breaks right ones.

  An error is one of the examples that are scored; a right answer, one of the
  quarter of these that is least certain. The target is the share of
  its noisy copies, which chose nothing, whose answer is as it should become.
  """
  study, params = task.study, task.study.net.params
  keys = jax.random.split(key)
  right = study.margins(params, task.scored)
  rng = np.random.default_rng(_seed(keys[0]))
  validate = study.evaluator(task.scored + task.chosen)
  of_test = study.evaluator(task.test)
  before = study.margins(params, task.test) > 0
  for name, sign in (("fix", 1), ("induce", -1)):
    rows = np.flatnonzero(sign * right < 0)
    if sign < 0:  # Of right answers the quarter that is least certain.
      rows = rows[np.argsort(right[rows])][: max(1, len(rows) // 4)]
    rows = rng.permutation(rows)[: config.num_edits]
    if not len(rows):
      yield {"task": "errors", "row": name, "edits": 0}
      continue
    copies = _copies(rng, task, rows, config.num_copies)
    of_copies = study.evaluator(copies)
    old = _by_example(sign * study.margins(params, copies) > 0, len(rows))
    new, kept, sizes = np.zeros(len(rows)), [], []
    chance, chance_kept = [], []
    for number, row in enumerate(rows):
      choice = _single(rng, study, task.scores, validate, int(row), sign)
      sizes.append(choice.k)
      edited = study.edit(choice).apply(study.net, params)
      hits = sign * study.margins(edited, copies) > 0
      new[number] = _by_example(hits, len(rows))[number]
      kept.append(study.margins(edited, task.test) > 0)
      cause = number + len(rows) * (sign < 0)
      draws = study.random(jax.random.fold_in(keys[1], cause), choice.k)
      hits = sign * of_copies(draws) > 0
      chance.append(_by_example(hits, len(rows))[:, number])
      chance_kept.append(of_test(draws) > 0)
    yield {
      "task": "errors",
      "row": name,
      "n": study.players.n,
      "edits": len(rows),
      "k": sizes,
      "each_keeps": float(
        np.mean([edit_study.keeps(before, one) for one in kept])
      ),
    } | edit_study.judged(
      (old, new, np.stack(chance, axis=1)),
      # Of each test example the mean over edits.
      (before, np.mean(kept, axis=0), np.mean(chance_kept, axis=0)),
    )


def _single(rng, study, scores, validate, row, sign) -> editing.Choice:
  """The edit of one example, that of `row` of those that were scored."""
  others = np.setdiff1d(np.arange(len(scores)), [row])
  reference = rng.choice(others, min(50, len(others)), replace=False)

  def worth(masks):
    margins = validate(masks)
    own = np.minimum(sign * margins[:, row], _SLACK)
    kept = (margins[:, len(scores) :] > 0).mean(axis=1)
    return np.stack([own, kept], axis=1)

  return study.choose(
    editing.welch(scores, np.array([row]), reference),
    "raise" if sign > 0 else "lower",
    worth,
    _LOSS,
  )


def forget(key: base.Key, config: Config, task: Task) -> Iterator[Answer]:
  """Forgets one class after another, each from the network as it was."""
  study, params = task.study, task.study.net.params
  validate, of_test = study.evaluator(task.chosen), study.evaluator(task.test)
  before = study.margins(params, task.test) > 0
  for number in config.classes:
    own = task.scored.labels == number
    mine = task.chosen.labels == number
    if not own.any() or not mine.any():
      continue  # Labels of another data set.
    statistic = editing.welch(task.scores, own, ~own)

    def worth(masks, mine=mine):
      hits = validate(masks) > 0
      return np.stack(
        [-hits[:, mine].mean(axis=1), hits[:, ~mine].mean(axis=1)], axis=1
      )

    choice = study.choose(statistic, "lower", worth, _LOSS)
    edited = study.edit(choice).apply(study.net, params)
    after = study.margins(edited, task.test) > 0
    draws = of_test(study.random(jax.random.fold_in(key, number), choice.k))
    here = task.test.labels == number
    yield {
      "task": "forget",
      "row": f"class {number}",
      **_said(study, choice),
    } | edit_study.judged(
      (before[here], after[here], draws[:, here] > 0),
      (before[~here], after[~here], draws[:, ~here] > 0),
      sign=-1,
    )


def subgroups(key: base.Key, config: Config, agree: float) -> Iterator[Answer]:
  """Raises the accuracy of those whom a spurious mark misleads."""
  keys = jax.random.split(key, 8)
  data = edit_digits.parts(
    keys[0],
    {
      "train": config.num_more,
      "scored": config.num_scored,
      "chosen": config.num_chosen,
    },
  )
  train, _ = edit_digits.marked(keys[1], data["train"], agree)
  net = edit_digits.train(
    keys[2],
    convnet.small(2, 3, width=config.width),
    train,
    config.num_epochs,
  )
  study = _study(net, config.sizes)
  params = net.params
  scored, agrees = edit_digits.marked(keys[3], data["scored"], 0.5)
  scores = study.scores(keys[4], scored).scores
  statistic = editing.welch(scores, ~agrees, agrees)

  chosen, chosen_agrees = edit_digits.marked(keys[5], data["chosen"], 0.5)
  validate = study.evaluator(chosen)
  weights = np.where(chosen_agrees, agree, 1 - agree)

  def worth(masks):
    hits = validate(masks) > 0
    # The mean as it is under the training's share of marks.
    mean = (hits * weights).sum(axis=1) / weights.sum()
    worst = np.min([hits[:, rows].mean(axis=1) for rows in _groups(
      chosen.labels, chosen_agrees)], axis=0)  # fmt: skip
    return np.stack([worst, mean], axis=1)

  choice = study.choose(statistic, "raise", worth, _LOSS)
  edited = study.edit(choice).apply(net, params)
  # Every test digit under each mark: those that mislead are the target.
  parts = {
    name: edit_digits.marked(keys[6], data["test"], rate)[0]
    for name, rate in (("misleads", 0.0), ("agrees", 1.0), ("natural", agree))
  }
  draws = study.random(keys[7], choice.k)
  hits = {
    name: _hits(study, edited, draws, part) for name, part in parts.items()
  }
  groups = {
    f"label {label}, mark {name}": [
      edit_study.share(when[parts[name].labels == label])
      for when in hits[name][:2]
    ]
    for label in (0, 1)
    for name in ("misleads", "agrees")
  }
  worst = [min(group[i]["mean"] for group in groups.values()) for i in (0, 1)]
  yield {
    "task": "subgroups",
    "row": f"marks agree for {agree:.0%}",
    **_said(study, choice),
    "worst_before": worst[0],
    "worst_after": worst[1],
    "groups": groups,
  } | edit_study.judged(hits["misleads"], hits["natural"])


def backdoor(key: base.Key, config: Config) -> Iterator[Answer]:
  """Removes a backdoor: one learnt from poison, and one planted."""
  keys = jax.random.split(key, 6)
  target = 0
  data = {
    name: edit_digits.bordered(part)
    for name, part in edit_digits.parts(
      keys[0],
      {
        "train": config.num_more,
        "scored": config.num_scored // 2,
        "chosen": config.num_chosen,
      },
    ).items()
  }
  kind = convnet.small(10, width=config.width)
  poison = edit_digits.poisoned(keys[1], data["train"], 0.1, target)
  learnt = edit_digits.train(keys[2], kind, poison, config.num_epochs)
  yield {"task": "backdoor", "row": "learnt"} | _cleaned(
    keys[3], config, learnt, data, target, None
  )
  clean = edit_digits.train(keys[2], kind, data["train"], config.num_epochs)
  net, planted = edit_digits.plant(keys[4], clean, 4, target, strength=30.0)
  yield {"task": "backdoor", "row": "planted"} | _cleaned(
    keys[5], config, net, data, target, planted
  )


def _cleaned(key, config, net, data, target, planted) -> Answer:
  """A network without its backdoor; `planted` are its filters, if known."""
  study, params = _study(net, config.sizes), net.params
  others = {
    name: part.take(part.labels != target) for name, part in data.items()
  }
  keys = jax.random.split(key)
  pairs = {
    name: (part, edit_digits.triggered(part)) for name, part in others.items()
  }
  both = pairs["scored"][0] + pairs["scored"][1]
  scores = study.scores(keys[0], both).scores
  hit = np.arange(len(both)) >= len(pairs["scored"][0])
  statistic = editing.welch(scores, hit, ~hit)
  worth = _attacked(study, data["chosen"], pairs["chosen"][1])
  choice = study.choose(statistic, "raise", worth, _LOSS)
  edited = study.edit(choice).apply(net, params)
  draws = study.random(keys[1], choice.k)
  parts = [
    _hits(study, edited, draws, part)
    for part in (pairs["test"][1], data["test"])
  ]
  found = _said(study, choice)
  if planted is not None:
    found["planted"] = int(planted.sum())
    found["auroc"] = score.auroc(-statistic, planted)
    found["removed_planted"] = int(planted[choice.removed].sum())
  return found | edit_study.judged(parts[0], parts[1])


def typographic(key: base.Key, config: Config) -> Iterator[Answer]:
  """Makes a wrong word on a picture harmless to an image-text model."""
  keys = jax.random.split(key, 4)
  rng = np.random.default_rng(_seed(keys[0]))
  pixels, captions = edit_pictures.corpus(rng, config.pictures)
  pair = edit_pictures.train(
    keys[1],
    pixels,
    captions,
    num_epochs=config.picture_epochs,
    width=config.picture_width,
  )
  net = pair.image
  # Of the second and third layer: the first knows neither words nor shapes.
  study = dataclasses.replace(
    _study(net, config.sizes, ("layers.[12].conv",)),
    read=edit_study.logits_of(pair.classes),
  )
  params = net.params
  made = edit_pictures.attacks(rng, config.num_scored // 2)
  both = made["clean"] + made["wrong"]
  scores = study.scores(keys[2], both).scores
  wrong = np.arange(len(both)) >= len(made["clean"])
  statistic = editing.welch(scores, wrong, ~wrong)
  made = edit_pictures.attacks(rng, config.num_chosen)
  worth = _attacked(study, made["clean"], made["wrong"])
  choice = study.choose(statistic, "raise", worth, _STRICT)
  edited = study.edit(choice).apply(net, params)
  draws = study.random(keys[3], choice.k)
  made = edit_pictures.attacks(rng, config.picture_tests)
  parts = [
    _hits(study, edited, draws, made[name]) for name in ("wrong", "clean")
  ]
  yield {
    "task": "typographic",
    "row": f"{len(edit_pictures.NAMES)} shapes and words",
    **_said(study, choice),
  } | edit_study.judged(parts[0], parts[1])


def _study(
  net: sites.Network,
  sizes: edit_study.Sizes,
  patterns: tuple[str, ...] = ("*conv",),
) -> Study:
  """A convolutional network with its filters, or those that patterns name."""
  spec = {
    name: jax.ShapeDtypeStruct((1, *one.shape[1:]), one.dtype)
    for name, one in net.example.items()
  }
  at = components.shapes(net, net.params, **spec)
  return Study(net, components.units(at, patterns, 1), sizes)


def _attacked(study: Study, clean: Examples, attacked: Examples):
  """Masks to the accuracy on attacked examples, and on clean ones."""
  both = study.evaluator(clean + attacked)

  def worth(masks):
    hits = both(masks) > 0
    parts = hits[:, len(clean) :], hits[:, : len(clean)]
    return np.stack([part.mean(axis=1) for part in parts], axis=1)

  return worth


def _hits(
  study: Study, edited, draws: np.ndarray, part: Examples
) -> edit_study.Parts:
  """Whether each example is right before, after, and under random edits."""
  return (
    study.margins(study.net.params, part) > 0,
    study.margins(edited, part) > 0,
    study.evaluator(part)(draws) > 0,
  )


def _groups(labels: np.ndarray, agrees: np.ndarray) -> list[np.ndarray]:
  """Rows of each group that has any."""
  groups = [
    (labels == label) & (agrees == fits)
    for label in (0, 1)
    for fits in (False, True)
  ]
  return [rows for rows in groups if rows.any()]


def _copies(rng, task: Task, rows: np.ndarray, count: int) -> Examples:
  """Noisy copies of examples, in their order; or the examples themselves."""
  if not task.noise:
    return task.scored.take(rows)
  copies = task.scored.take(np.repeat(rows, count))
  inputs = dict(copies.inputs)
  for name, scale in task.noise:
    x = np.asarray(inputs[name])
    inputs[name] = np.asarray(
      x + rng.normal(scale=scale, size=x.shape), x.dtype
    )
  return Examples(inputs, copies.labels)


def _by_example(hits: np.ndarray, count: int) -> np.ndarray:
  """`[..., N copies]` to the means over the copies of each example."""
  return hits.reshape(*hits.shape[:-1], count, -1).mean(axis=-1)


def _said(study: Study, choice: editing.Choice) -> Answer:
  """A choice as JSON: what goes, and what every size was worth."""
  return {
    "n": study.players.n,
    "k": choice.k,
    "removed": [study.players.names[i] for i in sorted(choice.removed)],
    "grid": [
      [int(k), *(round(float(value), 4) for value in (worth, *guards))]
      for k, worth, guards in zip(choice.grid, choice.objective, choice.guards)
    ],
  }


def _seed(key: base.Key) -> int:
  return int(jax.random.bits(key, dtype="uint32"))
