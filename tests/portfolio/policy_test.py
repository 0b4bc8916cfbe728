"""The policy: every field is read, described and in the table; nothing else."""

import ast
import dataclasses
import pathlib
import re

import numpy as np
import pytest

from spex_jax.portfolio import members as members_lib
from spex_jax.portfolio import policy, stack

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_ROOM = sorted((_ROOT / "spex_jax" / "portfolio").glob("*.py"))
_FIELDS = [field.name for field in dataclasses.fields(policy.Policy)]
# Tolerances of rounding, a deviation over a size, and two masks by name.
_NO_DECISIONS = {
  "_RANK", "_NOTHING", "_ROUNDING", "_EXPLAINED", "_ALMOST", "_SIZE", "_PROBES",
}  # fmt: skip


def _read() -> set[str]:
  """Fields that files of the room read of the policy that holds."""
  return {
    node.attr
    for path in _ROOM
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Attribute)
    and ast.unparse(node.value) == "policy.POLICY"
  }


def _named() -> set[str]:
  """Names in the first column of the table of constants."""
  text = (_ROOT / "experiments" / "README.md").read_text()
  section = text.split("### Constants of the portfolio\n")[1]
  table = section.split("\n#")[0]
  firsts = [line.split("|")[1] for line in table.splitlines() if "|" in line]
  return {name for first in firsts for name in re.findall(r"`(\w+)`", first)}


def test_every_field_is_read_and_nothing_else():
  assert _read() == set(_FIELDS)


@pytest.mark.parametrize("field", _FIELDS)
def test_every_field_is_in_the_table_of_constants(field):
  assert field in _named()


@pytest.mark.parametrize("field", _FIELDS)
def test_every_field_says_in_a_phrase_what_it_decides(field):
  said = re.search(
    rf"^    {field}: ((?:.|\n {{6}})+)", policy.Policy.__doc__, re.M
  )
  assert said and said[1].endswith(".") and len(said[1].split()) > 4


def test_the_room_has_no_numbers_of_its_own():
  found = {
    target.id
    for path in _ROOM
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.Assign)
    for target in node.targets
    if any(
      isinstance(part, ast.Constant) and isinstance(part.value, int | float)
      for part in ast.walk(node.value)
    )
    if isinstance(target, ast.Name)
  }
  assert found == _NO_DECISIONS


def test_another_policy_decides_at_once(monkeypatch):
  rng = np.random.default_rng(0)
  masks = rng.random((50, 3)) < 0.5
  values = 1.0 * masks[:, 0] + 0.3 * rng.normal(size=50)
  mean = members_lib.mean(masks, values)
  guess = 1.0 * masks[:, 0]
  near = mean._replace(name="near", out_of_fold=guess - 0.5 * guess.mean())
  assert len(stack.stack(masks, values, [mean, near]).weights) == 2
  deaf = dataclasses.replace(policy.POLICY, least_weight=0.5)
  monkeypatch.setattr(policy, "POLICY", deaf)
  assert [*stack.stack(masks, values, [mean, near]).weights] == ["near"]
