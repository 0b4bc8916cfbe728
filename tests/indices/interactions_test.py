"""Sorted, named, printed, saved, and carried to shapiq and back."""

import json
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from spex_jax.fourier import sparse
from spex_jax.indices import interactions as lib
from spex_jax.indices import table


def _example(**fields):
  sets = [((0,), 1.0), ((1, 3), -4.0), ((0, 1, 2), 2.0), ((3,), -1.0)]
  given = {"index": "FBII", "order": 3, "baseline": 0.5} | fields
  return lib.Interactions.from_sets(4, sets, **given)


def test_sorted_by_size_then_players():
  actual = list(_example())
  assert actual == [((1, 3), -4.0), ((0, 1, 2), 2.0), ((0,), 1.0), ((3,), -1.0)]
  example = _example()
  assert example.players.dtype == np.int32
  assert example.players.tolist()[0] == [1, 3, 4]
  assert example.values.dtype == np.float64


def test_top_and_by_order():
  example = _example()
  assert list(example.top(1)) == [((1, 3), -4.0)]
  assert len(example.top(99)) == 4
  assert len(example.top(0)) == 0
  assert list(example.by_order(1)) == [((0,), 1.0), ((3,), -1.0)]
  assert len(example.by_order(7)) == 0
  assert example.top(1).baseline == 0.5
  with pytest.raises(ValueError, match="k must be at least 0; got -1"):
    example.top(-1)


def test_getitem():
  example = _example(names=("a", "b", "b", "d"))
  assert example[3, 1] == -4.0
  assert example[{1, 3}] == -4.0
  assert example[0] == 1.0
  assert example["a"] == 1.0
  assert example["a", 1, 2] == 2.0
  assert example[()] == 0.5
  assert example[2] == 0.0  # Not listed.
  with pytest.raises(KeyError, match="several players are named 'b'"):
    example["b"]
  with pytest.raises(KeyError, match="no player is named 'z'"):
    example["z"]
  with pytest.raises(KeyError, match=r"No player 4; they are 0..3"):
    example[4]
  with pytest.raises(KeyError, match="names a player twice"):
    example[1, 1]
  with pytest.raises(KeyError, match="4 players; FBII was taken up to order 3"):
    example[0, 1, 2, 3]


def test_frozen():
  example = _example()
  with pytest.raises(AttributeError):
    example.order = 2
  with pytest.raises(ValueError, match="read-only"):
    example.values[0] = 1.0


def _with_std(**fields):
  return _example(std=[0.25, 0.5, 0.0, 0.125], **fields)


def test_std_is_sorted_with_the_values():
  example = _with_std()
  assert example.std.dtype == np.float64
  assert example.std.tolist() == [0.5, 0.0, 0.25, 0.125]
  assert list(example) == list(_example())
  assert example.top(2).std.tolist() == [0.5, 0.0]
  assert example.by_order(1).std.tolist() == [0.25, 0.125]
  assert example.top(0).std.shape == (0,)
  assert example.top(3).by_order(1).std.tolist() == [0.25]
  assert _example().std is None
  assert _example().top(2).std is None
  assert _example().by_order(1).std is None


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(
  values=st.dictionaries(
    st.frozensets(st.integers(0, 4), min_size=1),
    st.sampled_from([-2.0, -1.0, 1.0, 2.0]),  # Ties are likely.
  ),
  data=st.data(),
)
def test_each_set_keeps_its_std(values, data):
  sizes = st.floats(0, 1e300)
  std = data.draw(st.lists(sizes, min_size=len(values), max_size=len(values)))
  actual = lib.Interactions.from_sets(
    5, values.items(), index="SII", order=5, std=std
  )
  expected = {tuple(sorted(s)): e for s, e in zip(values, std)}
  pairs = zip(actual, actual.std)
  assert {players: e for (players, _), e in pairs} == expected


def test_std_is_a_copy_and_read_only():
  given = np.array([0.25, 0.5, 0.0, 0.125])
  example = _example(std=given)
  given[:] = 7.0
  assert example.std.max() == 0.5
  for array in (example.std, example.top(1).std):
    with pytest.raises(ValueError, match="read-only"):
      array[0] = 1.0


def test_text_shows_std_after_its_value():
  lines = str(_with_std(units="nat")).splitlines()
  assert lines[0] == str(_example(units="nat")).splitlines()[0]
  assert [line.split() for line in lines[1:]] == [
    ["-4", "+/-", "0.5", "nat", "{1,", "3}"],
    ["+2", "+/-", "0", "nat", "{0,", "1,", "2}"],
    ["+1", "+/-", "0.25", "nat", "{0}"],
    ["-1", "+/-", "0.125", "nat", "{3}"],
  ]
  assert "+/-" not in str(_example())
  sets = [((i,), float(i + 1)) for i in range(30)]
  long = lib.Interactions.from_sets(
    30, sets, index="SV", order=1, std=np.ones(30)
  )
  assert str(long).count("+/- 1 ") == 20


