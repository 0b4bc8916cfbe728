"""One page for what came out: a single HTML file that asks for nothing else.

No address is ever loaded and no name is ever markup: the policy of the page
allows its own style and script by their digests, and pictures within it.

  html = page.html([page.Run(question, ...)])
"""

import base64
import dataclasses
import hashlib
import html as escaping
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax import base
from spex_jax import shown as shown_lib
from spex_jax.indices import attribution as attribution_lib
from spex_jax.indices import interactions as interactions_lib
from spex_jax.report.page import context_data
from spex_jax.report.page import views as views_lib
from spex_jax.report.page.context_data import citations as citations
from spex_jax.report.page.context_data import context as context
from spex_jax.report.page.context_data import steps as steps
from spex_jax.report.page.views import attribution as attribution
from spex_jax.report.page.views import explanation as explanation
from spex_jax.report.page.views import fields as fields
from spex_jax.report.page.views import image as image
from spex_jax.report.page.views import picture as picture
from spex_jax.report.page.views import prose as prose
from spex_jax.report.page.views import raw as raw
from spex_jax.report.page.views import sets as sets
from spex_jax.report.page.views import table as table
from spex_jax.report.page.views import trust as trust

_FOLDER = pathlib.Path(__file__).parent
_SCRIPTS = ("page.js", "contexts.js")
_TALL = 640  # Pixels of the frame in a notebook.
_BUTTONS = 300  # Players of an attribution that are shown as such.
MOST = 1_000_000  # Bytes of a page.
_SAID = 150  # Bytes that tell what a page lacks, of each.
_ROWS = 100  # Of a table, in a page that would be larger.


@dataclasses.dataclass(frozen=True)
class Run:
  """What is told of one run.

  Attributes:
    question: what was asked, in words.
    trust: what its answer is worth: a name, what is told, and whether it
      speaks against believing it.
    facts: what else is told, by name: the model, the command, the cost.
    views: what is shown, as `views` makes it.
    files: names and contents of raw data, to download: text or bytes.
  """

  question: str
  trust: Sequence[tuple[str, str, bool]] = ()
  facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  views: Sequence[Mapping[str, Any]] = ()
  files: Sequence[tuple[str, str | bytes]] = ()


def run_of(found: shown_lib.Shown, question: str = "") -> Run:
  """What a result shows of itself.

  Args:
    found: a result of any room, which shows itself as a sheet.
    question: what was asked; the title of its sheet by default.
  """
  sheet = found.sheet()
  trust, views, files = list(sheet.trust), [], []
  for view in sheet.views:
    if "body" in view:
      more, drawn = context_data.VIEWS[view["kind"]](view["body"])
      trust, views = [*trust, *more], [*views, *drawn]
    else:
      views.append(view)
  if isinstance(found, interactions_lib.Interactions):
    views.append(sets(None, [found]))
    text = views_lib.shapiq(found)
    files = [] if text is None else [("shapiq.json", text)]
  elif isinstance(found, attribution_lib.Attribution) and found.n <= _BUTTONS:
    views.append(attribution(found))
  else:
    # Of plain numbers, which a page has.
    columns = [np.asarray(c).tolist() for c in sheet.columns.values()]
    views.append(table(list(sheet.columns), list(zip(*columns)), "Table"))
  facts = {name: base.printable(text) for name, text in sheet.facts.items()}
  trust = [(name, base.printable(text), bad) for name, text, bad in trust]
  return Run(
    base.printable(question or sheet.title), trust, facts, views, files
  )


def html(runs: Sequence[Run], title: str = "") -> str:
  """The page, whole.

  A page of more than `MOST` bytes goes without some raw data, then without
  pictures, then without rows of tables; each run tells what it lacks.

  Args:
    runs: one or more, from above to below.
    title: the title of the window; the first question by default.

  Raises:
    ValueError: no runs, or a number that JSON does not have (NaN, infinity).
  """
  if not runs:
    raise ValueError("A page is of one run or more.")
  text = _html(runs, title)
  over = len(text) - MOST
  return text if over <= 0 else _html(_fitted(runs, over), title)


def left_out(run: Run, lines: Sequence[str]) -> Run:
  """A run that tells, among its facts, what it does not show."""
  said = [*filter(None, [run.facts.get("left out")]), *lines]
  return dataclasses.replace(
    run, facts={**run.facts, "left out": "; ".join(said)}
  )


