"""A drawn world in which truth is known: scenes, their pictures, their words.

`scenes` what there is, `rendering` to pixels, `seeing` back from them,
`prompts` from and to words, `editing` by instructions, `concepts` what a scene
may hold, `describing` several scenes, `outside` generators and describers
behind an endpoint.
"""
