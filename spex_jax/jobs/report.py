"""`spex report`: one page of what runs wrote, whatever the command.

Each run of a folder is read by itself, as `record` kept it; what its files show
is in `report_files`. So the page of a new command needs nothing, or a line.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from spex_jax import base
from spex_jax.jobs import circuits, explain, record
from spex_jax.jobs import report_files as files_of
from spex_jax.report import page, tables

_SHOWN = 64  # Files of a folder that are shown, at most.
_FACTS = ("model", "cost", "time", "warning", "note")  # Of what was asked.
_TEXTS = (".json", ".csv", ".jsonl", ".html", ".svg")
_BYTES = (".npz",)
_LOOSE = (*_TEXTS, *_BYTES, ".png")
_OF_SWEEPS = ("config.json", "items.json")  # Shown as settings.
# A folder without a record: the question; facts of the page, and others told;
# names of what was written, and whether all that is there belongs to it; index
# and order of sets.
_NOTHING: Mapping[str, Any] = {
  "question": "", "facts": {}, "told": [], "wrote": set(), "whole": True,
  "index": None, "order": None,
}  # fmt: skip


def run(folders: Sequence[str], output: str) -> None:
  """Writes the page of one run or more.

  Args:
    folders: the folders that commands wrote into, one or more.
    output: the path of the page, an HTML file.

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
    found[-1] = page.left_out(found[-1], [text])
  return found


def _run(
  folder: pathlib.Path, asked: Mapping[str, Any], inside: list[pathlib.Path]
) -> page.Run | None:
  """A run, of its files; None without any that is shown."""
  parts: list[files_of.Part] = []
  files: list[tuple[str, str | bytes]] = []
  lost: list[str] = []
  first = [*files_of.READERS]
  inside.sort(
    key=lambda path: first.index(path.name) if path.name in first else 99
  )
  readers = dict(files_of.READERS)
  if asked["whole"] and (folder / "shards").is_dir():
    parts.append(_sweep(folder))
    readers |= {name: lambda path: files_of.Part() for name in _OF_SWEEPS}
  for path in inside:
    reader = readers.get(path.name) or files_of.BY_KIND.get(path.suffix)
    size = path.stat().st_size
    if path.suffix not in _LOOSE:
      lost.append(f"{path.name} ({size / 1000:,.0f} kB)")
    elif reader is not None and len(parts) < _SHOWN:
      part = (
        files_of.explanation(path, asked["index"], asked["order"])
        if path.name == files_of.SETS
        else reader(path)
      )
      parts.append(part)
      files += part.files
    elif reader is not None:
      lost.append(f"{path.name}: {_SHOWN} others are shown")
    if size > page.MOST:
      lost.append(f"{path.name} ({size / 1000:,.0f} kB): too large for a page")
    elif path.suffix == ".png":
      view = page.image(path.read_bytes(), base.printable(path.name))
      parts.append(files_of.Part((), [view]))
    elif path.suffix in _BYTES:
      files.append((path.name, path.read_bytes()))
    elif path.suffix in _TEXTS and path.name != explain.SCENE:
      files.append((path.name, files_of.utf8(path)))
  if not parts:
    return None
  if asked["told"]:
    parts.append(files_of.Part((), [page.table(["what", "value"], asked["told"],
                                      "What the command said")]))  # fmt: skip
  name = base.printable(folder.resolve().name)
  trust = [line for part in parts for line in part.trust]
  ends = circuits.read_lines(dict(asked["told"]))
  if ends is not None and "accuracy" not in [line[0] for line in trust]:
    kept = dict(asked["told"]).get(circuits.KEPT)
    judged = [] if kept is None else files_of.kept(kept)
    trust = [*files_of.able(ends), *judged, *trust]
  run = page.Run(
    asked["question"] or f"What is in {name}?",
    trust,
    asked["facts"],
    [view for part in parts for view in part.views],
    files,
  )
  return page.left_out(run, lost) if lost else run


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
        before = facts.get(name, "")
        apart = " " if before.endswith(".") else "; "
        facts[name] = f"{before}{apart}{value}" if before else value
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
    "index": body.get("index"),
    "order": body.get("order"),
  }


def _sweep(folder: pathlib.Path) -> files_of.Part:
  from spex_jax.sweeps import run as runs  # Slow to import.
  from spex_jax.sweeps import state

  found, (_, sweep) = state.status(str(folder)), runs.opened(str(folder))
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
  changed = list(dict.fromkeys(name for item in sweep.items for name in item))
  items = [
    [files_of.cell(item.get(name)) for name in changed] for item in sweep.items
  ]
  views = [
    page.table(["what", "how many"], rows, "The sweep"),
    page.fields(sweep.config, "Settings of all items"),
    page.table(changed, items, "What items change"),
  ]
  return files_of.Part(trust, [view for view in views if view["rows"]])
