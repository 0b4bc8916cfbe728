"""Small tables of common knowledge, for functions of words: `tables.txt`.

A concept is a named list of words. A relation is a named map of words. Sources
stand in the file.
"""

import pathlib


def _sections() -> dict[str, list[list[str]]]:
  """Section to its rows."""
  text = pathlib.Path(__file__).with_name("tables.txt").read_text("utf-8")
  lines = [line for line in text.splitlines() if not line.startswith("#")]
  found = {}
  for section in " ".join(lines).split("[")[1:]:
    head, _, body = section.partition("]")
    rows = [row.strip().split("|") for row in body.split(";")]
    found[head.partition("|")[0]] = [row for row in rows if row != [""]]
  return found


_ROWS = _sections()
_LISTED = {name: words.split() for name, words in _ROWS["concepts"]}


def _of_group(section: str, column: int, group: str) -> list[str]:
  return [row[0] for row in _ROWS[section] if row[column] == group]


CONCEPTS: dict[str, list[str]] = (
  _LISTED
  | {
    f"country in {place}": _of_group("countries", 2, place)
    for place in ("Europe", "Asia", "Africa", "South America")
  }
  | {
    kind: _of_group("animals", 2, kind) for kind in ("mammal", "bird", "insect")
  }
  | {kind: _of_group("elements", 3, kind) for kind in ("metal", "gas")}
)
# Relation to its section, and the columns that it leads from and to.
_COLUMNS = {
  "capital of a country": ("countries", 0, 1),
  "continent of a country": ("countries", 0, 2),
  "currency of a country": ("countries", 0, 3),
  "main language of a country": ("countries", 0, 4),
  "country of a capital": ("countries", 1, 0),
  "symbol of an element": ("elements", 0, 1),
  "atomic number of an element": ("elements", 0, 2),
  "element of a symbol": ("elements", 1, 0),
  "young of an animal": ("animals", 0, 1),
  "class of an animal": ("animals", 0, 2),
  "what an animal does aloud": ("animals", 0, 3),
  "opposite of an adjective": ("opposites", 0, 1),
  "past tense of a verb": ("past", 0, 1),
  "present tense of a past": ("past", 1, 0),
  "plural of a noun": ("plurals", 0, 1),
  "singular of a plural": ("plurals", 1, 0),
  "spelling word of a letter": ("letters", 0, 1),
  "letter of a spelling word": ("letters", 1, 0),
}
_NUMBERS = {
  name: {word: str(i) for i, word in enumerate(_LISTED[name], first)}
  for name, first in (("number word", 0), ("Roman numeral", 1), ("month", 1))
}


def _after(words: list[str]) -> dict[str, str]:
  return dict(zip(words, words[1:] + words[:1]))


RELATIONS: dict[str, dict[str, str]] = {
  name: {row[one]: row[other] for row in _ROWS[section]}
  for name, (section, one, other) in _COLUMNS.items()
} | {
  "month after a month": _after(_LISTED["month"]),
  "day after a day": _after(_LISTED["weekday"]),
  "planet behind a planet": _after(_LISTED["planet"]),
  "number of a number word": _NUMBERS["number word"],
  "number of a Roman numeral": _NUMBERS["Roman numeral"],
  "Roman numeral of a number": {
    number: word for word, number in _NUMBERS["Roman numeral"].items()
  },
  "number of a month": _NUMBERS["month"],
}
