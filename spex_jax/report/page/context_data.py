"""What a page shows of an answer and its context: JSON for its script.

Both views come from what `spex context` and `spex context cite` write.

Shapes: R tokens of the answer, C of the context, n sources.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spex_jax import base
from spex_jax.report.page import views

_MOST_CUES = 200  # Context tokens of a cue that are kept, the strongest.
_MOST_TERMS = 8_192  # Of an expansion that answers clicks.
_MOST_VALUES = 50_000  # Of sources, for all tokens together.
_FEW = 20  # Where a page would be too large.
_STRONGEST = 5  # Tokens of a step that a table names.
_OFF = 1e-3  # Nats, or of the total: a sum that is off by more is wrong.
_Lines = list[tuple[str, str, bool]]


def context(body: Mapping[str, Any]) -> tuple[_Lines, list[dict[str, Any]]]:
  """Sensitive tokens and their cues: what they are worth, and the views.

  Args:
    body: the JSON object that `spex context` writes.

  Raises:
    LookupError, TypeError, ValueError: a field missing, or of another form.
  """
  answer, own = _pieces(body, "response"), _pieces(body, "context")
  outer, scores = _pieces(body, "output_context"), body["sensitivity"]
  if len(scores) != len(answer):
    raise ValueError(f"{len(scores)} scores for {len(answer)} tokens")
  cues: list[dict[str, Any]] = []
  for cue in body["cues"]:
    values = [*cue["scores"], *(cue["output_scores"] or ())]
    order = sorted(range(len(values)), key=lambda i: -abs(values[i]))
    cues.append(
      {
        "index": cue["index"],
        "score": _short(cue["score"]),
        "shift": _short(cue["shift"]),
        "else": base.printable(cue["contrast_text"]).strip(),
        "scores": [[i, _short(values[i])] for i in order[:_MOST_CUES]],
        "chosen": list(cue["chosen"]),
      }
    )
  chosen = body["selected"]
  told = f"{len(chosen)} of {len(answer)} tokens by {body['metric']}"
  trust = [
    ("sensitive", told if chosen else "no token passes the selector", False),
    ("cues", f"{body['method']} of {body['target']}: they rank the context's "
     "tokens; no run of the model has tested them", False),
  ]  # fmt: skip
  shown: dict[str, Any] = {
    "kind": "context", "title": "Which tokens used the context",
    "metric": base.printable(body["metric"]),
    "response": answer, "context": own, "output_context": outer,
    "sensitivity": [_short(score) for score in scores],
    "selected": list(chosen), "cues": cues,
  }  # fmt: skip
  rows = [
    [
      answer[cue["index"]].strip(), cue["score"], cue["else"], cue["shift"],
      ", ".join((own + outer)[i].strip() for i in cue["chosen"]),
    ]
    for cue in cues
  ]  # fmt: skip
  columns = ["token", shown["metric"], "without context", "P-CXMI (nats)",
             "cues"]  # fmt: skip
  signed = ["P-CXMI (nats)"]
  listed = [views.table(columns, rows, "Sensitive tokens", signed)]
  listed = listed if rows else []
  return trust, [shown, *listed]


def steps(body: Mapping[str, Any]) -> tuple[_Lines, list[dict[str, Any]]]:
  """Steps of an answer by tokens before them: what they are worth, and views.

  Args:
    body: the JSON object of `context.token_scores.Attribution.to_dict`.

  Raises:
    LookupError, TypeError, ValueError: a field missing, or of another form.
  """
  answer = [_visible(piece) for piece in body["response"]]
  source = [_visible(piece) for piece in body["source"]]
  prefix = body["prefix_scores"]
  behind = [] if prefix is None else [_visible(x) for x in body["behind"]]
  told, cues, rows = dict(body["step_scores"]), [], []
  for row, step in enumerate(body["steps"]):
    scores = [*body["scores"][row], *(() if prefix is None else prefix[row])]
    order = sorted(range(len(scores)), key=lambda i: -abs(scores[i]))
    order = [i for i in order[:_MOST_CUES] if scores[i]]
    beside = [_short(values[row]) for values in told.values()]
    strongest = ", ".join(
      f"{(source + behind)[i].strip()} ({_short(scores[i]):+g})"
      for i in order[:_STRONGEST]
    )
    rows.append([answer[step].strip(), *beside, strongest])
    cues.append(
      {
        "index": step, "chosen": [], "said": strongest or "no token counts",
        "scores": [[i, _short(scores[i])] for i in order],
      }
    )  # fmt: skip
  name = base.printable(f"{body['method']} of {body['target']}")
  trust = [
    ("scores", f"{name}: they rank tokens; no run of the model has tested them",
     False),
  ]  # fmt: skip
  shown: dict[str, Any] = {
    "kind": "context", "title": "What each token of the answer owes to others",
    "metric": name, "response": answer, "context": source,
    "output_context": behind, "sensitivity": [0.0] * len(answer),
    "selected": [], "cues": cues,
    "note": "A click (or Enter) on a token of the answer shows the scores of "
    "those before it.",
  }  # fmt: skip
  columns = ["token", *map(base.printable, told), "strongest tokens"]
  return trust, [shown, views.table(columns, rows, "Steps and tokens")]


def citations(body: Mapping[str, Any]) -> tuple[_Lines, list[dict[str, Any]]]:
  """What an answer stands on: what it is worth, and the views.

  Args:
    body: the JSON object that `spex context cite` writes.

  Raises:
    LookupError, TypeError, ValueError: a field missing, or of another form.
  """
  sources = [_visible(text) for text in body["sources"]]
  answer = [_visible(piece) for piece in body["tokens"]]
  parts = [_part("the whole answer", body)]
  if len(body["spans"]) > 1:
    parts += [
      _part(f"sentence {number}", span)
      for number, span in enumerate(body["spans"], 1)
    ]
  first = len(parts)
  totals = body["totals"] or ()
  if len(totals) * len(sources) > _MOST_VALUES:
    totals = ()
  for total in totals:
    parts.append(
      {
        "name": answer[total["token"]].strip(), "value": "log_probability",
        "span": [total["token"], total["token"] + 1],
        "values": [_short(value) for value in total["values"]],
        "strengths": [_short(value) for value in total["values"]],
        "needed": [],
        "none": _short(total["none"]), "total": _short(total["pcxmi"]),
        "sets": [], "terms": None, "additive": True,
        "sum": _short(math.fsum(total["values"])),
      }
    )  # fmt: skip
  if any(len(part["values"]) != len(sources) for part in parts):
    raise ValueError(f"values of another number than {len(sources)} sources")
  shown: dict[str, Any] = {
    "kind": "citations", "title": "What the answer stands on",
    "sources": sources, "response": answer, "parts": parts, "tokens": first,
  }  # fmt: skip
  rows = [
    [
      "".join(answer[slice(*span["span"])]).strip(),
      ", ".join(f"[{i}]" for i in span["cited"]) or "none",
      *(() if span["r2"] is None else (f"{span['r2']:.3f}",)),
    ]
    for span in body["spans"]
  ]
  columns = ["sentence", "cited"]
  if rows and len(rows[0]) == 3:
    columns.append("R²")
  listed = views.table(columns, rows, "Citations by sentence")
  return _trusted(body), [shown, listed]


def _trusted(body: Mapping[str, Any]) -> _Lines:
  """What speaks for values of sources, and what against.

  Against them speak an R^2 below 0.5 or an interval of it that reaches below 0:
  then the mean of the masks that test it may be as good.
  """
  r2, who = body["r2"], f"{body['decoder']}, {body['forwards']:,} forwards"
  if body["terms"] is None and r2 is None:
    lines = [("fit", f"{who}: each value is measured; sums of them are not",
              False)]  # fmt: skip
  elif r2 is None:
    lines = [("R²", f"{who}: not tested", False)]
  else:
    told, bad = f"{r2:.3f}", r2 < views.TRUSTED
    interval = body.get("r2_interval")  # Not of files of earlier versions.
    if interval is not None:
      low, high = interval
      told += f" (95%: {low:.3f}..{high:.3f}, {body['r2_by']})"
      if low < 0:
        told, bad = f"{told}, perhaps no better than their mean", True
    lines = [("R²", f"{told} by {who}", bad)]
  if body["terms"] is not None:
    total, found = body["total"], math.fsum(body["values"])
    off = abs(found - total) > _OFF * max(1.0, abs(total))
    lines.append(
      ("total", f"the sources sum to {found:+.4g}, v(all) - v(none) is "
       f"{total:+.4g} ({body['value']})", off)
    )  # fmt: skip
  if body["totals"]:
    holds = sum(total["holds"] for total in body["totals"])
    how = "as all subsets show"
    if not all(total["known"] for total in body["totals"]):
      how = "by construction: they are fitted to"
    lines.append(
      ("tokens", f"of {holds} of {len(body['totals'])} the sets sum to P-CXMI, "
       f"{how}", holds < len(body["totals"]))
    )  # fmt: skip
  if body["criterion"]:
    lines.append(
      ("sets", f"{len(body['sets']) or 'none'}, by removals that the model was "
       f"asked for ({body['criterion']})", False)
    )  # fmt: skip
  return lines


def _part(name: str, body: Mapping[str, Any]) -> dict[str, Any]:
  """A span of the answer, and its sources."""
  terms = body["terms"]
  if terms is not None and len(terms) > _MOST_TERMS:
    terms = None
  return {
    "name": name, "value": base.printable(body["value"]),
    "span": list(body["span"]),
    "values": [_short(value) for value in body["values"]],
    # What sources are cited by; files of before have values alone.
    "strengths": [
      _short(value) for value in body.get("strengths", body["values"])
    ],
    "needed": list(body.get("needed", ())),
    "none": None if body["none"] is None else _short(body["none"]),
    "total": None if body["total"] is None else _short(body["total"]),
    "additive": body["terms"] is not None,
    "sum": _short(math.fsum(body["values"])),
    "sets": [
      {
        "sources": each["sources"], "kind": each["kind"],
        "value": _short(each["value"]),
        "interval": (
          None if each["interval"] is None
          else [_short(end) for end in each["interval"]]
        ),
      }
      for each in body["sets"]
    ],
    "terms": (
      None if terms is None
      else [[sources, float(f"{value:.9g}")] for sources, value in terms]
    ),
  }  # fmt: skip


def _pieces(body: Mapping[str, Any], name: str) -> list[str]:
  found: Sequence[str] = body[f"{name}_tokens"]
  return [_visible(piece) for piece in found]


def _visible(piece: str) -> str:
  """A token's text; line breaks stay, what would turn text around does not."""
  return "\n".join(base.printable(line) for line in piece.split("\n"))


def _short(value: float) -> float:
  return float(f"{value:.4g}")


def smaller(view: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
  """A view of ours for a page that would be too large, and what it lacks.

  Args:
    view: of kind "context" or "citations".
  """
  made = dict(view)
  if view["kind"] == "context":
    made["cues"] = [
      cue | {"scores": cue["scores"][:_FEW]} for cue in view["cues"]
    ]
    return made, f"scores of a token but the {_FEW} largest"
  made["parts"] = [
    part | {"terms": None} for part in view["parts"][: view["tokens"]]
  ]
  return made, "single tokens, and what a click would remove"


VIEWS = {"context": context, "citations": citations}  # Of a body, by kind.
