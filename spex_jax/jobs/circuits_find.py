"""`spex circuit find`: which edges carry a behaviour, and how faithfully.

Half of the pairs give scores, the other half judge: circuits of ten sizes,
random ones as large, and the one that is asked for. Those of a file are drawn
from all of it by the seed, so that both halves of a sorted one are alike.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from spex_jax import base, settings
from spex_jax.circuits import (
  circuit_files,
  curves,
  draw,
  measured,
  scored,
  tasks,
  trained,
)
from spex_jax.circuits import graph as graph_lib
from spex_jax.circuits import judged as judged_lib
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.circuits import selection as selection_lib
from spex_jax.jobs import (
  circuits,
  circuits_kept,
  circuits_shown,
  circuits_toy,
  explain,
  networks,
  subjects,
)
from spex_jax.models import sites
from spex_jax.report import circuit_plots as figures
from spex_jax.report import clock as clock_lib
from spex_jax.report import plots, progress

SELECTIONS = ("top", "connected", "greedy", "programme")
_DRAWN = 400  # Edges of a picture, at most.
_SCORES = 2  # Pairs at least: one scores, one judges.


@dataclasses.dataclass(frozen=True)
class Find(circuits.Judging, circuits.Scoring, circuits.Asked):
  """How a circuit is found."""

  num_pairs: int = settings.field(
    64, "of a task; half of them give scores, half judge", low=_SCORES
  )
  edges: int = settings.field(400, "of the circuit, at most", low=1)
  selection: str = settings.field(
    "greedy",
    "of edges: the first by score (top), so many that as many are connected "
    "(connected), from the output backwards (greedy), an integer programme",
    choices=SELECTIONS,
  )
  by: str = settings.field(
    "size", "which score comes first", choices=selection_lib.BY
  )
  consistent: float = settings.field(
    0.0,
    "share of bootstraps over pairs in which a score has its sign, else the "
    "edge is left out; 0 for all",
    low=0,
    high=1,
  )
  helpful_share: float = settings.field(
    0.0, "of selection=programme: share of edges that help", low=0, high=1
  )
  refine: int = settings.field(
    0, "steps that exchange edges of the circuit, so that its metric comes "
    "nearer to the model's on the pairs that scored; 0 for none", low=0,
  )  # fmt: skip
  random: int = settings.field(3, "random circuits of every size", low=0)
  force: bool = settings.field(False, "asks though the model fails the task")
  level: str = settings.field(
    "edge", "what a circuit is of; all but edges are selected by top",
    choices=graph_lib.LEVELS,
  )  # fmt: skip
  top: int = settings.field(12, "edges that are printed", low=1)

  def check(self) -> None:
    """Refuses what is of edges alone.

    Raises:
      ValueError: settings that the level does not allow.
    """
    super().check()
    if self.level != "edge" and self.selection != "top":
      raise ValueError(
        f"selection={self.selection!r} is of edges; for level={self.level!r} "
        "take --config.selection=top."
      )
    if self.level != "edge" and self.refine:
      raise ValueError(f"refine is of edges; got level={self.level!r}.")
    if self.level == "position" and self.consistent:
      raise ValueError("consistent is of edges, nodes and neurons.")


@dataclasses.dataclass(frozen=True)
class OfModel(Find):
  """A circuit of a language model, in a task or in a file's pairs."""

  subject: str = settings.field("lm", choices=("lm",))
  task: str = settings.field(
    "ioi", f"{', '.join(tasks.TASKS)}, or a file of pairs"
  )


@dataclasses.dataclass(frozen=True)
class OfInduction(Find):
  """A circuit of a small network that is trained here."""

  subject: str = settings.field("induction", choices=("induction",))
  edges: int = settings.field(16, "of the circuit, at most", low=1)
  toy: circuits_toy.Toy = circuits_toy.TOY
  training: subjects.Training = circuits_toy.TRAINING

  def check(self) -> None:
    """Refuses a model: this one is trained.

    Raises:
      ValueError: as `Find.check`, or a model that is named.
    """
    super().check()
    if self.model:
      raise ValueError(
        f"model={self.model!r}: subject=induction trains its own; take "
        "--config=circuit_find_lm."
      )


SUBJECTS: Mapping[str, type[Find]] = {"lm": OfModel, "induction": OfInduction}


