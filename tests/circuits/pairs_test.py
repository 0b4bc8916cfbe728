"""Pairs of prompts: lengths, padding, files, and what is refused."""

import json

import numpy as np
import pytest
import tokenizers

from spex_jax.circuits import pair_files
from spex_jax.circuits import pairs as pairs_lib
from spex_jax.models import tokens
from tests import tokenizers_small

_ROWS = [
  {
    "clean_ids": [5, 6, 7],
    "corrupted_ids": [5, 8, 7],
    "right_ids": [1],
    "wrong_ids": [2, 3],
    "spans": {"what": [1], "end": [2]},
  },
  {
    "clean_ids": [5, 6, 7, 9],
    "corrupted_ids": [4, 6, 7, 9],
    "right_ids": [1, 2],
    "spans": {"what": [0]},
  },
]
_TOKENIZER = tokens.Tokenizer(tokenizers_small.byte_level(), {})
_TEXTS = [
  {
    "clean": "fun is the",
    "corrupted": "fun fun the",
    "right": " film",
    "wrong": [" is", " fun"],
  },
  {"clean": "fun is", "corrupted": "fun the", "right": [" fun"]},
]


def _same(a, b):
  for name in ("clean", "corrupted", "lengths", "right", "wrong"):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
  assert (a.spans is None) == (b.spans is None)
  if a.spans is not None:
    assert a.spans.names == b.spans.names
    np.testing.assert_array_equal(a.spans.owner, b.spans.owner)


def test_from_ids():
  pairs = pairs_lib.from_ids(_ROWS)
  assert len(pairs) == 2
  np.testing.assert_array_equal(pairs.clean, [[5, 6, 7, 0], [5, 6, 7, 9]])
  np.testing.assert_array_equal(pairs.corrupted[1], [4, 6, 7, 9])
  np.testing.assert_array_equal(pairs.lengths, [3, 4])
  np.testing.assert_array_equal(pairs.right, [[1, -1], [1, 2]])
  np.testing.assert_array_equal(pairs.wrong, [[2, 3], [-1, -1]])
  _same(pairs_lib.from_ids([_ROWS[0], {**_ROWS[1], "wrong_ids": None}]), pairs)
  np.testing.assert_array_equal(pairs.spans.owner, [[2, 0, 1, 2], [0, 2, 2, 2]])
  with pytest.raises(ValueError, match="read-only"):
    pairs.clean[0, 0] = 1


def test_some_of_them_need_fewer_positions():
  pairs = pairs_lib.from_ids(_ROWS)
  one = pairs[:1]
  assert one.clean.shape == (1, 3)
  _same(one.padded(4)[:], one)
  _same(pairs[[1, 0]][[1, 0]], pairs)
  _same(pairs[np.array([True, False])], one)
  assert pairs.padded(6).clean.shape == (2, 6)
  with pytest.raises(ValueError, match="longest prompt has 4"):
    pairs.padded(3)


def test_swapped():
  one = pairs_lib.from_ids(_ROWS[:1])
  other = one.swapped()
  np.testing.assert_array_equal(other.clean, one.corrupted)
  np.testing.assert_array_equal(other.right, one.wrong)
  _same(other.swapped(), one)
  with pytest.raises(ValueError, match="no right answer"):
    pairs_lib.from_ids(_ROWS).swapped()


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_files_give_them_back(tmp_path, ending):
  path = tmp_path / f"pairs.{ending}"
  pairs = pairs_lib.from_ids(_ROWS)
  if ending == "csv":  # It keeps no spans.
    pairs = pairs_lib.from_ids([{**row, "spans": {}} for row in _ROWS])
  pair_files.save(pairs, path)
  _same(pair_files.load(path), pairs)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_texts(mark, tmp_path):
  path = tmp_path / "pairs.jsonl"
  rows = "\n".join(json.dumps(row) for row in _TEXTS)
  path.write_text(mark + rows, encoding="utf-8")
  pairs = pair_files.load(path, _TOKENIZER)
  spelt = [[_TOKENIZER.token(i) for i in ids if i >= 0] for ids in pairs.right]
  assert spelt == [["Ġfilm"], ["Ġfun"]]
  assert pairs.texts[1] == ("fun is", "fun the")
  pair_files.save(pairs, path)  # As ids; texts go along.
  again = pair_files.load(path)
  _same(again, pairs)
  assert again.texts == pairs.texts


