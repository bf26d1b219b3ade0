"""Pictures of data, nets and results: each function takes arrays and returns a matplotlib `Figure`.

matplotlib is imported where it is used (0.4 s), through its objects, not pyplot: so nothing global is left behind.
Letters of the shapes: n samples or units, d features, k classes, s the side of an image of s × s pixels.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.nn.functions import ACTIVATIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8A8A8A"  # Okabe and Ito's, told apart by colour-blind eyes too
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "lines.linewidth": 2,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
    "savefig.dpi": 110,
}
MOST_POINTS = 30  # a curve of more epochs than this is drawn without a dot for each
DERIVATIVES = {"sigmoid": "σ′ = σ(1 − σ)", "tanh": "tanh′ = 1 − tanh²", "relu": "relu′ = 1 where z > 0"}


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Hold matplotlib's own defaults with STYLE on top, whatever the user's matplotlibrc says."""
    import matplotlib.style

    with matplotlib.style.context(["default", STYLE]):
        yield


@_style()
def to_png(figure: "Figure") -> bytes:
    """Return the figure as PNG; equal figures give equal bytes, as no version and no time is written into them."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@_style()
def sample_digits(X: np.ndarray, y: np.ndarray) -> "Figure":
    """Return the first 20 images, each under its label.

    Args:
        X: (n, s·s) or (n, s, s), any dtype and range; larger is darker.
        y: (n,) labels.

    Raises:
        ValueError: X is not square images.
    """
    images = _as_images(X[:20])
    titles = [str(label) for label in y[:20]]
    return _image_grid(images, titles, columns=10, title=f"Digits under their labels: the first {len(images)}")


@_style()
def most_confident_errors(X: np.ndarray, y_true: np.ndarray, proba: np.ndarray) -> "Figure":
    """Return up to 12 images that the net got wrong, the one it was surest of first.

    Args:
        X: (n, s·s) or (n, s, s) images, any dtype and range; larger is darker.
        y_true: (n,) labels, 0 … k − 1.
        proba: (n, k) probability of each class.

    Raises:
        ValueError: X is not square images.
    """
    said, confidence = proba.argmax(axis=1), proba.max(axis=1)  # (n,), (n,)
    wrong = np.flatnonzero(said != y_true)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:12]
    if not len(worst):
        return _notice(f"None wrong: all {len(y_true):,} images have the right label.")
    titles = [f"true {y_true[i]}, said {said[i]} ({confidence[i]:.3f})" for i in worst]
    title = f"{len(wrong):,} of {len(y_true):,} wrong; the net was surest of these"
    return _image_grid(_as_images(X[worst]), titles, columns=4, title=title)


@_style()
def first_layer_weights(W: np.ndarray) -> "Figure":
    """Return the weights into the first hidden units: as images if d is a square, else as units × features.

    Args:
        W: (n, d), a row for each hidden unit.

    Raises:
        ValueError: W has no two axes.
    """
    if W.ndim != 2:
        raise ValueError(f"W must be (n_units, n_features), but its shape is {W.shape}")
    n_units, n_features = W.shape
    if math.isqrt(n_features) ** 2 != n_features:
        return _weight_map(W)
    images = _as_images(W[:25])  # (≤ 25, s, s)
    side = images.shape[1]
    title = f"Weights into {len(images)} of {n_units} hidden units, as {side} × {side} images"
    return _image_grid(images, ["" for _ in images], columns=5, title=title, limit=_largest(images))


@_style()
def confusion_matrix(counts: np.ndarray, labels: Sequence[str]) -> "Figure":
    """Return the counts in a grid, each cell coloured by its share of the row.

    The colour goes with the root of the share, as the errors of a good net would all look white otherwise.

    Args:
        counts: (k, k) int, rows the true class, columns the class that the net said.
        labels: k names.
    """
    depth = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))  # (k, k)
    n_classes, n_total, n_right = len(labels), int(counts.sum()), int(np.trace(counts))
    side = 2.2 + 0.46 * max(n_classes, 4)
    figure, (axes,) = _axes(1, (side + 0.4, side))
    axes.imshow(depth, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(n_classes), labels)
    axes.set_yticks(range(n_classes), labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    for (row, column), count in np.ndenumerate(counts):
        ink = "white" if depth[row, column] > 0.6 else "#333333" if count else "#BBBBBB"
        axes.text(column, row, f"{count}", ha="center", va="center", color=ink)
    axes.set(xlabel="said by the net", ylabel="true class")
    axes.set_title(f"{n_right:,} of {n_total:,} right ({n_right / max(n_total, 1):.2%})")
    return figure


@_style()
def learning_curves(history: Mapping[str, Sequence[float]], title: str) -> "Figure":
    """Return loss and accuracy by epoch, of the training rows and, where there are any, the validation rows.

    Args:
        history: `loss` and `accuracy`, perhaps `val_loss` and `val_accuracy`: one number an epoch, the first epoch
            being 1.
        title: what was trained on what.
    """
    from matplotlib.ticker import MaxNLocator

    figure, panels = _axes(2, (9, 3.6))
    epochs = range(1, len(history["loss"]) + 1)
    marker = "o" if len(epochs) <= MOST_POINTS else ""
    for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
        axes.plot(epochs, history[name], color=BLUE, marker=marker, markersize=4.5, label="training")
        if f"val_{name}" in history:
            val = history[f"val_{name}"]
            axes.plot(epochs, val, "--", color=ORANGE, marker=marker, markersize=4.5, label="validation")
        axes.set(title=_best(history, name), xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.margins(x=0.03)
    panels[0].legend()
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


@_style()
def roc_curve(fpr: np.ndarray, tpr: np.ndarray, auc: float) -> "Figure":
    """Return the true positive rate against the false positive rate, beside the diagonal of a guess.

    Args:
        fpr: (m,) false positive rates from 0 to 1, rising.
        tpr: (m,) true positive rates at the same thresholds.
        auc: the area under the curve, 0 … 1.
    """
    figure, (axes,) = _axes(1, (4.6, 4.6))
    axes.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1.5)
    axes.annotate("a guess", (0.6, 0.6), (6, -14), textcoords="offset points", color=GREY)
    axes.plot(fpr, tpr, color=BLUE, clip_on=False)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.grid(True, axis="both")
    axes.set_title(f"ROC curve: area {auc:.4f}")
    return figure


@_style()
def activations() -> "Figure":
    """Return each activation of `pipeline.nn.functions` with its derivative over [−5, 5]."""
    figure, panels = _axes(len(ACTIVATIONS), (3.3 * len(ACTIVATIONS), 3.3))
    z = np.linspace(-5, 5, 1001)
    for axes, (name, (function, derivative)) in zip(panels, ACTIVATIONS.items(), strict=True):
        a = function(z)
        axes.plot(z, a, color=BLUE, label=f"{name}(z)")
        axes.plot(z, derivative(a), "--", color=ORANGE, label=DERIVATIVES.get(name, f"{name}′(z)"))
        axes.set(title=name, xlabel="z")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.35 * (high - low))  # room for the legend
        axes.legend(loc="upper left", borderaxespad=0.1)
    return figure


def _axes(n_panels: int, size: tuple[float, float]) -> tuple["Figure", list["Axes"]]:
    """Return a figure of `size` inches with its panels side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(1, n_panels, squeeze=False).flat)


