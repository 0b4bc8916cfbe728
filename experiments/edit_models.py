"""Edits of models by what their components do: COAR-Edit's five tasks.

  python -m experiments.edit_models --config=full --output=rows.jsonl \
      --figures=FOLDER
  python -m experiments.edit_models --task=typographic

Networks are trained here, on digits and on pictures that are drawn; components
are convolution filters. Each task scores them by COAR, removes the k at one end
of Welch's statistic, k by validation, and is judged on fresh examples: before
and after with 95 % intervals, what is to be kept, and random edits of the same
size. `improves` says whether the target moves beyond its interval and that of
its paired change, `keeps` whether what is to be kept does not fall below its
interval; `random_improves` and the like are shares of the random edits.

A checkpoint of yours, by directory or hub name, on labelled examples of yours
(an .npz with the inputs by the network's names, and `labels`: classes, or the
next token):

  python -m experiments.edit_models --model=microsoft/resnet-50 \
      --data=images.npz --task=errors --kind=filters
  python -m experiments.edit_models --model=gpt2 --data=texts.npz \
      --task=forget --kind=heads

or on the prompts of a task of `circuits.tasks`, whose labels are the answers:
right is what stands above all other answers of the task.

  python -m experiments.edit_models --config=prompts --model=gpt2 \
      --data=gender --task=forget --kind=heads

Expect `quick` in 1 minute and `full` in four on 2 CPU cores: six errors go from
18.3 to 89.2 % of noisy copies right, elsewhere 98.4 to 98.0; seven of ten
classes fall to 60.7 % or below. `prompts` took eight minutes beside others.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from absl import app, flags

from experiments import command, edit_study, edit_tasks, rows
from experiments import tasks as tasks_lib
from spex_jax import models
from spex_jax.ablate import components, readouts
from spex_jax.circuits import tasks as circuits_tasks
from spex_jax.models import sites
from spex_jax.report import plots

TASKS = ("errors", "forget", "subgroups", "backdoor", "typographic")
_PROMPTS = 64  # Drawn of a task; fewer where two are alike.
_START = "<|endoftext|>"  # In front of each.
AGREE = 0.95  # Share of training examples whose mark agrees with the answer.

CONFIGS = {
  "quick": edit_tasks.Config(
    edit_study.Sizes(masks=200, keep=0.9, most=8, draws=4),
    width=8,
    num_train=150,
    num_more=200,
    num_scored=60,
    num_chosen=60,
    num_epochs=4,
    num_edits=2,
    num_copies=3,
    classes=(1,),
    pictures=128,
    picture_width=4,
    picture_epochs=1,
    picture_tests=40,
  ),
  "full": edit_tasks.Config(
    edit_study.Sizes(masks=1200, keep=0.9, most=32, draws=12)
  ),
  # Of a language model: a row of a batch is an example under a mask.
  "prompts": edit_tasks.Config(
    edit_study.Sizes(masks=1000, keep=0.9, most=32, draws=12, batch=2)
  ),
}


def run(
  config: edit_tasks.Config, tasks: Sequence[str] = TASKS, seed: int = 0
) -> Iterator[rows.Row]:
  """Yields a row for each edit, as soon as judged.

  Args:
    config: how large.
    tasks: some of `TASKS`.
    seed: of data, training, masks and random edits.

  Raises:
    ValueError: a task that is not known.
  """
  _check_tasks(tasks, TASKS)
  common = rows.common("edit_models") | {"seed": seed}
  root = jax.random.key(seed)
  keys = {task: jax.random.fold_in(root, i) for i, task in enumerate(TASKS)}
  if {"errors", "forget"} & set(tasks):
    task = edit_tasks.digits(jax.random.fold_in(root, len(TASKS)), config)
    if "errors" in tasks:
      for row in edit_tasks.errors(keys["errors"], config, task):
        yield common | row
    if "forget" in tasks:
      for row in edit_tasks.forget(keys["forget"], config, task):
        yield common | row
  if "subgroups" in tasks:
    for row in edit_tasks.subgroups(keys["subgroups"], config, AGREE):
      yield common | row
  if "backdoor" in tasks:
    for row in edit_tasks.backdoor(keys["backdoor"], config):
      yield common | row
  if "typographic" in tasks:
    for row in edit_tasks.typographic(keys["typographic"], config):
      yield common | row


def run_on(
  path: str,
  data: str | pathlib.Path,
  kind: str,
  config: edit_tasks.Config,
  tasks: Sequence[str] = ("errors", "forget"),
  seed: int = 0,
) -> Iterator[rows.Row]:
  """The same of a checkpoint, for `errors` and `forget`.

  Args:
    path: directory or hub name of a Hugging Face checkpoint.
    data: .npz of the inputs, and `labels`; or the name of a task of
      `circuits.tasks`, whose clean prompts are drawn for the tokenizer.
    kind: of the components, one of `components.KINDS`.
    config: how large; a quarter of the examples score components, a quarter
      choose k, the rest is fresh.
    tasks: of these two.
    seed: of the split, masks and random edits.

  Raises:
    ValueError: another task or kind, or data that lack inputs or labels.
  """
  _check_tasks(tasks, ("errors", "forget"))
  if kind not in components.KINDS:
    raise ValueError(
      f"kind={kind!r}: choose from {', '.join(components.KINDS)}."
    )
  common = rows.common("edit_models") | {"seed": seed, "model": str(path)}
  net = models.load(path)
  root = jax.random.key(seed)
  if data in circuits_tasks.TASKS:
    found = _prompts(net, str(data), jax.random.fold_in(root, len(TASKS)))
    read = edit_study.among(np.unique(found.labels))
  else:
    found, read = _examples(data, net.example), readouts.margins
  order = np.asarray(jax.random.permutation(root, len(found)))
  cut = max(1, len(found) // 4)
  first = {name: x[:1] for name, x in found.inputs.items()}
  players = components.KINDS[kind](components.shapes(net, net.params, **first))
  noise = tuple(
    (name, 0.02 * float(np.std(x)))
    for name, x in found.inputs.items()
    if np.asarray(x).dtype.kind == "f"
  )
  study = edit_study.Study(net, players, config.sizes, read)
  scored = found.take(order[:cut])
  task = edit_tasks.Task(
    study,
    scored,
    study.scores(jax.random.fold_in(root, 0), scored).scores,
    found.take(order[cut : 2 * cut]),
    found.take(order[2 * cut :]),
    noise,
  )
  labels, counts = np.unique(found.labels, return_counts=True)
  usual = labels[np.argsort(-counts, kind="stable")]
  config = dataclasses.replace(config, classes=tuple(usual[:3].tolist()))
  for number, name in enumerate(tasks):
    key = jax.random.fold_in(root, number + 1)
    for row in getattr(edit_tasks, name)(key, config, task):
      yield common | row


def summary(found: Sequence[rows.Row]) -> str:
  """A markdown table of what the rows say."""
  header = (
    "task", "edit", "k of n", "target before", "after", "random",
    "elsewhere before", "after", "random", "improves", "keeps", "random both",
  )  # fmt: skip
  lines = []
  for row in found:
    if "target_before" not in row:
      continue
    k = row["k"] if isinstance(row["k"], int) else f"{np.median(row['k']):g}"
    lines.append(
      (
        row["task"],
        row["row"],
        f"{k} of {row['n']}",
        _percent(row["target_before"]),
        _percent(row["target_after"]),
        f"{100 * row['target_random']['mean']:.1f}",
        _percent(row["elsewhere_before"]),
        _percent(row["elsewhere_after"]),
        f"{100 * row['elsewhere_random']['mean']:.1f}",
        "yes" if row["improves"] else "no",
        "yes" if row["keeps"] else "no",
        f"{row['random_both']:.0%}",
      )
    )
  return rows.table(header, lines)


def figure(found: Sequence[rows.Row]):
  """Accuracies before and after, on the target and elsewhere, by edit."""
  shown = [row for row in found if "target_before" in row]
  made = plots.blank(9, 1.6 + 0.34 * max(len(shown), 1), arranged=True)
  panels = made.subplots(1, 2, sharey=True)
  for axes, what in zip(panels, ("target", "elsewhere")):
    for number, row in enumerate(shown):
      chance = row[f"{what}_random"]
      axes.plot(chance["range"], [number] * 2, color="#bbbbbb", lw=6)
      for when, color, shift in (
        ("before", plots.NEGATIVE, -0.12),
        ("after", plots.POSITIVE, 0.12),
      ):
        one = row[f"{what}_{when}"]
        place = number + shift
        axes.plot(one["interval"], [place] * 2, color=color, lw=1.5)
        label = when if number == 0 else None
        axes.plot(one["mean"], place, "o", color=color, ms=4, label=label)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("share right (errors: as asked), 95 % interval")
    axes.set_title("what is targeted" if what == "target" else "what is kept")
    axes.spines[["top", "right"]].set_visible(False)
  labels = [plots.escape(f"{row['task']}: {row['row']}") for row in shown]
  panels[0].set_yticks(range(len(shown)), labels, fontsize=8)
  panels[0].invert_yaxis()
  panels[0].legend(fontsize=8, frameon=False, title="grey: random edits")
  return made


def _percent(answer) -> str:
  low, high = answer["interval"]
  return f"{100 * answer['mean']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _prompts(net: sites.Network, task: str, key) -> edit_study.Examples:
  """Distinct clean prompts of a task, labelled with their first answers."""
  pairs = circuits_tasks.make(
    task, net.tokenizer, _PROMPTS, key, start=_START
  ).pairs
  inputs, _ = tasks_lib.of_pairs(pairs)
  rows_of = np.unique(pairs.clean, axis=0, return_index=True)[1]
  whole = edit_study.Examples(inputs, np.asarray(pairs.right)[:, 0])
  return whole.take(np.sort(rows_of))


def _examples(path, wanted) -> edit_study.Examples:
  with np.load(path, allow_pickle=False) as file:
    arrays = dict(file)
  missing = sorted({*wanted, "labels"} - arrays.keys())
  if missing:
    raise ValueError(f"{path} lacks {', '.join(missing)}; has {list(arrays)}.")
  labels = arrays.pop("labels")
  if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) < 8:
    raise ValueError(
      f"labels must be integers [N], of 8 examples or more; got "
      f"{labels.dtype} {labels.shape}."
    )
  short = [name for name, x in arrays.items() if len(x) != len(labels)]
  if short:
    raise ValueError(
      f"{path}: {short} must have {len(labels)} rows, as labels."
    )
  return edit_study.Examples(arrays, labels)


def _check_tasks(tasks: Sequence[str], known: Sequence[str]) -> None:
  unknown = sorted(set(tasks) - set(known))
  if unknown or not tasks:
    raise ValueError(f"No task {unknown}: choose from {', '.join(known)}.")


def main(argv):
  """Prints the rows and their table; writes the figure where asked."""
  del argv
  given = flags.FLAGS
  config = CONFIGS[given.config]
  if given.masks:
    sizes = dataclasses.replace(config.sizes, masks=given.masks)
    config = dataclasses.replace(config, sizes=sizes)
  if given.model:
    if not given.data:
      raise app.UsageError("--model needs --data, labelled examples (.npz).")
    tasks = [given.task] if given.task else ["errors", "forget"]
    made = run_on(
      given.model, given.data, given.kind, config, tasks, given.seed
    )
  else:
    made = run(config, [given.task] if given.task else TASKS, given.seed)
  found = rows.write(made, given.output)
  print(summary(found))
  if given.figures:
    folder = pathlib.Path(given.figures)
    folder.mkdir(parents=True, exist_ok=True)
    plots.save(figure(found), folder / "edit_models.png")


if __name__ == "__main__":
  flags.DEFINE_enum("task", None, TASKS, "One task alone.")
  flags.DEFINE_integer("seed", 0, "Of everything random.")
  flags.DEFINE_integer("masks", None, "Ablations, instead of the config's.")
  flags.DEFINE_string("figures", None, "Folder for the figure.")
  flags.DEFINE_string("model", None, "Checkpoint: directory or hub name.")
  flags.DEFINE_string(
    "data", None, "Labelled examples for it, .npz, or a task."
  )
  flags.DEFINE_enum(
    "kind", "filters", sorted(components.KINDS), "Components of it."
  )
  command.run(main, CONFIGS, "quick")
