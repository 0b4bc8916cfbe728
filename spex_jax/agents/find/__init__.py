"""Functions to interpret, after FIND (Schwettmann et al., 2023), made anew.

Categories, counts and ranges are the paper's; every function is generated, its
truth is its code, and the same query has the same answer, noise included.
"""
