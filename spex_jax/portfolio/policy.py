"""What the portfolio decides by: every number of its decisions in one object.

Files of this room read `policy.POLICY.name` at the moment they decide, so that
`dataclasses.replace(POLICY, ...)` in its place changes all of them. What set
each number is in the table "Constants of the portfolio" of
experiments/README.md. Tolerances of rounding stand where they are used.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Policy:
  """The decisions of the portfolio, in the order of their steps.

  Attributes:
    least_budget: a budget of fewer masks is refused.
    least_held_out: so many masks are held out at least, budget permitting.
    held_out_one_in: one mask of so many is held out of a large budget.
    held_out_most_one_in: no more than one mask of so many is ever held out.
    least_judging: fewer held-out masks tell no R^2.
    unpacked_bytes: so many bytes of masks, one a player, are held at once; of
      a larger plan nothing but SPEX is tried, and fewer masks are held out.
    least_scouts: so many uniform masks at least tell whether to ask a plan.
    most_scouts: no more uniform masks than this tell whether to ask a plan.
    scouts_percent: so many percent of the masks that are not held out tell it.
    planted_r2: a plan is asked where quick proxies reach less than this R^2.
    plan_orders: a plan decodes the first of these set sizes that fits.
    least_probed: a budget of so many masks asks the full and the empty one
      even where f varies.
    stages: with a goal, asking may stop at the budget over each of these.
    least_stage: with a goal, so many masks are asked before any stop.
    most_listed: of so many players all masks may be asked for single values.
    least_fitted: fewer masks are answered by their mean.
    least_split: fewer masks are not split, and a lasso of order 1 answers.
    uneven_sure: masks are not uniform where a player is kept so many standard
      errors more or less often than in half of them.
    uneven_least: they are not where it is by this share of the masks, too.
    few_masks: up to so many masks are predicted by `few_folds`.
    few_folds: few masks are predicted by so many folds, an even number.
    folds: more masks are predicted by so many folds.
    hopeless: a member that leaves so many times the error of a better one, in
      the first fold say, is given up.
    far: a process that leaves so many times the error of a Gram scan, on the
      scan's first fold, is left out.
    least_compared: fewer values cannot tell that a process is far behind.
    lasso_order: the lasso fits sets of up to so many players.
    lasso_penalties: the lasso tries these, in deviations of the values.
    pairs_to_a_mask: the lasso of pairs is not fitted beside others where twice
      the pairs are more than so many times the masks.
    tree_depth: trees are at most so many splits deep.
    scan_flops: a Gram scan may cost so many operations.
    least_scanned: fewer masks are not scanned, as every set looks significant.
    least_high: a scan goes one order deeper where sets of order 3 and more
      hold this share of the energy that it found.
    most_needed: an order above 1 is scanned only where a set needs at most this
      share of what is left to be significant.
    cpu_masks: a process sees at most so many masks on a CPU.
    few_each: of fewer masks to a player relevances spread little, groups are
      `groups_of_wide` at most, and no set has a variance of its own.
    many_each: of so many masks to a player relevances spread far.
    determined_each: of so many masks to a player the parameters of one fit
      predict all values out of fold.
    directed_each: of so many masks to a player directions are tried.
    least_refined: fewer masks get no directions and no variance for each set.
    groups: a process is tuned without each of so many groups of masks, which
      tells its errors out of fold.
    groups_of_wide: so many groups are made of more than `least_wide` masks,
      where these are few to a player.
    least_wide: up to so many masks are `groups`, however few to a player.
    groups_of_many: so many groups are made of more than `many_masks`, and for
      directions where one fit's parameters are determined.
    many_masks: up to so many masks are more groups than `groups_of_many`.
    tuned_one_in: a process is tuned on one mask of so many.
    least_tuned: a process is tuned on so many masks at least, or on all.
    most_tuned: a process is tuned on so many masks at most.
    least_turned: directions out of fold are tuned on so many masks at least.
    most_turned: directions out of fold are tuned on so many masks at most.
    rising: a note says that a fit was cut short where its likelihood rose by
      more nats a step than this.
    most_terms: an answer has so many sets at most, besides the empty one.
    growth_sure: errors out of fold are made smaller where their fall with the
      masks is so many times its standard error.
    growth_doubt: this share of the fall is added to its standard error.
    least_weight: a member of a smaller weight is not heard.
    dropped: the smallest sets go that hold this share of the error together.
    gain_sure: the mean answers where others gain less R^2 over it than so many
      standard errors.
    exact_one_in: SPEX is taken for exact only with one set or fewer for so
      many masks.
    spex_leaves: SPEX answers where it leaves at most so many times as much
      unexplained as the proxies.
    weights_gain: masks asked unequally often have weights where these make the
      variance of a mean so many times smaller.
    weights_alike: members are fitted again where what they leave changes a
      weight by this factor or more.
    weights_fits: they are fitted so many times at most.
    most_leverage: a residual is scaled up as of a leverage of at most this
      where masks are drawn for an index.
    folds_together: standard errors of R^2 out of fold are so many times those
      of masks apart.
    shown_sizes: R^2 is told of answers cut to these numbers of sets.
    most_errors: so many errors of a target are kept for intervals.
    most_named: a note names so many players, or groups of them.
  """

  least_budget: int = 8
  least_held_out: int = 64
  held_out_one_in: int = 10
  held_out_most_one_in: int = 3
  least_judging: int = 8
  unpacked_bytes: int = 1 << 28
  least_scouts: int = 64
  most_scouts: int = 1024
  scouts_percent: int = 30
  planted_r2: float = 0.5
  plan_orders: tuple[int, ...] = (5, 4, 3)
  least_probed: int = 32
  stages: tuple[int, ...] = (8, 4, 2, 1)
  least_stage: int = 128
  most_listed: int = 24
  least_fitted: int = 4
  least_split: int = 8
  uneven_sure: float = 5.0
  uneven_least: float = 0.1
  few_masks: int = 512
  few_folds: int = 10
  folds: int = 5
  hopeless: float = 1.1
  far: float = 3.0
  least_compared: int = 50
  lasso_order: int = 2
  # Finer than the default: where little is explained, the step matters.
  lasso_penalties: tuple[float, ...] = tuple(
    10.0 ** (-k / 12) for k in range(31)
  )
  pairs_to_a_mask: int = 40
  tree_depth: int = 5
  scan_flops: float = 1e11
  least_scanned: int = 64
  least_high: float = 0.05
  most_needed: float = 0.5
  cpu_masks: int = 4096
  few_each: int = 2
  many_each: int = 8
  determined_each: int = 96
  directed_each: int = 4
  least_refined: int = 256
  groups: int = 4
  groups_of_wide: int = 3
  least_wide: int = 600
  groups_of_many: int = 2
  many_masks: int = 2048
  tuned_one_in: int = 2
  least_tuned: int = 1024
  most_tuned: int = 2048
  least_turned: int = 512
  most_turned: int = 1024
  rising: float = 1.0
  most_terms: int = 4096
  growth_sure: float = 3.0
  growth_doubt: float = 0.5
  least_weight: float = 0.02
  dropped: float = 0.002
  gain_sure: float = 2.0
  exact_one_in: int = 8
  spex_leaves: float = 1.1
  weights_gain: float = 1.02
  weights_alike: float = 1.5
  weights_fits: int = 3
  most_leverage: float = 0.9
  folds_together: float = 1.5
  shown_sizes: tuple[int, ...] = (10, 30, 100)
  most_errors: int = 1000
  most_named: int = 10


POLICY = Policy()
