"""Saved edits that somebody wrote by hand: one clear refusal each."""

import copy
import json

import numpy as np
import pytest

from spex_jax import base
from spex_jax.components import edit

_BODY = {
  "format": "spex_jax.edit/1",
  "names": ["head 0"],
  "sites": {
    "blocks.0.attn.z": {
      "shape": [1, 1, 3, 2],
      "units": [0, 1],
      "values_shape": [1, 1, 3, 2],
      "values": [0.5, 1.0, 0, 0, 0, 0],
    }
  },
  "model": {"network": "a.B", "config": {"d": 1}, "weights": {"w": "ab"}},
}
_HUGE = [10**5, 10**5]


def _with(path, value):
  body = copy.deepcopy(_BODY)
  place = body
  for name in path[:-1]:
    place = place[name]
  if value is None:
    del place[path[-1]]
  else:
    place[path[-1]] = value
  return body


_SITE = ("sites", "blocks.0.attn.z")
_FAULTS = [
  (("names",), None), (("names",), "head 0"), (("names",), [1]),
  (("sites",), None), (("sites",), []), (("sites",), "x"),
  (("sites", "blocks.0.attn.z"), []), (("model",), None), (("model",), []),
  (("model", "network"), None), (("model", "network"), 3),
  (("model", "config"), []), (("model", "weights"), {"w": 1}),
  ((*_SITE, "shape"), None), ((*_SITE, "shape"), 6),
  ((*_SITE, "shape"), [1, 1, 3, -2]), ((*_SITE, "shape"), [1, 1, True, 6]),
  ((*_SITE, "shape"), [1, 1, "3", 2]), ((*_SITE, "shape"), [0]),
  ((*_SITE, "shape"), _HUGE), ((*_SITE, "shape"), [10**30]),
  ((*_SITE, "shape"), [1] * 99), ((*_SITE, "units"), None),
  ((*_SITE, "units"), [-1]), ((*_SITE, "units"), [6]),
  ((*_SITE, "units"), [True, False]), ((*_SITE, "units"), [0, 0]),
  ((*_SITE, "units"), [0.0]), ((*_SITE, "units"), "01"),
  ((*_SITE, "values"), [1, 2]), ((*_SITE, "values"), "abcdef"),
  ((*_SITE, "values"), [1e39] * 6), ((*_SITE, "values"), [True] * 6),
  ((*_SITE, "values"), [10**400] * 6), ((*_SITE, "values_shape"), None),
  ((*_SITE, "values_shape"), [6]), ((*_SITE, "values_shape"), _HUGE),
  ((*_SITE, "values_shape"), [1, 1, 2, 3]),
]  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize(("path", "value"), _FAULTS)
def test_a_tampered_edit_is_refused(tmp_path, record_property, path, value):
  """Its checksum is right."""
  place = tmp_path / "edit.json"
  base.write_json(place, _with(path, value))
  with pytest.raises(ValueError, match=r"site|saved edit") as caught:
    edit.Edit.load(place)
  said = str(caught.value)
  assert said.isprintable() and len(said) < 400
  record_property("fault", f"edit, {path[-1]} {value}"[:40] + f": {said}")


def test_an_edit_that_is_one_is_read(tmp_path):
  place = tmp_path / "edit.json"
  base.write_json(place, _BODY)
  found = edit.Edit.load(place)
  assert json.loads(json.dumps(found.body())) == _BODY
  (units,) = found.removed.values()
  np.testing.assert_array_equal(np.flatnonzero(units), [0, 1])
