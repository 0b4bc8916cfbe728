"""Does fine-tuning use the circuit that a model has? A study re-made, small.

  python -m experiments.entity_tracking --config=full --output=rows.jsonl

Prakash et al. 2024 (arXiv 2402.14811) ask it of Llama-7B, which tracks what is
in which box, and of models fine-tuned on arithmetic. Here a transformer of
3 layers of attention learns it from lists of few boxes, and is fine-tuned on
longer ones:

  B7 o3 B2 o9 B4 o1 ? B2   ->  o9

Objects and labels are drawn anew for every prompt, which box is asked for too,
and how many stand before it, so that nothing can be copied by place. Then

  circuit        groups of heads of the base by path patching, backwards; judged
                 in the base and in the tuned model, beside random heads, and
                 beside the tuned model's own
  functionality  what the groups carry in both models: the position of the box,
                 the object, the label that is asked for, or which label stands
                 before which object (DCM), beside the best of all masks
  gain           the tuned model's groups in the base (CMAP)

and the paper's figures stand beside. The question ends with the label, so that
what the paper's position transmitters bring to the last token (here the group
of query readers) is there already, and detectors of a position have no
counterpart.

Expect `full` in 3 min 20 s on 2 CPU cores, compilation included: the base's
three groups keep .812 of its accuracy of .883, and .945 of .977 in the tuned
model; random heads .180 in both.

Llama-7B, Vicuna and Goat are asked by `spex circuit paths` and `cmap`: figures
to expect, memory and time are in `docs/how_to/circuits.md`.

Shapes: N prompts, P positions, K boxes.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import command, rows
from spex_jax.circuits import (
  cmap,
  dcm,
  desiderata,
  groups,
  measured,
  metrics,
  swaps,
  walks,
)
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.jobs import circuits_toy
from spex_jax.models import rope, sites, transformer
from spex_jax.training import loop

_METRIC = metrics.logit_difference
# The paper's tables: circuits of 72 heads, accuracies, shares.
PAPER: dict[str, Any] = {
  "base": {"model": 0.66, "circuit": 0.66},
  "Vicuna": {"model": 0.67, "circuit": 0.65},
  "Goat": {"model": 0.82, "circuit": 0.73},
  "FLoat": {"model": 0.82, "circuit": 0.72},
  "heads": {"value fetcher": 40, "position transmitter": 7,
            "position detector": 20, "structure reader": 5},
  "position": {"position transmitter": 0.36, "position detector": 0.41,
               "value fetcher": 0.13},
  "object": {"value fetcher": 0.47},
  "label": {},
  "structure": {},
  "gain": {"value fetcher": 0.82, "position transmitter": 0.74,
           "position detector": 0.56, "structure reader": 0.65},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes.

  Attributes:
    width: of the stream.
    blocks: layers.
    heads: of each.
    objects: tokens that are objects.
    labels: tokens that are labels.
    boxes: of the base's lists, from and to.
    longer: of the tuned model's.
    prompts: to train on in a round, drawn anew in each.
    epochs: over them.
    enough: share of right answers that ends training, and fine-tuning: less of
      the base, so that there is something to gain.
    rounds: of training at most.
    tuned_rounds: of fine-tuning.
    pairs: to find circuits by, and as many to judge them on.
    triples: of each desideratum.
    top: heads of a group.
    seed: of all draws.
  """

  width: int = 32
  blocks: int = 3
  heads: int = 4
  objects: int = 16
  labels: int = 8
  boxes: tuple[int, int] = (3, 5)
  longer: tuple[int, int] = (7, 8)
  prompts: int = 8192
  epochs: int = 4
  enough: tuple[float, float] = (0.95, 0.995)
  rounds: int = 20
  tuned_rounds: int = 4
  pairs: int = 128
  triples: int = 160
  top: int = 3
  seed: int = 0


