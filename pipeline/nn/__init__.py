"""The lesson's neural network with one hidden layer, from scratch: functions, the net, its training.

The mathematics stands in docs/backprop.md, equation by equation. Arrays are in the lesson's column form, one sample
a column; a caller with rows passes `rows.T`, which copies nothing.

Shapes: d features, m samples (of a batch, or of all), n_hidden hidden units, n_out output units;
X (d, m), Y (n_out, m), W1 (n_hidden, d), b1 (n_hidden, 1), W2 (n_out, n_hidden), b2 (n_out, 1).
"""

from pipeline.nn.net import ShallowNN, initial_weights
from pipeline.nn.training import History, Options, fit

__all__ = ["History", "Options", "ShallowNN", "fit", "initial_weights"]
