"""TikZ and Processing, by programs that are installed, within bubblewrap.

Their code is as untrusted as any, and they start processes and write files,
which `sandbox` forbids: `bwrap` gives them this machine's programs to read, a
folder of their own, no network and no environment. Where it or they are not
installed, the languages are not there.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np

from spex_jax.datasets import images

NEEDS = {
  "tikz": "bwrap, pdflatex and pdftoppm",
  "processing": "bwrap, xvfb-run, and processing (4.4) or processing-java",
}
# Any of these sets of programs; Processing draws on a screen alone.
_PROGRAMS = {
  "tikz": (("pdflatex", "pdftoppm"),),
  "processing": (("processing", "xvfb-run"), ("processing-java", "xvfb-run")),
}
_TEX = r"""\documentclass[tikz,border=0pt]{standalone}
\usepackage{tikz}
\begin{document}
%s
\end{document}
"""
_SKETCH = """%s
void draw() { save("drawing.png"); exit(); }
"""
_READ = ("/usr", "/bin", "/lib", "/lib64", "/etc/texmf", "/etc/alternatives",
         "/var/lib/texmf", "/opt")  # fmt: skip


def installed() -> tuple[str, ...]:
  """The languages that can be rendered here."""
  return tuple(name for name in _PROGRAMS if _programs(name))


def _programs(language: str) -> tuple[str, ...]:
  """Those that render a language here; none where one is missing."""
  if shutil.which("bwrap"):
    for own in _PROGRAMS[language]:
      if all(map(shutil.which, own)):
        return own
  return ()


def render(
  language: str, code: str, size: int, seconds: float
) -> tuple[str, str, np.ndarray | None]:
  """Status, error, and the picture uint8 `[S, S, 3]` where there is one.

  Args:
    language: one that `installed` lists: "tikz" or "processing".
    code: a whole document, or a picture's (`tikzpicture`, `setup`) alone.
    size: S, the side of the picture in pixels.
    seconds: the most that each program may take, by the clock.
  """
  from PIL import Image  # Slow to import.

  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place)
    try:
      if language == "tikz":
        whole = code if "\\documentclass" in code else _TEX % code
        (folder / "drawing.tex").write_text(whole)
        for command in (
          "pdflatex -no-shell-escape -interaction=nonstopmode -halt-on-error "
          "drawing.tex",
          f"pdftoppm -png -singlefile -scale-to {4 * size} drawing.pdf drawing",
        ):
          _run(folder, seconds, *command.split())
      else:
        whole = code if "void draw" in code else _SKETCH % code
        (folder / f"{folder.name}.pde").write_text(whole)
        program = _programs(language)[0]
        words = [program, "cli"] if program == "processing" else [program]
        sketch = f"--sketch={folder}"
        _run(folder, seconds, "xvfb-run", "-a", *words, sketch, "--run")
      found = images.read(folder / "drawing.png")
    except subprocess.TimeoutExpired:
      return "time", f"it took more than {seconds:g} s", None
    except subprocess.CalledProcessError as error:
      said = (error.stdout or b"").decode(errors="replace").splitlines()
      lines = [line for line in said if line.startswith("!")] or said[-1:]
      return "error", (lines or ["it failed"])[0][:300], None
    except (OSError, ValueError) as error:
      return "error", f"it drew nothing: {error}"[:300], None
  picture = Image.fromarray(found)
  picture.thumbnail((size, size))
  ground = Image.new("RGB", (size, size), "white")
  left, top = ((size - length) // 2 for length in picture.size)
  ground.paste(picture, (left, top))
  return "ok", "", np.asarray(ground)


def _run(folder: pathlib.Path, seconds: float, *command: str) -> None:
  own = [part for path in _READ if os.path.exists(path)
         for part in ("--ro-bind", path, path)]  # fmt: skip
  subprocess.run(
    ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", *own,
     "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind",
     str(folder), str(folder), "--chdir", str(folder), "--clearenv", "--setenv",
     "PATH", os.defpath, "--setenv", "HOME", str(folder), *command],
    check=True, timeout=seconds, stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
  )  # fmt: skip
