"""A day on a device: what fails or hangs is a row, and the rest is kept."""

import pathlib
import re
import sys

import pytest

from experiments import device_day

_ROOT = pathlib.Path(__file__).parents[2]


def test_parts_fit_into_nine_minutes_and_their_tests_are_there():
  assert {*device_day.LIMITS} == {*device_day._PARTS}
  assert device_day._WHOLE_DAY < 540 >= sum(device_day.LIMITS.values())
  # The rehearsal has the very tests of the day.
  quick, full = (device_day.CONFIGS[name].tests for name in ("quick", "full"))
  assert quick == full and len(full) == 6
  for path, chosen in full.items():
    told = (_ROOT / path).read_text()
    for name in re.findall(r"\w+", chosen):
      assert name in ("or", "and") or name in told, (path, name)


def _asked(code, limit=60.0):
  return list(device_day.asked("x", [sys.executable, "-c", code], limit))


def test_what_a_part_gave_before_it_failed_is_kept():
  row, fault = _asked('print(\'{"part": "x", "who": "a"}\', flush=True); 1 / 0')
  assert row == {"part": "x", "who": "a"}
  assert fault["fault"] == "ended with 1: ZeroDivisionError: division by zero"


def test_a_part_that_hangs_is_stopped_with_its_children():
  (fault,) = _asked(
    "import subprocess, sys\n"
    "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])",
    limit=0.5,
  )
  assert "was stopped at its limit" in fault["fault"] and fault["seconds"] < 60


def test_a_line_that_was_cut_is_no_row():
  assert _asked('print(\'{"part": "x", \')') == []


def test_no_part_is_begun_when_the_day_is_over():
  (row,) = device_day.run("quick", ["network"], whole_day=0.0)
  assert row["fault"] == "no time was left"


@pytest.mark.parametrize(
  ("text", "code", "row"),
  [
    ("..\n2 passed in 1s", 0, {"passed": 2, "failed": 0}),
    (
      "F.\nFAILED tests/a_test.py::test_b[1] - x\n1 failed, 3 passed in 1s", 1,
      {"passed": 3, "failed": 1, "fault": "test_b[1]"},
    ),
    (
      "No module named pytest", 1,
      {"passed": 0, "failed": 0,
       "fault": "pytest ended with 1: No module named pytest"},
    ),
  ],
)  # fmt: skip
def test_what_pytest_said(text, code, row):
  assert device_day.counted("a", text, code) == {"who": "a"} | row


def test_tests_run_programs_as_users_do(tmp_path):
  path = tmp_path / "own_test.py"
  path.write_text(
    "import os\n\n\ndef test_it():\n"
    "  assert os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] == '0'\n"
    "  assert os.environ['JAX_DEFAULT_MATMUL_PRECISION'] == 'highest'\n"
  )
  (row,) = device_day._tests(device_day.Config(tests={str(path): "it"}))
  assert (row["passed"], row["failed"]) == (1, 0) and "fault" not in row


def test_a_file_that_hangs_leaves_later_ones_their_turn(tmp_path, monkeypatch):
  for name, line in (("a", "import time; time.sleep(600)"), ("b", "pass")):
    (tmp_path / f"{name}_test.py").write_text(f"def test_it():\n  {line}\n")
  monkeypatch.setitem(device_day.LIMITS, "tests", device_day._START + 40)
  tests = {str(tmp_path / f"{name}_test.py"): "it" for name in "ab"}
  first, second = device_day._tests(device_day.Config(tests=tests))
  assert first["fault"] == "was stopped at its limit of 20 s"
  assert second["passed"] == 1 and "fault" not in second


def test_the_table_has_the_roofline_beside():
  found = [
    {"part": "roofline", "who": "products of 10, bfloat16", "device": "chip",
     "products_per_s": 1e9, "work": 2000},
    {"part": "roofline", "who": "copy, float32", "gb_per_s": 3000.0},
    {"part": "network", "who": "device", "masks_per_s": 5e8, "work": 2000},
    {"part": "tests", "who": "a_test.py", "passed": 3, "fault": "test_b"},
  ]  # fmt: skip
  head, _, _, _, first, second, third, fourth = device_day.table(
    found
  ).splitlines()
  assert head.startswith("chip: bfloat16 products 2 Tflop/s, copies 3e+03 GB/s")
  assert "| 1e+09 products/s | 2 | 1 |" in first and "gb_per_s" in second
  assert "| 5e+08 masks/s | 1 | 0.5 |" in third
  assert fourth.endswith("| test_b |")
  # Without a roofline there is no share, and still a table.
  assert device_day.table(found[2:]).startswith("unknown: bfloat16 products  T")


def test_a_part_measures_in_its_own_process():
  (first, second) = device_day.measured("roofline", device_day.CONFIGS["quick"])
  assert first["part"] == "roofline" and first["products_per_s"] > 0
  assert first["work"] == 2 * 64**3 and second["gb_per_s"] > 0


@pytest.mark.slow
def test_the_rehearsal_goes_through():
  limits = dict.fromkeys(device_day.LIMITS, 600.0)
  names = [name for name in device_day.LIMITS if name != "tests"]
  found = list(device_day.run("quick", names, limits, whole_day=3600.0))
  assert not [row for row in found if "fault" in row]
  assert [*dict.fromkeys(row["part"] for row in found)] == names
  by = {row["who"]: row for row in found}
  assert by["device"]["masks_per_s"] > 0
  assert by["pecore, ours"]["work"] > 0
  assert by["eap-ig, ours"]["pairs_per_s"] > 0
  assert by["gaussian, 256 masks"]["r2"] > 0.2
  assert "banzhaf" in by and "loops, vmapped" in by
