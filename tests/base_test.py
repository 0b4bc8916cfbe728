"""Tests of the boundary checks and of checksummed files."""

import errno
import os

import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax import base


class TestMasks:
  @pytest.mark.parametrize("dtype", [bool, np.int8, np.float32, np.uint64])
  def test_zeros_and_ones_of_any_type(self, dtype):
    masks = np.array([[0, 1], [1, 1]], dtype)
    checked = base.check_masks(jnp.asarray(masks), 2)
    assert checked.dtype == np.bool_
    np.testing.assert_array_equal(checked, masks == 1)

  @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
  def test_empty(self, shape):
    assert base.check_masks(np.zeros(shape)).shape == shape

  @pytest.mark.parametrize(
    "masks, n, message",
    [
      (np.ones(3), None, r"got shape \(3,\).*masks\[None\]"),
      (np.ones((1, 2, 3)), None, r"got shape \(1, 2, 3\)"),
      (np.ones((1, 2)), 3, "have 2 players; expected n=3"),
      (np.full((1, 2), 2), None, "int64 holds other values"),
      (np.full((1, 2), 0.5), None, "float64 holds other values"),
      (np.full((1, 2), np.nan), None, "float64 holds other values"),
    ],
  )
  def test_bad(self, masks, n, message):
    with pytest.raises(ValueError, match=message):
      base.check_masks(masks, n)


class TestIntegers:
  @pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), jnp.int32(3)])
  def test_integers_of_any_type(self, value):
    checked = base.check_integer(value, "k")
    assert checked == 3 and type(checked) is int

  @pytest.mark.parametrize("value", [3.0, True, np.False_, "3", None, [3]])
  def test_others(self, value):
    with pytest.raises(TypeError) as error:
      base.check_integer(value, "k")
    assert str(error.value) == f"k must be an integer; got {value!r}."


class TestPlayers:
  def test_rows_are_sorted_in_int64(self):
    rows = base.check_players(np.array([[3, 1, 0], [3, 3, 3]], np.uint8), 3)
    assert rows.dtype == np.int64
    assert rows.tolist() == [[0, 1, 3], [3, 3, 3]]

  @pytest.mark.parametrize("shape", [(0, 0), (0, 2), (2, 0)])
  def test_empty(self, shape):
    assert base.check_players(np.zeros(shape), 3).shape == shape

  @pytest.mark.parametrize(
    "players, error, message",
    [
      ([0, 1], ValueError, r"one row per set.*got shape \(2,\)"),
      ([[0.5]], TypeError, "must be integers; got float64"),
      ([[False, True]], TypeError, "got bool. For masks .*from_supports"),
      ([[-1]], ValueError, r"lie in 0\.\.2 \(padding is 3\); got -1"),
      (np.array([[2**63]], np.uint64), ValueError, "got 9223372036854775808"),
      ([[0, 1], [2, 2]], ValueError, r"names a player twice"),
    ],
  )
  def test_bad(self, players, error, message):
    with pytest.raises(error, match=message):
      base.check_players(players, 3)


class TestValues:
  @pytest.mark.parametrize(
    "values",
    [
      [1, 0],
      [True, False],
      np.array([1, 0], np.uint8),
      jnp.array([1, 0], jnp.bfloat16),
      np.array([1, 0], np.float16),
    ],
  )
  def test_real_numbers_become_float64(self, values):
    checked = base.check_values(values, 2)
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, [1, 0])

  def test_targets(self):
    assert base.check_values(np.ones((2, 5)), 2).shape == (2, 5)

  @pytest.mark.parametrize(
    "values, error, message",
    [
      ([1.0], ValueError, r"shape \(2,\), or \(2, T\).*got \(1,\)"),
      (1.0, ValueError, r"got \(\)"),
      (np.ones((2, 0)), ValueError, r"got \(2, 0\)"),
      (np.ones((2, 1, 1)), ValueError, r"got \(2, 1, 1\)"),
      ([0.0, np.nan], ValueError, r"1 of 2 masks \(first at row 1\)"),
      ([-np.inf, np.nan], ValueError, r"2 of 2 masks \(first at row 0\)"),
      ([1j, 0], TypeError, "complex128"),
      (["1", "2"], TypeError, "real numbers"),
      ([None, 1.0], TypeError, "object"),
    ],
  )
  def test_bad(self, values, error, message):
    with pytest.raises(error, match=message):
      base.check_values(values, 2)

  @pytest.mark.parametrize("values", [[], np.zeros((0, 2))])
  def test_no_masks(self, values):
    with pytest.raises(ValueError, match="at least one mask; got none"):
      base.check_values(values, 0)
    with pytest.raises(ValueError, match=r"shape \(2,\).*got \(0"):
      base.check_values(values, 2)

  def test_bad_in_one_target(self):
    values = np.ones((3, 2))
    values[1, 1] = np.inf
    with pytest.raises(ValueError, match=r"1 of 3 masks \(first at row 1\)"):
      base.check_values(values, 3)


