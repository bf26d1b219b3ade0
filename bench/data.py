"""How fast a CSV becomes arrays, beside pandas as it comes and beside reading the bytes."""

from bench.measure import alternate, median, ratio
from pipeline import config, mnist_csv, paths


def csv_to_arrays(n: int) -> dict[str, float]:
    """Return seconds for mnist_train.csv, and the ratios; its peak memory is that of stage load."""
    import pandas as pd

    largest = config.load_params().mnist.max_csv_bytes
    times = alternate(
        {
            "pipeline": lambda: mnist_csv.read(paths.TRAIN_CSV, max_bytes=largest),
            "pandas": lambda: pd.read_csv(paths.TRAIN_CSV),
            "bytes": paths.TRAIN_CSV.read_bytes,
        },
        n,
    )
    return {f"{name}, s": median(times, name) for name in times} | {
        "pipeline / pandas": ratio(times, "pipeline", "pandas"),
        "pipeline / bytes": ratio(times, "pipeline", "bytes"),
    }
