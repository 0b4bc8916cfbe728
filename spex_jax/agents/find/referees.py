"""Referees: what an answer is worth, by the paper's rule and by ours.

  paper   numbers: sum (f - g)^2 / sum f^2 < .1 at the 256 half numbers within
          ±128, against what is served, noise included; texts: all of ten held
          out are exact; entities: the share of ten triples whose brightest word
          is found; relations: the share of ten words that are exact; sets:
          that error < .1 on 256 fresh rows.
  ours    numbers: error < .01 against the noiseless truth outside the odd
          interval, the right family, parameters within 5 % where it has names
          for them, the odd interval found with an overlap of .8 (networks have
          no family, and are left out); texts: 40 more are exact, too, by a
          program at most three times as long as the truth; entities and
          relations: all words of the tables are exact; sets: the planted sets,
          and no other. Units: error < .1 by a program that is at most a
          quarter of the table's.
  language  texts and words: the share of ten tests of three that a model picks
          right by the description alone (`judging`), where one is asked.

Interpolation passes most of the paper's numbers, so that both stand in every
table; the truth's own code is the ceiling, and below 1 where there is noise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax.agents import sandbox
from spex_jax.agents.find import (
  functions,
  interpretations,
  knowledge,
  naming,
  numeric,
  strings,
)

MODES = ("paper", "ours", "language")
_PASS = 0.1
_CLOSE = 0.01
_OVERLAP = 0.8
_MORE = 40
_NOTHING = 1e-9  # What is smaller is rounding: a sine of period .2 on the grid.


def truth(function: functions.Function) -> interpretations.Answer:
  """The answer that knows everything but the noise."""
  own = function.truth
  name, parameters = "", None
  if function.category == "numeric" and own["variant"] != "official":
    name, parameters = _named(own)
  sets = tuple(map(tuple, own["sets"])) if "sets" in own else None
  description = own.get("said") or " or ".join(own.get("concepts", ()))
  return interpretations.Answer(
    description or "the truth", own["code"], own.get("corruption"), name,
    parameters, sets,
  )  # fmt: skip


def _named(own: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None]:
  mean = functions.MEANS.get(own.get("noise", ""), 0.0)
  return naming.canonical(own, mean)


def judge(
  function: functions.Function,
  answer: interpretations.Answer,
  box: sandbox.Sandbox,
) -> dict[str, Any]:
  """Scores of an answer, from 0 to 1.

  Args:
    function: the function that was asked about, with its truth.
    answer: whose code is run in the sandbox.
    box: the sandbox that the code is run in.

  Returns:
    `paper`, `ours` (None where it has none), `length` (letters of the code),
    `error` (what went wrong with the code), and what else a category has.
  """
  inputs = _inputs(function)
  outcome = box.run(answer.code, inputs)
  found: dict[str, Any] = {"paper": 0.0, "ours": 0.0}
  status = outcome.status.removeprefix("ok")
  if not status:
    found |= _JUDGES[function.category](
      function, answer, list(outcome.outputs), inputs
    )
  if function.truth.get("variant") in ("network", "official"):
    found["ours"] = None
  error = ": ".join(dict.fromkeys(filter(None, (status, outcome.error))))
  return found | {"length": len(answer.code), "error": error[:300]}


def _inputs(function: functions.Function) -> list[Any]:
  if function.category == "numeric":
    return numeric.GRID.tolist()
  if function.truth.get("variant") == "official":
    return [*dict.fromkeys(np.ravel(function.tests).tolist())]
  if function.category == "strings":
    draw = functions.rng(0, function.name, "more")
    return [*function.tests, *strings.texts(draw, _MORE)]
  if function.category in ("entities", "relations"):
    return list(knowledge.words())
  return list(function.tests)


def error_of(outputs: Sequence[Any], values: np.ndarray) -> float:
  """`sum (f - g)^2 / sum f^2` where f is finite; a g that is none counts as 0.

  1 where f is finite nowhere; what is below 1e-9 counts as 0.

  Args:
    outputs: `[B]`, what the answer gives to each input, g; numbers or not.
    values: float `[B]`, what the function gives, f.
  """
  guess = np.array([_number(output) for output in outputs])
  keep = np.isfinite(values)
  if not keep.any():
    return 1.0  # Nothing can be right where there is no value.
  guess = np.where(np.isfinite(guess), guess, 0.0)[keep]
  values = values[keep]
  guess, values = (
    np.where(np.abs(v) < _NOTHING, 0, v) for v in (guess, values)
  )
  with np.errstate(over="ignore"):
    scale = float(np.abs(values).max()) or 1.0
    size = float(((values / scale) ** 2).sum())
    gap = float((((values - guess) / scale) ** 2).sum())
  return gap / size if size else float(gap > 0)


def _number(value: Any) -> float:
  if isinstance(value, bool | int | float):
    try:
      return float(value)
    except OverflowError:
      return float("nan")
  return float("nan")


def _error(function, outputs, inputs) -> dict[str, float]:
  error = error_of(outputs, np.asarray(function.values(inputs)))
  return {"paper": float(error < _PASS), "nmse": error}


def _numeric(function, answer, outputs, inputs) -> dict[str, Any]:
  at, own = np.asarray(inputs), function.truth
  found = _error(function, outputs, at) | {"variant": own["variant"]}
  if own["variant"] in ("network", "official"):
    return found  # They have no family.
  name, parameters = _named(own)
  odd = own.get("corruption")
  clean = np.asarray(function.clean(at), float)
  if odd:
    clean[(odd["low"] < at) & (at < odd["high"])] = np.nan
  close = error_of(outputs, clean)
  overlap = naming.overlap(odd, answer.domain)
  family = answer.family == name
  right = family and (
    parameters is None or naming.agree(parameters, answer.parameters)
  )
  return found | {
    "ours": float(right and overlap >= _OVERLAP and close < _CLOSE),
    "clean_nmse": close, "family": float(family), "overlap": overlap,
    "parameters": float(right) if parameters else None,
  }  # fmt: skip


def _values(function: functions.Function, inputs: Sequence[Any]) -> Any:
  """What is right; of the paper's own files what they say."""
  pairs = function.truth.get("pairs")
  return function.values(inputs) if pairs is None else [*pairs.values()]