@pytest.mark.parametrize(
  ("columns", "right", "wrong"),
  [
    ("clean,corrupted,right,wrong", '"["" film""]"', " is"),
    ("clean,corrupted,correct_idx,incorrect_idx", "258", "260"),
    ("clean,corrupted,answers_idx,corrupted_answers_idx", '"[258]"', "[260]"),
    ("n,clean,corrupted,country_idx,corrupted_country_idx", "258", "260"),
    ("clean,corrupted,clean_answer,corrupted_answer", "7", "8"),
  ],
)
def test_tables_of_others(tmp_path, columns, right, wrong):
  path = tmp_path / "pairs.csv"
  number = "3," if columns.startswith("n,") else ""
  path.write_text(
    f"{columns}\n{number}fun is,fun the,{right},{wrong}\n", encoding="utf-8"
  )
  pairs = pair_files.load(path, _TOKENIZER)
  if "idx" in columns:
    assert (pairs.right[0], pairs.wrong[0]) == ([258], [260])
  else:
    spelt = [_TOKENIZER.token(x[0, 0]) for x in (pairs.right, pairs.wrong)]
    assert spelt == (["7", "8"] if right == "7" else ["Ġfilm", "Ġis"])


def test_the_greater_than_of_eap_ig(tmp_path):
  path = tmp_path / "greater_than_data.csv"
  vocabulary = {f"{year:02d}": year for year in range(100)} | {
    "a": 100,
    "b": 101,
  }
  tokenizer = tokens.Tokenizer(
    tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "a")), {}
  )
  path.write_text("clean,corrupted,label\na,b,7\na,b,97\n")
  pairs = pair_files.load(path, tokenizer)
  known = lambda ids: ids[ids >= 0].tolist()
  assert known(pairs.right[0]) == [*range(8, 100)]
  assert known(pairs.wrong[0]) == [*range(8)]
  assert known(pairs.right[1]) == [98, 99]
  path.write_text("clean,corrupted,label\na,b,99\n")
  with pytest.raises(ValueError, match="row 0: a label is the last two digits"):
    pair_files.load(path, tokenizer)


def _changed(**changes):
  return [{**_ROWS[0], "spans": {}}, {**_ROWS[1], "spans": {}, **changes}]


@pytest.mark.parametrize(
  ("rows", "complaint"),
  [
    ([], "zero rows"),
    (_changed(corrupted_ids=[5, 6]), "Pair 1.*4 tokens, the corrupted one 2"),
    (_changed(corrupted_ids=[5, 6, 7, 9]), "Pair 1.*prompt are equal"),
    (_changed(right_ids=[]), "Pair 1 has no right answer"),
    (_changed(wrong_ids=[2]), "Pair 1: token 2 is a right and a wrong"),
    (_changed(clean_ids=[-1, 6, 7, 9]), "Pair 1: clean_ids: -1 is no id"),
    (_changed(wrong_ids=[-3]), "Pair 1: wrong_ids: -3 is no id"),
    (_changed(right_ids=[1 << 40]), "1099511627776 is no id of a token"),
    (_changed(clean_ids=[], corrupted_ids=[]), "Pair 1 is of empty prompts"),
    (_changed(spans=[3]), "Pair 1: spans are names with positions"),
    (_changed(spans={"end": None}), "Pair 1: spans are names with positions"),
    (
      _changed(wrong_ids=None, wrongs_ids=[3]),
      "Pair 1 has 'wrongs_ids'; wrong",
    ),
    (_changed(wrong_ids=None, wrong=[3]), "Pair 1 has 'wrong'; wrong answers"),
    (_changed(texts=3), "Pair 1: texts are the clean and the corrupted one"),
    ([{"clean_ids": [1]}], "Pair 0 has no 'corrupted_ids'"),
    (_changed(spans={"end": [7]}), r"position 7; positions are 0\.\.3"),
  ],
)
def test_bad_rows(rows, complaint):
  with pytest.raises(ValueError, match=complaint):
    pairs_lib.from_ids(rows)


def test_an_id_must_be_an_integer():
  for wrong in ([1.5, 2, 3, 4], [True, 2, 3, 4], "1234", 5):
    with pytest.raises(TypeError, match="Pair 1: clean_ids must be a list of"):
      pairs_lib.from_ids(_changed(clean_ids=wrong))


def test_answers_are_sets_of_texts_or_ids(tmp_path):
  """One that stands there twice counts once; a lone id is a list of one."""
  row = {"clean_ids": [5, 6], "corrupted_ids": [5, 7]}
  found = pairs_lib.from_ids([row | {"right_ids": [4, 4, 6], "wrong_ids": 3}])
  assert found.right.tolist() == [[4, 6]] and found.wrong.tolist() == [[3]]
  text = {name: _TEXTS[0][name] for name in ("clean", "corrupted")}
  found = pairs_lib.from_texts(
    [text | {"right_ids": [3], "wrong_ids": [4, 5]}], _TOKENIZER
  )
  assert found.right.tolist() == [[3]] and found.wrong.tolist() == [[4, 5]]
  path = tmp_path / "a.csv"
  path.write_text(
    'clean_ids,corrupted_ids,right_ids,wrong_ids\n"[5, 6]","[5, 7]",4,\n'
  )
  found = pair_files.load(path)
  assert found.right.tolist() == [[4]] and not found.wrong.size


