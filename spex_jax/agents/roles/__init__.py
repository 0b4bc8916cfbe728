"""Roles in a circuit: described by an agent, judged by putting parts in places.

`claims` what a role is and how it is judged, `describing` who describes it,
`annotated` those of AgenticInterpBench's files.
"""
