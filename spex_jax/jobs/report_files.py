"""What a page shows of each file that a command wrote: trust, views, raw data.

A file is known by its name (`READERS`), or by what its JSON has; any other is
shown as it is: a table of a `.csv`, the single values of a `.json`.
"""

import contextlib
import csv
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spex_jax import base
from spex_jax.context import inseq, token_scores
from spex_jax.explanation import Explanation
from spex_jax.fourier import sparse
from spex_jax.indices import attribution
from spex_jax.jobs import explain
from spex_jax.report import page

SETS = "explanation.json"
_WRONG = 1e-3  # Error of an identity that must not be believed.
_WIDE = 1.96  # Standard errors, of 95 %.
_ENDS = ("accuracy", "clean", "corrupted")  # Of a model on pairs.
_STEPS = {"source", "steps", "scores", "step_scores"}  # Of tokens.
_PLACES = ("pieces", "image", "size", "shapes")  # Of a scene.


class Part(NamedTuple):
  """What a file adds to a page.

  Attributes:
    trust: what the answer is worth, as of `page.Run`.
    views: what is shown, as `page.Run` takes it.
    files: names and contents of further files that are offered.
  """

  trust: Sequence[tuple[str, str, bool]] = ()
  views: Sequence[Mapping[str, Any]] = ()
  files: Sequence[tuple[str, str]] = ()


def explanation(
  path: pathlib.Path, index: str | None = None, order: int | None = None
) -> Part:
  """An `explanation.json`, by an index and sets of at most an order."""
  found = Explanation.load(path)
  raw = [p for p in page.raw(found, index, order or 2) if p[0] != path.name]
  scene = _scene(path.with_name(explain.SCENE), found.fourier.n)
  targets = _targets(path.with_name("attribution.json"), found.fourier)
  view = page.explanation(found, index, order, scene, targets)
  return Part(page.trust(found), [view], raw)


def _targets(
  path: pathlib.Path, fourier: sparse.SparseFourier
) -> list[str] | None:
  """What `spex attribute data` calls the points that it explains, if it did."""
  points = base.read_json(path).get("points", []) if path.is_file() else []
  names = [point.get("title") for point in points]
  if len(names) != fourier.num_targets or not all(names):
    return None
  return [str(name) for name in names]


def _scene(path: pathlib.Path, n: int) -> dict[str, Any] | None:
  """Where players stand, if the file is of as many."""
  if not path.is_file():
    return None
  body = base.read_json(path)
  try:
    pieces = [(str(text), int(i)) for text, i in body.get("pieces", [])]
    shapes = list(map(str, body.get("shapes", [])))
  except (TypeError, ValueError) as error:
    raise ValueError(f"{path} is no scene: {error}.") from error
  if not 0 < max([len(shapes), *(i + 1 for _, i in pieces)]) <= n:
    return None
  return {name: body[name] for name in _PLACES if name in body}


def _attribution(path: pathlib.Path) -> Part:
  """Of parts by COAR, of training examples, or of the tokens of an answer."""
  body = base.read_json(path)
  if not {"keep", "points"} & {*body}:
    return _json(path)
  try:
    return _coar(body) if "keep" in body else _data(body)
  except (LookupError, TypeError, ValueError):
    return _json(path)


def _coar(body: Mapping[str, Any]) -> Part:
  std = body["std"]
  effects = attribution.Attribution(
    scores=np.asarray([body["scores"]], np.float64),
    baseline=np.asarray([body["baseline"]], np.float64),
    method=body["method"],
    std=None if std is None else np.asarray([std], np.float64),
  )
  value = float(body["correlation"])
  told = f"{value:.3f} with measured values of fresh masks"
  trust = [("correlation", told, not value >= 0.5)]
  view = page.attribution(effects, body["names"], body["units"])
  return Part(trust, [view])


