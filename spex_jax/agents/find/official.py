"""The paper's own functions, for those who have its files.

A zip or a folder, of which are read: `numeric/fNNNNN` and `strings/fNNNNN`,
each a `function_code.py` with a `function(x)`, a stranger's code, so that every
query runs in the sandbox; a `mlp_approx_model.pt` beside it, which is computed
here and needs no PyTorch; and the `data.json` of `neurons_entities` and
`neurons_relations`, whose functions a language model answers: a `llm.Chat`, by
prompts of our own. Tests are those of `unit_test_data.json` where it is there.
Nothing says a family in a form that is right, so that they have the paper's
score alone.
"""

import collections
import io
import json
import math
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spex_jax.agents import llm, sandbox
from spex_jax.agents.find import (
  families,
  functions,
  knowledge,
  numeric,
  strings,
)

CATEGORIES = ("numeric", "strings", "entities", "relations")
MODULES = ("scipy.signal",)  # Which a sandbox for them imports beforehand.
_FILE = re.compile(
  r"(?:^|/)(numeric|strings|neurons_entities|neurons_relations)/"
  r"((?:f\d{5}/)?(?:function_code\.py|mlp_approx_model\.pt|data\.json"
  r"|unit_test_data\.json))$"
)
_MOST = 1 << 23  # Bytes of a file.
_NEEDS = re.compile(r"^\s*(?:import|from)\s+(?:torch|openai|fastchat)", re.M)
_ALIAS = "\n\ndef f(x):\n  return function(x)\n"
_ENTITY = """\
Is this related to {}? Answer 1 for yes or 0 for no, and nothing else.
{}"""
_RELATION = """\
If the input is {}, answer with {}, and nothing else. If it is not{}, answer \
with: undefined
Input: {}"""
Files = Mapping[str, Callable[[], bytes]]


def load(
  path: str,
  category: str,
  box: sandbox.Sandbox,
  count: int | None = None,
  oracle: llm.Chat | None = None,
) -> tuple[list[functions.Function], int]:
  """Functions of a category, and how many were left out.

  Args:
    path: of the zip, or of the folder that it was unpacked into.
    category: which of the paper's functions, of `CATEGORIES`.
    box: the sandbox that their programs run in, with `MODULES` to import.
    count: the first so many; all by default.
    oracle: who answers for entities, best with `alternatives`, and relations.

  Raises:
    FileNotFoundError: there is nothing at `path`.
    ValueError: another category, no oracle where one is needed, a file that is
      no zip or no JSON, or no function in it.
  """
  if category not in CATEGORIES:
    raise ValueError(
      f"{category!r}: of the official files {', '.join(CATEGORIES)} are read."
    )
  is_word = category in ("entities", "relations")
  folder = f"neurons_{category}" if is_word else category
  files = {
    name.removeprefix(folder + "/"): read
    for name, read in _files(path).items()
    if name.startswith(folder + "/")
  }
  known = _json(files, "unit_test_data.json", "name")
  make: Callable[[str], functions.Function | None]
  if is_word:
    if oracle is None:
      raise ValueError(f"The paper's {category} need an oracle, a model.")
    own = _json(files, "data.json", "dir")
    names = [*own]
    answers = _entity if category == "entities" else _relation
    make = lambda n: (
      answers(n, own[n], known[n], oracle) if n in known else None
    )
  else:
    names = sorted(n[:6] for n in files if n.endswith("function_code.py"))
    make = lambda n: _program(category, n, files, known.get(n), box)
  found: list[functions.Function] = []
  left_out = 0
  for name in names:
    if count is not None and len(found) >= count:
      break
    if made := make(name):
      found.append(made)
    else:
      left_out += 1
  if not found:
    raise ValueError(
      f"{path}: no {folder}/fNNNNN that can be run; {left_out} need PyTorch, "
      "another file or a language model."
    )
  return found, left_out


