"""Sixty functions of a text to a text, each deterministic and total.

Every one is a program of its own: `source` tells it, with the two constants
that some need. Numbers are spelled as words.
"""

import inspect

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


def reverse(s):
  """The text backwards."""
  return s[::-1]


def upper(s):
  """All letters as capitals."""
  return s.upper()


def lower(s):
  """All letters small."""
  return s.lower()


def swap_case(s):
  """Small letters as capitals, and capitals small."""
  return s.swapcase()


def capital_first(s):
  """The first letter as a capital."""
  return s[:1].upper() + s[1:]


def reverse_first_half(s):
  """The first half backwards, the second as it is."""
  return s[: len(s) // 2][::-1] + s[len(s) // 2 :]


def reverse_second_half(s):
  """The first half as it is, the second backwards."""
  return s[: len(s) // 2] + s[len(s) // 2 :][::-1]


def swap_halves(s):
  """The second half before the first."""
  return s[len(s) // 2 :] + s[: len(s) // 2]


def twice(s):
  """The text two times."""
  return s + s


def double_letters(s):
  """Each letter two times."""
  return "".join(c + c for c in s)


def mirror(s):
  """The text, then the text backwards."""
  return s + s[::-1]


def first(s):
  """The first letter alone."""
  return s[:1]


def last(s):
  """The last letter alone."""
  return s[-1:]


def middle(s):
  """The letter in the middle alone."""
  return s[len(s) // 2 : len(s) // 2 + 1]


def without_first(s):
  """All but the first letter."""
  return s[1:]


def without_last(s):
  """All but the last letter."""
  return s[:-1]


def without_ends(s):
  """All but the first and the last letter."""
  return s[1:-1]


def first_half(s):
  """The first half alone."""
  return s[: len(s) // 2]


def second_half(s):
  """The second half alone."""
  return s[len(s) // 2 :]


def every_other(s):
  """The first, third, fifth letter and so on."""
  return s[::2]


def other_every_other(s):
  """The second, fourth, sixth letter and so on."""
  return s[1::2]


def in_order(s):
  """The letters in the order of the alphabet."""
  return "".join(sorted(s))


def in_reverse_order(s):
  """The letters in the reverse order of the alphabet."""
  return "".join(sorted(s, reverse=True))


def distinct(s):
  """Each letter the first time that it comes."""
  return "".join(dict.fromkeys(s))


def turn_left(s):
  """The first letter moved to the end."""
  return s[1:] + s[:1]


def turn_right(s):
  """The last letter moved to the front."""
  return s[-1:] + s[:-1]


def swap_ends(s):
  """The first and the last letter in each other's place."""
  return s if len(s) < 2 else s[-1] + s[1:-1] + s[0]


def swap_first_two(s):
  """The first two letters in each other's place."""
  return s[1:2] + s[:1] + s[2:]


def swap_neighbours(s):
  """Every pair of letters in each other's place."""
  return "".join(s[i + 1 : i + 2] + s[i] for i in range(0, len(s), 2))


def without_vowels(s):
  """The text without its vowels."""
  return "".join(c for c in s if not is_vowel(c))


def vowels_alone(s):
  """The vowels alone."""
  return "".join(c for c in s if is_vowel(c))


def consonants_alone(s):
  """The consonants alone."""
  return "".join(c for c in s if is_consonant(c))


def without_digits(s):
  """The text without its digits."""
  return "".join(c for c in s if not c.isdigit())


def letters_alone(s):
  """The letters alone, without digits and signs."""
  return "".join(c for c in s if c.isalpha())


def vowels_to_first(s):
  """The first letter in the place of every vowel."""
  return "".join(s[0] if is_vowel(c) else c for c in s)


def vowels_to_last(s):
  """The last letter in the place of every vowel."""
  return "".join(s[-1] if is_vowel(c) else c for c in s)


def vowels_to_middle(s):
  """The letter in the middle in the place of every vowel."""
  return "".join(s[len(s) // 2] if is_vowel(c) else c for c in s)


def vowels_to_stars(s):
  """A star in the place of every vowel."""
  return "".join("*" if is_vowel(c) else c for c in s)


def capital_vowels(s):
  """The vowels as capitals."""
  return "".join(c.upper() if is_vowel(c) else c for c in s)


def capital_consonants(s):
  """The consonants as capitals."""
  return "".join(c.upper() if is_consonant(c) else c for c in s)


def count_letters(s):
  """How many letters there are, as a word."""
  return spelled(sum(c.isalpha() for c in s))


def count_vowels(s):
  """How many vowels there are, as a word."""
  return spelled(sum(is_vowel(c) for c in s))


def count_consonants(s):
  """How many consonants there are, as a word."""
  return spelled(sum(is_consonant(c) for c in s))


def count_digits(s):
  """How many digits there are, as a word."""
  return spelled(sum(c.isdigit() for c in s))


def count_capitals(s):
  """How many capitals there are, as a word."""
  return spelled(sum(c.isupper() for c in s))


def count_distinct(s):
  """How many different letters there are, as a word."""
  return spelled(len(set(s)))


def next_letters(s):
  """Each letter moved one on in the alphabet."""
  return "".join(moved(c, 1) for c in s)


def letters_before(s):
  """Each letter moved one back in the alphabet."""
  return "".join(moved(c, -1) for c in s)


def move_by_place(s):
  """Each letter moved on in the alphabet by its place, from 0."""
  return "".join(moved(c, i) for i, c in enumerate(s))


def move_back_by_place(s):
  """Each letter moved back in the alphabet by its place, from 0."""
  return "".join(moved(c, -i) for i, c in enumerate(s))


def move_by_length(s):
  """Each letter moved on in the alphabet by the text's length."""
  return "".join(moved(c, len(s)) for c in s)


def half_alphabet(s):
  """Each letter moved by 13 in the alphabet."""
  return "".join(moved(c, 13) for c in s)


def alphabet_backwards(s):
  """Z for a, y for b, and so on."""
  return "".join(
    moved(c, 25 - 2 * (ord(c.lower()) - ord("a"))) if c.isascii() else c
    for c in s
  )


def dashes(s):
  """A dash between letters."""
  return "-".join(s)


def stop_after_vowels(s):
  """A full stop behind every vowel."""
  return "".join(c + "." if is_vowel(c) else c for c in s)


def add_first(s):
  """The first letter once more at the end."""
  return s + s[:1]


def add_length(s):
  """The length behind it, as a word."""
  return s + spelled(len(s))


def starts_with_vowel(s):
  """Whether it begins with a vowel: yes or no."""
  return "yes" if is_vowel(s[:1] or "-") else "no"


def has_repeats(s):
  """Whether any letter comes twice: yes or no."""
  return "yes" if len(set(s)) < len(s) else "no"


def is_same_backwards(s):
  """Whether it reads the same backwards: yes or no."""
  return "yes" if s == s[::-1] else "no"


_HELPERS = (is_vowel, is_consonant, spelled, moved)
PRIMITIVES = {
  name: own
  for name, own in list(globals().items())
  if inspect.isfunction(own) and own not in _HELPERS
}


def apply(names: tuple[str, ...], text: str) -> str:
  """The functions of some names, the last of them first."""
  for name in reversed(names):
    text = PRIMITIVES[name](text)
  return text


def said(names: tuple[str, ...]) -> str:
  """What a composition does, in words."""
  lines = [PRIMITIVES[name].__doc__ or "" for name in reversed(names)]
  return " Then, of that: ".join(lines)


def code(names: tuple[str, ...]) -> str:
  """A program of its own, `f(s)`."""
  needed, more = "", [PRIMITIVES[name] for name in dict.fromkeys(names)]
  for own in more:
    needed += inspect.getsource(own) + "\n\n"
  helpers = [own for own in _HELPERS if f"{own.__name__}(" in needed]
  needed = "\n".join(map(inspect.getsource, helpers)) + "\n" + needed
  lines = []
  if "VOWELS" in needed:
    lines.append(f"VOWELS = {VOWELS!r}")
  if "DIGITS" in needed:
    lines.append(f"DIGITS = {DIGITS!r}")
  call = "s"
  for name in reversed(names):
    call = f"{name}({call})"
  return "\n".join([*lines, needed, f"def f(s):\n  return {call}"])
