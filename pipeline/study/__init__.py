"""Sweeps: many trainings as one thing, on Optuna's search or Hydra's grid; parallel, pruned, resumable.

    sweeper     `hydra/sweeper=study`: checks, starts the workers, shows progress and the end
    composer    Hydra, as a study uses it
    options     its settings, and the samplers and pruners that they name
    space       what a sweep varies, in Hydra's override grammar
    storage     the studies: a journal file, or a database
    signature   what must stay the same where a sweep is continued
    slots       who trains which trial: claims, deaths, numbers
    worker      claims and trains until nothing is left
    workers     who trains beside the process that shows it: processes of this machine
    ray_workers the same, as tasks of a Ray cluster
    on_ray      that cluster: reached, and its nodes compared and asked
    inputs      what trainings on other machines read
    trial       one training of a sweep, and its outcome
    grid        Hydra's own sweeper: results that are reused, and the same end
    desk        what its jobs ask and tell, on the disk of the machine that it was started on
    ray_desk    the same, for jobs on a Ray cluster
    board       progress, leaderboard and the winner's command, for the terminal
    report      the sweep as a parent run in MLflow

A trial's number, as users see it, is its slot: 0 to n_trials - 1. Each has one trial in Optuna that counts, and one
more for each worker that died with it.
"""
