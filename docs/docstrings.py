"""Docstrings as they are written here, for Sphinx: plain text with backticks.

What reStructuredText would take for markup is escaped (`|S|`, `*args`, `x_`),
names between backticks become literals, and indented blocks keep their lines.
"""

import pathlib
import re

# Rooms that are the insides of commands.
_INNER = ("configs", "jobs")
_SECTION = re.compile(
  r"(Args|Arguments|Attributes|Returns|Raises|Yields|Example|Examples):\s*$"
)
_ITEM = re.compile(r"([-*]|\d+\.) ")
_LITERAL = re.compile(r"(`[^`\n]+(?:\n[^`\n]+)*`)")
_MARKUP = re.compile(r"[\\*|]|(?<=\w)_(?!\w)")


def write_pages(folder: pathlib.Path, package: pathlib.Path) -> None:
  """Writes a page for each room, and one for what is in none.

  Args:
    folder: of the pages.
    package: of the library.
  """
  folder.mkdir(exist_ok=True)
  pages = {"spex_jax": [path.stem for path in sorted(package.glob("*.py"))]}
  pages["spex_jax"] = ["", *(m for m in pages["spex_jax"] if m[:2] != "__")]
  for room in sorted(path.parent for path in package.glob("*/__init__.py")):
    if room.name in _INNER:
      continue
    files = sorted(room.rglob("*.py"))
    pages[room.name] = [
      ".".join(file.relative_to(package).with_suffix("").parts)
      .removesuffix("__init__")
      .removesuffix(".")
      for file in files
      if not file.stem.startswith("_") or file.stem == "__init__"
    ]
  for name, modules in pages.items():
    lines = [name, "=" * len(name), ""]
    for module in modules:
      full = f"spex_jax.{module}" if module else "spex_jax"
      if module and module != name:
        lines += [full, "-" * len(full), ""]
      lines += [f".. automodule:: {full}"]
      lines += ["   :members:"] * bool(module)
      lines += [""]
    _write(folder / f"{name}.rst", "\n".join(lines))
  listed = "\n".join(f"   {name}" for name in pages)
  _write(
    folder / "index.rst",
    f"The API\n=======\n\n.. toctree::\n   :maxdepth: 1\n\n{listed}\n",
  )


def _write(path: pathlib.Path, text: str) -> None:
  """Leaves a page alone that is as it should be: Sphinx reads it no more."""
  if not path.exists() or path.read_text() != text:
    path.write_text(text)


def plain(lines: list[str]) -> list[str]:
  """A Google docstring in which nothing but its sections is markup."""
  out: list[str] = []
  text: list[str] = []  # Lines that are neither an example nor a literal block.
  inside = literal = example = item = False
  for number, line in enumerate(lines):
    inside = inside or bool(_SECTION.match(line))
    indented = line.startswith(" ") and bool(line.strip())
    if line.strip() and not indented:
      item = bool(_ITEM.match(line))
    example = bool(line.strip()) and (example or line.lstrip()[:3] == ">>>")
    if not inside and indented and not literal and not item:
      before = number == 0 or not lines[number - 1].strip()
      text += ["::", ""] if before else ["", "::", ""]
      literal = True
    elif literal and line.strip() and not indented:
      out += [""]
      literal = False
    if literal or example:
      out += [*_escaped(text), line]
      text = []
    else:
      text.append(line)
  return out + _escaped(text)


def _escaped(lines: list[str]) -> list[str]:
  """Code between backticks as literals, all else as text."""
  pieces = _LITERAL.split("\n".join(lines))
  out = ""
  for number, piece in enumerate(pieces):
    if number % 2:  # A letter may stand beside the end: `mask`s.
      beside = re.match(r"\w", pieces[number + 1])
      out += f"``{piece[1:-1]}``" + "\\ " * bool(beside)
    else:
      out += _MARKUP.sub(lambda found: "\\" + found[0], piece)
  return out.split("\n") if lines else []


def setup(app):
  """Before napoleon reads the sections."""
  app.connect(
    "autodoc-process-docstring",
    lambda app, what, name, item, options, lines: lines.__setitem__(
      slice(None), plain(lines)
    ),
    priority=400,
  )
  app.connect(
    "autodoc-skip-member",
    # Fields of a NamedTuple, which its docstring describes.
    lambda app, what, name, item, skip, options: (
      skip or type(item).__name__ == "_tuplegetter"
    ),
  )
  return {"parallel_read_safe": True}
