"""`spex explain` by gradients and by what others compute, end to end."""

import jax
import numpy as np
import pytest

from spex_jax import cli
from spex_jax.explanation import Explanation
from spex_jax.jobs import digits
from spex_jax.jobs import explain as job


def _config(name, **changes):
  return cli.load_config(f"{name}:quick", changes=changes)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """Where one small network is trained once."""
  return tmp_path_factory.mktemp("digits")


def _run(config, workdir):
  lines = []
  answer = job.run(config, workdir, show=lines.append)
  return answer, "\n".join(line for line in lines if isinstance(line, str))


def _values(answer):
  found = answer.interactions("SV", order=1)
  return np.array([found[i] for i in range(answer.fourier.n)])


@pytest.mark.slow
def test_integrated_gradients_of_pixels(workdir):
  config = _config("digits", patch=2, method="integrated_gradients")
  answer, text = _run(config, workdir)
  assert answer.method == "integrated_gradients"
  assert answer.held_out == 64 and answer.num_evaluations == 66
  assert "64 gradients on the line from absent players, the tr" in text
  assert "66 distinct masks" in text and "R2 " in text and "(gap " in text
  subject = digits.subject(config, workdir)
  ends = np.stack([np.ones(16, bool), np.zeros(16, bool)])
  full, empty = subject.evaluator(ends)
  np.testing.assert_allclose(answer.fourier(ends[1:]), empty, atol=1e-4)
  # The network has kinks: 64 steps leave half a percent or so.
  np.testing.assert_allclose(
    _values(answer).sum(), full - empty, atol=0.02 * abs(full - empty)
  )
  loaded = Explanation.load(workdir / "explanation.json")
  assert loaded.method == answer.method and loaded.notes == answer.notes


@pytest.mark.slow
def test_gradient_x_input_of_stand_ins(workdir):
  config = _config(
    "digits", patch=2, method="gradient_x_input", baseline="resample"
  )
  answer, text = _run(config, workdir)
  full = np.ones((1, 16), bool)
  subject = digits.subject(config, workdir)
  np.testing.assert_allclose(
    answer.fourier(full), subject.evaluator(full), atol=1e-4
  )
  assert "1 gradient at the input, absent players the values of 16" in text
  # It is what occlusion becomes for small steps: its first order.
  (step,) = np.float32([1e-2])
  soft = jax.jit(subject.game)
  for player in (5, 9):
    ends = [soft(1 + s * step * (np.arange(16) == player)) for s in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(_values(answer)[player], slope, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["occlusion", "lime", "kernelshap"])
def test_masks_by_the_same_command(workdir, method):
  config = _config("digits", patch=2, method=method)
  answer, text = _run(config, workdir)
  assert answer.method == method and answer.num_evaluations <= 200
  assert f"found by {method}" in text and "on 64 held-out masks" in text
  assert "gradient" not in text


@pytest.mark.slow
def test_a_table_and_its_network(tmp_path):
  config = _config(
    "cancer",
    method="integrated_gradients",
    gradient_steps=8,
    model={"kind": "mlp"},
  )
  answer, text = _run(config, tmp_path)
  assert answer.fourier.n == 30 and "8 gradients on the line" in text


def test_a_model_without_a_gradient(tmp_path):
  config = _config("cancer", method="gradient_x_input")
  with pytest.raises(
    ValueError,
    match="'gradient_x_input' needs a model that JAX can differentiate; "
    "subject 'table' as configured has none: .*kind=mlp. Or choose from auto",
  ):
    job.run(config, tmp_path, show=pytest.fail)