def _files(path: str) -> dict[str, Callable[[], bytes]]:
  """What reads each file that is known, by its name from the category on."""
  place = pathlib.Path(path)
  if not place.exists():
    raise FileNotFoundError(f"{path}: no such zip or folder.")
  found: dict[str, Callable[[], bytes]] = {}
  if place.is_dir():
    for file in sorted(place.rglob("*.*")):
      match = _FILE.search(file.relative_to(place.parent).as_posix())
      if match and file.is_file() and file.stat().st_size <= _MOST:
        found[f"{match[1]}/{match[2]}"] = file.read_bytes
    return found
  try:
    archive = zipfile.ZipFile(place)
  except zipfile.BadZipFile as error:
    raise ValueError(f"{path} is no zip: {error}.") from error
  for info in archive.infolist():
    match = _FILE.search(info.filename)
    if match and info.file_size <= _MOST:
      # All of them are a few MB, and the zip is closed behind them.
      data = archive.read(info)
      found[f"{match[1]}/{match[2]}"] = lambda data=data: data
  archive.close()
  return found


def _json(files: Files, name: str, key: str) -> dict[str, dict[str, Any]]:
  """A file's entries by the last part of one of their values."""
  if name not in files:
    return {}
  try:
    found = json.loads(files[name]())
    return {own[key].rpartition("/")[2]: own for own in found}
  except (LookupError, TypeError, AttributeError) as error:
    raise ValueError(f"{name} is no list of what has a {key!r}.") from error


def _program(
  category: str, name: str, files: Files, known: Any, box: sandbox.Sandbox
) -> functions.Function | None:
  """One whose code runs in the sandbox; None where it would not."""
  code = files[f"{name}/function_code.py"]().decode(errors="replace") + _ALIAS
  if category == "numeric" and "mlp_approx_model" in code:
    model = files.get(f"{name}/mlp_approx_model.pt")
    return _network(name, model()) if model else None
  if _NEEDS.search(code):
    return None

  def values(xs: Sequence[Any]) -> Any:
    outcome = box.run(code, [x.item() if hasattr(x, "item") else x for x in xs])
    if outcome.status != "ok":
      raise functions.Failed(f"{outcome.status}: {outcome.error}")
    if category == "strings":
      return list(outcome.outputs)
    return np.array(
      [np.nan if y is None else float(y) for y in outcome.outputs]
    )

  if category == "numeric":
    return _made(category, name, numeric.ABOUT, {"code": code}, values)
  about = {"inputs": "texts", "outputs": "texts"}
  truth: dict[str, Any] = {"code": code}
  tests = strings.texts(functions.rng(0, name, "official"), strings.NUM_TESTS)
  if known:
    truth |= _pairs(known, str)
    tests = [*truth["pairs"]]
  return _made(category, name, about, truth, values, tests)


def _network(name: str, data: bytes) -> functions.Function | None:
  """One that is a small network's weights; None where they are not read."""
  try:
    own = _tensors(data)
    weights, biases, out, offset = (
      own[f"layers.{layer}"].astype(float).ravel().tolist()
      for layer in ("0.weight", "0.bias", "2.weight", "2.bias")
    )
  except (
    pickle.UnpicklingError, zipfile.BadZipFile, LookupError, ValueError,
    TypeError, AttributeError, EOFError,
  ):  # fmt: skip
    return None
  spec = {
    "family": "network",
    "parameters": {
      "weights": weights, "biases": biases, "out": out, "offset": offset[0],
    },
  }  # fmt: skip
  values = lambda xs: families.evaluate(spec, np.asarray(xs, float))
  truth = spec | {"code": families.code(spec)}
  about = numeric.ABOUT | {"is_network": True}
  return _made("numeric", name, about, truth, values)