CONFIGS = {
  "full": Config(),
  "quick": Config(
    width=16, blocks=2, heads=2, objects=6, labels=4, boxes=(2, 2),
    longer=(2, 3), prompts=512, rounds=1, tuned_rounds=1, pairs=16, triples=16,
    top=1,
  ),
}  # fmt: skip
# What is where the box asked for is; what is in it; which box is asked for; and
# which label stands before each object.
VARIABLES = ("position", "object", "label", "structure")
STEPS = (
  ("value fetcher", "logits", "", "end"),
  ("structure reader", "value fetcher", "k", "objects"),
  ("query reader", "value fetcher", "q", "end"),
)


def network(config: Config) -> sites.Network:
  """It, without parameters."""
  head = config.width // config.heads
  return transformer.network(
    transformer.Config(
      width=config.width, num_blocks=config.blocks, num_heads=config.heads,
      num_kv_heads=config.heads, head_width=head,
      num_neurons=1, score_scale=head**-0.5,
      vocab_size=config.objects + config.labels + 2,
      max_positions=5 * config.longer[1] + 1,
      rotary=rope.Rope(theta=100.0, width=head), tied=False,
    )
  )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Prompt:
  """Boxes, and which of them is asked for.

  Attributes:
    objects: int `[K]`.
    labels: int `[K]`, distinct.
    asked: the number of one.
  """

  objects: tuple[int, ...]
  labels: tuple[int, ...]
  asked: int

  @property
  def answer(self) -> int:
    """The object in the box."""
    return self.objects[self.asked]

  def ids(self, config: Config) -> list[int]:
    """Its tokens: objects, labels, then start and question."""
    first = config.objects
    start = first + config.labels
    said = [start]
    for thing, label in zip(self.objects, self.labels):
      said += [first + label, thing]
    return [*said, start + 1, first + self.labels[self.asked]]

  @property
  def spans(self) -> dict[str, list[int]]:
    """Where all objects and the last token stand."""
    last = 2 * len(self.objects) + 2
    return {"objects": [*range(2, last, 2)], "end": [last]}


def drawn(
  rng: np.random.Generator, config: Config, boxes: tuple[int, int] | int
) -> Prompt:
  """A prompt of so many boxes."""
  low, high = (boxes, boxes) if isinstance(boxes, int) else boxes
  count = int(rng.integers(low, high + 1))
  things = rng.permutation(config.objects)[:count]
  labels = rng.permutation(config.labels)[:count]
  return Prompt(
    tuple(things.tolist()), tuple(labels.tolist()), int(rng.integers(count))
  )


def pairs(
  rng: np.random.Generator, config: Config, boxes: tuple[int, int], num: int
) -> pairs_lib.Pairs:
  """Prompts, and others of as many boxes with another answer."""
  made = []
  while len(made) < num:
    one = drawn(rng, config, boxes)
    other = drawn(rng, config, len(one.objects))
    if one.answer != other.answer:
      made.append(_row(config, one, other, one.answer, [other.answer]))
  return pairs_lib.from_ids(made)


def _row(config, one, other, right, wrong) -> dict[str, Any]:
  return {
    "clean_ids": one.ids(config), "corrupted_ids": other.ids(config),
    "right_ids": [right], "wrong_ids": wrong, "spans": one.spans,
  }  # fmt: skip


def triples(
  rng: np.random.Generator, config: Config, boxes: int, num: int
) -> tuple[desiderata.Desideratum, ...]:
  """What a part does that carries one of `VARIABLES` from the source."""
  made: dict[str, list] = {name: [] for name in VARIABLES}
  while len(made["position"]) < num:
    one = drawn(rng, config, boxes)
    things = [x for x in range(config.objects) if x not in one.objects]
    things = rng.permutation(things)[:boxes].tolist()
    order = rng.permutation(boxes).tolist()
    asked = int(rng.integers(boxes))
    other = Prompt(tuple(things), tuple(one.labels[i] for i in order), asked)
    # The number of the base's box that each variable asks for.
    boxes_of = {"position": asked, "label": order[asked],
                "structure": order.index(one.asked)}  # fmt: skip
    if len({one.asked, *boxes_of.values()}) < min(4, boxes):
      continue  # They do not tell apart what is carried.
    targets = {name: one.objects[at] for name, at in boxes_of.items()}
    targets["object"] = other.answer
    for name, target in targets.items():
      made[name].append(_row(config, one, other, target, []))
  return tuple(
    desiderata.Desideratum(name, pairs_lib.from_ids(some))
    for name, some in made.items()
  )


