"""Formulas as MathML, which browsers show without any script."""

from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml


def _inline(self: Any, node: Any) -> None:
  self.body.append(latex2mathml.tex2mathml(node.astext(), as_block=False))
  raise nodes.SkipNode


def _block(self: Any, node: Any) -> None:
  self.body.append(self.starttag(node, "div", CLASS="math"))
  self.body.append(latex2mathml.tex2mathml(node.astext(), as_block=True))
  self.body.append("</div>")
  raise nodes.SkipNode


def setup(app):
  """Registers the renderer."""
  app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
  app.config.html_math_renderer = "mathml"
  return {"parallel_read_safe": True}
