"""Code of a language to pixels, where it can do no harm.

  with Studio() as studio:
    studio.render("svg", '<svg viewBox="0 0 9 9"><circle r="5"/></svg>')

Code runs in `agents.sandbox`: with matplotlib, or as a subset of SVG that is
drawn there (`plotting`, `vectors`). Whatever becomes of it is a status.

Shapes: pictures uint8 `[S, S, 3]`.
"""

import base64
import dataclasses
import hashlib
import pathlib
import zlib
from typing import Any

import numpy as np

from spex_jax.agents import sandbox
from spex_jax.agents.checkup import externals

_HERE = pathlib.Path(__file__)
_PROGRAMS = {"matplotlib": "plotting.py", "svg": "vectors.py"}
_MODULES = (
  "base64", "zlib", "PIL.Image", "PIL.ImageDraw", "PIL.ImageColor",
  "xml.etree.ElementTree", "matplotlib", "matplotlib.pyplot",
  "matplotlib.patches", "matplotlib.path", "matplotlib.lines",
  "matplotlib.collections", "matplotlib.colors", "matplotlib.transforms",
  "mpl_toolkits.mplot3d",
)  # fmt: skip
_MEMORY = 1 << 29
OK, BLANK = "ok", "blank"
# Of a record: as `sandbox.Outcome` has them, and what else may have happened.
STATUSES = (
  OK, BLANK, "error", "time", "memory", "output", "refused", "died",
  "no code", "endpoint",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Rendered:
  """What became of code.

  Attributes:
    status: of `STATUSES`; "blank" drew nothing, one colour alone.
    error: in a line; "" where it is ok.
    picture: where there is one, a blank one too.
  """

  status: str
  error: str = ""
  picture: np.ndarray | None = None

  @property
  def sha256(self) -> str:
    """Of the pixels; "" without a picture."""
    if self.picture is None:
      return ""
    return hashlib.sha256(self.picture.tobytes()).hexdigest()


class Studio:
  """Renders, one program at a time."""

  def __init__(self, size: int = 64, seconds: float = 5.0):
    """Nothing is started before the first program.

    Args:
      size: S, the side of pictures in pixels, from 1 to 256.
      seconds: the most that a program may take.

    Raises:
      ValueError: a limit that is not positive, or S above 256.
    """
    if not 1 <= size <= 256:
      raise ValueError(f"size={size}: from 1 to 256 pixels.")
    self.size, self._seconds = size, seconds
    self._box = sandbox.Sandbox(
      seconds, _MEMORY, modules=_MODULES,
      prepare=_HERE.with_name("held_fonts.py").read_text(),
    )  # fmt: skip

  def __enter__(self) -> "Studio":
    return self

  def __exit__(self, *_: Any) -> None:
    self._box.close()

  def render(self, language: str, code: str) -> Rendered:
    """The picture of code, or why there is none.

    Raises:
      ValueError: a language that is not known, or not installed.
    """
    if language in _PROGRAMS:
      program = _HERE.with_name(_PROGRAMS[language]).read_text()
      request = f"{self.size}\n{code}"
      outcome = self._box.run(program, [request], "draw")
      status, error = outcome.status, outcome.error
      found = outcome.outputs[0] if outcome.outputs else None
      if status == OK and not isinstance(found, str):
        status = "error"
      if status != OK:
        return Rendered(status, error or status)
      return _unpacked(str(found), self.size)
    if language in externals.installed():
      status, error, picture = externals.render(
        language, code, self.size, self._seconds
      )
      return _seen(picture) if picture is not None else Rendered(status, error)
    needs = externals.NEEDS.get(language)
    raise ValueError(
      f"No language {language!r}; there are {', '.join(languages())}."
      + (f" It needs {needs}." if needs else "")
    )


def languages() -> tuple[str, ...]:
  """Those that can be rendered here."""
  return (*_PROGRAMS, *externals.installed())


def _unpacked(text: str, size: int) -> Rendered:
  """A picture as the programs pack it; code may have packed one itself."""
  try:
    data = zlib.decompressobj().decompress(base64.b64decode(text), 1 << 20)
    pixels = np.frombuffer(data, np.uint8).reshape(size, size, 3)
  except (ValueError, zlib.error) as error:
    return Rendered("error", f"it wrote an answer of its own: {error}")
  return _seen(pixels)


def _seen(pixels: np.ndarray) -> Rendered:
  if np.ptp(pixels.reshape(-1, 3), axis=0).max() == 0:
    return Rendered(BLANK, "the picture is blank: one colour alone", pixels)
  return Rendered(OK, "", pixels)