def taught(
  net: sites.Network, config: Config, boxes: tuple[int, int], rounds: int,
  enough: float, rate: float, key: Any, start: Any = None,
) -> Any:  # fmt: skip
  """Parameters trained until they are right enough, or for so many rounds."""
  held = pairs(np.random.default_rng(config.seed + 2), config, boxes, 256)
  for number in range(rounds):
    start = trained(
      net, config, boxes, rate, jax.random.fold_in(key, number), start
    )
    able = measured.measure(net, start, held, _METRIC)
    if able.first.mean() >= enough:
      break
  return start


def trained(
  net: sites.Network, config: Config, boxes: tuple[int, int], rate: float,
  key: Any, start: Any = None,
) -> Any:  # fmt: skip
  """Parameters after another round, of lists of which every box is asked for.

  Half of the prompts are lists that repeat, so that what does not come at once
  is learned in steps: induction, then to answer.
  """
  words = np.asarray(jax.random.key_data(key)).ravel()
  rng = np.random.default_rng(words)
  shape = config.prompts, 5 * boxes[1] + 1
  ids, told = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
  for row in range(config.prompts):
    one = drawn(rng, config, boxes)
    said = one.ids(config)[:-2]
    if row % 2:  # The list again and again, in which the next token is told.
      again = np.resize(said[1:], shape[1])
      ids[row], ids[row, 1:] = said[0], again[:-1]
      told[row, len(said) :] = again[len(said) :]
      continue
    for asked in rng.permutation(len(one.objects)):
      again = dataclasses.replace(one, asked=int(asked))
      said += [*again.ids(config)[-2:], again.answer]
      told[row, len(said) - 2] = again.answer
    ids[row, : len(said)] = said
  recipe = loop.Recipe(
    num_epochs=config.epochs, batch_size=64, learning_rate=rate
  )
  first, second = jax.random.split(key)
  if start is None:
    # Matrices as large as keep activations: GPT-2's .02 are for wider networks.
    larger = lambda x: x * (config.width**-0.5 / 0.02 if x.ndim > 1 else 1)
    start = jax.tree.map(larger, net.init(first))
  found = _run(
    sites.Model(net), recipe, start, second, {"ids": ids, "told": told}
  )
  if not np.isfinite(np.asarray(found.losses)).all():
    raise ValueError("Training has diverged.")
  return circuits_toy.attention_only(found.params)


@functools.partial(jax.jit, static_argnames=("model", "recipe"))
def _run(model, recipe, start, key, data):
  def losses(params, batch):
    params = circuits_toy.attention_only(params)
    logits = model.net.apply(params, input_ids=batch["ids"]).logits
    log = jax.nn.log_softmax(logits)
    here = batch["told"] >= 0
    told = jnp.maximum(batch["told"], 0)[..., None]
    each = -jnp.take_along_axis(log, told, axis=-1)[..., 0]
    return (each * here).sum(axis=1) / here.sum(axis=1)

  return loop.train(
    key, key, data, jnp.ones(len(data["ids"])), init=lambda key: start,
    losses=losses, recipe=recipe,
  )  # fmt: skip


def walked(
  net: sites.Network, params: Any, some: pairs_lib.Pairs, top: int
) -> tuple[walks.Group, ...]:
  """Groups as far backwards as there are any."""
  found: tuple[walks.Group, ...] = ()
  for count in range(1, len(STEPS) + 1):
    steps = [walks.Step(*step, top=top) for step in STEPS[:count]]
    try:
      found = walks.walk(net, params, some, steps, _METRIC)
    except ValueError:  # No head stands before, or none moves anything.
      break
  return found


