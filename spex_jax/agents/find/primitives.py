"""Sixty functions of a text to a text, each deterministic and total.

Each is a lambda in a table, beside what it does in words; its program is that
lambda's own text, with the helpers that it calls. Numbers are spelled as words.
"""

import ast
import functools
import inspect
from collections.abc import Callable

VOWELS = "aeiouAEIOU"
DIGITS = (
  "zero", "one", "two", "three", "four", "five", "six", "seven", "eight",
  "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen",
  "sixteen", "seventeen", "eighteen", "nineteen", "many",
)  # fmt: skip


def is_vowel(c):
  """Whether a letter is a vowel."""
  return c in VOWELS


def is_consonant(c):
  """Whether a letter is a consonant."""
  return c.isalpha() and c not in VOWELS


def spelled(number):
  """A number as a word."""
  return DIGITS[min(number, 20)]


def moved(c, by):
  """A letter moved in the alphabet."""
  if not ("a" <= c.lower() <= "z"):
    return c
  first = ord("A" if c.isupper() else "a")
  return chr(first + (ord(c) - first + by) % 26)


_HELPERS = (is_vowel, is_consonant, spelled, moved)
# Name to what it does, and the function.
PRIMITIVES: dict[str, tuple[str, Callable[[str], str]]] = {
  "reverse": ("The text backwards.", lambda s: s[::-1]),
  "upper": ("All letters as capitals.", lambda s: s.upper()),
  "lower": ("All letters small.", lambda s: s.lower()),
  "swap_case": ("Small letters as capitals, and capitals small.",
    lambda s: s.swapcase()),
  "capital_first": ("The first letter as a capital.",
    lambda s: s[:1].upper() + s[1:]),
  "reverse_first_half": ("The first half backwards, the second as it is.",
    lambda s: s[:len(s) // 2][::-1] + s[len(s) // 2:]),
  "reverse_second_half": ("The first half as it is, the second backwards.",
    lambda s: s[:len(s) // 2] + s[len(s) // 2:][::-1]),
  "swap_halves": ("The second half before the first.",
    lambda s: s[len(s) // 2:] + s[:len(s) // 2]),
  "twice": ("The text two times.", lambda s: s + s),
  "double_letters": ("Each letter two times.",
    lambda s: "".join(c + c for c in s)),
  "mirror": ("The text, then the text backwards.", lambda s: s + s[::-1]),
  "first": ("The first letter alone.", lambda s: s[:1]),
  "last": ("The last letter alone.", lambda s: s[-1:]),
  "middle": ("The letter in the middle alone.",
    lambda s: s[len(s) // 2:len(s) // 2 + 1]),
  "without_first": ("All but the first letter.", lambda s: s[1:]),
  "without_last": ("All but the last letter.", lambda s: s[:-1]),
  "without_ends": ("All but the first and the last letter.", lambda s: s[1:-1]),
  "first_half": ("The first half alone.", lambda s: s[:len(s) // 2]),
  "second_half": ("The second half alone.", lambda s: s[len(s) // 2:]),
  "every_other": ("The first, third, fifth letter and so on.",
    lambda s: s[::2]),
  "other_every_other": ("The second, fourth, sixth letter and so on.",
    lambda s: s[1::2]),
  "in_order": ("The letters in the order of the alphabet.",
    lambda s: "".join(sorted(s))),
  "in_reverse_order": ("The letters in the reverse order of the alphabet.",
    lambda s: "".join(sorted(s, reverse=True))),
  "distinct": ("Each letter the first time that it comes.",
    lambda s: "".join(dict.fromkeys(s))),
  "turn_left": ("The first letter moved to the end.", lambda s: s[1:] + s[:1]),
  "turn_right": ("The last letter moved to the front.",
    lambda s: s[-1:] + s[:-1]),
  "swap_ends": ("The first and the last letter in each other's place.",
    lambda s: s if len(s) < 2 else s[-1] + s[1:-1] + s[0]),
  "swap_first_two": ("The first two letters in each other's place.",
    lambda s: s[1:2] + s[:1] + s[2:]),
  "swap_neighbours": ("Every pair of letters in each other's place.",
    lambda s: "".join(s[i + 1:i + 2] + s[i] for i in range(0, len(s), 2))),
  "without_vowels": ("The text without its vowels.",
    lambda s: "".join(c for c in s if not is_vowel(c))),
  "vowels_alone": ("The vowels alone.",
    lambda s: "".join(c for c in s if is_vowel(c))),
  "consonants_alone": ("The consonants alone.",
    lambda s: "".join(c for c in s if is_consonant(c))),
  "without_digits": ("The text without its digits.",
    lambda s: "".join(c for c in s if not c.isdigit())),
  "letters_alone": ("The letters alone, without digits and signs.",
    lambda s: "".join(c for c in s if c.isalpha())),
  "vowels_to_first": ("The first letter in the place of every vowel.",
    lambda s: "".join(s[0] if is_vowel(c) else c for c in s)),
  "vowels_to_last": ("The last letter in the place of every vowel.",
    lambda s: "".join(s[-1] if is_vowel(c) else c for c in s)),
  "vowels_to_middle": ("The letter in the middle in the place of every vowel.",
    lambda s: "".join(s[len(s) // 2] if is_vowel(c) else c for c in s)),
  "vowels_to_stars": ("A star in the place of every vowel.",
    lambda s: "".join("*" if is_vowel(c) else c for c in s)),
  "capital_vowels": ("The vowels as capitals.",
    lambda s: "".join(c.upper() if is_vowel(c) else c for c in s)),
  "capital_consonants": ("The consonants as capitals.",
    lambda s: "".join(c.upper() if is_consonant(c) else c for c in s)),
  "count_letters": ("How many letters there are, as a word.",
    lambda s: spelled(sum(c.isalpha() for c in s))),
  "count_vowels": ("How many vowels there are, as a word.",
    lambda s: spelled(sum(is_vowel(c) for c in s))),
  "count_consonants": ("How many consonants there are, as a word.",
    lambda s: spelled(sum(is_consonant(c) for c in s))),
  "count_digits": ("How many digits there are, as a word.",
    lambda s: spelled(sum(c.isdigit() for c in s))),
  "count_capitals": ("How many capitals there are, as a word.",
    lambda s: spelled(sum(c.isupper() for c in s))),
  "count_distinct": ("How many different letters there are, as a word.",
    lambda s: spelled(len(set(s)))),
  "next_letters": ("Each letter moved one on in the alphabet.",
    lambda s: "".join(moved(c, 1) for c in s)),
  "letters_before": ("Each letter moved one back in the alphabet.",
    lambda s: "".join(moved(c, -1) for c in s)),
  "move_by_place": ("Each letter moved on by its place, from 0.",
    lambda s: "".join((moved(c, i) for i, c in enumerate(s)))),
  "move_back_by_place": ("Each letter moved back by its place, from 0.",
    lambda s: "".join((moved(c, -i) for i, c in enumerate(s)))),
  "move_by_length": ("Each letter moved on by the text's length.",
    lambda s: "".join(moved(c, len(s)) for c in s)),
  "half_alphabet": ("Each letter moved by 13 in the alphabet.",
    lambda s: "".join(moved(c, 13) for c in s)),
  "alphabet_backwards": ("Z for a, y for b, and so on.",
    lambda s: "".join(
      moved(c, 25 - 2 * (ord(c.lower()) - ord("a"))) if c.isascii() else c
      for c in s)),
  "dashes": ("A dash between letters.", lambda s: "-".join(s)),
  "stop_after_vowels": ("A full stop behind every vowel.",
    lambda s: "".join(c + "." if is_vowel(c) else c for c in s)),
  "add_first": ("The first letter once more at the end.", lambda s: s + s[:1]),
  "add_length": ("The length behind it, as a word.",
    lambda s: s + spelled(len(s))),
  "starts_with_vowel": ("Whether it begins with a vowel: yes or no.",
    lambda s: "yes" if is_vowel(s[:1] or "-") else "no"),
  "has_repeats": ("Whether any letter comes twice: yes or no.",
    lambda s: "yes" if len(set(s)) < len(s) else "no"),
  "is_same_backwards": ("Whether it reads the same backwards: yes or no.",
    lambda s: "yes" if s == s[::-1] else "no"),
}  # fmt: skip


@functools.cache
def _sources() -> dict[str, str]:
  """Name to the text behind `lambda s:`."""
  with open(__file__, encoding="utf-8") as file:
    tree = ast.parse(file.read())
  (table,) = (
    node.value
    for node in tree.body
    if isinstance(node, ast.AnnAssign)
    and getattr(node.target, "id", "") == "PRIMITIVES"
  )
  assert isinstance(table, ast.Dict)
  return {
    name: ast.unparse(value.elts[1].body)  # type: ignore[union-attr]
    for name, value in zip(PRIMITIVES, table.values)
  }


def apply(names: tuple[str, ...], text: str) -> str:
  """The functions of some names, the last of them first."""
  for name in reversed(names):
    text = PRIMITIVES[name][1](text)
  return text


def said(names: tuple[str, ...]) -> str:
  """What a composition does, in words."""
  lines = [PRIMITIVES[name][0] for name in reversed(names)]
  return " Then, of that: ".join(lines)


def code(names: tuple[str, ...]) -> str:
  """A program of its own, `f(s)`."""
  lines = [f"  s = {_sources()[name]}" for name in reversed(names)]
  body = "\n".join(["def f(s):", *lines, "  return s"])
  helpers = [own for own in _HELPERS if f"{own.__name__}(" in body]
  parts = [*map(inspect.getsource, helpers), body]
  text = "\n".join(parts)
  if "DIGITS" in text:
    parts.insert(0, f"DIGITS = {DIGITS!r}\n")
  if "VOWELS" in text:
    parts.insert(0, f"VOWELS = {VOWELS!r}\n")
  return "\n".join(parts)
