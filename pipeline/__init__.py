"""An experiment pipeline: Hydra owns the settings, DVC the data, MLflow the record of runs."""
