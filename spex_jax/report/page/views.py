"""What a page shows, as JSON that its script draws.

Every view has a `kind`, which names what draws it, and a `title`.

Shapes: n players, K sets.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax.fourier import score, sparse
from spex_jax.indices import interactions as interactions_lib

MOST = 1000  # Sets or rows that are listed.
TRUSTED = 0.5  # Least R^2 of an answer that is shown without a warning.
_TARGETS = 12  # That one may choose from.
_CELL = re.compile(r"r(\d+)c(\d+)")
_PART = re.compile(r"(blocks\.\d+\.\w+|\w+\.\w+) (\d+)")
_WIDE = 1.96  # Standard errors, of 95 %.


def sets(
  fourier: sparse.SparseFourier,
  found: Sequence[interactions_lib.Interactions],
  targets: Sequence[str] = ("",),
  *,
  title: str = "Players and sets",
) -> dict[str, Any]:
  """Players that one may remove, and their sets; the expansion answers.

  Players named as cells of a grid (`r2c3`) stand in it, those named as parts of
  layers (`blocks.1.attn 3`) by layer, all others as words do.

  Args:
    fourier: of one target, or of as many as there are `found`.
    found: values of sets, of every target; all of one index and units.
    targets: their names.
    title: above.
  """
  names = list(found[0].labels())
  shown: dict[str, Any] = {
    "kind": "sets", "title": title, "names": names,
    "units": base.printable(found[0].units or ""),
    "index": base.printable(found[0].index), "targets": [],
  }  # fmt: skip
  for number, (one, name) in enumerate(zip(found, targets)):
    function = fourier
    if fourier.num_targets is not None:
      function = fourier.target(number)
    listed = one.top(MOST)
    std = listed.std
    shown["targets"].append(
      {
        "name": base.printable(name),
        "terms": [[list(who), _short(c)] for who, c in function.terms()],
        "sets": [
          [list(who), _short(value)]
          + ([] if std is None else [_short(float(std[row]))])
          for row, (who, value) in enumerate(listed)
        ],
        "std": None if std is None else _WIDE,
      }
    )
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


def explanation(
  found: Any, index: str = "FBII", order: int | None = 2
) -> dict[str, Any]:
  """The players and sets of an explanation.

  Args:
    found: an `Explanation`; of many targets, the first 12 are shown.
    index: of the values of sets.
    order: of the largest.

  Raises:
    ValueError: an unknown index or order.
  """
  num = found.fourier.num_targets
  if num is None:
    return sets(found.fourier, [found.interactions(index, order)])
  kept = range(min(num, _TARGETS))
  fourier = sparse.SparseFourier.stack([found.fourier.target(t) for t in kept])
  return sets(
    fourier,
    [found.interactions(index, order, target=t) for t in kept],
    [f"target {t}" for t in kept],
  )


def trust(found: Any) -> list[tuple[str, str, bool]]:
  """What an explanation says of itself: a name, its text, and whether it warns.

  Args:
    found: an `Explanation`.
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
      low, high = value - _WIDE * error, min(1.0, value + _WIDE * error)
      text += f", 95 % {low:.3f} to {high:.3f}"
    text += (
      f", on {found.held_out:,} held-out masks"
      if found.held_out
      else ": every mask was asked"
    )
    if len(each) > 1:
      text = f"mean {each.mean():.3f} of {len(each)} targets, the worst {text}"
    lines.append(("R²", text, value < TRUSTED))
  if found.gaps is not None:
    for name, gap, end in zip(("none", "all"), found.gaps, found.ends):
      off = np.atleast_1d(gap)
      off = float(off[np.abs(off).argmax()])
      value = float(np.atleast_1d(end)[0])
      text = (
        f"{value:+.4g}{units} was measured" if np.size(end) == 1 else "measured"
      )
      lines.append((f"f({name})", f"{text}; the expansion is off by {off:+.2g}",
                    False))  # fmt: skip
  if found.noise_floor is not None:
    floor = float(np.max(found.noise_floor))
    lines.append(("noise", f"{floor:.3g}{units} between repeats", False))
  return lines


def table(
  columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str
) -> dict[str, Any]:
  """A table; the first 1,000 rows of more.

  Args:
    columns: their names.
    rows: texts, numbers and None; what is not finite is text.
    title: above, which says how many rows are left out.
  """
  if len(rows) > MOST:
    title = f"{title} (the first {MOST:,} of {len(rows):,} rows)"
  return {
    "kind": "table", "title": title, "columns": [str(name) for name in columns],
    "rows": [[_cell(value) for value in row] for row in rows[:MOST]],
  }  # fmt: skip


def image(png: bytes, title: str) -> dict[str, Any]:
  """A picture within the page.

  Args:
    png: a PNG file.
    title: above, and what is read where it is not seen.
  """
  source = "data:image/png;base64," + base64.b64encode(png).decode()
  return {"kind": "image", "title": title, "source": source}


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
  """What a JSON object says in single values, as a table."""
  rows = [
    [name, f"{value:.6g}" if isinstance(value, float) else str(value)]
    for name, value in body.items()
    if name != "sha256" and isinstance(value, str | int | float)
  ]
  return table(["what", "value"], rows, title)


def raw(found: Any, index: str = "FBII") -> list[tuple[str, str]]:
  """Names and texts of files: an explanation, and for shapiq, of one target.

  Args:
    found: an `Explanation`.
    index: of shapiq's values.
  """
  files = [("explanation.json", base.to_json(found.body()).decode())]
  if found.fourier.num_targets is None:
    text = shapiq(found.interactions(index))
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
