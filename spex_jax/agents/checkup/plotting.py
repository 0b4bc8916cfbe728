"""Run in a sandbox: Python that draws with matplotlib, to pixels.

This file is a program of its own, sent as text to `sandbox`: it imports nothing
of the package, and runs nowhere else.
"""

import base64
import zlib

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
  """
  side, _, code = request.partition("\n")
  size = int(side)
  # What would write a file or open a window does nothing.
  plt.show = plt.savefig = lambda *_, **__: None
  matplotlib.figure.Figure.savefig = lambda *_, **__: None  # type: ignore
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
  pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
  ground = Image.new("RGB", (size * _FINE,) * 2, "white")
  place = [(size * _FINE - length) // 2 for length in pixels.shape[1::-1]]
  ground.paste(Image.fromarray(np.ascontiguousarray(pixels)), tuple(place))
  small = ground.resize((size, size), Image.Resampling.BOX)
  return base64.b64encode(zlib.compress(small.tobytes())).decode()
