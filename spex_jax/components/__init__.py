"""How the parts of a network make its predictions, alone and together.

Players are of `ablate.components`, values those of its evaluators: masks bool
`[B, n]`, outputs float64 `[B, T]`, one column per example.

  coar             component attribution: outputs as sums over what is kept
  component_pairs  the same with pairs, on masks that keep most
  other_scores     leave-one-out, gradient x parameter, neuron conductance,
                   internal influence, random
  comparing        several methods on the same fresh ablations
  editing          which components to remove so that a model answers otherwise,
                   and edits as objects: applied, saved, joined, undone
  layer_energy     where an expansion's energy lies among the layers
  pruning          which k components to keep
"""
