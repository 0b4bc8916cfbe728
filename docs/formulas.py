"""Formulas as MathML, which browsers show without any script."""

from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml


def _tree(node: Any, as_block: bool) -> str:
  """Braces keep the height of what they hold."""
  tree = latex2mathml.tex2mathml(node.astext(), as_block=as_block)
  for brace in "{}":
    tree = tree.replace(f"<mo>{brace}<", f'<mo stretchy="false">{brace}<')
  return tree


def _inline(self: Any, node: Any) -> None:
  self.body.append(_tree(node, False))
  raise nodes.SkipNode


def _block(self: Any, node: Any) -> None:
  # Room for exponents, which the theme cuts off.
  style = "padding: 0.4em 0"
  self.body.append(self.starttag(node, "div", CLASS="math", STYLE=style))
  self.body.append(_tree(node, True) + "</div>")
  raise nodes.SkipNode


def setup(app):
  """Registers the renderer."""
  app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
  app.config.html_math_renderer = "mathml"
  return {"parallel_read_safe": True}