def _strings(function, answer, outputs, inputs) -> dict[str, Any]:
  hits = [o == v for o, v in zip(outputs, _values(function, inputs))]
  count = len(function.tests)
  own = function.truth
  short = len(answer.code) <= 3 * len(own["code"]) + 200
  return {
    "paper": float(all(hits[:count])),
    "ours": float(all(hits) and short),
    "depth": own.get("depth"),
  }


def _entities(function, answer, outputs, inputs) -> dict[str, Any]:
  del answer
  levels = {w: _number(output) for w, output in zip(inputs, outputs)}
  levels = {w: v if np.isfinite(v) else -np.inf for w, v in levels.items()}
  hits = []
  for triple, right in zip(function.tests, function.truth["correct"]):
    best = max(levels[word] for word in triple)
    picked = [word for word in triple if levels[word] == best]
    # One of several that tie is taken by chance.
    hits.append((triple[right] in picked) / len(picked))
  found = {"paper": float(np.mean(hits))}
  if function.truth.get("variant") != "official":  # Those ask a model.
    values = function.values(inputs)
    close = [abs(levels[w] - v) < 0.05 for w, v in zip(inputs, values)]
    found["ours"] = float(all(close))
  return found


def _relations(function, answer, outputs, inputs) -> dict[str, Any]:
  del answer
  values = _values(function, inputs)
  hits = {x: o == v for x, o, v in zip(inputs, outputs, values)}
  return {
    "paper": float(np.mean([hits[word] for word in function.tests])),
    "ours": float(all(hits.values())),
  }


def _sets(function, answer, outputs, inputs) -> dict[str, Any]:
  planted = set(map(tuple, function.truth["sets"]))
  found = set(answer.sets or ())
  return _error(function, outputs, inputs) | {
    "ours": float(planted == found),
    "recall": len(planted & found) / len(planted),
    "kind": function.truth["kind"],
  }


def _units(function, answer, outputs, inputs) -> dict[str, Any]:
  found, own = _error(function, outputs, inputs), function.truth["code"]
  good = len(answer.code) <= len(own) / 4 or answer.code == own
  return found | {"ours": found["paper"] * good}


_JUDGES = {
  "numeric": _numeric, "strings": _strings, "entities": _entities,
  "relations": _relations, "setfn": _sets, "unit": _units,
}  # fmt: skip


def wilson(score: float, count: int) -> tuple[float, float]:
  """A 95 % interval of a share (Wilson, 1927)."""
  if not count:
    return 0.0, 1.0
  z = 1.959964**2 / count
  middle = (score + z / 2) / (1 + z)
  reach = np.sqrt(z * score * (1 - score) + z * z / 4) / (1 + z)
  # Rounding must not leave the score outside.
  low, high = max(middle - reach, 0.0), min(middle + reach, 1.0)
  return float(min(low, score)), float(max(high, score))


def _details(verdicts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Means of what some categories have besides."""
  found = {}
  for name in ("family", "parameters", "overlap", "recall"):
    given = [v[name] for v in verdicts if v.get(name) is not None]
    if given:
      found[name] = float(np.mean(given))
  return found


def table(verdicts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Rows of a leaderboard, the best of a category and mode first.

  Where functions of a category are of several kinds (variants of numbers,
  depths of texts), `by` has the means of each.

  Args:
    verdicts: of `judge`, with `interpreter`, `category`, `queries`, `seconds`
      `tokens` and `money`.
  """
  groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
  for verdict in verdicts:
    for mode in MODES:
      if verdict.get(mode) is not None:
        key = (verdict["category"], mode, verdict["interpreter"])
        groups.setdefault(key, []).append(verdict)
  rows: list[dict[str, Any]] = []
  for (category, mode, interpreter), own in groups.items():
    names = ("queries", "length", "seconds", "tokens", "money")
    means = {name: float(np.mean([v[name] for v in own])) for name in names}
    score = float(np.mean([v[mode] for v in own]))
    low, high = wilson(score, len(own))
    row: dict[str, Any] = means | {
      "interpreter": interpreter, "category": category, "score": score,
      "mode": mode, "functions": len(own), "low": low, "high": high,
      "failed": sum(bool(v["error"]) for v in own),
    }  # fmt: skip
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for verdict in own:
      part = verdict.get("variant", verdict.get("depth", verdict.get("kind")))
      parts.setdefault(str(part), []).append(verdict)
    row["by"] = {
      part: {
        "functions": len(some), "score": float(np.mean([v[mode] for v in some]))
      } | _details(some)
      for part, some in sorted(parts.items())
    }  # fmt: skip
    rows.append(row | _details(own))
  rows.sort(
    key=lambda row: (
      row["category"], MODES.index(row["mode"]), -row["score"],
      row["interpreter"],
    )
  )  # fmt: skip
  return rows