def test_text_names_players_values_and_units():
  text = str(_example(names=("rain", "wind", "sun", "sun"), units="nat"))
  lines = text.splitlines()
  assert lines[0] == (
    "FBII up to order 3: 4 sets of 4 players, baseline +0.5 nat"
  )
  assert lines[1].split() == ["-4", "nat", "{wind,", "sun#3}"]
  assert "{rain, wind, sun#2}" in text


def test_long_tables_are_cut():
  sets = [((i,), float(i + 1)) for i in range(30)]
  text = str(lib.Interactions.from_sets(30, sets, index="SV", order=1))
  assert len(text.splitlines()) == 22
  assert text.endswith("... and 10 more")


def test_hostile_names_stay_text(tmp_path):
  names = ("</script><b>", "\x1b[31mred\n", "[bold]x[/bold]", "{0}%s")
  example = _example(names=names, units="a\nb")
  text = str(example)
  assert len(text.splitlines()) == 5  # No name breaks a line.
  assert "\x1b" not in text
  assert "\\x1b[31mred\\n" in text
  assert "[bold]x[/bold]" in text
  example.save(tmp_path / "i.json")
  assert lib.Interactions.load(tmp_path / "i.json").names == names


def test_save_and_load(tmp_path):
  path = tmp_path / "i.json"
  example = _example(names=("a", "b", "c", "d"), units="logit")
  example.save(path)
  back = lib.Interactions.load(path)
  assert list(back) == list(example)
  for field in ("n", "index", "order", "baseline", "names", "units"):
    assert getattr(back, field) == getattr(example, field)


def test_save_and_load_keep_std(tmp_path):
  path = tmp_path / "i.json"
  example = _example(std=[0.1, 1e-300, 0.0, 1 / 3])
  example.save(path)
  back = lib.Interactions.load(path)
  assert list(back) == list(example)
  assert back.std.tolist() == example.std.tolist()
  _example().save(path)
  assert lib.Interactions.load(path).std is None


def test_files_written_before_std_load(tmp_path):
  path = tmp_path / "i.json"
  _with_std().save(path)
  body = json.loads(path.read_text())
  del body["std"], body["sha256"]
  path.write_text(json.dumps(body))
  back = lib.Interactions.load(path)
  assert back.std is None
  assert list(back) == list(_example())
  path.write_text(json.dumps(body | {"std": [0.5]}))
  with pytest.raises(ValueError, match=r"std must be \[4\], one for each of v"):
    lib.Interactions.load(path)


def test_damaged_and_foreign_files(tmp_path):
  path = tmp_path / "i.json"
  _example().save(path)
  path.write_text(path.read_text().replace("-4.0", "-5.0"))
  with pytest.raises(ValueError, match="damaged"):
    lib.Interactions.load(path)
  path.write_text(json.dumps({"n": 3, "terms": []}))
  with pytest.raises(ValueError, match="no saved interactions: need keys 'n'"):
    lib.Interactions.load(path)


@pytest.mark.parametrize(
  "change, error, message",
  [
    ({"values": np.ones(2)}, ValueError, r"Need players \[K, D\]"),
    ({"values": np.array([np.nan])}, ValueError, "must be finite"),
    ({"baseline": np.inf}, ValueError, "must be finite"),
    ({"players": np.array([[5]])}, ValueError, r"must lie in 0..3"),
    ({"players": np.array([[4]])}, ValueError, "is `baseline`, not a row"),
    ({"players": np.array([1])}, ValueError, r"must be \[K, D\]"),
    ({"players": np.array([[0.5]])}, TypeError, "integers; got float64"),
    ({"players": np.array([[True]])}, TypeError, "integers; got bool"),
    ({"players": np.array([["a"]])}, TypeError, "integers; got <U1"),
    (
      {"players": np.array([[2, 2]])},
      ValueError,
      r"\[2\] names|\[2, 2\] names",
    ),
    ({"players": np.array([[0, 1]])}, ValueError, r"\[0, 1\] has 2.*order=1"),
    (
      {"players": np.array([[3], [1], [3]]), "values": np.array([1, 2, 5.0])},
      ValueError,
      r"The set \[3\] is listed twice",
    ),
    ({"n": 4.0}, TypeError, "number of players n must be an integer; got 4.0"),
    ({"n": -1}, ValueError, "must be at least 0; got -1"),
    ({"order": 1.5}, TypeError, "order must be an integer; got 1.5"),
    ({"order": True}, TypeError, "order must be an integer; got True"),
    ({"names": ("a",)}, ValueError, "Need 4 names, one per player; got 1"),
    ({"names": "abcd"}, TypeError, "must be a list of 4 strings; got 'abcd'"),
    ({"names": {"a", "b", "c", "d"}}, TypeError, "must be a list of 4"),
    ({"names": np.array([["a"] * 4])}, TypeError, "must be a list of 4"),
    ({"names": []}, ValueError, "Need 4 names, one per player; got 0"),
    (
      {"std": np.ones(2)},
      ValueError,
      r"std must be \[1\], one for each of values; got shape \(2,\)",
    ),
    ({"std": 1.0}, ValueError, r"std must be \[1\].*got shape \(\)"),
    ({"std": [np.nan]}, ValueError, "row 0 is nan. Give std=None if"),
    ({"std": [np.inf]}, ValueError, "finite and at least 0; row 0 is inf"),
    ({"std": [-0.5]}, ValueError, "finite and at least 0; row 0 is -0.5"),
  ],
)
def test_bad_fields(change, error, message):
  fields = dict(
    n=4, players=np.array([[1]]), values=np.ones(1), index="SV", order=1
  )
  with pytest.raises(error, match=message):
    lib.Interactions(**(fields | change))


