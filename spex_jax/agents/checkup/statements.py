"""Statements of code as players: which strokes make the bicycle?

A player is a statement that can be taken away: in Python a call, a loop or a
condition at the top (imports, definitions and assignments stay, as others need
them), in SVG a shape. The value of a set is a recogniser's log odds of the
caption against others, for the picture that these statements draw.

Shapes: n statements, masks bool `[B, n]`, True kept.
"""

import ast
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence

import jax
import numpy as np

from spex_jax import api, base, explanation
from spex_jax.agents.checkup import embedder, renderers

_STAY = (
  ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef,
  ast.ClassDef,
)  # fmt: skip
_SHARPNESS = 10.0  # Of cosines: as the embedder was trained.
Keep = Callable[[np.ndarray], str]


def split(language: str, code: str) -> tuple[list[str], Keep]:
  """The statements that can be taken away, and code from a mask `[n]` of them.

  Raises:
    ValueError: another language than matplotlib and svg, or code that does not
      parse.
  """
  if language == "matplotlib":
    try:
      body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError) as error:
      raise ValueError(f"The code does not parse: {error}.") from error
    places = [i for i, node in enumerate(body) if not isinstance(node, _STAY)]
    texts = [ast.unparse(node) for node in body]

    def kept(mask: np.ndarray) -> str:
      gone = {place for place, keep in zip(places, mask) if not keep}
      own = [text for i, text in enumerate(texts) if i not in gone]
      return "\n".join(own) + "\n"

    return [texts[place] for place in places], kept
  if language != "svg":
    raise ValueError(
      f"language={language!r}: statements of matplotlib and svg."
    )
  ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
  try:
    leaves = [child for _, child in _leaves(ElementTree.fromstring(code))]
  except ElementTree.ParseError as error:
    raise ValueError(f"The code does not parse: {error}.") from error

  def kept_shapes(mask: np.ndarray) -> str:
    root = ElementTree.fromstring(code)
    for (parent, child), keep in zip(list(_leaves(root)), mask):
      if not keep:
        parent.remove(child)
    return ElementTree.tostring(root, encoding="unicode")

  shown = [ElementTree.tostring(leaf, encoding="unicode") for leaf in leaves]
  own = ' xmlns="http://www.w3.org/2000/svg"'
  return [text.strip().replace(own, "") for text in shown], kept_shapes


def _leaves(root):
  for parent in root.iter():
    for child in list(parent):
      if not len(child):
        yield parent, child


def value_fn(
  keep: Keep,
  language: str,
  caption: str,
  others: Sequence[str],
  studio: renderers.Studio,
  own: embedder.Embedder,
) -> base.ValueFn:
  """Masks to the log odds of a caption against others, in nats.

  Code that draws nothing, or does not run without what was taken away, has the
  value of a white picture.

  Args:
    keep: a mask bool `[n]` to code, the second of what `split` gives.
    language: the language that the code is in, "matplotlib" or "svg".
    caption: the text whose odds are the value.
    others: texts that the picture may be taken for instead.
    studio: what renders the code, within a sandbox.
    own: the embedder that recognises captions in pictures.

  Raises:
    ValueError: no other caption.
  """
  rivals = [text for text in others if text != caption]
  if not rivals:
    raise ValueError(f"others: a caption besides {caption!r} is needed.")
  texts = own.texts([caption, *rivals])
  white = np.full((studio.size, studio.size, 3), 255, np.uint8)

  def values(masks):
    pictures = [studio.render(language, keep(mask)).picture
                for mask in np.asarray(masks)]  # fmt: skip
    seen = own.pictures(np.stack([white if p is None else p for p in pictures]))
    scores = _SHARPNESS * np.asarray(seen, np.float64) @ texts.T
    return scores[:, 0] - np.logaddexp.reduce(scores[:, 1:], axis=1)

  return values


def explain(
  key: base.Key,
  language: str,
  code: str,
  caption: str,
  others: Sequence[str],
  studio: renderers.Studio,
  own: embedder.Embedder,
  budget: int = 512,
) -> explanation.Explanation:
  """Which sets of statements make a recogniser see a caption.

  Args and errors as for `split` and `value_fn`; `key` is consumed, `budget`
  is of distinct masks.

  Raises:
    ValueError: code without a statement that can be taken away, or that draws
      nothing with all of them: it hangs, fails, or is blank.
  """
  names, keep = split(language, code)
  if not names:
    raise ValueError(
      "The code has no statement that can be taken away: in Python a call, a "
      "loop or a condition at the top, in SVG a shape."
    )
  whole = studio.render(language, keep(np.ones(len(names), bool)))
  if whole.picture is None or (whole.picture == 255).all():  # White.
    raise ValueError(
      f"The code draws nothing, so that no statement of it can matter: "
      f"{whole.status}" + (f", {whole.error}." if whole.error else ".")
    )
  values = value_fn(keep, language, caption, others, studio, own)
  with jax.default_device(jax.devices("cpu")[0]):
    return api.explain(
      values, len(names), key=key, budget=budget, names=names, units="nat",
      progress=False,
    )  # fmt: skip