def _as_images(X: np.ndarray) -> np.ndarray:
    """Return (n, s·s) or (n, s, s) as (n, s, s).

    >>> _as_images(np.zeros((5, 784))).shape
    (5, 28, 28)
    """
    side = math.isqrt(math.prod(X.shape[1:]))
    if X.shape[1:] not in {(side * side,), (side, side)}:
        raise ValueError(f"images must be (n, side * side) or (n, side, side), but the shape is {X.shape}")
    return X.reshape(len(X), side, side)


def _image_grid(
    images: np.ndarray, titles: Sequence[str], *, columns: int, title: str, limit: float | None = None
) -> "Figure":
    """Return images in rows of `columns`, dark on white; with `limit`, −limit … limit as blue … red, with a scale."""
    from matplotlib.figure import Figure

    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    width = 0.95 if max(map(len, titles)) <= 2 else 1.95  # inches
    height = min(width, 1.4) + (0.25 if any(titles) else 0)
    scale = 0 if limit is None else 0.9
    size = (max(width * columns + scale, 4.6), height * rows + 0.5)
    figure = Figure(figsize=size, layout="constrained" if limit is None else "compressed")
    panels = figure.subplots(rows, columns, squeeze=False)
    low, high = (images.min(), images.max()) if limit is None else (-limit, limit)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, image, name in zip(panels.flat, images, titles, strict=False):
        shown = axes.imshow(
            image, cmap="gray_r" if limit is None else "RdBu_r", vmin=low, vmax=high, interpolation="nearest"
        )
        axes.set_title(name, loc="center", pad=4, fontsize=10)
    if limit is not None:
        figure.colorbar(shown, ax=panels, extend="both", aspect=15 * rows)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    return figure


def _weight_map(W: np.ndarray) -> "Figure":
    """Return W (n, d) as one heat map, a row for each unit."""
    from matplotlib.ticker import MaxNLocator

    n_units, n_features = W.shape
    figure, (axes,) = _axes(1, (7.2, min(1.6 + 0.26 * n_units, 7)))
    limit = _largest(W)
    shown = axes.imshow(W, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set(xlabel="feature", ylabel="hidden unit")
    axes.set_title(f"{n_units} × {n_features} weights into the first hidden layer")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.spines[:].set_visible(False)
    axes.grid(False)
    figure.colorbar(shown, ax=axes, extend="both", aspect=25)
    return figure


def _largest(W: np.ndarray) -> float:
    """Return the size that 99 % of the weights stay below, so that one outlier does not pale the rest; never 0."""
    return float(np.quantile(np.abs(W), 0.99)) or 1.0


def _best(history: Mapping[str, Sequence[float]], name: str) -> str:
    """Return a panel's title: its best epoch, by the validation rows if there are any.

    >>> _best({"loss": [0.5, 0.2], "val_loss": [0.3, 0.4]}, "loss")
    'loss: best on validation 0.3000, epoch 1'
    """
    key, rows = (f"val_{name}", "validation") if f"val_{name}" in history else (name, "training")
    epoch = int((np.argmin if name == "loss" else np.argmax)(history[key]))
    return f"{name}: best on {rows} {history[key][epoch]:.4f}, epoch {epoch + 1}"


def _notice(text: str) -> "Figure":
    """Return a picture that holds one sentence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 1.2))
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12)
    return figure
