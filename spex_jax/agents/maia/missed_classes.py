"""When a classifier misses a class: designed experiments on the drawn world.

The failure modes of MAIA's class logits, with pictures of which all is known.
One thing of the class is drawn with other attributes at random; it is missed
where another class has the larger logit. Every missed picture is crossed with
recognised ones, the least like it: of each subset of its attributes the picture
is drawn that has these of the missed one, and the rest of the recognised one.
The smallest subset that most often suffices is the culprit ("striped, on
grass"), which new pictures with and without it must confirm. What its
attributes do together is SPEX on the crossed pictures: exact, by all 2^5.

The value of a picture is its margin: the logit of its class, less the largest
other one. Shapes: N pictures, S pixels a side, K classes, A attributes.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from spex_jax import api, base
from spex_jax.agents.find import functions
from spex_jax.agents.maia import unit_labels
from spex_jax.agents.world import prompts, rendering, scenes
from spex_jax.indices import interactions as interactions_lib

# What is crossed, and the words of each.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
  "background": scenes.BACKGROUNDS, "colour": tuple(scenes.COLOURS),
  "size": tuple(scenes.SIZES), "texture": scenes.TEXTURES,
  "position": tuple(scenes.POSITIONS),
}  # fmt: skip
# Pictures uint8 `[N, S, S, 3]` to logits `[N, K]`.
Logits = Callable[[np.ndarray], np.ndarray]
_SUFFICE = 0.75  # Of recognised pictures, the share that a culprit turns.
_LEAST = 0.3  # More must be missed with a culprit than without.
_EXEMPLARS = 5


@dataclasses.dataclass(frozen=True)
class Mode:
  """Attributes with which a class is missed.

  Attributes:
    values: each attribute of the mode to its word, such as "colour" to "red".
    missed: the share of new pictures with them that is missed.
    otherwise: the share of new ones without all of them.
    taken_for: the class that is seen instead, most often.
    interactions: Moebius coefficients of the margin, over attributes of missed
      pictures in the place of recognised ones'; in logits.
  """

  values: Mapping[str, str]
  missed: float
  otherwise: float
  taken_for: str
  interactions: interactions_lib.Interactions

  def strongest(self, count: int = 4) -> list[tuple[str, float]]:
    """Names of sets of attributes, with their coefficients."""
    names = [*ATTRIBUTES]
    return [
      (" x ".join(names[i] for i in who), float(value))
      for who, value in self.interactions.top(count)
    ]

  def __str__(self) -> str:
    said = ", ".join(f"{name} {word}" for name, word in self.values.items())
    return (
      f"{said}: missed {self.missed:.0%}, otherwise {self.otherwise:.0%}; "
      f"taken for {self.taken_for}"
    )


@dataclasses.dataclass(frozen=True)
class Report:
  """What a class logit fails for.

  Attributes:
    shape: the shape that is the class.
    missed: the share of pictures that is.
    by_word: attribute to word to the share that is missed.
    modes: the worst first; none where nothing simple is to blame.
    exemplars: some that are missed, in the world's language.
  """

  shape: str
  missed: float
  by_word: Mapping[str, Mapping[str, float]]
  modes: tuple[Mode, ...]
  exemplars: tuple[str, ...]

  def __str__(self) -> str:
    lines = [f"{self.shape}: {self.missed:.0%} of its pictures are missed"]
    for mode in self.modes:
      lines.append(f"  {mode}")
      lines += [f"    {who}: {v:+.2f}" for who, v in mode.strongest()]
    return "\n".join(lines)


def study(
  logits: Logits,
  shape: str,
  classes: Sequence[str],
  *,
  seed: int,
  attributes: Mapping[str, Sequence[str]] | None = None,
  count: int = 200,
  failures: int = 12,
  partners: int = 4,
  checks: int = 48,
  most: int = 3,
  size: int = 64,
) -> Report:
  """When pictures of a shape are taken for another class.

  Args:
    logits: the classifier, uint8 `[N, S, S, 3]` to logits `[N, K]`.
    shape: the class that is studied, one of `classes`.
    classes: K shapes of the world, in the order of the logits.
    seed: an integer, the seed of all pictures.
    attributes: words to draw from; all of `ATTRIBUTES` by default.
    count: how many pictures are drawn at random in the beginning.
    failures: missed ones that are crossed, at most.
    partners: recognised ones that each is crossed with, the least like it.
    checks: pictures with a culprit, and without, that must confirm it.
    most: attributes of a mode; what takes more is a single picture's.
    size: S, the side of a picture in pixels.

  Raises:
    ValueError: a shape that is no class, other attributes, logits of another
      shape or not finite.
  """
  if shape not in classes:
    raise ValueError(f"shape={shape!r}: the classes are {', '.join(classes)}.")
  words = {**ATTRIBUTES, **(attributes or {})}
  if odd := sorted(words.keys() - ATTRIBUTES.keys()):
    raise ValueError(f"No attribute {odd[0]!r}: {', '.join(ATTRIBUTES)}.")
  rng = functions.rng(seed, "failures", shape)
  own = [*classes].index(shape)

  def asked(rows: Sequence[Mapping[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Margins `[N]` and the largest other class, int `[N]`."""
    pictures = np.stack(
      [rendering.render(_scene(shape, r), size) for r in rows]
    )
    found = np.asarray(logits(pictures), np.float64)
    if found.shape != (len(rows), len(classes)) or not np.isfinite(found).all():
      raise ValueError(
        f"Logits must be finite, {[len(rows), len(classes)]}; got "
        f"{list(found.shape)}."
      )
    others = np.where(np.arange(len(classes)) == own, -np.inf, found)
    return found[:, own] - others.max(1), others.argmax(1)

  # Which pictures at random are missed, and with which words.
  rows = [_drawn(rng, words) for _ in range(count)]
  margins, _ = asked(rows)
  is_missed = margins <= 0
  by_word = {
    name: {
      word: float(np.mean(is_missed[chosen]))
      for word in known
      if (chosen := [row[name] == word for row in rows]) and any(chosen)
    }
    for name, known in words.items()
  }
  # Missed ones with words of recognised ones in place of theirs: which words
  # are to blame, if fresh pictures confirm it.
  missed, seen = np.flatnonzero(is_missed), np.flatnonzero(~is_missed)
  modes = []
  if len(missed) and len(seen):
    chosen = rng.permutation(missed)[:failures]
    crossed = _crossed(asked, rows, chosen, rng.permutation(seen), partners)
    for values, tables in _culprits(rows, crossed, most).items():
      mode = _confirmed(
        asked, rng, words, dict(values), np.mean(tables, 0), classes, checks
      )
      if mode.missed - mode.otherwise >= _LEAST:
        modes.append(mode)
  modes.sort(key=lambda mode: mode.otherwise - mode.missed)
  told = [prompts.write(_scene(shape, rows[i])) for i in missed[:_EXEMPLARS]]
  return Report(
    shape, float(is_missed.mean()), by_word, tuple(modes), tuple(told)
  )


