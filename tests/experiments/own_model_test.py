"""The example of a model of one's own does what it says."""

import pytest

from experiments import own_model


@pytest.mark.slow
def test_quick_explains_a_trained_model_and_its_twin_agrees():
  found = own_model.run(own_model.CONFIGS["quick"])
  assert found["right"] > 0.9
  assert found["class"] == "class_1"
  # The same sums of six neurons, in another order at most.
  assert found["difference"] < 1e-4
  # All 64 masks are asked for.
  assert found["explanation"].faithfulness > 0.999
  # Neurons that are dead for this wine carry nothing.
  assert 0 < len(found["explanation"].interactions("FBII", order=1)) < 6
