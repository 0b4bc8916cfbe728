"""The tools of an experiment, typed and counted: by them alone a unit is seen.

  tools = Tools(system, pictures, source)
  numbers = tools.text2image(["a large red circle on a grass background"])
  tools.activations(numbers)

Pictures have numbers, from 0. Whatever is done is written down.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from spex_jax import api
from spex_jax.agents import sandbox
from spex_jax.agents.find import functions
from spex_jax.agents.maia import unit_labels, units
from spex_jax.agents.world import (
  describing,
  prompts,
  rendering,
  scene_edits,
  scenes,
  seeing,
)
from spex_jax.indices import interactions as interactions_lib

_MOST = 32  # Pictures at once, of a model's calls.
_BATCH = 64  # Of the data set.
_SEGMENTS = 3  # Rows and columns, where no thing is told apart.
# Tool to its arguments and their types, as a model must give them.
TYPES: dict[str, dict[str, Any]] = {
  "exemplars": {}, "text2image": {"prompts": str}, "edit": {
    "pictures": int, "edits": str}, "activations": {"pictures": int},
  "describe": {"pictures": int}, "summarise": {"pictures": int},
  "display": {"pictures": int}, "interactions": {"picture": int},
  "code": {"code": str, "count": int},
}  # fmt: skip
_SINGLE = ("picture", "code", "count")


class Source(Protocol):
  """Where pictures come from, and who tells what is on them.

  Any of them may raise what `ablate.services` raises.
  """

  def generate(self, texts: Sequence[str]) -> list[np.ndarray]:
    """A picture of each prompt; ValueError of one that cannot be read."""
    ...

  def edit(
    self, pictures: Sequence[np.ndarray], edits: Sequence[str]
  ) -> list[np.ndarray]:
    """Pictures after instructions; ValueError of one that cannot be done."""
    ...

  def describe(self, pictures: Sequence[np.ndarray]) -> list[str]:
    """What is on each, in words, told by one who expects nothing."""
    ...

  def summarise(self, pictures: Sequence[np.ndarray]) -> str:
    """What several have in common."""
    ...


class World:
  """The drawn world as a source.

  Asked again for the same prompt it draws what was left open anew.
  """

  def __init__(self, seed: int, distractors: int = 0):
    """Nothing is drawn yet.

    Args:
      seed: of all that prompts leave open.
      distractors: things on every picture that nobody asked for, where cells
        are free, as generators give them.
    """
    self._seed, self._distractors = seed, distractors
    self._asked: collections.Counter[str] = collections.Counter()

  def generate(self, texts: Sequence[str]) -> list[np.ndarray]:
    """See `Source`."""
    found = []
    for text in texts:
      rng = functions.rng(self._seed, "picture", text, self._asked[text])
      scene = prompts.read(text, rng)
      self._asked[text] += 1
      for row, column in scene.free()[: self._distractors]:
        (other,) = scenes.draw(rng, 1, 1).things
        other = dataclasses.replace(other, row=row, column=column)
        scene = scenes.Scene((*scene.things, other), scene.background)
      found.append(rendering.render(scene))
    return found

  def edit(
    self, pictures: Sequence[np.ndarray], edits: Sequence[str]
  ) -> list[np.ndarray]:
    """See `Source`."""
    seen = describing.seen(pictures)
    return [
      rendering.render(scene_edits.edit(scene, text))
      for scene, text in zip(seen, edits, strict=True)
    ]

  def describe(self, pictures: Sequence[np.ndarray]) -> list[str]:
    """See `Source`."""
    return describing.describe(pictures)

  def summarise(self, pictures: Sequence[np.ndarray]) -> str:
    """See `Source`."""
    return describing.summarise(pictures)


@dataclasses.dataclass(frozen=True)
class Exemplars:
  """What a data set shows of a unit.

  Attributes:
    numbers: of the pictures that it fires most for, the first first.
    activations: float64 `[k]`, those of these pictures.
    maps: where on these, `[k, h, w]`.
    silent: the 20 % quantile over the data set.
    noise: from there to the 5 % quantile: about a standard deviation of what
      a silent unit does.
  """

  numbers: tuple[int, ...]
  activations: np.ndarray
  maps: np.ndarray
  silent: float
  noise: float

  @property
  def fired(self) -> np.ndarray:
    """Which are above half the way from silence to the first: bool `[k]`."""
    span = self.activations[0] - self.silent
    return self.activations > self.silent + max(span / 2, 1e-9)

  @property
  def top(self) -> float:
    """The median of those; silence where it never fires."""
    own = self.activations[self.fired]
    return float(np.median(own)) if len(own) else self.silent


class Tools:
  """A unit's tools.

  Attributes:
    calls: tool to how often it was used.
    journal: what was done: the tool, what it was given, what it told.
    asked: pictures that the unit was shown, besides the data set.
    allowed: tools that a model may call.
    shown: numbers of pictures that were displayed.
  """

  def __init__(
    self,
    system: units.System,
    pictures: Sequence[np.ndarray],
    source: Source,
    *,
    budget: int = 5000,
    box: sandbox.Sandbox | None = None,
    allowed: Sequence[str] = tuple(TYPES),
  ):
    """Nothing is asked yet.

    Args:
      system: the unit that is studied.
      pictures: the data set, uint8 `[H, W, 3]` each.
      source: what makes pictures from prompts and edits, and describes them.
      budget: of pictures that the unit may be shown, besides the data set.
      box: where a model's code runs; None for none.
      allowed: tools that a model may call.
    """
    self._system, self._data, self._source = system, pictures, source
    self._budget, self._box = budget, box
    self.allowed = [n for n in allowed if n != "code" or box is not None]
    self._pictures: list[np.ndarray] = []
    self._exemplars: Exemplars | None = None
    self.calls: collections.Counter[str] = collections.Counter()
    self.asked = 0
    self.journal: list[dict[str, Any]] = []
    self.shown: list[int] = []

  def picture(self, number: int) -> np.ndarray:
    """A picture.

    Raises:
      ValueError: there is none of that number.
    """
    if not 0 <= number < len(self._pictures):
      raise ValueError(
        f"No picture {number}; there are {len(self._pictures)}, from 0."
      )
    return self._pictures[number]

  def _added(self, pictures: Sequence[np.ndarray]) -> list[int]:
    first = len(self._pictures)
    self._pictures += [seeing.check(picture) for picture in pictures]
    return [*range(first, len(self._pictures))]

  def exemplars(self, count: int = 15) -> Exemplars:
    """The pictures of the data set that it fires most for, kept as they come.

    Raises:
      ValueError: an empty data set.
    """
    self.calls["exemplars"] += 1
    if self._exemplars is None:
      self._exemplars = self._streamed(count)
    return self._exemplars

  def _streamed(self, count: int) -> Exemplars:
    if not len(self._data):
      raise ValueError("The data set has no pictures.")
    best: list[tuple[float, int, np.ndarray]] = []
    every: list[np.ndarray] = []
    for start in range(0, len(self._data), _BATCH):
      seen = self._system.call(self._data[start : start + _BATCH])
      every.append(seen.activations)
      best += [
        (-float(level), start + i, seen.maps[i])
        for i, level in enumerate(seen.activations)
      ]
      best = sorted(best, key=lambda own: own[:2])[:count]
    low, silent = np.quantile(np.concatenate(every), [0.05, 0.2])
    numbers = self._added([self._data[number] for _, number, _ in best])
    return Exemplars(
      tuple(numbers), np.array([-level for level, _, _ in best]),
      np.stack([where for _, _, where in best]), float(silent),
      float(silent - low),
    )  # fmt: skip

  def text2image(self, texts: Sequence[str]) -> list[int]:
    """A picture of each prompt; raises as the source."""
    self.calls["text2image"] += len(texts)
    return self._added(self._source.generate(texts))

  def edit(self, numbers: Sequence[int], edits: Sequence[str]) -> list[int]:
    """Pictures after an instruction each; raises as the source.

    Raises:
      ValueError: not one a picture.
    """
    if len(numbers) != len(edits):
      raise ValueError(
        f"{len(numbers)} pictures, {len(edits)} edits: one each."
      )
    self.calls["edit"] += len(edits)
    given = [self.picture(number) for number in numbers]
    return self._added(self._source.edit(given, edits))

  def activations(self, numbers: Sequence[int]) -> np.ndarray:
    """What the unit does on pictures, `[B]`.

    Raises:
      functions.Overspent: beyond the budget; nothing is asked.
      ValueError: a picture that there is not, or that is broken.
    """
    if self.asked + len(numbers) > self._budget:
      raise functions.Overspent(
        f"{len(numbers)} pictures, and {self._budget - self.asked} of "
        f"{self._budget} are left."
      )
    given = [self.picture(number) for number in numbers]
    self.calls["activations"] += 1
    self.asked += len(numbers)
    return self._system.call(given).activations

  def describe(self, numbers: Sequence[int]) -> list[str]:
    """What is on pictures; raises as the source."""
    self.calls["describe"] += len(numbers)
    return self._source.describe([self.picture(number) for number in numbers])

  def summarise(self, numbers: Sequence[int]) -> str:
    """What pictures have in common; raises as the source."""
    self.calls["summarise"] += 1
    return self._source.summarise([self.picture(number) for number in numbers])

  def display(self, numbers: Sequence[int]) -> None:
    """Puts pictures on the unit's page, and before a model that sees."""
    for number in numbers:
      self.picture(number)
    self.calls["display"] += 1
    self.shown = [*dict.fromkeys([*self.shown, *numbers])]

  def interactions(
    self, number: int, budget: int = 256
  ) -> interactions_lib.Interactions:
    """Which things on a picture matter together: SPEX, over what is removed.

    Players are the things and the background, where the world reads the
    picture; else nine segments, each its mean colour when it is absent.

    Raises:
      ValueError: as `activations`.
    """
    self.calls["interactions"] += 1
    picture = self.picture(number)
    try:
      names, drawn = _things(seeing.see(picture), len(picture))
    except ValueError:
      names, drawn = _segments(picture)
    ask = lambda masks: self.activations(
      self._added([drawn(mask) for mask in np.asarray(masks)])
    )
    return explained(ask, names, budget)

  def use(self, name: str, arguments: Mapping[str, Any]) -> str:
    """A call of a model, checked; what it is told.

    Raises:
      ValueError: an unknown tool, or arguments of other names and types, with
        those that it takes; and what the tools raise.
    """
    given = checked(name, arguments, self.allowed)
    told = _USED[name](self, **given)
    self.journal.append(
      {"tool": name, "arguments": dict(arguments), "told": told}
    )
    return told

  def drawn_by(self, code: str, count: int) -> list[int]:
    """Pictures of the prompts that a program gives, run in the sandbox.

    Args:
      code: with a function `f(i)` that gives a prompt.
      count: i from 0 to count - 1.

    Raises:
      ValueError: no sandbox; a program that fails, hangs, or draws nothing.
    """
    self.calls["code"] += 1
    if self._box is None:
      raise ValueError("Code is not run here: there is no sandbox.")
    outcome = self._box.run(code, [*range(count)])
    if outcome.status != "ok":
      raise ValueError(f"The code ended by {outcome.status}: {outcome.error}")
    texts = [text for text in outcome.outputs if isinstance(text, str) and text]
    if not texts:
      raise ValueError(
        "The code draws nothing: f(i) must give a prompt, a text. "
        f"{outcome.error}"
      )
    return self.text2image(texts)


