"""Run in a sandbox: Python that draws with matplotlib, to pixels.

This file is a program of its own, sent as text to `sandbox`: it imports nothing
of the package, and runs nowhere else.
"""

import base64
import zlib
from typing import Any

import matplotlib
import matplotlib.figure
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

_FINE = 4  # Times finer a figure is drawn, before it is scaled down.


def draw(request: str) -> str:
  """The pixels of a program's last figure, packed.

  Args:
    request: the side of the picture in pixels, a line; then Python.

  Raises:
    ValueError: the program made no figure.
  """
  side, _, code = request.partition("\n")
  size = int(side)
  # What would write a file or open a window does nothing.
  nothing: Any = lambda *_, **__: None
  plt.show = plt.savefig = nothing
  matplotlib.figure.Figure.savefig = nothing
  space: dict = {"__name__": "__main__"}
  exec(compile(code, "drawing", "exec"), space)
  figures = [
    own for own in space.values() if isinstance(own, matplotlib.figure.Figure)
  ]
  if plt.get_fignums():
    figures.append(plt.gcf())
  if not figures:
    raise ValueError("it made no figure")
  figure = figures[-1]
  wide, high = figure.get_size_inches()
  figure.set_dpi(size * _FINE / max(wide, high))
  figure.canvas.draw()
  canvas: Any = figure.canvas
  pixels = np.asarray(canvas.buffer_rgba())[..., :3]
  ground = Image.new("RGB", (size * _FINE,) * 2, "white")
  left, top = ((size * _FINE - side) // 2 for side in pixels.shape[1::-1])
  ground.paste(Image.fromarray(np.ascontiguousarray(pixels)), (left, top))
  small = ground.resize((size, size), Image.Resampling.BOX)
  return base64.b64encode(zlib.compress(small.tobytes())).decode()