def test_repeated_pairs_are_counted():
  pairs = pairs_lib.from_ids([*_ROWS, _ROWS[0], *_ROWS])
  assert pairs.repeated == 3
  assert pairs[:2].repeated == 0


@pytest.mark.parametrize(
  ("row", "complaint"),
  [
    ({"corrupted": "fun is the the"}, "Pair 0.*'fun is the'.*equally long"),
    ({"right": " tram"}, r"right answer ' tram' is 4 tokens"),
    ({"right": ""}, "no right answer"),
    ({"right": 2.5}, "right answer must be a text; got 2.5"),
    ({"clean": 3}, "'clean' must be a text"),
    ({"clean": "a\ud800"}, "Pair 0: 'clean' has half of a surrogate"),
    ({"wrong": "", "wrongs": " film"}, "Pair 0 has 'wrongs'; wrong answers"),
    ({"right": "[5]"}, r"right answer '\[5\]'"),
    ({"clean": ""}, "'clean' must be a text"),
    ({"corrupted": "fun is the"}, "are equal"),
  ],
)
def test_bad_texts(row, complaint):
  with pytest.raises(ValueError, match=complaint):
    pairs_lib.from_texts([_TEXTS[0] | row], _TOKENIZER)


def test_an_answer_that_the_tokenizer_lacks():
  tokenizer = tokens.Tokenizer(tokenizers_small.wordpiece(), {"unk": 1})
  row = {"clean": "the film", "corrupted": "the fun", "right": "zebra"}
  with pytest.raises(ValueError, match="'zebra' is not known"):
    pairs_lib.from_texts([row], tokenizer)


@pytest.mark.parametrize(
  ("name", "text", "complaint"),
  [
    ("a.txt", "", "read from .jsonl and .csv"),
    ("a.jsonl", "", "zero rows"),
    ("a.csv", "\n", "zero rows"),
    ("a.jsonl", "{", "line 1"),
    ("a.jsonl", "[1]", "line 1 is no object"),
    ("a.jsonl", '{"clean": "a"}', "no tokenizer: give clean_ids"),
    ("a.jsonl", '{"clean": "a"}\n{"clean_ids": [1]}', "row 1 has texts|ids"),
    ("a.csv", "clean,corrupted\na,b\n", "columns .'clean', 'corrupted'"),
    ("a.csv", "clean,corrupted,right\n", "zero rows"),
    ("a.csv", 'clean,corrupted,right\n"a', "a.csv"),
    ("a.csv", "clean,corrupted,right\na,b\n", "row 0 has not as many cells"),
    ("a.csv", "clean,corrupted,right\na,b, c, d\n", "row 0 has not as many"),
  ],
)
def test_bad_files(tmp_path, name, text, complaint):
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=complaint):
    pair_files.load(tmp_path / name)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_inside_of_texts_end_no_line(end, tmp_path):
  row = {"clean_ids": [1, 2], "corrupted_ids": [1, 3], "right_ids": [4]}
  row["texts"] = ["a\u2028b\x85", "a\u2028c"]
  line = json.dumps(row, ensure_ascii=False)
  for name, lines in (
    ("a.jsonl", [line, line]),
    ("a.csv", ["clean,corrupted,right,note", "a b,a c,d,e\u2028f", "a,b,d,e"]),
  ):
    (tmp_path / name).write_bytes(("\ufeff" + end.join(lines)).encode())
    if name == "a.jsonl":
      assert pair_files.load(tmp_path / name).texts[1] == tuple(row["texts"])
    else:
      with pytest.raises(ValueError, match="its rows are texts"):
        pair_files.load(tmp_path / name)


def test_no_file(tmp_path):
  with pytest.raises(FileNotFoundError, match="There is no file"):
    pair_files.load(tmp_path / "a.csv")


def test_what_a_model_lacks():
  pairs = pairs_lib.from_ids(_ROWS)
  pairs.check(10, 4)
  with pytest.raises(ValueError, match="Pair 1: token 9 of its clean prompt"):
    pairs.check(9)
  with pytest.raises(ValueError, match="Pair 1 has 4 tokens; the model takes"):
    pairs.check(10, 3)
