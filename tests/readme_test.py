"""The README keeps its word: its example prints what it shows."""

import pathlib
import re
import subprocess
import sys

_ROOT = pathlib.Path(__file__).parents[1]


def test_the_worked_example_prints_what_is_shown():
  text = (_ROOT / "README.md").read_text()
  match = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL)
  assert match is not None
  code, shown = match.groups()
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout == shown


def test_no_placeholder_is_left():
  for path in [*_ROOT.glob("*.md"), *_ROOT.glob("*/*.md")]:
    assert "@" * 2 not in path.read_text(), path


def test_every_file_that_is_named_exists():
  text = (_ROOT / "README.md").read_text()
  for name in re.findall(r"`((?:\w+/)+\w+\.\w+)`", text):
    if not name.startswith("runs/"):
      assert (_ROOT / name).exists(), name
