"""Sweeps: many trainings as one thing, on Optuna's search or Hydra's grid; parallel, pruned, resumable.

    sweeper     `hydra/sweeper=study`: checks, starts the workers, shows progress and the end
    composer    Hydra, as a study uses it
    options     its settings, and the samplers and pruners that they name
    space       what a sweep varies, in Hydra's override grammar
    storage     the studies: a journal file, or a database
    signature   what must stay the same where a sweep is continued
    slots       who trains which trial: claims, deaths, numbers
    worker      claims and trains until nothing is left
    trial       one training of a sweep, and its outcome
    grid        Hydra's own sweeper: results that are reused, and the same end
    board       progress, leaderboard and the winner's command, for the terminal
    report      the sweep as a parent run in MLflow

A trial's number, as users see it, is its slot: 0 to n_trials - 1. Each has one trial in Optuna that counts, and one
more for each worker that died with it.
"""