def explained(
  ask: Callable[[Any], np.ndarray], names: Sequence[str], budget: int
) -> interactions_lib.Interactions:
  """Interactions of up to two players: of all masks if the budget has them."""
  n = len(names)
  method = "exact" if 1 << n <= budget else "auto"
  found = api.explain(
    ask, n, key=jax.random.key(0), budget=budget, method=method, max_order=2,
    names=names, units="activation", batch_size=_BATCH,
  )  # fmt: skip
  return found.interactions("FBII", order=min(2, n))


def checked(
  name: str, arguments: Any, allowed: Sequence[str]
) -> dict[str, Any]:
  """The arguments of a call; raises as `Tools.use`."""
  if name not in allowed:
    raise ValueError(f"No tool {name!r}; there are {', '.join(allowed)}.")
  known = TYPES[name]
  if not isinstance(arguments, Mapping) or arguments.keys() != known.keys():
    raise ValueError(f"{name} takes {signature(name)}.")
  for key, kind in known.items():
    value = arguments[key]
    items = [value] if key in _SINGLE else value
    if (
      not isinstance(items, list)
      or not 0 < len(items) <= _MOST
      or not all(type(item) is kind for item in items)
    ):
      raise ValueError(f"{key}: {name} takes {signature(name)}.")
  if not 0 < arguments.get("count", 1) <= _MOST:
    raise ValueError(f"count: from 1 to {_MOST}.")
  return dict(arguments)