class TestJson:
  def test_round_trip_to_the_last_bit(self, tmp_path):
    body = {"x": [0.1, 1e-300, -1.7976931348623157e308], "y": None, "z": "é"}
    base.write_json(tmp_path / "a.json", body)
    assert base.read_json(tmp_path / "a.json") == body
    assert os.listdir(tmp_path) == ["a.json"]

  @pytest.mark.parametrize("broken", ["fsync", "replace"])
  def test_full_disk_leaves_the_old_file(self, tmp_path, monkeypatch, broken):
    path = tmp_path / "a.json"
    base.write_json(path, {"x": 1})

    def fail(*args):
      raise OSError(errno.ENOSPC, "No space left on device")

    if broken == "fsync":
      monkeypatch.setattr(os, "fsync", fail)
    else:
      monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(OSError, match="No space left"):
      base.write_json(path, {"x": 2})
    assert base.read_json(path) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]  # And nothing half-written.

  def test_nan_is_refused(self, tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
      base.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not os.listdir(tmp_path)

  def test_every_flipped_byte_is_found(self, tmp_path):
    """A damaged file is an error, or still says exactly the same."""
    path, body = tmp_path / "a.json", {"x": [1.5, 2], "name": "ab"}
    base.write_json(path, body)
    good = path.read_bytes()
    num_found = 0
    for i in range(len(good)):
      path.write_bytes(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :])
      try:
        read = base.read_json(path)
      except ValueError:
        num_found += 1
      else:
        # Damage to the key "sha256" itself leaves an extra entry.
        assert {k: read.get(k) for k in body} == body
    assert num_found > 0.9 * len(good)

  @pytest.mark.parametrize(
    "content, message",
    [
      (b"", "is not JSON"),
      (b"{", "is not JSON"),
      (b"\xff\xfe", "is not JSON"),
      (b"[1]", "must hold a JSON object"),
      (b'{"x": 1, "sha256": "0"}', "is damaged"),
    ],
  )
  def test_other_files(self, tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
      base.read_json(path)

  def test_no_checksum_is_accepted_and_no_file_is_not(self, tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"x": 1}')
    assert base.read_json(path) == {"x": 1}
    with pytest.raises(FileNotFoundError):
      base.read_json(tmp_path / "b.json")


def test_what_is_not_there_cannot_be_on_the_disk(tmp_path):
  base.sync(tmp_path)
  with pytest.raises(FileNotFoundError, match="gone"):
    base.sync(tmp_path / "gone")


class TestMaskedArrays:
  def test_masked_entries_are_counted(self):
    masks = np.ma.masked_array(np.ones((4, 3), bool), mask=np.eye(4, 3))
    with pytest.raises(ValueError, match="Masks come .* 3 of 12 entries"):
      base.check_masks(masks)
    values = np.ma.masked_greater(np.array([1.0, 1e20, 2.0]), 1e19)
    with pytest.raises(ValueError, match="Values come .* 1 of 3 entries"):
      base.check_values(values, 3)

  def test_nothing_masked_is_an_array(self):
    values = np.ma.masked_array([1.0, 2.0])
    np.testing.assert_array_equal(base.check_values(values, 2), [1.0, 2.0])


@pytest.mark.parametrize("kind", [np.int64, np.uint64, np.longdouble])
def test_what_float64_merges_is_refused(kind):
  """Nanoseconds since 1970: float64 keeps steps of 256 of them."""
  start = kind(1_700_000_000_000_000_000)
  with pytest.raises(ValueError, match="subtract what they share"):
    base.check_values(start + np.arange(5).astype(kind), 5)
  wide = start + (np.arange(5) * 2**20).astype(kind)
  np.testing.assert_array_equal(base.check_values(wide, 5), wide)


def test_an_origin_is_taken_off_without_rounding():
  values = np.array([[1e11 + 0.25, -3.0, 1.0], [1e11 + 7.5, -1.0, 2.0]])
  origin = base.origin(values)
  np.testing.assert_array_equal(origin, [1e11 + 0.25, 0.0, 1.0])
  np.testing.assert_array_equal(values - origin + origin, values)


def test_bytes_are_those_that_were_written():
  """Not only contents: what reads back as the same numbers is damage, too."""
  data = base.to_json({"a": 0.30000000000000004, "b": 1e-05})
  for old, new in ((b"04,", b"05,"), (b"1e-05", b"1E-05"), (b"}\n", b"} ")):
    assert old in data
    changed = data.replace(old, new)
    assert base.from_json(changed, "x") == base.from_json(data, "x")
    with pytest.raises(ValueError, match="x is damaged"):
      base.from_json(changed, "x", must_have_checksum=True)


@pytest.mark.parametrize(
  "data",
  [b"", b"[" * 200_000, b'{"a": NaN, "sha256": "x"}', b"\xff", b"[]",
   b'{"a": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_what_is_no_object_of_ours_is_named(data):
  with pytest.raises(ValueError, match="x .*"):
    base.from_json(data, "x", must_have_checksum=True)


def test_text_that_steers_a_terminal_is_escaped():
  assert base.printable("a\x1b[31mb\u202ec\nd") == r"a\x1b[31mb\u202ec\nd"
  assert base.printable("Grüße, 东京 9 µm") == "Grüße, 东京 9 µm"


def test_only_files_are_replaced(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "link").symlink_to("target")
  for name, what in (("pipe", "pipe"), ("link", "link"), (".", "folder")):
    with pytest.raises(ValueError, match=f"is a {what}"):
      base.write_json(tmp_path / name, {})
  assert not (tmp_path / "target").exists()
  base.check_replaceable(tmp_path / "none")
