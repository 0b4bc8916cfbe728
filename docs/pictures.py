"""What stories draw, for sphinx-gallery: figures without pyplot, and SVG.

A block that assigns to `figure` shows a figure of matplotlib, one that assigns
to `drawing` the text of an SVG.
"""

import pathlib
import re
from typing import Any

from sphinx_gallery import scrapers

_DRAWN = re.compile(r"^(figure|drawing) = ", re.MULTILINE)


def drawn(block: tuple, names: dict[str, Any], settings: dict[str, Any]) -> str:
  """Saves what a block has drawn, and returns the lines that show it."""
  paths = []
  for name in dict.fromkeys(_DRAWN.findall(block[1])):
    path = pathlib.Path(next(names["image_path_iterator"]))
    picture = names["example_globals"][name]
    if name == "drawing":
      path = path.with_suffix(".svg")
      path.write_text(picture, encoding="utf-8")
    else:
      picture.savefig(path, dpi=110, bbox_inches="tight")
    paths.append(path)
  return scrapers.figure_rst(paths, settings["src_dir"])


def _get_sg_image_scraper():  # By this name sphinx-gallery asks a module.
  return drawn
