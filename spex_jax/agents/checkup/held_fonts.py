"""Run in the sandbox's server: matplotlib's fonts, held in memory.

A program of its own, like `plotting`. Children may open no file, and a figure
with an axis has numbers on it: what would read a font reads these.
"""

import io
import os
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import font_manager, ft2font
from matplotlib import pyplot as plt

_FOLDER = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")
_HELD: dict = {}
_PLAIN = os.path.join(_FOLDER, "DejaVuSans.ttf")
_FONT = ft2font.FT2Font


def _held(path, *args, **more):
  name = os.path.basename(os.fspath(path))
  return _FONT(io.BytesIO(_HELD.get(name, _HELD["DejaVuSans.ttf"])), *args,
               **more)  # fmt: skip


for _name in sorted(os.listdir(_FOLDER)):
  if _name.startswith(("DejaVuSans", "LastResort")):
    with open(os.path.join(_FOLDER, _name), "rb") as _file:
      _HELD[_name] = _file.read()
ft2font.FT2Font = _held  # type: ignore[misc]
_ours = lambda *_, **__: [_PLAIN]
_manager: Any = font_manager
_manager.fontManager._find_fonts_by_props = _ours
_manager.fontManager.findfont = lambda *_, **__: _PLAIN
_manager.findfont = lambda *_, **__: _PLAIN
# Whatever is imported or computed at the first figure is there before a fork.
plt.plot([0, 1])
plt.title("1")
plt.gcf().canvas.draw()
plt.close("all")
