"""What the words of `spex` print when asked for help."""

SPEX = """\
usage: spex COMMAND [--config=NAME_OR_FILE[:SIZE]] [--config.KEY=VALUE ...]
                    [--workdir=DIR]

Which sets of things matter together in a model's decision?

commands:
  explain   masks subsets of a model's input, and recovers from its outputs
            which sets of features interact
  attribute data
            retrains on subsets of the training examples, and tells which of
            them help or harm a prediction, alone and together
  attribute components
            removes heads, neurons or filters of a network, and tells which of
            them its predictions need, alone and together
  sweep     runs thousands of such questions, on one machine or many, so that
            no kill loses or repeats what was done

A FILE given to --config is Python, and is run: take none from a stranger.

`spex explain` alone trains a small network on handwritten digits and explains
one image; `spex attribute data` alone retrains one thousands of times; `spex
attribute components` alone takes one apart. With `--help` each lists its
configurations and settings, and `spex --version` prints the version.
"""

EXPLAIN = """\
usage: spex explain [--config=NAME_OR_FILE[:SIZE]] [--config.KEY=VALUE ...]
                    [--workdir=DIR] [--debug]

  --config    one of the names below, or a Python file with a function
              `get_config(size)` that returns an ml_collections.ConfigDict;
              `:quick` after it asks for a small run (default: digits)
  --config.KEY=VALUE
              changes one setting, as in --config.budget=1000
  --config.method=METHOD
              sets of players: auto (the best of all on your masks), spex,
              proxyspex, gaussian, gram, lasso, or exact (all masks);
              one value for each player: occlusion, lime, kernelshap, and, where
              the model is differentiable, gradient_x_input and
              integrated_gradients
  --config.target_faithfulness=R2
              stops asking once held-out masks are predicted this well
  --workdir   where explanation.json, fourier.json, figure.png and a trained
              network go (default: runs/NAME)
  --debug     shows the traceback of an error

examples:
  spex explain
  spex explain --config=sentiment --config.model=DIRECTORY_OR_HUB_NAME
  spex explain --config=lm --config.model=... --config.text="The cat sat on the"
  spex explain --config=image --config.model=... --config.image=cat.jpg
  spex explain --config=tabular --config.table=mine.csv --config.row=3
  spex explain --config.method=integrated_gradients
  spex explain --config=callable --config.function=my_module:value --config.n=20
"""

ATTRIBUTE = """\
usage: spex attribute data [--config=NAME_OR_FILE[:SIZE]]
                           [--config.KEY=VALUE] [--workdir=DIR] [--debug]

  --config    one of the names below, or a Python file with a function
              `get_config(size)` that returns an ml_collections.ConfigDict;
              `:quick` after it asks for a small run (default: data_digits)
  --config.KEY=VALUE
              changes one setting, as in --config.budget=1000
  --config.data=DATA
              digits, breast_cancer, iris, wine; a .npz file with x, y and
              perhaps x_test, y_test and classes; or a .csv file
  --config.method=METHOD
              scores of single examples: datamodel, lasso, banzhaf, shapley
              read the retrained models; knn needs none; trak, influence,
              tracin, metagradient differentiate one
  --config.players=PLAYERS
              examples, or groups of them: classes, clusters
  --workdir   where attribution.json, explanation.json, figure.png and the
              bank of outputs go (default: runs/NAME); a second run reads what
              the bank holds, and trains what is missing
  --debug     shows the traceback of an error

examples:
  spex attribute data
  spex attribute data --config.classes= --config.num_train=500
  spex attribute data --config=data_cancer
  spex attribute data --config=data_file --config.data=mine.npz
"""