def measure(config: Config) -> Iterator[rows.Row]:
  """Yields the rows of the three questions."""
  net, root = network(config), jax.random.key(config.seed)
  base = taught(
    net, config, config.boxes, config.rounds, config.enough[0], 5e-3,
    jax.random.fold_in(root, 0),
  )  # fmt: skip
  tuned = taught(
    net, config, config.longer, config.tuned_rounds, config.enough[1], 2e-3,
    jax.random.fold_in(root, 1), base,
  )  # fmt: skip
  models = {"base": base, "tuned": tuned}
  rng = np.random.default_rng(config.seed)
  # Of one length, so that each position has its mean.
  longest = (config.longer[1],) * 2
  some = pairs(rng, config, longest, config.pairs)
  held = pairs(rng, config, longest, config.pairs)
  for name, params in models.items():
    able = measured.measure(net, params, held, _METRIC)
    paper = PAPER["base" if name == "base" else "Goat"]["model"]
    first = float(able.first.mean())
    yield {"row": "model", "model": name, "accuracy": first, "paper": paper}
  found = {
    name: walked(net, params, some, config.top)
    for name, params in models.items()
  }
  if not all(found.values()):
    raise ValueError("A model has no group of heads: it has learned nothing.")
  yield from _circuits(net, config, models, found, held)
  yield from _functions(net, config, models, found["base"], root)
  yield from _gain(net, models, found["base"], held)


def _circuits(net, config, models, found, held) -> Iterator[rows.Row]:
  for group in found["base"]:
    both = walks.overlap([group], found["tuned"])[group.name]
    yield {"row": "group", "group": group.name, "heads": list(group.heads),
           "also tuned": both[0], "of tuned": both[1],
           "paper heads": PAPER["heads"].get(group.name)}  # fmt: skip
  for circuit, model in (("base", "base"), ("base", "tuned"),
                         ("tuned", "tuned")):  # fmt: skip
    judged = groups.evaluate(
      net, models[model], held, found[circuit], _METRIC, seed=config.seed
    )
    paper = PAPER["base" if model == "base" else "Goat"]
    yield {
      "row": "circuit", "circuit": circuit, "model": model,
      "accuracy": judged.model.value, "kept": judged.circuit.value,
      "low": judged.circuit.low, "high": judged.circuit.high,
      "random": float(judged.random.mean()),
      "needed": len(judged.needed()), "members": len(judged.minimality),
      "incomplete": max(x.value for x in judged.completeness.values()),
      "paper": paper["circuit"],
    }  # fmt: skip


def _functions(net, config, models, found, root) -> Iterator[rows.Row]:
  rng = np.random.default_rng(config.seed + 1)
  asked = triples(rng, config, config.longer[1], config.triples)
  for number, (model, params) in enumerate(models.items()):
    for group in found:
      learned = dcm.learn(
        net, params, asked, group.members,
        key=jax.random.fold_in(root, 10 + number), penalties=(0.01, 0.1),
        seeds=3, epochs=6, rate=0.2,
      )  # fmt: skip
      for one, given in zip(learned, asked):
        judge = swaps.Judge(net, params, given.triples, group.members,
                            metrics.logit_difference)  # fmt: skip
        other = dcm.beside(judge, one)
        yield {
          "row": "function", "model": model, "group": group.name,
          "variable": one.desideratum,
          "accuracy": float(one.accuracy[one.chosen]), "without": one.none,
          "all": one.every, "patched": list(one.patched),
          "distance": other.distance, "better masks": other.rank,
          "paper": PAPER[one.desideratum].get(group.name),
        }  # fmt: skip


def _gain(net, models, found, held) -> Iterator[rows.Row]:
  members = {group.name: group.members for group in found}
  members["all groups"] = tuple(m for x in members.values() for m in x)
  forms = ("out", "q", "k", "v")
  mapped = cmap.run(
    net, models["base"], models["tuned"], held, members, _METRIC, forms=forms
  )
  for row in mapped.rows():
    name = str(row["group"]).removesuffix(", out")
    yield {"row": "gain", **row, "paper": PAPER["gain"].get(name)}


def run(config: Config, output: str | None = None) -> list[rows.Row]:
  """All rows, printed as they come."""
  about = rows.common("entity_tracking")
  return rows.write(({**about, **row} for row in measure(config)), output)


def main(argv: Sequence[str]) -> None:
  """Prints the rows as JSON lines."""
  del argv
  run(CONFIGS[flags.FLAGS.config], flags.FLAGS.output)


if __name__ == "__main__":
  command.run(main, CONFIGS)
