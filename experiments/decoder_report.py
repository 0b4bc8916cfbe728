"""What the rows of `bench_decoders` say: a table, and criteria.

A cell is a game at a budget. Its best peer is the best R^2 of ProxySPEX, its
trees, and the lasso of order 1 and 2, as far as they were run.
"""

import math
from collections.abc import Iterator, Sequence

from experiments import rows

MAIN = "auto"
PEERS = ("proxyspex", "trees", "lasso1", "lasso2")
NATURAL = (
  "heads40",
  "neurons860",
  "cancer30",
  "sentiment55",
  "pixels64",
  "retrain100",
)
_LEAST_RATIO = 0.1  # No game counts for more than a tenfold smaller error.

Cell = tuple[str, int]
Fits = dict[tuple[str, str], rows.Row]  # By side and method.


def family(game: str) -> str:
  """A game's name without the seed that drew it."""
  return game.split("-")[0]


def cells(measured: Sequence[rows.Row]) -> dict[Cell, Fits]:
  """The rows by cell, games by name, then budgets in order."""
  found: dict[Cell, Fits] = {}
  for row in sorted(measured, key=lambda row: (row["game"], row["budget"])):
    fits = found.setdefault((row["game"], row["budget"]), {})
    fits[row["side"], row["method"]] = row
  return found


def value(fits: Fits, side: str, method: str, name: str = "r2") -> float | None:
  """A figure of one fit; None if it failed or was not run."""
  return fits.get((side, method), {}).get(name)


def best_peer(fits: Fits) -> float | None:
  """The best peer's R², or None if none answered."""
  found = [value(fits, "peer", method) for method in PEERS]
  return max((r2 for r2 in found if r2 is not None), default=None)


def margins(found: dict[Cell, Fits]) -> dict[Cell, float]:
  """Ours less the best peer's R², in every cell that has both."""
  return {
    cell: mine - best
    for cell, fits in found.items()
    if (mine := value(fits, "ours", MAIN)) is not None
    and (best := best_peer(fits)) is not None
  }


def margins_at_30(found: dict[Cell, Fits]) -> dict[Cell, float]:
  """The same against ProxySPEX, both with their 30 largest terms."""
  return {
    cell: mine - best
    for cell, fits in found.items()
    if (mine := value(fits, "ours", MAIN, "r2@30")) is not None
    and (best := value(fits, "peer", "proxyspex", "r2@30")) is not None
  }


def error_ratio(found: dict[Cell, Fits], budget: int) -> float | None:
  """Geometric mean over natural games of (1 - ours) / (1 - best peer).

  Each ratio is at least 0.1. None without such cells.
  """
  logs = []
  for (game, size), fits in found.items():
    mine, best = value(fits, "ours", MAIN), best_peer(fits)
    if size != budget or family(game) not in NATURAL:
      continue
    if mine is not None and best is not None:
      ratio = (1 - mine) / max(1 - best, 1e-12)
      logs.append(math.log(max(ratio, _LEAST_RATIO)))
  return math.exp(sum(logs) / len(logs)) if logs else None


def table(measured: Sequence[rows.Row]) -> str:
  """A markdown table, a line for each cell."""
  header = ["game", "masks", f"{MAIN} (terms)", "@30", "decoder", "stated"]
  header += ["proxyspex (terms)", "@30", "trees", "lasso1", "lasso2"]
  header += ["margin", f"{MAIN} s, first / warm", "proxyspex s"]
  found = cells(measured)
  margin = margins(found)
  lines = []
  for (game, budget), fits in found.items():
    mine = fits.get(("ours", MAIN), {})
    lines.append(
      [
        game,
        str(budget),
        _with_terms(fits, "ours", MAIN),
        _number(value(fits, "ours", MAIN, "r2@30")),
        mine.get("spoke", "–"),
        _number(mine.get("stated")),
        _with_terms(fits, "peer", "proxyspex"),
        _number(value(fits, "peer", "proxyspex", "r2@30")),
        *(_of(fits, method) for method in ("trees", "lasso1", "lasso2")),
        _number(margin.get((game, budget)), "+.3f"),
        f"{_number(mine.get('first_s'), '.1f')} / "
        f"{_number(mine.get('best_s'), '.1f')}",
        _number(value(fits, "peer", "proxyspex", "best_s"), ".1f"),
      ]
    )
  parts = [rows.table(header, lines)]
  errors = [row["r2_std"] for row in measured if "r2_std" in row]
  if errors:
    parts.append(
      f"Standard errors of R² over test masks: {max(errors):.3f} at most."
    )
  if other := _others(found):
    parts.append(other)
  return "\n\n".join(parts)


def _others(found: dict[Cell, Fits]) -> str:
  """Our other methods, R² and warm seconds, if any were run."""
  methods = sorted(
    {
      method
      for fits in found.values()
      for side, method in fits
      if side == "ours"
    }
    - {MAIN}
  )
  if not methods:
    return ""
  lines = [
    [
      game,
      str(budget),
      *(
        f"{_with_terms(fits, 'ours', method)}, "
        f"{_number(value(fits, 'ours', method, 'best_s'), '.1f')} s"
        for method in methods
      ),
    ]
    for (game, budget), fits in found.items()
  ]
  return rows.table(["game", "masks", *methods], lines)


