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
  answers,
  functions,
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


def truth(function: functions.Function) -> answers.Answer:
  """The answer that knows everything but the noise."""
  own = function.truth
  name, parameters = "", None
  if function.category == "numeric" and own["variant"] != "official":
    mean = functions.MEANS.get(own.get("noise", ""), 0.0)
    name, parameters = naming.canonical(own, mean)
  sets = tuple(map(tuple, own["sets"])) if "sets" in own else None
  description = own.get("said") or " or ".join(own.get("concepts", ()))
  return answers.Answer(
    description or "the truth", own["code"], own.get("corruption"), name,
    parameters, sets,
  )  # fmt: skip


def judge(
  function: functions.Function, answer: answers.Answer, box: sandbox.Sandbox
) -> dict[str, Any]:
  """Scores of an answer, from 0 to 1.

  Args:
    function: with its truth.
    answer: whose code is run in the sandbox.
    box: it.

  Returns:
    `paper`, `ours` (None where it has none), `length` (letters of the code),
    `error` (what went wrong with the code), and what else a category has.
  """
  inputs = _inputs(function)
  outcome = box.run(answer.code, inputs)
  found: dict[str, Any] = {"paper": 0.0, "ours": 0.0}
  if function.truth.get("variant") in ("network", "official"):
    found["ours"] = None
  if outcome.status == "ok":
    found |= _JUDGES[function.category](
      function, answer, list(outcome.outputs), inputs
    )
  error = "" if outcome.status == "ok" else outcome.status
  if outcome.error and outcome.error != error:
    error = f"{error}: {outcome.error}" if error else outcome.error
  return found | {"length": len(answer.code), "error": error[:300]}


def _inputs(function: functions.Function) -> list[Any]:
  if function.category == "numeric":
    return numeric.GRID.tolist()
  if "pairs" in function.truth:
    return list(function.tests)
  if function.category == "strings":
    draw = functions.rng(0, function.name, "more")
    return [*function.tests, *strings.texts(draw, _MORE)]
  if function.category not in ("entities", "relations"):
    return list(function.tests)
  if function.truth.get("variant") != "official":
    return list(knowledge.words())
  return [*dict.fromkeys(np.ravel(function.tests).tolist())]


def error_of(outputs: Sequence[Any], values: np.ndarray) -> float:
  """`sum (f - g)^2 / sum f^2` where f is finite; a g that is none counts as 0.

  1 where f is finite nowhere.

  Args:
    outputs: of the answer, g.
    values: of the function, f.
  """
  guess = np.array([_number(output) for output in outputs])
  keep = np.isfinite(values)
  guess = np.where(np.isfinite(guess), guess, 0.0)[keep]
  values = values[keep]
  if not len(values):
    return 1.0  # Nothing can be right where there is no value.
  with np.errstate(over="ignore"):
    scale = float(np.abs(values).max(initial=0.0)) or 1.0
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


def _numeric(function, answer, outputs, inputs) -> dict[str, Any]:
  at, own = np.asarray(inputs), function.truth
  if own["variant"] == "official":
    error = error_of(outputs, np.asarray(function.values(at)))
    return {"paper": float(error < _PASS), "ours": None, "nmse": error}
  error = error_of(outputs, np.asarray(function.values(at)))
  mean = functions.MEANS.get(own.get("noise", ""), 0.0)
  name, parameters = naming.canonical(own, mean)
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
  found: dict[str, Any] = {
    "paper": float(error < _PASS), "nmse": error, "clean_nmse": close,
    "family": float(family), "overlap": overlap,
    "parameters": float(right) if parameters else None,
    "variant": own["variant"],
  }  # fmt: skip
  if own["variant"] == "network":
    return found | {"family": None, "parameters": None}
  ours = right and overlap >= _OVERLAP and close < _CLOSE
  return found | {"ours": float(ours)}


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
    "ours": float(all(hits) and short) if "depth" in own else None,
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
  found: dict[str, Any] = {"paper": float(np.mean(hits)), "ours": None}
  if function.truth.get("variant") != "official":
    values = dict(zip(inputs, function.values(inputs)))
    found["ours"] = float(
      all(abs(levels[w] - values[w]) < 0.05 for w in inputs)
    )
  return found


def _relations(function, answer, outputs, inputs) -> dict[str, Any]:
  del answer
  made = dict(zip(inputs, outputs))
  values = dict(zip(inputs, _values(function, inputs)))
  hits = [made[word] == values[word] for word in function.tests]
  ours = float(all(made[word] == values[word] for word in inputs))
  is_official = function.truth.get("variant") == "official"
  return {
    "paper": float(np.mean(hits)), "ours": None if is_official else ours
  }  # fmt: skip


def _sets(function, answer, outputs, inputs) -> dict[str, Any]:
  error = error_of(outputs, np.asarray(function.values(inputs)))
  planted = set(map(tuple, function.truth["sets"]))
  found = set(answer.sets or ())
  return {
    "paper": float(error < _PASS),
    "ours": float(planted == found),
    "nmse": error,
    "recall": len(planted & found) / len(planted),
    "kind": function.truth["kind"],
  }


def _units(function, answer, outputs, inputs) -> dict[str, Any]:
  error = error_of(outputs, np.asarray(function.values(inputs)))
  short = len(answer.code) <= len(function.truth["code"]) / 4
  known = answer.code == function.truth["code"]
  passed = error < _PASS
  return {
    "paper": float(passed), "ours": float(passed and (short or known)),
    "nmse": error,
  }  # fmt: skip


_JUDGES = {
  "numeric": _numeric,
  "strings": _strings,
  "entities": _entities,
  "relations": _relations,
  "setfn": _sets,
  "unit": _units,
}


def wilson(score: float, count: int) -> tuple[float, float]:
  """A 95 % interval of a share (Wilson, 1927)."""
  if not count:
    return 0.0, 1.0
  z = 1.959964
  middle = (score + z * z / (2 * count)) / (1 + z * z / count)
  reach = (
    z
    * np.sqrt(score * (1 - score) / count + (z / (2 * count)) ** 2)
    / (1 + z * z / count)
  )
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
    mean = lambda name, own=own: float(np.mean([v[name] for v in own]))
    score = mean(mode)
    low, high = wilson(score, len(own))
    row: dict[str, Any] = {
      "interpreter": interpreter, "category": category, "score": score,
      "mode": mode, "functions": len(own), "queries": mean("queries"),
      "low": low, "high": high, "length": mean("length"),
      "seconds": mean("seconds"), "tokens": mean("tokens"),
      "money": mean("money"),
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
  order = {mode: i for i, mode in enumerate(MODES)}
  rows.sort(
    key=lambda r: (
      r["category"],
      order[r["mode"]],
      -r["score"],
      r["interpreter"],
    )
  )
  return rows
