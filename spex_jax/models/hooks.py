"""TransformerLens hook names to the sites of a network here.

`site("blocks.0.attn.hook_z")` is "blocks.0.attn.z". Arrays have the same axes,
except where `DIFFERENCES` says what differs.
"""

import re

from spex_jax.models import sites

# Within a block, and outside of all.
BLOCK: dict[str, str] = {
  "hook_resid_pre": "resid_pre",
  "hook_resid_mid": "resid_mid",
  "hook_resid_post": "resid_post",
  "hook_q_input": "attn.q_in",
  "hook_k_input": "attn.k_in",
  "hook_v_input": "attn.v_in",
  "ln1.hook_normalized": "attn.in",
  "attn.hook_q": "attn.q",
  "attn.hook_k": "attn.k",
  "attn.hook_v": "attn.v",
  "attn.hook_rot_q": "attn.q_rot",
  "attn.hook_rot_k": "attn.k_rot",
  "attn.hook_attn_scores": "attn.scores",
  "attn.hook_pattern": "attn.pattern",
  "attn.hook_z": "attn.z",
  "attn.hook_result": "attn.heads",
  "hook_attn_out": "attn.out",
  "ln2.hook_normalized": "mlp.in",
  "mlp.hook_pre": "mlp.pre",
  "mlp.hook_post": "mlp.neurons",
  "hook_mlp_out": "mlp.out",
}
TOP: dict[str, str] = {
  "hook_embed": "embed.tokens",
  "ln_final.hook_normalized": "final_norm",
}

# Where a block norms what it adds to the stream (Gemma 2), the outputs are
# taken behind that norm.
NORMED: dict[str, str] = {
  "hook_attn_out": "attn.post_norm",
  "hook_mlp_out": "mlp.post_norm",
}

DIFFERENCES: dict[str, str] = {
  "hook_normalized": "ours is behind the norm's scale and bias, theirs before",
  "hook_attn_scores": "ours is before the mask, theirs behind it",
  "hook_q_input": "ours may differ by head whenever it is edited, theirs only "
  "with use_split_qkv_input or use_attn_in",
  "hook_embed": "ours is behind the factor of Gemma's embeddings",
}


def site(hook: str, network: sites.Network) -> str:
  """The site of `network` that a TransformerLens hook name stands for.

  Raises:
    ValueError: a name that is not known, or a site that this network lacks.
  """
  inside = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
  name = None
  if inside is None:
    name = TOP.get(hook)
  elif inside[2] in BLOCK:
    normed = f"blocks.{inside[1]}.{NORMED.get(inside[2])}"
    plain = f"blocks.{inside[1]}.{BLOCK[inside[2]]}"
    name = normed if normed in network.sites else plain
  if name is None:
    known = [*TOP, *(f"blocks.L.{inner}" for inner in BLOCK)]
    raise ValueError(f"Unknown hook {hook!r}; known are {', '.join(known)}.")
  if name not in network.sites:
    raise ValueError(f"Hook {hook!r} is {name!r} here; this network lacks it.")
  return name