def _fitted(runs: Sequence[Run], over: int) -> list[Run]:
  """Runs without what is dropped for a page smaller by so many bytes."""
  size = lambda part: len(_json(part))
  # Kind, bytes, run, place.
  parts = [
    (0, size(_file(*file)), r, i)
    for r, run in enumerate(runs) for i, file in enumerate(run.files)
  ]  # fmt: skip
  for r, run in enumerate(runs):
    for i, view in enumerate(run.views):
      if view["kind"] == "image":
        parts.append((1, size(view), r, i))
      elif view["kind"] == "table":
        cut = views_lib.first_rows(dict(view), _ROWS)
        parts.append((2, size(view) - size(cut), r, i))
      elif view["kind"] in context_data.VIEWS:
        cut, _ = context_data.smaller(view)
        parts.append((3, size(view) - size(cut), r, i))
  gone: list[tuple[int, int, int, int]] = []
  for kind in range(4):
    own = [part for part in parts if part[0] == kind and part[1] > 0]
    while over > 0 and own:
      # The smallest that is enough, else the largest.
      enough = [part for part in own if part[1] > over + _SAID]
      part = min(enough, key=_length) if enough else max(own, key=_length)
      over -= part[1] - _SAID
      own.remove(part)
      gone.append(part)
  made = []
  for r, run in enumerate(runs):
    lost = {(kind, i): length for kind, length, own, i in gone if own == r}
    lines = [
      f"{(run.files[i][0] if kind == 0 else run.views[i]['title'])} "
      f"({length / 1000:,.0f} kB)"
      for (kind, i), length in lost.items() if kind < 2
    ]  # fmt: skip
    cut = {
      i: context_data.smaller(run.views[i]) for kind, i in lost if kind == 3
    }
    lines += [what for _, what in cut.values()]
    run = dataclasses.replace(
      run,
      files=[f for i, f in enumerate(run.files) if (0, i) not in lost],
      views=[
        views_lib.first_rows(dict(view), _ROWS) if (2, i) in lost
        else cut[i][0] if i in cut else view
        for i, view in enumerate(run.views) if (1, i) not in lost
      ],
    )  # fmt: skip
    if lines:
      most = f"a page has at most {MOST / 1000:,.0f} kB"
      run = left_out(run, [f"{', '.join(lines)}: {most}"])
    made.append(run)
  return made


def _length(part: tuple[int, int, int, int]) -> int:
  return part[1]


def _html(runs: Sequence[Run], title: str) -> str:
  style = (_FOLDER / "page.css").read_text(encoding="utf-8")
  script = "".join(
    (_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS
  )
  policy = (
    f"default-src 'none'; style-src {_digest(style)}; script-src "
    f"{_digest(script)}; img-src data:; base-uri 'none'; form-action 'none'"
  )
  data = _json(
    [
      {"views": list(run.views), "files": [_file(*file) for file in run.files]}
      for run in runs
    ]
  )
  return "\n".join(
    [
      "<!doctype html>",
      '<html lang="en"><head><meta charset="utf-8">',
      f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
      '<meta name="viewport" content="width=device-width, initial-scale=1">',
      f"<title>{_text(title or runs[0].question)}</title>",
      f"<style>{style}</style></head><body><main>",
      *(_article(run, number) for number, run in enumerate(runs)),
      "</main>",
      "<noscript><p>Pictures and tables need JavaScript; what is above does "
      "not.</p></noscript>",
      f'<script type="application/json" id="data">{data}</script>',
      f"<script>{script}</script></body></html>",
      "",
    ]
  )


def frame(page: str) -> str:
  """The page within a notebook's: a frame that may run its script alone."""
  return (
    '<iframe sandbox="allow-scripts allow-downloads" '
    f'style="width:100%;height:{_TALL}px;border:0" title="report" '
    f'srcdoc="{escaping.escape(page)}"></iframe>'
  )


shown_lib.drawn_by(
  lambda found, question: html([run_of(found, question)]), frame
)


def _json(value: Any) -> str:
  text = json.dumps(
    value, ensure_ascii=True, allow_nan=False, separators=(",", ":")
  )
  # A JSON string may hold `<` by its number: no tag can end the element.
  for character in "<>&":
    text = text.replace(character, f"\\u{ord(character):04x}")
  return text


def _file(name: str, content: str | bytes) -> list[str]:
  """A name and a text; or a name, nothing, and bytes in base 64."""
  if isinstance(content, str):
    return [name, content]
  return [name, "", base64.b64encode(content).decode()]


def _article(run: Run, number: int) -> str:
  bad = any(against for _, _, against in run.trust)
  lines = [f'<article id="run-{number}"><h1>{_text(run.question)}</h1>']
  if run.trust:
    head = "Do not rely on this answer." if bad else "How far to trust it"
    lines += [
      f'<section class="trust{" bad" * bad}" aria-label="trust">',
      f"<p>{head}</p><dl>",
      *(_told(name, value, against) for name, value, against in run.trust),
      "</dl></section>",
    ]
  if run.facts:
    lines += [
      '<section aria-label="facts"><h2>What was asked</h2><dl>',
      *(_told(name, value, False) for name, value in run.facts.items()),
      "</dl></section>",
    ]
  return "\n".join([*lines, "</article>"])


def _told(name: str, value: str, against: bool) -> str:
  kind = ' class="bad"' if against else ""
  return f"<dt>{_text(name)}</dt><dd{kind}>{_text(value)}</dd>"


def _text(value: str) -> str:
  # No character may turn the line around, and every one can be written.
  return escaping.escape(base.printable(value))


def _digest(text: str) -> str:
  digest = hashlib.sha256(text.encode()).digest()
  return f"'sha256-{base64.b64encode(digest).decode()}'"
