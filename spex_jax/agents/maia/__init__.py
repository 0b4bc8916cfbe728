"""What makes units of vision models fire, found by experiments, after MAIA.

`labels` what is said of a unit, `units` and `networks` what is studied, `tools`
how, `scripted`, `exemplars` and `talking` by whom, `judging` how well;
`spurious` which units of a classifier go by the background, `failures` with
what its classes are missed.

Source: Shaham et al., "A Multimodal Automated Interpretability Agent", 2024.
The ideas alone; prompts, tools and units are our own.
"""
