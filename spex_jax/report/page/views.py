"""What a page shows, as JSON that its script draws.

Every view has a `kind`, which names what draws it, and a `title`.

Shapes: n players, K sets.
"""

import base64
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.fourier import score, sparse
from spex_jax.indices import attribution as attribution_lib
from spex_jax.indices import interactions as interactions_lib
from spex_jax.indices import table as index_table

MOST = 1000  # Sets or rows that are listed.
TRUSTED = 0.5  # Least R^2 of an answer that is shown without a warning.
_TARGETS = 12  # That one may choose from.
_SHORT = 8  # Values of a list that are told.
_CELLS = 112  # Of a picture's outlines, on its longer side, at most.
_CELL = re.compile(r"r(\d+)c(\d+)")
_PART = re.compile(r"(blocks\.\d+\.\w+|\w+\.\w+) (\d+)")
_TINY = 1e-5  # Of a value, which float32 may be off by.


def sets(
  fourier: sparse.SparseFourier | None,
  found: Sequence[interactions_lib.Interactions],
  targets: Sequence[str] = ("",),
  *,
  title: str = "Players and sets",
  scene: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Players that one may remove, and their sets; the expansion answers.

  Players stand where the scene has them. Without one, those named as cells of a
  grid (`r2c3`) stand in it, those named as parts of layers (`blocks.1.attn 3`)
  by layer, all others as words do.

  Args:
    fourier: of one target, or of as many as there are `found`; None where only
      values of sets are known, and nothing answers.
    found: values of sets, of every target; all of one index and units.
    targets: the names of the targets, one for each of `found`.
    title: what stands above.
    scene: what `prose` or `picture` made, of the same players.
  """
  names = list(found[0].labels())
  shown: dict[str, Any] = {
    "kind": "sets", "title": title, "names": names,
    "units": base.printable(found[0].units or ""),
    "index": base.printable(found[0].index), "targets": [],
  }  # fmt: skip
  for number, (one, name) in enumerate(zip(found, targets)):
    function = fourier
    if function is not None and function.num_targets is not None:
      function = function.target(number)
    listed = one.top(MOST)
    std = listed.std
    shown["targets"].append(
      {
        "name": base.printable(name),
        "terms": None
        if function is None
        else [[list(who), _short(c)] for who, c in function.terms()],
        "sets": [
          [list(who), _short(value)]
          + ([] if std is None else [_short(float(std[row]))])
          for row, (who, value) in enumerate(listed)
        ],
        "std": None if std is None else score.WIDE,
      }
    )
  if scene is not None:
    return shown | dict(scene)
  cells = [_CELL.fullmatch(name) for name in names]
  parts = [_PART.fullmatch(name) for name in names]
  if all(cells):
    shown["place"] = [[int(cell[1]), int(cell[2])] for cell in cells if cell]
    shown["columns"] = 1 + max(column for _, column in shown["place"])
  elif all(parts):
    layers = list(dict.fromkeys(part[1] for part in parts if part))
    shown["layers"] = layers
    shown["layer_of"] = [layers.index(part[1]) for part in parts if part]
  return shown


def prose(
  text: str, spans: Sequence[Sequence[Sequence[int]]]
) -> dict[str, Any]:
  """A scene: a text that runs, whose players stand where they do in it.

  Args:
    text: the whole text, players and what is between.
    spans: the spans of each player, the `[start, end)` of its characters; of
      characters that several have, the first one's.
  """
  owned = sorted(
    (start, end, player)
    for player, own in enumerate(spans)
    for start, end in own
  )
  pieces, at = [], 0
  for start, end, player in owned:
    start = max(start, at)
    if start > at:
      pieces.append([text[at:start], -1])
    if end > start:
      pieces.append([text[start:end], player])
      at = end
  if at < len(text):
    pieces.append([text[at:], -1])
  return {"pieces": pieces}


def picture(pixels: base.Array, owner: base.Array) -> dict[str, Any]:
  """A scene: an image, and the outlines of its players.

  Args:
    pixels: `[H, W]` grey of any range, or `[H, W, 3]` in [0, 1].
    owner: int `[H, W]`: the player of each pixel; those of none are negative,
      or as many as there are players.
  """
  from matplotlib import image as image_lib  # Slow to import.

  pixels, owner = np.asarray(pixels, np.float64), np.asarray(owner)
  if pixels.ndim == 2:
    low, span = pixels.min(), np.ptp(pixels) or 1.0
    pixels = np.repeat((pixels[..., None] - low) / span, 3, axis=2)
  file = io.BytesIO()
  image_lib.imsave(file, np.clip(pixels, 0, 1), format="png")
  step = -(-max(owner.shape) // _CELLS)
  cells = owner[step // 2 :: step, step // 2 :: step]
  size = [cells.shape[1], cells.shape[0]]
  shapes: dict[int, list[str]] = {}
  # Runs of a row that are those of the row before make one rectangle.
  live: dict[tuple[int, int, int], int] = {}
  for row in range(len(cells) + 1):
    runs = {} if row == len(cells) else _runs(cells[row])
    for run, top in list(live.items()):
      if run not in runs:
        start, stop, player = run
        shapes.setdefault(player, []).append(
          f"M{start} {top}H{stop}V{row}H{start}Z"
        )
        del live[run]
    live |= {run: row for run in runs if run not in live}
  most = max(shapes, default=-1)
  return {
    "image": _source(file.getvalue()), "size": size,
    "shapes": ["".join(shapes.get(i, ())) for i in range(most + 1)],
  }  # fmt: skip


def _runs(row: np.ndarray) -> dict[tuple[int, int, int], None]:
  """Start, stop and player of each run of a row."""
  ends = [0, *(np.flatnonzero(np.diff(row)) + 1).tolist(), len(row)]
  return {
    (a, b, int(row[a])): None
    for a, b in itertools.pairwise(ends)
    if row[a] >= 0
  }


def explanation(
  found: Any,
  index: str | None = None,
  order: int | None = None,
  scene: Mapping[str, Any] | None = None,
  targets: Sequence[str] | None = None,
) -> dict[str, Any]:
  """The players and sets of an explanation.

  Args:
    found: an `Explanation`; of many targets, the first 12 are shown.
    index: the index of the values of sets; None for the explanation's.
    order: the order of the largest; all by default. What is cut is said in the
      title.
    scene: where players stand, as of `sets`; None for words or a grid.
    targets: names of many; numbers by default.

  Raises:
    ValueError: an unknown index or order.
  """
  num, fourier = found.fourier.num_targets, found.fourier
  index = index or found.index
  limit = "own" if order is None and _only(index) else order
  if num is None:
    every, names = [found.interactions(index, limit)], [""]
    functions = [fourier]
  else:
    kept = range(min(num, _TARGETS))
    functions = [fourier.target(t) for t in kept]
    fourier = sparse.SparseFourier.stack(functions)
    every = [found.interactions(index, limit, target=t) for t in kept]
    names = [f"target {t}" if targets is None else targets[t] for t in kept]
  title, largest, most = (
    "Players and sets",
    every[0].order,
    max(map(len, every)),
  )
  degree = max(len(s) for one in functions for s, _ in one.terms())
  if largest is not None and degree > largest:
    title += f" of up to {largest}: the expansion has some of {degree}"
  if most > MOST:
    title += f" (the strongest {MOST:,} of {most:,} sets)"
  return sets(fourier, every, names, title=title, scene=scene)


def _only(index: str) -> bool:
  """Whether an index has one order alone."""
  return index_table.INDICES[index_table.find(index)].fixed_order is not None


def attribution(
  found: attribution_lib.Attribution,
  names: Sequence[str] | None = None,
  units: str | None = None,
) -> dict[str, Any]:
  """Players with one score each; their sum answers.

  Args:
    found: of many targets, the first 12 are shown.
    names: the n names of the players; None for their numbers.
    units: the units of the scores; None where there are none.
  """
  n, kept = found.n, range(min(found.num_targets, _TARGETS))
  every, functions = [], []
  for target in kept:
    scores, low = found.scores[target], float(found.baseline[target])
    every.append(
      interactions_lib.Interactions(
        n=n,
        players=np.arange(n)[:, None],
        values=scores,
        index=found.method,
        order=1,
        baseline=low,
        names=None if names is None else tuple(names),
        units=units,
        std=None if found.std is None else found.std[target],
      )
    )
    # baseline + the sum of those kept: a player's half, with and without it.
    terms = [((), low + float(scores.sum()) / 2)]
    terms += [((i,), -score / 2) for i, score in enumerate(scores.tolist())]
    functions.append(sparse.SparseFourier.from_terms(n, terms))
  fourier = sparse.SparseFourier.stack(functions)
  return sets(fourier, every, [f"target {t}" for t in kept])


def trust(found: Any) -> list[tuple[str, str, bool]]:
  """What an explanation says of itself: a name, its text, and whether it warns.

  Args:
    found: an `Explanation`, with faithfulness and notes.
  """
  units = f" {found.units}" if found.units else ""
  lines = []
  if found.faithfulness is None:
    lines.append(("R²", "not measured: no mask was left to test on", True))
  else:
    each = np.atleast_1d(found.faithfulness)
    errors = found.faithfulness_std
    std = np.zeros_like(each) if errors is None else np.atleast_1d(errors)
    worst = int(each.argmin())
    value, error = float(each[worst]), float(std[worst])
    text = score.shown(value, error)
    if error:
      half = score.WIDE * error
      low, high = value - half, min(1.0, value + half)
      text += f", 95 % {low:.3f} to {high:.3f}"
    text += (
      f", on {found.tested}" if found.held_out else ": every mask was asked"
    )
    if len(each) > 1:
      text = f"mean {each.mean():.3f} of {len(each)} targets, the worst {text}"
    lines.append(("R²", text, value < TRUSTED))
  spread = _spread(found.fourier)
  if found.gaps is not None:
    whole = max([spread, *np.atleast_1d(np.abs(found.ends[1] - found.ends[0]))])
    for name, gap, end in zip(("none", "all"), found.gaps, found.ends):
      off = np.atleast_1d(gap)
      off = float(off[np.abs(off).argmax()])
      value = float(np.atleast_1d(end)[0])
      text = (
        f"{value:+.4g}{units} was measured" if np.size(end) == 1 else "measured"
      )
      lines.append((f"f({name})", f"{text}; the expansion is off by {off:+.2g}",
                    abs(off) > whole / 2 + _TINY * abs(value)))  # fmt: skip
  if found.noise_floor is not None:
    floor = float(np.max(found.noise_floor))
    lines.append(("noise", f"{floor:.3g}{units} between repeats",
                  floor > spread / 2))  # fmt: skip
  return lines


def _spread(fourier: sparse.SparseFourier) -> float:
  """Standard deviation over all masks, the largest of any target."""
  num = fourier.num_targets
  functions = (
    [fourier] if num is None else [fourier.target(t) for t in range(num)]
  )
  return max(
    math.sqrt(sum(c * c for who, c in one.terms() if who)) for one in functions
  )


def table(
  columns: Sequence[str],
  rows: Sequence[Sequence[Any]],
  title: str,
  signed: Sequence[str] = (),
) -> dict[str, Any]:
  """A table; the first 1,000 rows of more.

  Args:
    columns: the names of the columns.
    rows: texts, numbers and None; what is not finite is text.
    title: above, which says how many rows are left out.
    signed: columns whose numbers have their sign in front, and its colour.
  """
  made = {
    "kind": "table", "title": title, "columns": [str(name) for name in columns],
    "rows": [[_cell(value) for value in row] for row in rows],
    "signed": [i for i, name in enumerate(columns) if name in signed],
  }  # fmt: skip
  return first_rows(made, MOST)


def first_rows(made: dict[str, Any], most: int) -> dict[str, Any]:
  """A table without the rows after so many, which its title tells."""
  count = len(made["rows"])
  if count <= most:
    return made
  title = f"{made['title']} (the first {most:,} of {count:,} rows)"
  return made | {"title": title, "rows": made["rows"][:most]}


def image(png: bytes, title: str) -> dict[str, Any]:
  """A picture within the page.

  Args:
    png: the bytes of a PNG file.
    title: above, and what is read where it is not seen.
  """
  return {"kind": "image", "title": title, "source": _source(png)}


def _source(png: bytes) -> str:
  return "data:image/png;base64," + base64.b64encode(png).decode()


def shapiq(found: interactions_lib.Interactions) -> str | None:
  """What `shapiq.InteractionValues.from_json_file` reads; no shapiq is needed.

  None for Fourier coefficients, which it has no index for.
  """
  if found.index == "Fourier":
    return None
  values = {"Empty": found.baseline}
  values |= {",".join(map(str, who)): value for who, value in found}
  about = {
    "n_players": found.n, "index": found.index, "max_order": found.order,
    "min_order": 0, "estimated": False, "estimation_budget": None,
    "baseline_value": found.baseline,
  }  # fmt: skip
  return json.dumps({"metadata": about, "data": values})


def fields(body: Mapping[str, Any], title: str) -> dict[str, Any]:
  """What a JSON object says in single values, as a table.

  Objects within it have names with dots; short lists of such values are told.
  """
  rows = []
  for name, value in _leaves(body, ""):
    if isinstance(value, list):
      if len(value) > _SHORT or not all(map(_is_single, value)):
        continue
      value = ", ".join(map(str, value))
    elif isinstance(value, float):
      value = f"{value:.6g}"
    elif not _is_single(value):
      continue
    rows.append([name, str(value)])
  return table(["what", "value"], rows, title)


def _leaves(body: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
  for name, value in body.items():
    if isinstance(value, dict):
      yield from _leaves(value, f"{before}{name}.")
    elif name != "sha256":
      yield f"{before}{name}", value


def _is_single(value: Any) -> bool:
  return isinstance(value, str | int | float)


def raw(
  found: Any, index: str | None = None, order: int | None = 2
) -> list[tuple[str, str]]:
  """Names and texts of files: an explanation, and for shapiq, of one target.

  Args:
    found: an `Explanation`, of one target or several.
    index: the index of shapiq's values; None for the explanation's.
    order: the order of the largest set there.
  """
  files = [("explanation.json", base.to_json(found.body()).decode())]
  if found.fourier.num_targets is None:
    index = index or found.index
    limit = "own" if _only(index) else order
    text = shapiq(found.interactions(index, limit))
    files += [] if text is None else [("shapiq.json", text)]
  return files


def _short(value: float) -> float:
  return float(f"{value:.7g}")


def _cell(value: Any) -> Any:
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, int) or value is None:
    return value
  if isinstance(value, float):
    return _short(value) if np.isfinite(value) else str(value)
  return str(value)
