"""Every hook name of the table is a site of a loaded model."""

import numpy as np
import pytest

from spex_jax.models import hooks, hub
from tests.models import checkpoints


def _load(tmp_path, settings):
  return hub.load(checkpoints.make(tmp_path / "model", settings)[0])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_every_name_maps_to_a_site_of_a_loaded_model(tmp_path, family):
  net = _load(tmp_path, checkpoints.relative(family, tie_word_embeddings=True))
  names = [*hooks.TOP]
  names += [f"blocks.{number}.{x}" for number in range(2) for x in hooks.BLOCK]
  found = [hooks.site(name, net) for name in names]
  assert len(set(found)) == len(names) == 2 + 2 * 22
  ids = np.array([[3, 1, 4]])
  out = net.apply(net.params, input_ids=ids, capture=found)
  shapes = {"attn.q": (1, 3, 4, 4), "attn.k": (1, 3, 2, 4)}
  shapes |= {"attn.heads": (1, 3, 4, 12), "attn.pattern": (1, 4, 3, 3)}
  for inner, shape in shapes.items():
    assert out.activations[f"blocks.1.{inner}"].shape == shape
  # What is added to the stream, as TransformerLens defines these two.
  get = lambda hook: out.activations[hooks.site(f"blocks.0.{hook}", net)]
  total = get("hook_resid_pre") + get("hook_attn_out") + get("hook_mlp_out")
  assert checkpoints.difference(total, get("hook_resid_post")) < 1e-6


def test_the_names_of_version_4_are_the_same_sites():
  net, _ = checkpoints.compiled(checkpoints.LLAMA)
  for number, pairs in (
    (0, hooks.BRIDGE_BLOCK),
    (1, {"hook_mlp_in": "mlp.read", "hook_resid_mid": "resid_mid"}),
  ):
    for hook, inner in pairs.items():
      if not hook.endswith("_post.hook_out"):  # Norms that a Llama lacks.
        name = f"blocks.{number}.{inner}"
        assert hooks.site(f"blocks.{number}.{hook}", net) == name
  for hook, name in hooks.BRIDGE_TOP.items():
    assert hooks.site(hook, net) == name
  with pytest.raises(ValueError, match="this network lacks it"):
    hooks.site("blocks.0.ln1_post.hook_out", net)


def test_differences_are_of_known_names():
  known = " ".join(
    [*hooks.TOP, *hooks.BLOCK, *hooks.BRIDGE_TOP, *hooks.BRIDGE_BLOCK]
  )
  for name in hooks.DIFFERENCES:
    assert name in known


def test_unknown_names_are_refused(tmp_path):
  net = _load(tmp_path, checkpoints.GPT2)
  for name in ("blocks.0.hook_zzz", "hook_tokens", "blocks.x.attn.hook_z"):
    with pytest.raises(ValueError, match=f"Unknown hook '{name}'; known are"):
      hooks.site(name, net)
  for name in ("blocks.0.attn.hook_rot_q", "blocks.2.attn.hook_z"):
    with pytest.raises(ValueError, match="this network lacks it"):
      hooks.site(name, net)
