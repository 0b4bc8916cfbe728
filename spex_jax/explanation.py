"""What a decoder answers, and how far to trust it.

Shapes: n players, B masks, T targets, K sets.
"""

import dataclasses
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from spex_jax import base, shown
from spex_jax.fourier import score, sparse
from spex_jax.indices import interactions as interactions_lib
from spex_jax.indices import table
from spex_jax.masks import request

_ARRAYS = (
  "faithfulness", "faithfulness_std", "noise_floor", "coef_std", "errors",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation(base.ByValue, shown.Shown):
  """A sparse function that stands for f, and how far to trust it.

  Attributes:
    fourier: the expansion; a leading T for T targets.
    faithfulness: R^2 on masks that no decoder saw (`[T]` for T targets); on
      all masks where all were asked; None where no mask was left to test on.
    faithfulness_std: its standard error (`[T]`), by the delta method over these
      masks (`fourier.score.r2_std`), and larger where these were fitted to, out
      of fold (`portfolio.stack.sparse_scores`); 0 where all were asked; None
      where faithfulness is.
    noise_floor: standard deviation of one value between repeats of the same
      mask (`[T]`), in the units of f; 0 for a function, None if never seen
      twice.
    num_evaluations: distinct masks that the answer cost, held-out included.
    num_repeats: masks asked again, besides, to test determinism.
    held_out: masks behind `faithfulness`.
    method: the decoder that answered.
    by_terms: the same R^2 of the 10, 30 and 100 largest sets besides the
      empty one, and of "all"; of fewer where there are fewer. None where
      faithfulness is.
    by_terms_std: standard errors of them, as `faithfulness_std`.
    coef_std: standard errors of `fourier.coefs`, of the same shape and units;
      None from decoders that do not know them.
    errors: `[E]` (`[T, E]`) the errors |f - answer| of the `held_out` masks,
      ascending, in the units of f; of more than 1,000, the ranks
      ceil(r held_out / E); see `interval`.
    ends: f(none) and f(all) as f gave them (each `[T]`), which the expansion
      need not meet: see `gaps`. None where they were not asked.
    notes: what was decided on the way, and why.
    seconds: "evaluating", "decoding" and "total".
    names: the names of the players, or None.
    units: the units of f, or None.
  """

  fourier: sparse.SparseFourier
  faithfulness: Any
  noise_floor: Any
  num_evaluations: int
  num_repeats: int
  held_out: int
  method: str
  faithfulness_std: Any = None
  by_terms: dict[str, Any] | None = None
  by_terms_std: dict[str, Any] | None = None
  coef_std: Any = None
  errors: Any = None
  ends: tuple[Any, Any] | None = None
  notes: tuple[str, ...] = ()
  seconds: dict[str, float] = dataclasses.field(
    default_factory=dict, compare=False
  )
  names: tuple[str, ...] | None = None
  units: str | None = None

  @property
  def index(self) -> str:
    """The index that masks were drawn for, or else "FBII"."""
    return self.method if self.method in request.DRAWN else "FBII"

  def interactions(
    self,
    index: str | None = None,
    order: int | Literal["own"] | None = "own",
    names: Sequence[Any] | None = None,
    *,
    target: int | None = None,
  ) -> interactions_lib.Interactions:
    """The expansion as an index that people quote; see `indices.table`.

    Args:
      index: its name; by default `index` of the explanation. One whose masks
        were drawn for SV or BV tells of no other.
      order: the largest set; None for no limit; "own" for an index's only
        order (SV, BV: 1), or 2.
      names: the names of the players; those of the explanation if None.
      target: which of T targets; needed if there are several.

    Raises:
      ValueError: an unknown index or order, one that the masks do not tell
        of, or T targets and none chosen.
    """
    index, fourier = index or self.index, self.fourier
    if self.method in request.DRAWN and table.find(index) != self.method:
      raise ValueError(
        f"These masks were drawn for {self.method} and tell of no {index!r}: "
        "explain again without index=, then read any."
      )
    if fourier.num_targets is not None:
      if target is None:
        raise ValueError(
          f"There are {fourier.num_targets} targets; choose one by target=t."
        )
      num_targets = fourier.num_targets
      if not 0 <= request.whole("target", target, 0) < num_targets:
        raise ValueError(
          f"target must lie in 0..{num_targets - 1}; got {target}."
        )
      fourier = fourier.target(target)
    elif target is not None:
      raise ValueError("There is a single target; leave target=None.")
    std = self.coef_std
    if std is not None and target is not None:
      std = std[target][: int(self.fourier.count[target])]
    return table.interactions(
      fourier,
      index,
      table.own_order(index) if order == "own" else order,
      names=self.names if names is None else names,
      units=self.units,
      coef_std=std,
    )

  def interval(
    self, masks: base.Masks, level: float = 0.9
  ) -> tuple[np.ndarray, np.ndarray]:
    """Bounds `[B]` (`[B, T]`) that hold the value f(mask) with a probability.

    The answer plus and minus the ceil((m + 1) level)-th smallest of its errors
    on the m masks that it had not seen (split conformal prediction, Vovk et
    al. 2005): with at least that probability on average over uniform masks,
    whatever the decoder; not for each mask apart. (The errors of `decode` are
    those of fits out of fold, to which that does not apply.) Where m is too
    small for the level, there is no bound: they are infinite, and a warning
    says so.

    Args:
      masks: bool `[B, n]`.
      level: in (0, 1).

    Raises:
      ValueError: no such errors are known, or a level outside (0, 1).
    """
    if self.errors is None:
      raise ValueError("No mask was left to measure errors on.")
    if not 0 < level < 1:
      raise ValueError(f"level must lie in (0, 1); got {level}.")
    errors = np.atleast_2d(self.errors)
    # Less a little, as (m + 1) level may round up where it is whole.
    rank = math.ceil((self.held_out + 1) * level * (1 - base.ROUNDING))
    if rank > self.held_out:
      least = math.ceil(level / (1 - level) * (1 - base.ROUNDING))
      width = np.full(len(errors), np.inf)
      warnings.warn(
        f"{self.held_out} held-out masks bound no value at level {level:g}: "
        f"the interval is infinite. It takes {least}.",
        stacklevel=2,
      )
    else:
      # The first kept whose own rank is no less.
      kept = errors.shape[1]
      ranks = -(-np.arange(1, kept + 1) * self.held_out // kept)
      width = errors[:, np.searchsorted(ranks, rank)]
    guess = np.asarray(self.fourier(masks))
    width = width[0] if self.fourier.num_targets is None else width[None]
    return guess - width, guess + width

  @property
  def tested(self) -> str:
    """The masks that `faithfulness` is on, in words.

    Of `decode`, which fits all, it is that of fits which had not seen them.
    """
    masks = f"mask{'s' * (self.held_out != 1)}"
    if self.held_out == self.num_evaluations:
      return f"{self.held_out:,} {masks}, each predicted by fits without it"
    return f"{self.held_out:,} held-out {masks}"

  @property
  def gaps(self) -> tuple[Any, Any] | None:
    """What the expansion says of f(none) and f(all), less what f said.

    None where `ends` is.
    """
    if self.ends is None:
      return None
    corners = np.repeat([[False], [True]], self.fourier.n, axis=1)
    none, everyone = np.asarray(self.fourier(corners))
    return none - self.ends[0], everyone - self.ends[1]

  def _check(self) -> None:
    """Refuses what no decoder says, as a file may.

    Raises:
      ValueError: naming the field.
      TypeError: fields of other kinds.
    """
    if self.names is not None:
      base.check_names(self.names, self.fourier.n)
    counts = (self.num_evaluations, self.num_repeats, self.held_out)
    for name, number in zip(
      ("num_evaluations", "num_repeats", "held_out"), counts
    ):
      request.whole(name, number, 0)
    shares = [self.faithfulness, *(self.by_terms or {}).values()]
    for value in shares:
      if value is not None and not (np.asarray(value, float) <= 1).all():
        raise ValueError(f"R^2 is {value}, above 1.")
    spread = [
      self.noise_floor, self.coef_std, self.errors, self.faithfulness_std,
      *(self.by_terms_std or {}).values(),
    ]  # fmt: skip
    for value in spread:
      if value is not None and not (np.asarray(value, float) >= 0).all():
        raise ValueError("Standard errors and errors are at least 0.")
    if self.ends is not None and len(self.ends) != 2:
      raise ValueError("ends must be f(none) and f(all).")
    shape = np.shape(self.fourier.coefs)
    std = np.shape(self.coef_std)
    if self.coef_std is not None and (
      std[:-1] != shape[:-1] or std[-1:] < shape[-1:]  # It may be padded.
    ):
      raise ValueError(f"coef_std must be {shape}, as the coefficients are.")
    if not (_texts((self.method, *self.notes)) and _texts([self.units or ""])):
      raise ValueError("method, notes and units must be texts.")
    if not isinstance(self.seconds, dict):
      raise ValueError("seconds must be by name.")

  def __str__(self) -> str:
    units = f" {base.printable(self.units)}" if self.units else ""
    size = np.asarray(self.fourier.count).tolist()
    lines = [
      f"{base.printable(self.method)}: {size} sets of {self.fourier.n} players "
      f"from {self.num_evaluations} masks",
      "faithfulness (R^2): "
      + ("not measured" if self.faithfulness is None else "")
      + _with_error(self.faithfulness, self.faithfulness_std)
      + (f" on {self.tested}" if self.held_out else ""),
    ]
    if self.by_terms is not None:
      std = self.by_terms_std or {}
      sizes = [
        f"{_with_error(v, std.get(k))} ({k} sets)"
        for k, v in self.by_terms.items()
      ]
      lines.append("R^2 by size: " + ", ".join(sizes))
    if self.ends is not None and self.gaps is not None:
      none = 8 * base.ROUNDING * np.abs(self.ends).max(axis=0)
      ends = [
        f"f({name}) {_text(end)}{units} (expansion "
        f"{_text(np.where(np.abs(gap) <= none, 0, gap), '+')})"
        for name, end, gap in zip(("none", "all"), self.ends, self.gaps)
      ]
      lines.append("ends: " + ", ".join(ends))
    if self.noise_floor is not None:
      lines.append(f"noise floor: {_text(self.noise_floor)}{units}")
    notes = (f"note: {base.printable(note)}" for note in self.notes)
    return "\n".join([*lines, *notes])

  def page(
    self,
    question: str = "",
    scene: Mapping[str, Any] | None = None,
    *,
    index: str | None = None,
    order: int | None = None,
  ) -> str:
    """One HTML file that stands alone, to look at and to ask: `report.page`.

    Args:
      question: what was asked, in words.
      scene: where the players stand: what `report.page.prose(text, spans)` or
        `report.page.picture(pixels, owner)` makes.
      index: the index of the sets' values; by default as of `interactions`.
      order: the order of the largest set; all by default.

    Raises:
      ValueError: an unknown index or order.
    """
    from spex_jax.report import page  # Shows what is here, on demand.

    asked = question or f"Which of {self.fourier.n} players matter together?"
    facts = {
      "answer": f"{np.asarray(self.fourier.count).tolist()} Fourier terms by "
      f"{self.method}",
      "cost": f"{self.num_evaluations:,} distinct masks",
    }
    facts |= {
      f"note {number}": note for number, note in enumerate(self.notes, 1)
    }
    run = page.Run(
      base.printable(asked),
      page.trust(self),
      {name: base.printable(text) for name, text in facts.items()},
      [page.explanation(self, index, order, scene)],
      page.raw(self, index, order or 2),
    )
    return page.html([run])

  def to_pandas(self, index: str | None = None, **settings: Any) -> Any:
    """The sets of `interactions(index, ...)` as a `pandas.DataFrame`."""
    return self.interactions(index, **settings).to_pandas()

  def body(self) -> dict[str, Any]:
    """Everything, as JSON has it."""
    functions = _targets(self.fourier)
    body: dict[str, Any] = {
      "n": self.fourier.n,
      "single": self.fourier.num_targets is None,
      "targets": [[[list(s), c] for s, c in f.terms()] for f in functions],
    }
    for field in dataclasses.fields(self):
      if field.name != "fourier":
        body[field.name] = _plain(getattr(self, field.name))
    return body

  def save(self, path: str | os.PathLike) -> None:
    """Writes everything as JSON with a checksum, whole or not at all.

    Raises:
      OSError: no room or no permission.
    """
    base.write_json(path, self.body())

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Explanation":
    """Reads what `save` wrote.

    Raises:
      ValueError: not such a file, or a damaged one.
    """
    body = base.read_json(path)
    try:
      n, single = body.pop("n"), body.pop("single")
      functions = [
        sparse.SparseFourier.from_terms(n, t) for t in body.pop("targets")
      ]
      for name in _ARRAYS:
        if isinstance(body.get(name), list):
          body[name] = np.asarray(body[name])
      for name in ("by_terms", "by_terms_std"):
        for key, value in (body.get(name) or {}).items():
          if isinstance(value, list):
            body[name][key] = np.asarray(value)
      if body.get("ends") is not None:
        body["ends"] = tuple(
          np.asarray(end) if isinstance(end, list) else end
          for end in body["ends"]
        )
      for name in ("notes", "names"):
        if not isinstance(body[name], list | None):
          raise TypeError(f"{name} are no list")
        body[name] = None if body[name] is None else tuple(body[name])
      fourier = (
        functions[0] if single else sparse.SparseFourier.stack(functions)
      )
      found = cls(fourier=fourier, **body)
      found._check()
      return found
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
      raise ValueError(f"{path} is no saved explanation: {error}.") from error


def _texts(items: Any) -> bool:
  return all(isinstance(item, str) for item in items)


def _targets(fourier: sparse.SparseFourier) -> list[sparse.SparseFourier]:
  """The functions of all targets, or the single one."""
  if fourier.num_targets is None:
    return [fourier]
  return [fourier.target(t) for t in range(fourier.num_targets)]


def _plain(value):
  if isinstance(value, tuple):
    return [_plain(inner) for inner in value]
  if isinstance(value, dict):
    return {key: _plain(inner) for key, inner in value.items()}
  return value.tolist() if hasattr(value, "tolist") else value


def _text(value, sign=""):
  if value is None:
    return ""
  return ", ".join(f"{v:{sign}.4g}" for v in np.atleast_1d(value))


def _with_error(value, std):
  """Scores and their standard errors, where these are known and not 0."""
  if value is None or std is None:
    return _text(value)
  pairs = zip(np.atleast_1d(value), np.atleast_1d(std))
  return ", ".join(score.shown(*pair) for pair in pairs)
