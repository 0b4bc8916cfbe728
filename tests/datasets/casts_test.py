"""What comes in at the door: nothing hidden, nothing merged without a word."""

import jax
import numpy as np
import pytest

from spex_jax.datasets import casts, images, labelled, labelled_texts, tabular

_SECONDS = np.arange(100)
_OTHER = np.random.default_rng(0).normal(size=100)


@pytest.mark.parametrize("base", [1_700_000_000, 20_000_000, -(2**40)])
@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_large_numbers_stay_apart(tmp_path, base, suffix):
  path, clock = tmp_path / f"t{suffix}", base + _SECONDS
  if suffix == ".npz":
    np.savez(path, x=np.stack([clock, _OTHER], 1), y=_SECONDS % 2)
  else:
    rows = [f"{c},{o},{s % 2}" for c, o, s in zip(clock, _OTHER, _SECONDS)]
    path.write_text("\n".join(["a,b,y", *rows]))
  table = tabular.read(path)
  np.testing.assert_array_equal(table.features[:, 0], clock)
  data, _ = labelled.load(str(path))
  np.testing.assert_array_equal(data.x[:, 0], clock)
  # Flax takes them centred and scaled.
  scaled = table.standard(*table.moments())
  assert scaled.dtype == np.float32
  assert len(np.unique(scaled[:, 0])) == 100
  train, test = table.split(jax.random.key(0), 0.25)
  np.testing.assert_array_equal(clock[test.rows], test.features[:, 0])
  np.testing.assert_array_equal(clock[train.rows], train.features[:, 0])


def test_responses_keep_their_digits(tmp_path):
  path = tmp_path / "t.csv"
  rows = [f"{s},{1_700_000_000.5 + s}" for s in _SECONDS]
  path.write_text("\n".join(["a,y", *rows]))
  table = tabular.read(path)
  np.testing.assert_array_equal(table.targets, 1_700_000_000.5 + _SECONDS)


def test_what_a_cast_merges_is_refused_by_name(tmp_path):
  clock = 1e9 + _SECONDS
  with pytest.raises(ValueError, match="'when' has 100 distinct .* keeps 3"):
    casts.narrow(np.stack([_OTHER, clock], 1), ("b", "when"))
  # One that lies far off: scaling does not help.
  clock[3] = 1e15
  table = tabular.from_arrays(
    np.stack([_OTHER, clock], 1), _SECONDS % 2, columns=("b", "when")
  )
  with pytest.raises(ValueError, match="'when' has 100 distinct values"):
    table.standard(*table.moments())
  with pytest.raises(ValueError, match="'b' has values beyond float32"):
    casts.narrow(np.array([[1e39], [0]]), ("b",))
  # Integers beyond float64, in arrays and in files.
  ids = 2**60 + _SECONDS
  with pytest.raises(ValueError, match="'x0' has 100 distinct values"):
    tabular.from_arrays(ids[:, None], _SECONDS % 2)
  path = tmp_path / "t.csv"
  path.write_text("\n".join(["id,y", *(f"{i},{i % 2}" for i in ids.tolist())]))
  with pytest.raises(ValueError, match="'id' has 100 .* float64 keeps 1"):
    tabular.read(path)


def test_neighbours_that_chance_merges_pass():
  """About K^2 / 2^24 of K draws meet in float32; nothing needs them apart."""
  many = np.random.default_rng(0).normal(size=(40_000, 1))
  assert len(np.unique(np.float32(many))) < len(many)
  np.testing.assert_array_equal(casts.narrow(many, ("a",)), np.float32(many))


def test_masked_entries_are_counted():
  x = np.arange(12.0).reshape(6, 2)
  y = np.arange(6) % 2
  hidden = np.ma.masked_array(x, mask=x > 8)
  pictures = np.zeros((6, 1, 2, 2))
  for call in (
    lambda: tabular.from_arrays(hidden, y),
    lambda: labelled.from_arrays(hidden, y),
  ):
    with pytest.raises(ValueError, match="with 3 of 12 entries masked"):
      call()
  labels = np.ma.masked_array(y, mask=y == 1)
  for call in (
    lambda: tabular.from_arrays(x, labels),
    lambda: tabular.from_arrays(x, labels * 1.5),
    lambda: labelled.from_arrays(x, labels),
    lambda: images.from_arrays(pictures, labels),
    lambda: images.from_arrays(
      np.ma.masked_less(np.arange(24.0).reshape(6, 1, 2, 2), 4), y
    ),
  ):
    with pytest.raises(ValueError, match="with [34] of [0-9]+ entries masked"):
      call()
  # A mask that hides nothing is none.
  nothing = np.ma.masked_array(x, mask=False)
  np.testing.assert_array_equal(tabular.from_arrays(nothing, y).features, x)


