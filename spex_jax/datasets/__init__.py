"""Data to train on and to explain, and functions with known spectra."""