def signature(name: str) -> str:
  """A tool's arguments, as JSON has them."""
  words = {str: "text", int: "number"}
  said = [
    f'"{key}": {words[kind]}'
    if key in _SINGLE
    else f'"{key}": [{words[kind]}, ...]'
    for key, kind in TYPES[name].items()
  ]
  return "{" + ", ".join(said) + "}"


def _things(
  scene: scenes.Scene, size: int
) -> tuple[list[str], Callable[[np.ndarray], np.ndarray]]:
  plain = "plain" if scene.background != "plain" else "sand"

  def drawn(mask: np.ndarray) -> np.ndarray:
    own = scene.kept(mask[:-1].tolist())
    if not mask[-1]:
      own = dataclasses.replace(own, background=plain)
    return rendering.render(own, size)

  names = [prompts.thing(thing) for thing in scene.things]
  return [*names, f"{scene.background} background"], drawn


def _segments(
  picture: np.ndarray,
) -> tuple[list[str], Callable[[np.ndarray], np.ndarray]]:
  side = [np.arange(size) * _SEGMENTS // size for size in picture.shape[:2]]
  owner = side[0][:, None] * _SEGMENTS + side[1][None, :]
  means = np.stack([
    picture[owner == i].mean(0).astype(np.uint8) for i in range(_SEGMENTS**2)
  ])  # fmt: skip

  def drawn(mask: np.ndarray) -> np.ndarray:
    return np.where(mask[owner][..., None], picture, means[owner])

  names = {cell: name for name, cell in scenes.POSITIONS.items()}
  return [names[divmod(i, _SEGMENTS)] for i in range(_SEGMENTS**2)], drawn


def _listed(tools: Tools, numbers: Sequence[int]) -> str:
  levels = tools.activations(numbers)
  return "\n".join(f"picture {n}: {x:.3g}" for n, x in zip(numbers, levels))


def _shown_exemplars(tools: Tools) -> str:
  found = tools.exemplars()
  return "\n".join(
    f"picture {n}: {x:.3g}" for n, x in zip(found.numbers, found.activations)
  )


def _displayed(tools: Tools, pictures: list[int]) -> str:
  tools.display(pictures)
  return f"shown: {pictures}"


_USED: dict[str, Callable[..., str]] = {
  "exemplars": _shown_exemplars,
  "text2image": lambda t, prompts: _listed(t, t.text2image(prompts)),
  "edit": lambda t, pictures, edits: _listed(t, t.edit(pictures, edits)),
  "activations": lambda t, pictures: _listed(t, pictures),
  "describe": lambda t, pictures: "\n".join(t.describe(pictures)),
  "summarise": lambda t, pictures: t.summarise(pictures),
  "display": _displayed,
  "interactions": lambda t, picture: str(t.interactions(picture)),
  "code": lambda t, code, count: _listed(t, t.drawn_by(code, count)),
}


@dataclasses.dataclass(frozen=True)
class Finding:
  """What an agent says of a unit.

  Attributes:
    label: when the unit fires.
    description: that label in a sentence.
    interactions: over which concepts are there; None where none were asked.
    transcript: the messages of the conversation, where there was one.
    error: what ended it early, in a line; "" for nothing.
  """

  label: unit_labels.Label
  description: str = ""
  interactions: interactions_lib.Interactions | None = None
  transcript: tuple[Mapping[str, Any], ...] = ()
  error: str = ""
