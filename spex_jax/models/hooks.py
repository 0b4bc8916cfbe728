"""TransformerLens hook names to the sites of a network here.

`site("blocks.0.attn.hook_z")` is "blocks.0.attn.z", and so is the name that
version 4 has for it, `blocks.0.attn.o.hook_in`. Arrays have the same axes,
except where `DIFFERENCES` says what differs; the bridge may give heads flat.

Source: the names of `HookedTransformer`, and the parts and aliases in
`transformer_lens/model_bridge/generalized_components`.
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
  "hook_mlp_in": "mlp.read",
  "ln2.hook_normalized": "mlp.in",
  "mlp.hook_pre": "mlp.pre",
  "mlp.hook_post": "mlp.neurons",
  "hook_mlp_out": "mlp.out",
}
TOP: dict[str, str] = {
  "hook_embed": "embed.tokens",
  "ln_final.hook_normalized": "final_norm",
}

# Of `TransformerBridge` (version 4), where a hook is a part's input or output.
# `mlp.in` is a part's name there, the matrix into the neurons.
BRIDGE_BLOCK: dict[str, str] = {
  "hook_in": "resid_pre",
  "ln1.hook_in": "resid_pre",
  "ln1.hook_out": "attn.in",
  "attn.hook_in": "attn.in",
  "attn.q.hook_out": "attn.q",
  "attn.k.hook_out": "attn.k",
  "attn.v.hook_out": "attn.v",
  "attn.o.hook_in": "attn.z",
  "attn.hook_out": "attn.out",
  "ln1_post.hook_out": "attn.post_norm",
  "ln2.hook_in": "mlp.read",
  "ln2.hook_out": "mlp.in",
  "mlp.hook_in": "mlp.in",
  "mlp.in.hook_out": "mlp.pre",
  "mlp.gate.hook_out": "mlp.pre",
  "mlp.out.hook_in": "mlp.neurons",
  "mlp.hook_out": "mlp.out",
  "ln2_post.hook_out": "mlp.post_norm",
  "hook_out": "resid_post",
}
BRIDGE_TOP: dict[str, str] = {
  "embed.hook_out": "embed.tokens",
  "ln_final.hook_in": "final_norm.in",
  "ln_final.hook_out": "final_norm",
  "unembed.hook_in": "final_norm",
  "unembed.hook_out": "logits",
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
  "hook_mlp_in": "version 4's bridge has an alias of this name behind the "
  "norm, our mlp.in; ours is before it, as in HookedTransformer",
  "mlp.in.hook_out": "with a gate, theirs is the other factor, which is no "
  "site here; the gate's is mlp.gate.hook_out",
  "hook_embed": "ours is behind the factor of Gemma's embeddings",
}


def site(hook: str, network: sites.Network) -> str:
  """The site of `network` that a TransformerLens hook name stands for.

  Raises:
    ValueError: a name that is not known, or a site that this network lacks.
  """
  top, block = TOP | BRIDGE_TOP, BLOCK | BRIDGE_BLOCK
  inside = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
  name = None
  if inside is None:
    name = top.get(hook)
  elif inside[2] in block:
    normed = f"blocks.{inside[1]}.{NORMED.get(inside[2])}"
    plain = f"blocks.{inside[1]}.{block[inside[2]]}"
    name = normed if normed in network.sites else plain
  if name is None:
    known = [*top, *(f"blocks.L.{inner}" for inner in block)]
    raise ValueError(f"Unknown hook {hook!r}; known are {', '.join(known)}.")
  if name not in network.sites:
    raise ValueError(f"Hook {hook!r} is {name!r} here; this network lacks it.")
  return name
