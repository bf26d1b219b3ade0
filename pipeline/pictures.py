"""STUB for the lead's own trial; overwrite me."""
from typing import Any
def _p(*a: Any, **k: Any) -> Any:
    return b"x"
learning_curves = confusion_matrix = first_layer_weights = most_confident_errors = sample_digits = activations = roc_curve = _p
to_png = _p