def _data(body: Mapping[str, Any]) -> Part:
  names, units = body["names"], body["units"]
  title = {p["point"]: p.get("title", p["point"]) for p in body["points"]}
  lds = float(body["lds"])
  trust = [
    ("LDS", f"{lds:.3f}{_within(body.get('lds_interval'))}, by "
     f"{body['method']}", not lds >= 0.5),
    ("R² of scores", f"mean {np.mean(body['r2']):.3f} over "
     f"{len(body['r2'])} targets, "
     f"least {np.min(body['r2']):.3f}", bool(np.mean(body["r2"]) < 0.5)),
  ]  # fmt: skip
  if body["ceiling"] is not None:
    within = _within(body.get("ceiling_interval"))
    trust.append(
      ("ceiling", f"{body['ceiling']:.3f}{within}: retrained again", False)
    )  # fmt: skip
  # Who helps and who harms, a table row for each set of a point.
  rows = []
  for point in body["points"]:
    for kind in ("helpful", "harmful", "synergy", "redundancy"):
      for item in point[kind]:
        std = item["std"]
        rows.append(
          [
            title[point["point"]], kind, float(item["value"]),
            "" if std is None else f"± {_WIDE * std:.3g}",
            " & ".join(names[player] for player in item["players"]),
          ]
        )  # fmt: skip
  views = [
    page.table(
      ["test point", "kind", f"value ({units})", "95 %", "training examples"],
      rows,
      "Who helps and who harms",
      signed=[f"value ({units})"],
    )
  ]
  # Sets that were retrained, beside what they were estimated to be worth.
  if checks := body["checks"]:
    verdicts = [check["verdict"] for check in checks]
    told = ", ".join(
      f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts)
    )
    trust.append(("retrained sets", told, "contradicted" in verdicts))
    views.append(
      page.table(
        ["test point", "set", "estimate", "measured", "95 %", "verdict"],
        [
          [
            title.get(check["target"], check["target"]),
            " & ".join(names[player] for player in check["players"]),
            check["estimate"],
            check["measured"],
            f"{check['low']:.3g} to {check['high']:.3g}",
            check["verdict"],
          ]
          for check in checks
        ],
        "Sets, retrained",
        signed=["estimate", "measured"],
      )
    )
  return Part(trust, views)


def _within(interval: Sequence[float] | None) -> str:
  if interval is None:
    return ""
  return f", 95 % {interval[0]:.3f} to {interval[1]:.3f}"


def _curve(path: pathlib.Path) -> Part:
  """Circuits of several sizes, as `circuits_shown` wrote them."""
  body = base.read_json(path)
  try:
    low, high = body["interval"]
    wrong = max(abs(body["identities"][name]) for name in ("full", "empty"))
    trust = [
      ("faithfulness", f"{body['faithful']:.3f}, 95 % {low:.3f} to {high:.3f}, "
       f"of {body['edges_chosen']:,} edges on {body['num_pairs']:,} other "
       "pairs", body["faithful"] < 0.5),
      ("CMD", f"{body['cmd']:.3f} (0 is best); CPR {body['cpr']:.3f}", False),
      ("identities", f"all edges are the clean run, none the "
       f"{body['ablation']} one, to {wrong:.1e} {body['units']}",
       wrong > _WRONG),
    ]  # fmt: skip
    trust = [*able(body.get(x) for x in _ENDS), *trust]
    if body["random"]:
      at = body["start"]  # Of the sizes that were measured.
      best = float(np.max(np.asarray(body["random"])[:, at]))
      own = body["faithfulness"][at]
      trust.append(
        ("random circuits", f"of {body['sizes'][at]:,} edges keep {best:.3f} "
         f"at most, the best scored {own:.3f}", best >= own)
      )  # fmt: skip
    shown = {
      name: body[name]
      for name in (
        "sizes", "faithfulness", "connected", "random", "edges", "circuits",
        "start", "edges_chosen",
      )
    }  # fmt: skip
  except (LookupError, TypeError, ValueError) as error:
    raise ValueError(f"{path} holds no curve: {error!r}.") from error
  view = {"kind": "curve", "title": "Circuits by size"}
  return Part(trust, [view | shown])


def able(ends: Iterable[float | None]) -> list[tuple[str, str, bool]]:
  """Whether a model does at all what a circuit of it is asked for."""
  accuracy, clean, corrupted = ends
  if accuracy is None or clean is None or corrupted is None:
    return []
  return [
    ("accuracy", f"{accuracy:.1%} of the pairs by the whole model",
     not accuracy >= 0.5),
    ("effect", f"clean {clean:+.4g}, corrupted {corrupted:+.4g}",
     not clean > corrupted),
  ]  # fmt: skip


def kept(line: str) -> list[tuple[str, str, bool]]:
  """What circuits keep of a behaviour, of the fact that a command told."""
  each = [float(found) for found in re.findall(r" (-?[\d.]+) \(", line)]
  return [("faithfulness", line, bool(each) and min(each) < 0.5)]


