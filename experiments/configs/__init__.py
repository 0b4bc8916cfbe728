"""Settings of experiments and sweeps: one file each."""
