"""What a model of texts is told, and how its answer is read.

Three requests: draw a caption, say what code draws, improve a drawing of one's
own. The words are ours. Feedback is text alone, as in the paper: what became of
the code, and the wish for a better one.
"""

import re
from collections.abc import Sequence

_FENCE = re.compile(r"```[ \t]*[\w+-]*[ \t]*\n(.*?)```", re.S)
_CAPTION = re.compile(r"^CAPTION: (.*)$", re.M)
_STATUS = re.compile(r"^RENDERED: (\w+)", re.M)
_OPTION = re.compile(r"^\[(\d+)\] (.*)$", re.M)
_ANSWER = re.compile(r"\[\s*(\d+)\s*\]|\b(\d+)\b")
_HOW = {
  "matplotlib": "Python with matplotlib; make one figure, save nothing, open "
  "no file",
  "svg": "SVG: rect, circle, ellipse, line, polyline, polygon, path, g; no "
  "text, no style sheet",
  "tikz": "TikZ: one tikzpicture",
  "processing": "Processing: a setup that draws",
}
SYSTEM = (
  "You draw with code. You cannot see pictures; think of where things are."
)


def draw(caption: str, language: str) -> str:
  """Asks for a program."""
  return (
    f"Write a program that draws the caption, and no more, on a square.\n"
    f"CAPTION: {caption}\n"
    f"LANGUAGE: {_HOW[language]}.\n"
    f"Answer with the whole program in one ``` block."
  )


def improve(status: str, error: str) -> str:
  """Asks for a better one, and tells what became of the last."""
  told = f"RENDERED: {status}" + f" ({error})" * bool(error)
  return (
    f"{told}\n"
    "Look at your program line by line: does it show the caption? What is "
    "missing, misplaced, of a wrong size or colour? Write the improved "
    "program, whole, in one ``` block."
  )


def again() -> str:
  """Asks for another program without a word on the last: the control."""
  return "Write the program again, whole, in one ``` block."


def recognise(code: str, options: Sequence[str]) -> str:
  """Asks which caption a program draws."""
  listed = "\n".join(f"[{i}] {own}" for i, own in enumerate(options, 1))
  return (
    f"What does this program draw?\n```\n{code}```\n"
    f"It is one of these:\n{listed}\nAnswer with its number in brackets."
  )


def code_of(text: str) -> str:
  """The program in a reply, or ""; without a fence, what is SVG.

  The last whole block counts: models think aloud before.
  """
  if found := _FENCE.findall(text):
    return found[-1]
  start, end = text.find("<svg"), text.rfind("</svg>")
  return text[start : end + len("</svg>")] if 0 <= start < end else ""


def choice_of(text: str, count: int) -> int | None:
  """The number that a reply chooses, from 0; None where it names none.

  The last one in brackets, else the last one.
  """
  found = _ANSWER.findall(text)
  bracketed = [inside for inside, _ in found if inside]
  numbers = bracketed or [bare for _, bare in found]
  if not numbers or not 1 <= int(numbers[-1]) <= count:
    return None
  return int(numbers[-1]) - 1


def caption_of(request: str) -> str:
  """What `draw` asked for."""
  found = _CAPTION.search(request)
  return found[1] if found else ""


def status_of(request: str) -> str:
  """What `improve` told; "" for another request."""
  found = _STATUS.search(request)
  return found[1] if found else ""


def options_of(request: str) -> list[str]:
  """Those of `recognise`; none of another request."""
  return [own for _, own in _OPTION.findall(request)]