class _Tensors(pickle.Unpickler):
  """What `torch.save` wrote of float32 tensors; no other name is looked up."""

  def __init__(self, archive: zipfile.ZipFile, name: str):
    super().__init__(io.BytesIO(archive.read(name)))
    self._archive, self._folder = archive, name.rpartition("/")[0]

  def find_class(self, module: str, name: str) -> Any:
    known = {
      "collections.OrderedDict": collections.OrderedDict,
      "torch._utils._rebuild_tensor_v2": _rebuilt,
      "torch.FloatStorage": "<f4",
    }
    if f"{module}.{name}" not in known:
      raise pickle.UnpicklingError(f"{module}.{name} is none of {[*known]}")
    return known[f"{module}.{name}"]

  def persistent_load(self, pid: Any) -> np.ndarray:
    _, kind, key, *_ = pid
    return np.frombuffer(self._archive.read(f"{self._folder}/data/{key}"), kind)


def _rebuilt(storage: np.ndarray, offset: int, shape: tuple, *_: Any) -> Any:
  return storage[offset : offset + math.prod(shape)].reshape(shape)


def _tensors(data: bytes) -> Mapping[str, np.ndarray]:
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    if sum(info.file_size for info in archive.infolist()) > _MOST:
      raise ValueError("it is too large")
    name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
    return _Tensors(archive, name).load()


def _entity(
  name: str, own: Mapping, known: Mapping, oracle: llm.Chat
) -> functions.Function:
  """How far a word is of a concept, by a model: P(1) / (P(0) + P(1))."""
  concepts = [own[n] for n in ("concept1", "concept2") if own.get(n)]

  def value(word: str) -> float:
    text = _ENTITY.format(" or ".join(concepts), word)
    reply = oracle.chat([{"role": "user", "content": text}])
    shares = {"0": 0.0, "1": 0.0}
    for token, log in reply.first.items():
      if token.strip() in shares:
        shares[token.strip()] += math.exp(log)
    total = sum(shares.values())
    return shares["1"] / total if total else float("1" in reply.text)

  triples = known["test_vec"]
  correct = [i - 1 for i in known["correct_inx"]]
  right = [words[i] for words, i in zip(triples, correct)]
  truth = {
    "concepts": concepts, "correct": correct,
    "code": knowledge.code(dict.fromkeys(right, 1.0), 0.0),
  }  # fmt: skip
  about = knowledge.ENTITIES | {"hints": own["initial"]}
  values = lambda xs: np.array([value(str(x)) for x in xs])
  return _made("entities", name, about, truth, values, triples)


def _relation(
  name: str, own: Mapping, known: Mapping, oracle: llm.Chat
) -> functions.Function:
  """What a word is in relation to, by a model."""
  odd = own.get("exeption")  # Its file's own spelling.

  def value(word: str) -> str:
    but = f", or {odd}" if odd else ""
    text = _RELATION.format(own["concept1"], own["concept2"], but, word)
    return oracle.chat([{"role": "user", "content": text}]).text.strip()

  truth = _pairs(known, str.strip)
  said = f"of {own['concept1']}, {own['concept2']}"
  truth |= {
    "said": said + (f"; undefined if {odd}" if odd else ""),
    "code": knowledge.code(truth["pairs"], knowledge.UNDEFINED),
  }
  about = knowledge.RELATIONS | {"hints": own["initial"]}
  values = lambda xs: [value(str(x)) for x in xs]
  return _made("relations", name, about, truth, values, [*truth["pairs"]])


def _pairs(
  known: Mapping[str, Any], read: Callable[[str], str]
) -> dict[str, Any]:
  """Right pairs, and triples of pairs with the right one's place."""
  triples = [
    ([own[0], [*map(read, own[1])]], i - 1)
    for own, i in zip(known["test_vec"], known["correct_inx"])
  ]
  pairs = {xs[i]: ys[i] for (xs, ys), i in triples}
  return {"pairs": pairs, "triples": triples}


def _made(
  category: str,
  name: str,
  about: Mapping[str, Any],
  truth: Mapping[str, Any],
  values: Callable[[Any], Any],
  tests: Sequence[Any] = (),
) -> functions.Function:
  about = {"category": category, "is_network": False, **about}
  return functions.Function(
    f"{category}-official-{name}", category, about,
    {"variant": "official", **truth}, values, values, tests,
  )  # fmt: skip