@pytest.mark.parametrize(
  "members, error, message",
  [
    ((0.5,), TypeError, r"player of the set \(0\.5,\).*integer; got 0\.5"),
    ((True,), TypeError, "integer; got True"),
    (("a",), TypeError, "integer; got 'a'"),
    ((4,), ValueError, r"\(4,\) must hold players 0\.\.3"),  # No padding.
    ((-1,), ValueError, r"must hold players 0\.\.3"),
    ((1, 1), ValueError, "names a player twice"),
    ((1, 0), ValueError, r"The set \[0, 1\] is listed twice"),
    ((), ValueError, "is `baseline`, not a row"),
    ((1, 2, 3), ValueError, "has 3 players, more than order=2"),
  ],
)
def test_bad_sets(members, error, message):
  sets = [((0, 1), 1.0), (members, 2.0)]
  with pytest.raises(error, match=message):
    lib.Interactions.from_sets(4, sets, index="SII", order=2)


@pytest.mark.parametrize("player", [0.0, 1.5, True, None])
def test_a_player_is_a_number_or_a_name(player):
  with pytest.raises(TypeError, match="must be an integer; got"):
    _example()[(player,)]


def test_blank_and_equal_names_are_told_apart():
  labels = _example(names=("", "x", " ", "\n")).labels()
  assert labels == ["#0", "x", " #2", "\\n"]
  labels = _example(names=("a", "a", "a#0", "b")).labels()
  assert labels == ["a#0", "a#1", "a#0#2", "b#3"]
  # A line end and a backslash before an n print alike.
  labels = _example(names=("\n", "\\n", "c", "d")).labels()
  assert labels == ["\\n#0", "\\n#1", "c", "d"]
  assert "{#0}" in str(_example(names=("", "x", "y", "z")))


def test_without_shapiq_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setitem(sys.modules, "shapiq", None)
  with pytest.raises(ImportError, match="pip install shapiq"):
    _example().to_shapiq()


@pytest.mark.parametrize("index", [i for i in table.INDICES if i != "Fourier"])
def test_shapiq_round_trip(index):
  shapiq = pytest.importorskip(
    "shapiq", reason="shapiq 1.4.1 is installed on Python 3.11 only."
  )
  fourier = sparse.SparseFourier.from_terms(
    6, {(): 1.0, (0, 1, 2): 2.0, (3,): -1.5, (1, 5): 0.25}
  )
  ours = table.interactions(fourier, index)
  theirs = ours.to_shapiq()
  assert isinstance(theirs, shapiq.InteractionValues)
  assert theirs.index == index
  assert theirs.n_players == 6
  for players, value in ours:
    assert theirs[players] == value
  back = lib.Interactions.from_shapiq(theirs, units="nat")
  assert list(back) == list(ours)
  assert (back.index, back.order, back.baseline, back.units) == (
    index,
    ours.order,
    ours.baseline,
    "nat",
  )


def test_shapiq_has_no_standard_errors():
  pytest.importorskip(
    "shapiq", reason="shapiq 1.4.1 is installed on Python 3.11 only."
  )
  back = lib.Interactions.from_shapiq(_with_std().to_shapiq())
  assert back.std is None
  assert list(back) == list(_example())


def test_shapiq_takes_many_players():
  pytest.importorskip(
    "shapiq", reason="shapiq 1.4.1 is installed on Python 3.11 only."
  )
  # All sets of up to five of 1,000 players are 8e12.
  sets = [((1, 2, 3, 4, 999), 2.0), ((7,), 1.0)]
  ours = lib.Interactions.from_sets(1000, sets, index="FBII", order=5)
  theirs = ours.to_shapiq()
  # Its network plot drops pairs of players that are not listed alone.
  assert len(theirs.interactions) == 1 + 1000 + 1
  assert theirs[(3,)] == 0.0 and theirs[(7,)] == 1.0
  assert list(lib.Interactions.from_shapiq(theirs)) == list(ours)


def test_shapiq_refuses_what_it_has_no_index_for():
  pytest.importorskip(
    "shapiq", reason="shapiq 1.4.1 is installed on Python 3.11 only."
  )
  with pytest.raises(ValueError, match="no Fourier coefficients; take index"):
    _example(index="Fourier").to_shapiq()
  with pytest.raises(TypeError, match="shapiq.InteractionValues; got dict"):
    lib.Interactions.from_shapiq({})