class Found(NamedTuple):
  """What a search gives.

  Attributes:
    circuit: the circuit that was asked for.
    scores: the scores of all edges, on the first half of the pairs.
    curve: faithfulness by size, on the other pairs.
    judged: the circuit's faithfulness, on the same other pairs.
  """

  circuit: graph_lib.Circuit
  scores: scored.Scores
  curve: curves.Curve
  judged: judged_lib.Judged


class Question(NamedTuple):
  """What is asked.

  Attributes:
    net: the network, with its parameters.
    pairs: pairs of prompts, clean and corrupted.
    question: what is asked, in words.
    task: the name of the task, or of the file of pairs.
    facts: what else the reader should know, by name.
  """

  net: sites.Network
  pairs: pairs_lib.Pairs
  question: str
  task: str
  facts: Mapping[str, str]


def kind_of(given: Mapping[str, Any], where: str) -> type[Find]:
  """The class of settings that a configuration's `subject` names.

  Raises:
    ValueError: it names none.
  """
  known = settings.Kind(str, choices=tuple(SUBJECTS))
  if "subject" not in given:
    raise ValueError(f"{where} lacks subject.")
  return SUBJECTS[settings.checked("subject", known, given["subject"])]


def question(config: Find, workdir: pathlib.Path) -> Question:
  """The model and its pairs.

  Raises:
    ValueError: what is wrong with them, named.
    TypeError: settings of a class that no subject has.
  """
  if isinstance(config, OfInduction):
    net, origin = circuits_toy.trained(
      config.toy, config.training, config.seed, workdir
    )
    pairs = circuits_toy.pairs(config.toy, config.num_pairs, config.seed)
    return Question(
      net,
      pairs,
      "Which edges make the network say what stood behind the last token "
      "before?",
      "induction",
      {
        "model": f"{networks.described(net, 'two layers of attention')}; "
        f"{origin}"
      },
    )
  if not isinstance(config, OfModel):
    raise TypeError(f"{type(config).__name__} is of no subject.")
  found = of_task(config, config.task, config.num_pairs, config.seed)
  if len(found.pairs) < _SCORES:
    raise ValueError(f"{config.task} has one pair; two or more are needed.")
  return found


def of_task(
  config: circuits.Asked, given: str, num_pairs: int, seed: int | None = None
) -> Question:
  """A language model, and pairs of a task or of a file.

  Args:
    config: the settings of the model, and of texts before prompts.
    given: the name of a task, or the path of a file of pairs.
    num_pairs: how many pairs; fewer where a file has no more.
    seed: of the order of a file's pairs; None leaves them as they stand.

  Raises:
    ValueError: what is wrong with them, named.
  """
  net = circuits.load(config)
  facts = {"model": networks.described(net, config.model)}
  if given in tasks.TASKS:
    made = circuits.made(config, net, given, num_pairs)
    facts["pairs"] = str(made)
    pairs, task = made.pairs, given
  elif pathlib.Path(given).suffix in (".jsonl", ".csv"):
    pairs = circuits.pairs_of(config, net, given)
    order = np.arange(len(pairs))
    if seed is not None:
      order = np.random.default_rng(seed).permutation(order)
    pairs = pairs[order[:num_pairs]]
    task = pathlib.Path(given).stem
    facts["pairs"] = circuits.counted(pairs, given)
    if seed is not None:
      facts["order"] = f"drawn by seed={seed}; half give scores, half judge"
  else:
    raise ValueError(
      f"task={given!r}: choose from {', '.join(tasks.TASKS)}, or give a file "
      "of pairs, .jsonl or .csv."
    )
  if pairs.texts is not None:
    clean, corrupted = pairs.texts[0]
    facts["clean"], facts["corrupted"] = repr(clean), repr(corrupted)
  return Question(net, pairs, f"Which edges carry {task}?", task, facts)