def _rows(separator=",", end="", mark=""):
  lines = [["age", "dose", "y"]]
  lines += [[f"{i}.5", f"{i % 3}.25", f"{i % 2}"] for i in range(8)]
  return mark + "".join(separator.join(line) + end + "\n" for line in lines)


@pytest.mark.parametrize(
  "content",
  [
    _rows().encode(),
    _rows().encode("utf-8-sig"),
    _rows().encode("utf-16"),
    _rows().replace("\n", "\r\n").encode(),
    _rows(";").encode(),
    _rows("\t").encode(),
    _rows("|").encode(),
    _rows(end=",").encode(),
    _rows(";", end=";").encode("utf-8-sig"),
    _rows(";").replace(".", ",").encode(),
    _rows("\t").replace(".", ",").encode(),
    b"\n" + _rows().encode(),
    _rows(";", mark="sep=;\r\n").encode("utf-8-sig"),
    _rows(mark="sep=,\n").encode("utf-16"),
  ],
)
def test_tables_as_programs_write_them(tmp_path, content):
  (tmp_path / "t.csv").write_bytes(content)
  table = tabular.read(tmp_path / "t.csv")
  assert table.columns == ("age", "dose") and table.classes == ("0", "1")
  np.testing.assert_array_equal(table.features[:, 0], np.arange(8) + 0.5)
  np.testing.assert_array_equal(table.features[:, 1], np.arange(8) % 3 + 0.25)
  assert tabular.read(tmp_path / "t.csv", "age").columns == ("dose", "y")


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("a;y\n1,234;0\n5,678;1\n", "row 0, column 'a': the comma of '1,234' may"),
    ("a;b;y\n1.234;0,5;0\n5.678;1,5;1\n", "the point of '1.234' may be"),
    ("a;y\n0,5;1.234\n1,5;5.678\n", "the point of '1.234' may be"),
    (",a,y\n0,1.5,0\n1,2.5,1\n", "column 0 has no name.*index=False"),
    ("1.5,0\n2.5,1\n3.5,0\n", "the first line has numbers alone"),
    ("a,y\n1,0\n2,.\n3,1\n", "row 1 has no 'y': it is '.'"),
    ("a;y\n1.234,5;0\n5,5;1\n", "row 0, column 'a': '1.234,5' is no number"),
    ("a,y\n1_000,0\n5,1\n", "row 0, column 'a': '1_000' is no number"),
    ("a,y\n1,0\n2,1\n3,inf\n", "row 2 has 'inf' as 'y'"),
    ("a,y\n1,0.5\n2,-Infinity\n", "row 1 has '-Infinity' as 'y'"),
    ("a,y\n1,0\ninf,1\n", "row 1, column 'a'"),
    ("a,y\n1e999,0\n1,1\n", "row 0, column 'a'"),
  ],
)
def test_cells_that_are_no_numbers(tmp_path, content, message):
  (tmp_path / "t.csv").write_text(content)
  with pytest.raises(ValueError, match=message):
    tabular.read(tmp_path / "t.csv")


def test_texts_as_programs_write_them(tmp_path):
  path = tmp_path / "t.csv"
  for content in (
    "text,label\ngood,1\nbad,0\n".encode("utf-8-sig"),
    b"text;label;\ngood;1;\nbad;0;\n",
    b"text\tlabel\ngood\t1\nbad\t0\n",
  ):
    path.write_bytes(content)
    data = labelled_texts.read(path)
    assert data.texts == ("good", "bad") and data.classes == ("0", "1")
  # A comma that nobody quoted would cut the text.
  path.write_text("text,label\ngood, really,1\nbad,0\n")
  with pytest.raises(ValueError, match="row 0 has 3 cells"):
    labelled_texts.read(path)
  path.write_text('text,label\n"two\nlines; and\u2028more",1\nbad,0\n')
  assert labelled_texts.read(path).texts[0] == "two\nlines; and\u2028more"
