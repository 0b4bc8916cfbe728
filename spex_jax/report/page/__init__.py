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
from spex_jax.report.page import contexts
from spex_jax.report.page import views as views_lib
from spex_jax.report.page.contexts import citations as citations
from spex_jax.report.page.contexts import context as context
from spex_jax.report.page.contexts import steps as steps
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


@dataclasses.dataclass(frozen=True)
class Run:
  """What is told of one run.

  Attributes:
    question: in words.
    trust: what its answer is worth: a name, what is told, and whether it
      speaks against believing it.
    facts: what else is told, by name: the model, the command, the cost.
    views: what is shown, as `views` makes it.
    files: names and texts of raw data, to download.
  """

  question: str
  trust: Sequence[tuple[str, str, bool]] = ()
  facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  views: Sequence[Mapping[str, Any]] = ()
  files: Sequence[tuple[str, str]] = ()


def run_of(found: shown_lib.Shown, question: str = "") -> Run:
  """What a result shows of itself.

  Args:
    found: of any room.
    question: what was asked; the title of its sheet by default.
  """
  sheet = found.sheet()
  trust, views, files = list(sheet.trust), [], []
  for view in sheet.views:
    if "body" in view:
      more, drawn = contexts.VIEWS[view["kind"]](view["body"])
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

  Args:
    runs: one or more, from above to below.
    title: of the window; the first question by default.

  Raises:
    ValueError: no runs, or a number that JSON does not have (NaN, infinity).
  """
  if not runs:
    raise ValueError("A page is of one run or more.")
  style = (_FOLDER / "page.css").read_text(encoding="utf-8")
  script = "".join(
    (_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS
  )
  policy = (
    f"default-src 'none'; style-src {_digest(style)}; script-src "
    f"{_digest(script)}; img-src data:; base-uri 'none'; form-action 'none'"
  )
  told = [{"views": list(run.views), "files": list(run.files)} for run in runs]
  # A JSON string may hold `<` by its number: no tag can end the element.
  data = json.dumps(
    told, ensure_ascii=True, allow_nan=False, separators=(",", ":")
  )
  for character in "<>&":
    data = data.replace(character, f"\\u{ord(character):04x}")
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
