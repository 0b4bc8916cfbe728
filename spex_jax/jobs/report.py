"""`spex report`: one page of what runs wrote, whatever the command.

Each run of a folder is read by itself, as `record` kept it; what its files show
is in `report_files`. So the page of a new command needs nothing, or a line.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from spex_jax import base
from spex_jax.jobs import circuits, explain, record
from spex_jax.jobs import report_files as files_of
from spex_jax.report import page, tables

_PIXELS = 400_000  # Bytes of pictures in a page, at most.
_RAW = 300_000  # The same of raw data.
_SHOWN = 64  # Files of a kind in a folder, at most.
_FACTS = ("model", "cost", "time", "warning", "note")  # Of what was asked.
_TEXTS = (".json", ".csv", ".jsonl", ".html")
_LOOSE = (".json", ".csv", ".png")
# A folder without a record: the question; facts of the page, and others told;
# names of what was written, and whether all that is there belongs to it; index
# and order of sets.
_NOTHING: Mapping[str, Any] = {
  "question": "", "facts": {}, "told": [], "wrote": set(), "whole": True,
  "index": "FBII", "order": None,
}  # fmt: skip


def run(folders: Sequence[str], output: str) -> None:
  """Writes the page of one run or more.

  Args:
    folders: where commands wrote.
    output: the file.

  Raises:
    ValueError: no folder, one without anything to show, a damaged file.
  """
  if not folders:
    raise ValueError("Say whose report: spex report DIR [DIR ...].")
  text = page.html(
    [made for folder in folders for made in read(pathlib.Path(folder))]
  )
  path = pathlib.Path(output)
  base.check_replaceable(path)
  temporary = base.draft(path)
  temporary.write_text(text, encoding="utf-8")
  temporary.replace(path)
  tables.printer()(
    tables.fact("wrote", f"{output} ({len(text) / 1000:,.0f} kB)")
  )


def read(folder: pathlib.Path) -> list[page.Run]:
  """What a folder holds, as a page shows it: each run by itself.

  A run is what a record of it names, and beside `run.json` what other files a
  command writes by their own names. Without any record, all is one.

  Raises:
    ValueError: no folder, nothing to show, or a damaged file.
  """
  if not folder.is_dir():
    raise ValueError(f"There is no folder {folder}.")
  inside = sorted(
    path
    for path in folder.iterdir()
    if path.is_file() and path.name[0] != "." and not _is_record(path)
  )
  records = [_asked(path) for path in sorted(folder.glob(f"*{record.NAME}"))]
  loose = [p for p in inside if not any(p.name in r["wrote"] for r in records)]
  records = records or [dict(_NOTHING)]
  own = [[p for p in inside if p.name in r["wrote"]] for r in records]
  for asked, files in zip(records, own):
    if asked["whole"]:
      files += [
        p for p in loose if p.name in files_of.READERS or not asked["wrote"]
      ]
  left = [p.name for p in inside if not any(p in files for files in own)]
  runs = [_run(folder, asked, files) for asked, files in zip(records, own)]
  found = [made for made in runs if made is not None]
  if not found:
    raise ValueError(f"{folder} holds nothing that a command of spex wrote.")
  shown = [name for name in left if pathlib.Path(name).suffix in _LOOSE]
  if shown:
    text = f"{', '.join(shown[:_SHOWN])}: no record here names them"
    found[-1] = dataclasses.replace(
      found[-1], facts={**found[-1].facts, "not shown": base.printable(text)}
    )
  return found


def _run(
  folder: pathlib.Path, asked: Mapping[str, Any], inside: list[pathlib.Path]
) -> page.Run | None:
  """A run, of its files; None without any that is shown."""
  parts, files, room = [], [], _RAW
  first = [*files_of.READERS]
  inside.sort(
    key=lambda path: first.index(path.name) if path.name in first else 99
  )
  if asked["whole"] and (folder / "shards").is_dir():
    parts.append(_sweep(folder))
  for path in inside:
    reader = files_of.READERS.get(path.name) or files_of.BY_KIND.get(
      path.suffix
    )
    if reader is None or len(parts) >= _SHOWN:
      continue
    part = (
      files_of.explanation(path, asked["index"], asked["order"])
      if path.name == files_of.SETS
      else reader(path)
    )
    parts.append(part)
    raw = (
      [] if path.suffix not in _TEXTS else [(path.name, files_of.utf8(path))]
    )
    raw = [] if path.name == explain.SCENE else raw
    for name, text in (*raw, *part.files):
      if len(text) <= room:
        room -= len(text)
        files.append((name, text))
  parts += _pictures(inside)
  if not parts:
    return None
  if asked["told"]:
    parts.append(files_of.Part((), [page.table(["what", "value"], asked["told"],
                                      "What the command said")]))  # fmt: skip
  name = base.printable(folder.resolve().name)
  trust = [line for part in parts for line in part.trust]
  ends = circuits.read_lines(dict(asked["told"]))
  if ends is not None and "accuracy" not in [line[0] for line in trust]:
    trust = [*files_of.able(ends), *trust]
  return page.Run(
    asked["question"] or f"What is in {name}?",
    trust,
    asked["facts"],
    [view for part in parts for view in part.views],
    files,
  )


def _is_record(path: pathlib.Path) -> bool:
  return path.name == record.NAME or path.name.endswith(f".{record.NAME}")


def _asked(path: pathlib.Path) -> dict[str, Any]:
  """What `record` kept: `_NOTHING` says of what kind."""
  body = base.read_json(path)
  show = base.printable
  try:
    told = [
      (show(str(name)), show(str(value))) for name, value in body["facts"]
    ]
    facts = {"command": show(str(body["command"]))}
    for name, value in told:
      if name in _FACTS:
        facts[name] = f"{facts[name]}; {value}" if name in facts else value
    facts["version"] = show(f"spex_jax {body['version']}, {body['date']}")
    for name in ("seed", "fingerprint"):
      if body.get(name) is not None:
        facts[name] = show(str(body[name]))
  except (LookupError, TypeError, ValueError) as error:
    raise ValueError(f"{path} is no record of a run: {error}.") from error
  wrote = [value for name, value in told if name == "wrote"]
  rest = ("asked", "wrote", *_FACTS)
  return {
    "question": "; ".join(value for name, value in told if name == "asked"),
    "facts": facts,
    "told": [[name, value] for name, value in told if name not in rest],
    "wrote": {
      pathlib.Path(name).name for text in wrote for name in text.split(", ")
    },
    "whole": path.name == record.NAME,
    "index": body.get("index") or "FBII",
    "order": body.get("order"),
  }


<<<<<<< HEAD
def _explanation(path: pathlib.Path, asked: Mapping[str, Any]) -> Part:
  found = Explanation.load(path)
  index, order = asked["index"], asked["order"]
  raw = [p for p in page.raw(found, index, order or 2) if p[0] != path.name]
  scene = _scene(path.with_name(explain.SCENE), found.fourier.n)
  view = page.explanation(found, index, order, scene)
  return Part(page.trust(found), [view], raw)


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
  lds = float(body["lds"])
  trust = [
    ("LDS", f"{lds:.3f} by {body['method']}", not lds >= 0.5),
    ("R²", f"mean {np.mean(body['r2']):.3f} over {len(body['r2'])} targets, "
     f"least {np.min(body['r2']):.3f}", bool(np.mean(body["r2"]) < 0.5)),
  ]  # fmt: skip
  if body["ceiling"] is not None:
    trust.append(("ceiling", f"{body['ceiling']:.3f}: retrained again", False))
  rows = []
  for point in body["points"]:
    for kind in ("helpful", "harmful", "synergy", "redundancy"):
      for item in point[kind]:
        std = item["std"]
        rows.append(
          [
            point["point"], kind, float(item["value"]),
            "" if std is None else f"± {_WIDE * std:.3g}",
            " & ".join(names[player] for player in item["players"]),
          ]
        )  # fmt: skip
  views = [
    page.table(
      ["test point", "kind", f"value ({units})", "95 %", "training examples"],
      rows,
      "Who helps and who harms",
    )
  ]
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
            check["target"],
            " & ".join(names[player] for player in check["players"]),
            check["estimate"],
            check["measured"],
            f"{check['low']:.3g} to {check['high']:.3g}",
            check["verdict"],
          ]
          for check in checks
        ],
        "Sets, retrained",
      )
    )
  return Part(trust, views)


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
    trust = [*_able(body.get(x) for x in _ENDS), *trust]
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


def _able(ends: Iterable[float | None]) -> list[tuple[str, str, bool]]:
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


def _circuit(path: pathlib.Path) -> Part:
  body = json.loads(_utf8(path))
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
  table = page.table(["score", "edge", "row"], rows, "Edges of the circuit")
  facts = {name: body[name] for name in body if name not in ("edges", "scores")}
  return Part(trust, [table, page.fields(facts, f"About {path.name}")])


def _json(path: pathlib.Path) -> Part:
  """Any other JSON: an edit, a list of rows, or the single values of it."""
  try:
    body = json.loads(_utf8(path))
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
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
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
  trust, views = [], []
  if {*body} >= _STEPS or inseq.is_output(body):
    for found in scored.load(path):
      more = page.steps(found.to_dict())
      trust, views = [*trust, *more[0]], [*views, *more[1]]
    return Part(trust, views)
  cited = body.get("citations") if "sensitivity" in body else body
  if {"sensitivity", "cues"} <= {*body}:
    trust, views = page.context(body)
  if isinstance(cited, dict) and {"sources", "spans"} <= {*cited}:
    more = page.citations(cited)
    trust, views = [*more[0], *trust], [*views, *more[1]]
  return Part(trust, views) if views else None


def _csv(path: pathlib.Path) -> Part:
  with path.open(encoding="utf-8", newline="") as file:
    columns, *rows = list(csv.reader(file)) or [[]]
  cells = [[_number(cell) for cell in row] for row in rows]
  return Part((), [page.table(columns, cells, base.printable(path.name))])


def _sweep(folder: pathlib.Path) -> Part:
=======
def _sweep(folder: pathlib.Path) -> files_of.Part:
>>>>>>> z1
  from spex_jax.sweeps import state  # Slow to import.

  found = state.status(str(folder))
  told = f"{found.shards:,} of {found.num_shards:,} shards"
  bad = bool(found.given_up or found.quarantined or not found.complete)
  trust = [("done", told, bad)]
  rows = [
    ["rows", found.rows], ["rows in all", found.num_rows],
    ["rows without a value", found.marked],
    ["shards given up", len(found.given_up)],
    ["shards put aside as damaged", found.quarantined],
    ["shards made with other code or versions", found.accepted],
    ["seconds of evaluation", found.cost], ["processes", found.processes],
  ]  # fmt: skip
  rows += [[f"failed: {cause}", many] for cause, many in found.causes.items()]
  return files_of.Part(
    trust, [page.table(["what", "how many"], rows, "The sweep")]
  )


def _pictures(inside: Sequence[pathlib.Path]) -> list[files_of.Part]:
  parts, room = [], _PIXELS
  for path in inside:
    if path.suffix == ".png" and path.stat().st_size <= room:
      room -= path.stat().st_size
      view = page.image(path.read_bytes(), base.printable(path.name))
      parts.append(files_of.Part((), [view]))
  return parts