def verdicts(measured: Sequence[rows.Row]) -> str:
  """Each criterion with what was measured: met, missed or not measured."""
  lines = []
  for text, measure, least, most in _criteria(cells(measured)):
    if measure is None:
      lines.append(["–", text, "not measured"])
      continue
    low = -math.inf if least is None else least
    high = math.inf if most is None else most
    word = "met" if low <= measure <= high else "MISSED"
    told = least is None and most is None
    lines.append(["told" if told else word, text, f"{measure:.4g}"])
  failed = [row for row in measured if "error" in row]
  lines += [
    [
      "FAILED",
      f"{row['game']} {row['budget']} {row['method']}",
      _cell(row["error"]),
    ]
    for row in failed
    if row["side"] == "ours"
  ]
  lines += [
    ["crash", f"{row['game']} {row['budget']} {row['method']} (peer)", ""]
    for row in failed
    if row["side"] == "peer"
  ]
  return rows.table(["", "criterion", "measured"], lines)


Criterion = tuple[str, float | None, float | None, float | None]


def _criteria(found: dict[Cell, Fits]) -> Iterator[Criterion]:
  """Yields `(text, measured, at least, at most)`."""
  margin, at_30 = margins(found), margins_at_30(found)
  yield (
    f"R² less the best peer's, worst of {len(margin)} cells{_where(margin)}: "
    "at least -0.01",
    min(margin.values(), default=None),
    -0.01,
    None,
  )
  yield (
    f"R² with 30 terms less ProxySPEX's, worst of {len(at_30)} cells"
    f"{_where(at_30)}: at least -0.01",
    min(at_30.values(), default=None),
    -0.01,
    None,
  )
  for budget, most in ((512, None), (1024, 0.6), (4096, 0.5)):
    yield (
      f"error over the best peer's, natural games, {budget} masks, geometric "
      f"mean{f': at most {most}' if most else ''}",
      error_ratio(found, budget),
      None,
      most,
    )
  for name, budget, least in (
    ("hierarchy100", 1024, 0.999),
    ("neurons860", 512, 0.18),
    ("planted100", 512, 0.96),
    ("planted100", 1024, 0.975),
  ):
    yield (
      f"{name}, {budget} masks, R²: at least {least}",
      min(_figures(found, "r2", budget, name), default=None),
      least,
      None,
    )
  yield from _time_criteria(found)
  shares = _figures(found, "coverage")
  for text, pick in (("least", min), ("most", max)):
    yield (
      f"test values inside the 90 % interval, {text} of {len(shares)} cells: "
      "0.85 to 0.95",
      pick(shares, default=None),
      0.85,
      0.95,
    )


def _time_criteria(found: dict[Cell, Fits]) -> Iterator[Criterion]:
  warm = _figures(found, "best_s", 1024)
  yield (
    "warm seconds at 1024 masks, slowest game: at most 30",
    max(warm, default=None),
    None,
    30.0,
  )
  for budget in sorted({budget for _, budget in found}):
    pairs = [
      (mine, peer)
      for (_, size), fits in found.items()
      if size == budget
      and (mine := value(fits, "ours", MAIN, "best_s")) is not None
      and (peer := value(fits, "peer", "proxyspex", "best_s")) is not None
    ]
    total, peers = (sum(side) for side in zip(*pairs)) if pairs else (0.0, 0.0)
    yield (
      f"warm seconds over ProxySPEX's, {len(pairs)} games at {budget} masks "
      f"({total:.1f} s over {peers:.1f} s)"
      + (": at most 1" if budget == 1024 else ""),
      total / peers if peers else None,
      None,
      1.0 if budget == 1024 else None,
    )


def _figures(
  found: dict[Cell, Fits],
  name: str,
  budget: int | None = None,
  only: str | None = None,
) -> list[float]:
  """A figure of ours, in the cells of one budget and family, or in all."""
  mine = [
    value(fits, "ours", MAIN, name)
    for (game, size), fits in found.items()
    if budget in (None, size) and only in (None, family(game))
  ]
  return [number for number in mine if number is not None]


def _where(margin: dict[Cell, float]) -> str:
  if not margin:
    return ""
  game, budget = min(margin, key=lambda cell: margin[cell])
  return f" ({game} at {budget})"


def _cell(text: str) -> str:
  """Text on one line, without what would end a cell."""
  return " ".join(text.replace("|", "/").split())


def _number(number: float | None, form: str = ".3f") -> str:
  return "–" if number is None else format(number, form)


def _of(fits: Fits, method: str) -> str:
  if "error" in fits.get(("peer", method), {}):
    return "crash"
  return _number(value(fits, "peer", method))


def _with_terms(fits: Fits, side: str, method: str) -> str:
  row = fits.get((side, method), {})
  if "error" in row:
    return "crash"
  return f"{row['r2']:.3f} ({row['terms']})" if row else "–"
