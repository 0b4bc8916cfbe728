"""Reads our JSON by Inseq's own readers, and says what it read.

  python third_party/read_inseq.py FILE.json ...

Of `spex context --config.format=inseq` by `AttributeContextOutput.from_dict`,
of `spex context attribute --config.format=inseq` by
`FeatureAttributionOutput.load`. Both are then written, shown or joined again by
Inseq. Needs the environment of `record_inseq.py`.
"""

import json
import pathlib
import sys
import tempfile

import inseq
import numpy as np
from inseq.commands.attribute_context.attribute_context_helpers import (
  AttributeContextOutput,
)


def context(given):
  """One of `attribute-context`."""
  found = AttributeContextOutput.from_dict(given)
  again = AttributeContextOutput.from_dict(found.to_dict())
  assert again.to_dict() == {k: v for k, v in given.items() if k != "info"}
  for cue in found.cci_scores:
    sizes = len(cue.input_context_scores), len(found.input_context_tokens)
    assert sizes[0] == sizes[1], sizes
  ends = found.min_cti, found.max_cti, found.mean_cti
  return f"{len(found.cti_scores)} tokens, {ends}, {len(found.cci_scores)} cues"


def attribution(path):
  """One of `attribute`."""
  found = inseq.FeatureAttributionOutput.load(path)
  sums = []
  for sequence in found.sequence_attributions:
    scores = sequence.get_scores_dicts()
    steps = sequence.attr_pos_end - sequence.attr_pos_start
    assert len(scores["step_scores"]) == steps, scores["step_scores"].keys()
    own = sequence.source_attributions
    own = sequence.target_attributions if own is None else own
    sums.append(np.nan_to_num(own.numpy()).sum(axis=0).tolist())
    joined = sequence.aggregate("spans", target_spans=(0, 2))
    assert len(joined.target) == len(sequence.target) - 1
  page = found.show(display=False, return_html=True)
  assert len(page) > 100, page
  with tempfile.TemporaryDirectory() as folder:
    own = pathlib.Path(folder) / "again.json"
    found.save(own)
    again = inseq.FeatureAttributionOutput.load(own)
  assert dict(again.info) == dict(found.info)
  return f"{len(sums)} sequences, sums by step {sums}"


if __name__ == "__main__":
  for name in sys.argv[1:]:
    given = json.loads(pathlib.Path(name).read_text())
    is_context = "cti_scores" in given
    print(name, context(given) if is_context else attribution(name))