def run(
  config: Find,
  workdir: pathlib.Path,
  show: circuits.Show | None = None,
  before: float = 0.0,
) -> Found:
  """Finds a circuit, and writes four files into `workdir`.

  `scores.npz`, `circuit.json`, `faithfulness.png` and `circuit.svg` are
  replaced; a trained network is kept in `model/` and used again, and so are
  exact effects in `exact/`, each as it is done.

  Args:
    config: the settings of the command, of a class in `SUBJECTS`.
    workdir: made if it does not exist.
    show: takes a line or a rich table; prints by default.
    before: seconds of the command that have passed already.

  Raises:
    ValueError: a workdir that cannot be written, what is wrong with model,
      task or settings, or a task that the model fails.
  """
  explain.writable(workdir)
  said = clock_lib.Session(show, before)
  with said.of("load"):
    asked = question(config, workdir)
  said.facts({"asked": asked.question, **asked.facts})
  net, pairs = asked.net, asked.pairs
  metric = circuits.metric_of(config, net)
  with said.of("measure"):
    able = measured.measure(
      net, net.params, pairs, metric, size=config.batch_size
    )
  said.facts(circuits.measured_lines(config, able))
  able.check(asked.task, config.force)
  # Scores come from one half of the pairs; the other half judges.
  half, length = -(-len(pairs) // 2), pairs.clean.shape[1]
  some, others = pairs[:half], pairs[half:]
  if config.level == "position":  # Both have the same ones.
    some, others = some.padded(length), others.padded(length)
  keep = None
  if config.method == "exact":
    keep = circuits_kept.Kept(workdir, config, net, some)
  with said.of("score"):
    scores = circuits.scored_by(
      config, net, some, metric,
      level=config.level, size=config.batch_size, seed=config.seed, keep=keep,
    )  # fmt: skip
  if keep is not None:
    said.tell("resumed", str(keep))
  scores.save(workdir / "scores.npz")
  said.facts(circuits.scored_lines(scores))
  # The circuit of the size asked for, exchanged edge by edge if refined.
  graph, mean, facts = used(config, scores)
  choose = choice(config, graph, mean)
  with said.of("select"):
    circuit = choose(min(config.edges, mean.size))
    if config.consistent:  # Where more are asked for than are.
      circuit = dataclasses.replace(circuit, kept=circuit.kept & (mean != 0))
  if not circuit:
    raise ValueError(
      f"edges={config.edges}: by these scores so few lead nowhere from `embed` "
      "to the output; ask for more."
    )
  said.facts(facts)
  asked_for = {"circuit": circuit}
  if config.refine:
    with said.of("refine"):
      asked_for = {
        "circuit": _refined(config, net, some, metric, circuit, mean),
        "unrefined": circuit,
      }
    circuit = asked_for["circuit"]
  about = {
    "task": asked.task,
    "method": scores.method,
    "selection": config.selection,
    "refine": config.refine,
    "metric": config.metric,
    "num_pairs": len(pairs),
  }
  # Again below, with what is judged: these pairs may show no effect.
  circuit_files.save(circuit, workdir / "circuit.json", scores.mean(), about)
  with said.of("judge"):
    curve, judged = _judged(config, net, others, metric, choose, asked_for)
  # What was found, in files and in words.
  title = f"{asked.task}: {scores.method}, {config.selection}"
  faithful = float(judged.faithfulness()[0])
  low, high = judged.interval()[0]
  about |= {"cmd": curve.areas.cmd, "cpr": curve.areas.cpr}
  about["faithfulness"] = faithful
  circuit_files.save(circuit, workdir / "circuit.json", scores.mean(), about)
  said.show(str(curve))
  said.tell(
    "circuit",
    f"{len(circuit):,} {circuit.level}s ({circuit.connected:,} connected) "
    f"of {len(circuit.nodes):,} nodes, faithfulness {faithful:.3f} "
    f"({low:.3f}..{high:.3f}) on {len(others)} other pairs",
  )
  if lines := judged.doubts():
    said.tell("note", "; ".join(lines))
  if config.refine:
    said.tell(
      "refined",
      f"{config.refine} steps; as selected, faithfulness "
      f"{judged.faithfulness()[1]:.3f} on the same pairs",
    )
  numbers = np.unique(circuit.numbers % len(scores.names))
  said.show(circuits.edges_table(scores, config.top, numbers))
  with said.of("draw"):
    if config.level == "edge":
      circuits_shown.save(
        workdir, curve, choose, circuit, judged, mean,
        circuits.units_of(config), _tokens(net, some), able,
      )  # fmt: skip
    _figures(workdir, title, circuit, scores.mean(), curve, faithful)
  names = (
    "circuit.json", "scores.npz", "faithfulness.png", "circuit.svg",
    "curve.json",
  )[: 5 if config.level == "edge" else 3]  # fmt: skip
  said.end(*(workdir / name for name in names))
  return Found(circuit, scores, curve, judged)


def _tokens(net: sites.Network, pairs: pairs_lib.Pairs) -> list[str]:
  """Of the first clean prompt; numbers where no tokenizer spells them."""
  ids = pairs.clean[0, : int(pairs.lengths[0])].tolist()
  tokenizer = getattr(net, "tokenizer", None)
  return [str(i) if tokenizer is None else tokenizer.token(i) for i in ids]


def used(
  config: Find, scores: scored.Scores
) -> tuple[graph_lib.Graph, np.ndarray, dict[str, str]]:
  """The graph, the scores that are selected by, and what is left out."""
  mean, facts = scores.mean(), {}
  if config.consistent:
    key = subjects.key_of(config.seed, "consistent")
    sure = selection_lib.consistent(scores.values, key, level=config.consistent)
    facts["consistent"] = (
      f"{int(sure.sum()):,} edges have their sign in {config.consistent:.0%} "
      "of bootstraps; the circuit as selected has no others, those of the "
      "curve have them last"
    )
    mean = mean * sure
  return scores.graph, mean, facts


def choice(
  config: Find, graph: graph_lib.Graph, mean: np.ndarray
) -> Callable[[int], graph_lib.Circuit]:
  """A number of edges to the circuit."""
  if config.selection == "greedy":
    return lambda n: selection_lib.greedy(graph, mean, n, config.by)
  if config.selection == "programme":
    return lambda n: selection_lib.programme(
      graph, mean, n, config.by, helpful_share=config.helpful_share
    )
  connected = config.selection == "connected"
  return lambda n: selection_lib.top(
    graph, mean, n, config.by, connected=connected, level=config.level
  )


def _refined(config, net, pairs, metric, circuit, mean):
  with progress.sweep(config.refine) as shown:
    return trained.refine(
      net, net.params, pairs, metric, circuit, mean, steps=config.refine,
      ablation=config.ablation, size=config.batch_size,
      progress=lambda done, of: shown(done, of, "steps"),
    ).circuit  # fmt: skip


def _judged(config, net, pairs, metric, choose, asked_for):
  """The curve, and circuits, on pairs that gave no scores."""
  circuit = asked_for["circuit"]
  among = circuit | ~circuit
  total = among.kept.size
  fractions = [size / total for size in _sizes(total)]
  total = len(fractions) * (1 + config.random)
  with progress.sweep(total) as shown:
    curve = curves.curve(
      net,
      net.params,
      pairs,
      choose,
      metric,
      among=among,
      fractions=fractions,
      random=config.random,
      seed=config.seed,
      ablation=config.ablation,
      size=config.batch_size,
      tolerance=config.tolerance,
      progress=lambda done, of: shown(done, of, "circuits"),
    )
  judged = circuits.judged_by(config, net, pairs, asked_for, metric)
  return curve, judged


def _sizes(num_edges: int) -> list[int]:
  """MIB's ten sizes, or of a small graph ten from one edge to all."""
  shares = np.asarray(curves.FRACTIONS) * num_edges
  if shares[0] >= 1:
    return np.round(shares).astype(int).tolist()
  count = min(len(shares), num_edges)
  found = {*np.round(np.geomspace(1, num_edges, count)).astype(int).tolist()}
  for size in range(1, num_edges):  # Where rounding made two of them one.
    if len(found) < count:
      found.add(size)
  return sorted(found)


def _figures(workdir, title, circuit, mean, curve, faithful) -> None:
  plots.save(
    figures.curves(
      np.round(curve.shares * circuit.kept.size),
      curve.faithfulness,
      random=curve.random,
      connected=curve.judged.connected,
      chosen=(len(circuit), faithful),
      title=title,
    ),
    workdir / "faithfulness.png",
  )
  if circuit.level != "edge":
    return
  drawn = circuit.prune() or circuit
  if len(drawn) > _DRAWN:
    drawn = selection_lib.top(
      drawn.graph, np.where(drawn.kept, mean, 0), _DRAWN
    )
    title = f"{title} (the {_DRAWN} strongest edges)"
  path = workdir / "circuit.svg"
  temporary = base.draft(path)
  temporary.write_text(draw.svg(drawn, mean, title), encoding="utf-8")
  temporary.replace(path)