def _circuit(path: pathlib.Path) -> Part:
  body = json.loads(utf8(path))
  trust, value = [], body.get("faithfulness") if isinstance(body, dict) else 0
  if isinstance(value, float) and not path.with_name("curve.json").is_file():
    trust = [("faithfulness", f"{value:.3f}", not value >= 0.5)]
  if not isinstance(body, dict) or not isinstance(body.get("edges"), list):
    return _json(path)._replace(trust=trust)
  scores = body.get("scores") or [None] * len(body["edges"])
  rows = [
    [score, " -> ".join(map(str, edge[:2])), *map(str, edge[2:3])]
    for edge, score in zip(body["edges"], scores)
  ]
  if body.get("scores"):
    rows.sort(key=lambda row: -abs(float(row[0])))
  table = page.table(["score", "edge", "row"], rows, "Edges of the circuit",
                     signed=["score"])  # fmt: skip
  facts = {name: body[name] for name in body if name not in ("edges", "scores")}
  return Part(trust, [table, page.fields(facts, f"About {path.name}")])


def _json(path: pathlib.Path) -> Part:
  """Any other JSON: an edit, a list of rows, or the single values of it."""
  try:
    body = json.loads(utf8(path))
  except json.JSONDecodeError as error:
    raise ValueError(f"{path} is no JSON: {error}.") from error
  title = base.printable(path.name)
  views = []
  if isinstance(body, dict):
    try:
      if part := _edit(body, title) or _of_context(body, path):
        return part
    except (LookupError, TypeError, ValueError, AttributeError):
      pass  # Of another program or version: its values are shown as they are.
    views = [page.fields(body, title)]
    lists = {name: rows for name, rows in body.items() if _is_rows(rows)}
  else:
    lists = {"": body} if _is_rows(body) else {}
  for name, rows in lists.items():
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[cell(row.get(key)) for key in columns] for row in rows]
    views.append(page.table(columns, cells, f"{title} {name}".strip()))
  return Part((), [view for view in views if view["rows"]])


def _edit(body: Mapping[str, Any], title: str) -> Part | None:
  if not isinstance(body.get("sites"), dict):
    return None
  rows = [
    [site, len(entry["units"]), int(np.prod(entry["shape"]))]
    for site, entry in body["sites"].items()
  ]
  table = page.table(["site", "units removed", "of"], rows, f"Edit {title}")
  return Part((), [table])


def _of_context(body: Mapping[str, Any], path: pathlib.Path) -> Part | None:
  """Of the words of `spex context`, whose files have any name."""
  trust, views, files = [], [], []
  if {*body} >= _STEPS or inseq.is_output(body):
    every = token_scores.load(path)
    for found in every:
      more = page.steps(found.to_dict())
      trust, views = [*trust, *more[0]], [*views, *more[1]]
    if not inseq.is_output(body):
      with contextlib.suppress(ValueError):  # Steps that it cannot hold.
        files = [("inseq.json", json.dumps(inseq.output(every)))]
    return Part(trust, views, files)
  cited = body.get("citations") if "sensitivity" in body else body
  if {"sensitivity", "cues"} <= {*body}:
    trust, views = page.context(body)
    if "vocabulary" in body:
      files = [("inseq.json", json.dumps(inseq.written(body)))]
  if isinstance(cited, dict) and {"sources", "spans"} <= {*cited}:
    more = page.citations(cited)
    trust, views = [*more[0], *trust], [*views, *more[1]]
  return Part(trust, views, files) if views else None


def _csv(path: pathlib.Path) -> Part:
  with path.open(encoding="utf-8", newline="") as file:
    columns, *rows = list(csv.reader(file)) or [[]]
  cells = [[_number(cell) for cell in row] for row in rows]
  return Part((), [page.table(columns, cells, base.printable(path.name))])


def utf8(path: pathlib.Path) -> str:
  """The text of a file.

  Raises:
    ValueError: it is none.
  """
  try:
    return path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is no text: {error}.") from error


def _is_rows(value: Any) -> bool:
  return (
    isinstance(value, list)
    and bool(value)
    and all(isinstance(row, dict) for row in value)
  )


def cell(value: Any) -> Any:
  """A value of JSON as a table has it."""
  if value is None or isinstance(value, str | int | float):
    return value
  return json.dumps(value, ensure_ascii=False)


def _number(text: str) -> int | float | str:
  for kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      continue
  return text


READERS: Mapping[str, Callable[[pathlib.Path], Part]] = {
  SETS: explanation,
  "attribution.json": _attribution,
  "curve.json": _curve,
  "circuit.json": _circuit,
  # The expansion is in the explanation; the bank and a peer's graph are raw.
  "fourier.json": lambda path: Part(),
  explain.SCENE: lambda path: Part(),
  "eap_ig.json": lambda path: Part(),
  "circuit_tracer.json": lambda path: Part(),
}
BY_KIND: Mapping[str, Callable[[pathlib.Path], Part]] = {
  ".json": _json,
  ".csv": _csv,
}