COMPONENTS = """\
usage: spex attribute components
         [--model=DIR_OR_NAME --prompt=TEXT|--image=FILE] [--target=TARGET]
         [--config=NAME_OR_FILE[:SIZE]] [--config.KEY=VALUE] [--workdir=DIR]

  --model, --prompt, --target
              a causal language model (a directory or a hub name), what it
              reads, and what it is to say next: short for --config.model and so
              on, with --config=components_lm; or --model, --image, --target of
              an image classifier, with --config=components_image
  --config    one of the names below, or a Python file with a function
              `get_config(size)` that returns an ml_collections.ConfigDict;
              `:quick` after it asks for a small run (default:
              components_digits, a small network that is trained here)
  --config.KEY=VALUE
              changes one setting, as in --config.budget=1000
  --config.players=PLAYERS
              heads, kv_groups, neurons, filters, blocks; or sites by name:
              --config.pattern=blocks.3.mlp.neurons (--config.whole=True: each
              site is one part)
  --config.absent=ABSENT
              what a part gives when it is absent: zero, mean, resample
  --config.method=METHOD
              sets of parts: auto, spex, proxyspex, gaussian, gram, lasso,
              exact; one value for each: coar (few absent at a time),
              occlusion, lime, kernelshap
  --workdir   where explanation.json, fourier.json (or attribution.json) and
              figure.png go (default: runs/NAME)
  --debug     shows the traceback of an error

examples:
  spex attribute components
  spex attribute components --model=gpt2 --prompt="The cat sat on the"
  spex attribute components --model=google/vit-base-patch16-224 --image=cat.jpg
  spex attribute components --config.players=neurons --config.method=coar
"""

SWEEP = """\
usage: spex sweep run --config=FILE[:SIZE] --workdir=DIR [--config.KEY=VALUE]
                      [--task_index=I --task_count=N] [--retry_failed]
                      [--accept=code,versions,flags,device] [--dry_run]
                      [--sinks=tensorboard,wandb]
       spex sweep status --workdir=DIR [--price=PER_HOUR] [--json]
       spex sweep verify --workdir=DIR
       spex sweep gc --workdir=DIR [--older_than=SECONDS] [--dry_run]
       spex sweep export --workdir=DIR --output=FILE.parquet [--partial]
       spex sweep export --workdir=DIR --sql="select ... from sweep" [--partial]

  run       evaluates what is missing of a sweep, shard by shard; the same
            command goes on after a kill. `FILE` has get_config() and sweep()
            (see spex_jax/sweeps/grid.py, experiments/configs/sweep_digits.py),
            and is run: take none from a stranger.
            Exit code 0: all is tried; 75: asked to end by a signal, the same
            command goes on; 1: what trying again does not mend
  status    what is done, the rate, what is left, the cost, failures with their
            causes; --json prints it for programs
  verify    reads every byte; damaged shards are put aside, and made again by
            the next run
  export    all rows as one Parquet file, for pandas and DuckDB, and its
            SHA-256; or what DuckDB answers, tab-separated. Refused where
            shards are missing or damaged, unless with --partial
  gc        removes what killed writers left, and what was put aside, if it is
            older than an hour (--older_than); --dry_run names it alone

  --workdir a directory, or a URL of an object store (gs://, s3://)
  --task_index, --task_count
            which part of the work; by default of the scheduler's environment
            (SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX, ...), or all of it
  --distributed
            the task is several processes of jax.distributed, which JAX finds
            by itself (TPU slices, Slurm); each evaluates shards of its own on
            its own devices. Elsewhere:
  --coordinator=HOST:PORT --process_id=I --num_processes=N [--timeout=SECONDS]
  --together
            all processes of the task evaluate every shard together, for a
            value function whose parameters lie on the devices of all of them
  --stall=SECONDS
            that one call of the value function may take (3600; 0: for ever):
            one that does not return is told of, and ends the process with 75
  --patience=SECONDS
            that process 0 waits for the next shard of the others (1800)
  --retry_failed
            tries shards once more that failed too often
  --config.KEY=VALUE
            changes one setting of all items; text stays text where the setting
            is, as in --config.classes=3,8
  --dry_run tells what the task would do; like every flag without a value it
            may be given as --dry_run=false, too
  --accept=code,versions,flags,device
            goes on although these differ from what the directory was begun
            with; manifests of new shards tell the difference
"""
