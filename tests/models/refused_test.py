"""Checkpoints that contradict themselves, or hold what no model has."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from spex_jax.models import hub, llama, weights
from tests.models import checkpoints

_LLAMA = checkpoints.LLAMA
_LINEAR = {"rope_type": "linear", "factor": 4.0}
_L3 = {
  "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
  "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip


@pytest.mark.parametrize(
  "family, change, message",
  [
    (
      "llama",
      {"rope_parameters": {"rope_type": "default"}, "rope_scaling": _LINEAR},
      "rope_parameters=.* and rope_scaling=.*disagree",
    ),
    (
      "llama",
      {"rope_parameters": _L3, "original_max_position_embeddings": 32},
      r"rope_parameters\.original_max_position_embeddings=16 and orig.*=32",
    ),
    (
      "llama",
      {"rope_parameters": _LINEAR | {"rope_theta": 5.0}, "rope_theta": 7.0},
      r"rope_parameters\.rope_theta=5\.0 and rope_theta=7\.0",
    ),
    (
      "llama",
      {"rope_scaling": _LINEAR | {"type": "dynamic"}},
      r"rope_scaling\.rope_type='linear' and rope_scaling\.type='dynamic'",
    ),
    *(
      (family, {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5")
      for family in ("llama", "mistral", "qwen2", "qwen3", "gemma2")
    ),
    *(
      (
        family,
        {"sliding_window": 8, "layer_types": ["full_attention"] * 2},
        "layer_types=.* and sliding_window=8, which disagree",
      )
      for family in ("mistral", "phi3")
    ),
    ("llama", {"num_attention_heads": 0}, "num_attention_heads=0; it must be"),
    ("llama", {"hidden_size": "12"}, "hidden_size='12'; it must be a whole"),
    ("llama", {"num_hidden_layers": 10**5}, "num_hidden_layers=100000; it"),
    ("llama", {"rms_norm_eps": -1}, "rms_norm_eps=-1; it must be a finite"),
    ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps=nan; it must be"),
    (
      "llama",
      {"tie_word_embeddings": "no"},
      "embeddings='no'; it must be true",
    ),
    ("llama", {"rope_scaling": [1]}, r"rope_scaling=\[1\]; it must be an obj"),
    ("llama", {"rope_theta": 0}, "rope_theta=0; it must be a finite"),
    ("qwen2", {"layer_types": "full"}, "layer_types='full'; it must be a list"),
    ("llama", {"use_mrope": True}, "use_mrope=True, which is not implemented"),
  ],
)
def test_settings_that_disagree_or_have_no_meaning(family, change, message):
  settings = checkpoints.relative(family) | change
  with pytest.raises(ValueError, match=message):
    llama.config_from_hub(settings)


def test_what_is_told_twice_alike_is_fine():
  inside = _LINEAR | {"rope_theta": 7.0}
  change = {"rope_parameters": inside, "rope_theta": 7.0}
  change["rope_scaling"] = {"type": "linear", "factor": 4.0, "rope_theta": 7.0}
  assert llama.config_from_hub(_LLAMA | change).rotary.factor == 4
  settings = checkpoints.relative("mistral", sliding_window=8)
  settings["layer_types"] = ["sliding_attention"] * 2
  assert llama.config_from_hub(settings).windows == (8, 8)


def test_settings_that_change_nothing_and_those_that_are_ignored(tmp_path):
  harmless = {
    "output_past": True, "tie_weights_": True, "_num_labels": 3,
    "n_special": 0, "predict_special_tokens": True, "use_mrope": False,
    "rope_interleaved": False, "is_llama_config": True,
    "transformers.js_config": {"dtype": "q4"}, "directionality": "bidi",
    "pooler_type": "first_token_transform", "_model_name_or_path": "x",
  }  # fmt: skip
  folder, _ = checkpoints.make(tmp_path / "model", _LLAMA | harmless)
  hub.load(folder)
  (folder / "config.json").write_text(json.dumps(_LLAMA | {"shiny": 3}))
  with pytest.raises(ValueError, match=r"shiny=3.*ignore=\('shiny',\)"):
    hub.load(folder)
  hub.load(folder, ignore=("shiny",))
  with pytest.raises(ValueError, match="ignore takes names"):
    hub.load(folder, ignore="shiny")
  # What is known cannot be ignored.
  (folder / "config.json").write_text(json.dumps(_LLAMA | {"hidden_act": "x"}))
  with pytest.raises(ValueError, match="hidden_act='x'"):
    hub.load(folder, ignore=("hidden_act",))


@pytest.mark.parametrize(
  "change, message",
  [
    ({"model_type": ["llama"]}, r"models of type \['llama'\]"),
    ({"architectures": "LlamaForCausalLM"}, "must be a list of one name"),
  ],
)
def test_names_of_another_form(tmp_path, change, message):
  folder, _ = checkpoints.make(tmp_path / "model", _LLAMA)
  (folder / "config.json").write_text(json.dumps(_LLAMA | change))
  with pytest.raises(ValueError, match=message):
    hub.load(folder)
  (folder / "config.json").write_text("[" * 100_000)
  with pytest.raises(ValueError, match="nested too deeply"):
    hub.load(folder)


def test_an_index_names_files_of_its_directory_alone(tmp_path):
  folder, tensors = checkpoints.make(tmp_path / "model", _LLAMA)
  outside = tmp_path / "outside.safetensors"
  single = folder / "model.safetensors"
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
  with pytest.raises(ValueError, match="holds both model.safetensors and"):
    hub.load(folder)
  single.rename(outside)
  for name in ("../outside.safetensors", str(outside), 3, "a/b.safetensors"):
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, name)}))
    with pytest.raises(ValueError, match="must be the name of a .safetensors"):
      hub.load(folder)
  index.write_text(json.dumps({"weight_map": ["a"]}))
  with pytest.raises(ValueError, match="weight_map must be an object"):
    hub.load(folder)


def test_weights_that_cannot_be_kept(tmp_path):
  _, tensors = checkpoints.make(tmp_path / "model", _LLAMA)
  key = "model.layers.0.mlp.down_proj.weight"
  for value, dtype, message in (
    (np.nan, jnp.float32, "holds NaN or infinity"),
    (1e5, jnp.float16, r"holds 100000, beyond the range of float16"),
  ):
    changed = tensors[key].copy()
    changed[0, 0] = value
    folder = checkpoints.save(
      tmp_path / "other", _LLAMA, tensors | {key: changed}
    )
    with pytest.raises(ValueError, match=f"'{key}' {message}"):
      hub.load(folder, dtype)
  hub.load(folder, jnp.bfloat16)  # Which holds it.


def test_a_copy_is_compared():
  rules = (
    weights.Rule("table", "tokens/table"),
    weights.of_head("head", tied=True),
  )
  table = np.arange(6.0).reshape(3, 2)

  def assign(**tensors):
    rows = iter([(key, lambda x=x: x) for key, x in tensors.items()])
    shapes = {"tokens/table": (3, 2)}
    return weights.assign(rules, rows, shapes, None, lambda name, x: x)

  for found in (assign(table=table, head=table), assign(head=table)):
    np.testing.assert_array_equal(found["tokens/table"], table)
  with pytest.raises(
    ValueError, match="'head' must be a copy of 'table'.*1 of"
  ):
    assign(head=table + (table == 3), table=table)
  with pytest.raises(ValueError, match="their shapes are"):
    assign(table=table, head=table[:2])


def test_a_bare_model_is_read_where_its_head_is_the_table(tmp_path):
  settings = _LLAMA | {"tie_word_embeddings": True}
  folder, tensors = checkpoints.make(tmp_path / "whole", settings)
  bare = {key.removeprefix("model."): x for key, x in tensors.items()}
  own = {"architectures": ["LlamaModel"]}
  other = checkpoints.save(tmp_path / "bare", settings | own, bare)
  kernel = lambda net: net.params["blocks_1"]["mlp"]["up"]["kernel"]
  np.testing.assert_array_equal(
    kernel(hub.load(folder)), kernel(hub.load(other))
  )
  checkpoints.save(other, _LLAMA | own, bare)
  with pytest.raises(ValueError, match="no tensor fills 'head/kernel'"):
    hub.load(other)
