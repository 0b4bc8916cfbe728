"""How training examples move predictions, alone and together, and the proof.

Everything reads masks of training examples (or groups of them) and what
retraining on them gave: `masks` bool `[B, n]` and `values` float64 `[B, T]`,
one column per test point. What must retrain more takes a value function.

  examples            the value function: retraining without the absent ones
  subsets             who its players are, and which subsets are asked
  bank                outputs of retrainings on disk, which every method reads
  datamodels          leave-one-out, least squares, ridge, lasso
  semivalues          Shapley, Banzhaf and Beta values, AME, signed interactions
  knn                 the exact Shapley values of nearest neighbours
  gradient_baselines  influence functions, TracIn
  trak                TRAK
  metagradients       the exact derivative through training
  corners             each reported interaction, retrained
  (`indices.judging` has the linear datamodeling score, brittleness and
  mislabelled examples)
"""