def _drawn(rng, words, given: Mapping[str, str] | None = None):
  """Attributes at random, but for those that are given."""
  found = {name: str(rng.choice([*own])) for name, own in words.items()}
  return found | dict(given or {})


def _scene(shape: str, row: Mapping[str, str]) -> scenes.Scene:
  place = scenes.POSITIONS[row["position"]]
  thing = scenes.Thing(
    shape, row["colour"], row["size"], row["texture"], *place
  )
  return scenes.Scene((thing,), row["background"])


def _crossed(asked, rows, missed, seen, partners) -> dict[int, np.ndarray]:
  """Of missed pictures the margins with recognised ones, `[partners, 2^A]`.

  Their partners are those that are least like them: a word that both have tells
  nothing.
  """
  masks = unit_labels.subsets(len(ATTRIBUTES))
  every, count = [], min(partners, len(seen))
  for i in missed:
    alike = [sum(rows[i][n] == rows[j][n] for n in ATTRIBUTES) for j in seen]
    for j in seen[np.argsort(alike, kind="stable")[:count]]:
      every += [
        {n: rows[i if kept else j][n] for n, kept in zip(ATTRIBUTES, mask)}
        for mask in masks
      ]
  margins = asked(every)[0].reshape(len(missed), count, len(masks))
  return dict(zip(missed.tolist(), margins))


def _culprits(rows, crossed, most) -> dict[tuple[tuple[str, str], ...], list]:
  """Smallest sufficient attributes to margins `[2^A]` of those they are of.

  The most frequent first; one that has all words of another is left out.
  """
  masks = unit_labels.subsets(len(ATTRIBUTES))
  found = collections.defaultdict(list)
  for i, margins in crossed.items():
    turned = (margins <= 0).mean(0)
    sufficient = [k for k in range(len(masks)) if turned[k] >= _SUFFICE]
    best = min(sufficient, key=lambda k: (sum(masks[k]), -turned[k]))
    values = tuple(
      (n, rows[i][n]) for n, kept in zip(ATTRIBUTES, masks[best]) if kept
    )
    if len(values) <= most:
      found[values].append(margins.mean(0))
  order = sorted(found, key=lambda values: (-len(found[values]), len(values)))
  return {
    values: found[values]
    for values in order
    if not any({*other} < {*values} for other in found)
  }


def _confirmed(asked, rng, words, values, table, classes, checks) -> Mode:
  """A culprit on new pictures."""
  with_it = [_drawn(rng, words, values) for _ in range(checks)]
  without = []
  while len(without) < checks:
    row = _drawn(rng, words)
    if any(row[name] != word for name, word in values.items()):
      without.append(row)
  margins, others = asked([*with_it, *without])
  is_missed = margins <= 0
  taken = collections.Counter(others[:checks][is_missed[:checks]].tolist())
  name = classes[taken.most_common(1)[0][0]] if taken else "none"
  return Mode(
    values, float(is_missed[:checks].mean()), float(is_missed[checks:].mean()),
    name, _interactions(table),
  )  # fmt: skip


def _interactions(table: np.ndarray) -> interactions_lib.Interactions:
  """Moebius coefficients of margins `[2^A]`, rows as `unit_labels.subsets`."""
  powers = 1 << np.arange(len(ATTRIBUTES))[::-1]

  def value_fn(masks: base.Masks) -> np.ndarray:
    return table[np.asarray(masks).astype(int) @ powers]

  with jax.default_device(jax.devices("cpu")[0]):
    found = api.explain(
      value_fn, len(ATTRIBUTES), key=jax.random.key(0), budget=len(table),
      method="exact", names=[*ATTRIBUTES], units="logit", progress=False,
    )  # fmt: skip
  return found.interactions("Moebius", order=len(ATTRIBUTES))
