"""The settings: what Hydra composed, checked key by key, in frozen dataclasses that all further code reads."""

import difflib
import math
import reprlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import yaml

from pipeline.address import redact
from pipeline.errors import SettingsError

PARAMS_FILE = Path("params.yaml")
DATASETS = ("mnist", "synthetic")
NETS = ("scratch", "keras")
OBJECTIVES = ("loss", "accuracy", "val_loss", "val_accuracy")
LARGEST_SEED = 2**32 - 1
LARGEST_WHOLE = 10**12  # beyond it, NumPy has an error of its own for each place where no memory can be had
MAX_SHOWN = 200  # letters of a value in a message
SHORT = reprlib.Repr()  # unlike repr, it takes no time and memory for what is not shown
SHORT.maxlevel = 4
SHORT.maxlist = SHORT.maxtuple = SHORT.maxdict = SHORT.maxset = 20
SHORT.maxstring = SHORT.maxlong = SHORT.maxother = 3 * MAX_SHOWN  # it cuts in the middle, which is not shown

T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """What a value must be: in words for the message, and as a function that says whether it holds."""

    says: str
    holds: Callable[[Any], bool]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def whole(low: int, high: float = math.inf) -> Rule:
    """Return the rule of a whole number in [low, high]."""
    bounds = f"≥ {low}" if high == math.inf else f"from {low} to {high}"
    return Rule(f"a whole number {bounds}", lambda value: _is_whole(value) and low <= value <= high)


def one_of(*choices: str) -> Rule:
    """Return the rule of a closed set of names."""
    return Rule(f"one of {', '.join(choices)}", lambda value: value in choices)


def optional(rule: Rule) -> Rule:
    """Return the rule that also lets null pass."""
    return Rule(f"{rule.says}, or null", lambda value: value is None or rule.holds(value))


POSITIVE = Rule("a finite number > 0", lambda value: _is_number(value) and value > 0)
NOT_NEGATIVE = Rule("a finite number ≥ 0", lambda value: _is_number(value) and value >= 0)
FRACTION = Rule("a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1)
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
TEXT = Rule("a text", lambda value: isinstance(value, str) and value != "")
ADDRESS = Rule(
    "an address without user, password and query (which MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD hold, "
    "or MLFLOW_TRACKING_URI as a whole)",
    lambda value: TEXT.holds(value) and redact(value) == value,
)
LAYERS = Rule(
    "a whole number ≥ 1, or a list of them",
    lambda value: whole(1).holds(value) or (bool(value) and _is_whole_list(value)),
)


def _is_whole_list(value: object) -> bool:
    return isinstance(value, list | tuple) and all(whole(1).holds(item) for item in value)


@dataclass(frozen=True)
class Mnist:
    """Where the images come from (conf/mnist/)."""

    source: Annotated[str, one_of("auto", "csv", "keras", "npm", "digits")]
    train_csv: Annotated[str | None, optional(TEXT)]
    test_csv: Annotated[str | None, optional(TEXT)]
    label_column: Annotated[str | None, optional(TEXT)]
    max_csv_bytes: Annotated[int, whole(1)]


@dataclass(frozen=True)
class Synthetic:
    """The binary task that scikit-learn's make_classification draws (conf/synthetic/)."""

    n_samples: Annotated[int, whole(2)]
    n_features: Annotated[int, whole(1)]
    n_informative: Annotated[int, whole(2)]
    n_redundant: Annotated[int, whole(0)]
    random_state: Annotated[int, whole(0, LARGEST_SEED)]
    n_train: Annotated[int, whole(1)]


@dataclass(frozen=True)
class Preprocess:
    """How the training rows are split (conf/preprocess/)."""

    validation_fraction: Annotated[float, FRACTION]
    shuffle: Annotated[bool, FLAG]
    pool_test: Annotated[bool, FLAG]


@dataclass(frozen=True)
class Scratch:
    """The from-scratch net and its training (conf/scratch/)."""

    dataset: Annotated[str, one_of(*DATASETS)]
    n_hidden: Annotated[int, whole(1)]
    activation: Annotated[str, one_of("tanh", "sigmoid", "relu")]
    learning_rate: Annotated[float, POSITIVE]
    batch_size: Annotated[int, whole(1)]
    epochs: Annotated[int, whole(1)]
    shuffle: Annotated[bool, FLAG]


@dataclass(frozen=True)
class Keras:
    """The Keras MLP and its training (conf/keras/)."""

    dataset: Annotated[str, one_of(*DATASETS)]
    units: Annotated[tuple[int, ...], LAYERS]
    activation: Annotated[str, one_of("relu", "tanh", "sigmoid")]
    dropout: Annotated[float, FRACTION]
    l2: Annotated[float, NOT_NEGATIVE]
    optimizer: Annotated[str, one_of("rmsprop", "adam", "sgd")]
    learning_rate: Annotated[float, POSITIVE]
    batch_size: Annotated[int, whole(1)]
    epochs: Annotated[int, whole(1)]
    early_stopping: Annotated[int | None, optional(whole(1))]
    jit_compile: Annotated[bool, FLAG]
    steps_per_execution: Annotated[int, whole(1)]
    warm_start: Annotated[bool, FLAG]


@dataclass(frozen=True)
class Tracking:
    """Where runs are recorded (conf/tracking/)."""

    uri: Annotated[str | None, optional(ADDRESS)]
    experiment: Annotated[str, TEXT]
    reuse: Annotated[bool, FLAG] = True  # a key that came later has a value for the runs of before
    server: Annotated[bool, FLAG] = False


@dataclass(frozen=True)
class Settings:
    """All settings; one section for each group of conf/."""

    seed: Annotated[int, whole(0, LARGEST_SEED)]
    net: Annotated[str, one_of(*NETS)]
    objective: Annotated[str, one_of(*OBJECTIVES)]
    mnist: Mnist
    synthetic: Synthetic
    preprocess: Preprocess
    scratch: Scratch
    keras: Keras
    tracking: Tracking

    def section(self, net: str) -> Scratch | Keras:
        """Return the section of one of the NETS."""
        return self.keras if net == "keras" else self.scratch


def parse(composed: Mapping[str, Any]) -> Settings:
    """Return the settings that a composed config holds, or say everything that is wrong with it.

    Args:
        composed: plain mappings, lists and scalars, as `params.yaml` holds them.

    Raises:
        SettingsError: one line for each unknown or missing key and each value that is not allowed.
    """
    complaints: list[str] = []
    settings = _section(Settings, composed, "", complaints)
    if settings and not complaints:
        complaints = _contradictions(settings)
    if settings is None or complaints:
        raise SettingsError("\n".join(complaints))
    return settings


def load_params(path: Path = PARAMS_FILE) -> Settings:
    """Return the settings that `params.yaml` holds.

    Raises:
        FileNotFoundError: there is no such file.
        SettingsError: it is no YAML, or a key or value in it is not allowed.
    """
    return parse(read_yaml(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        FileNotFoundError: there is no such file.
        SettingsError: it is no YAML, holds no mapping, or has an alias.
    """
    try:
        text = path.read_text(encoding="utf-8")
        alias = first_alias(text)
        content = None if alias else yaml.safe_load(text)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; `dvc repro compose` makes it from conf/") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a number of 5,000 digits; 1,000 lists in lists
        raise SettingsError(f"{path}: YAML is needed, but {' '.join(str(error).split())}") from error
    if alias:
        raise SettingsError(f"{path}, {alias}")
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: a mapping of settings is needed, but it holds {shown(content)}")
    return content


def first_alias(text: str) -> str | None:
    r"""Return what is wrong with the first alias of a YAML text, and its line; None where there is none.

    Ten lines of aliases can stand for more values than any memory holds.

    Raises:
        YAMLError: it is no YAML.

    >>> first_alias("a: &a [1, 2]\nb: [*a, *a]")
    'line 2: a value written out is needed, but got the alias *a'
    """
    if "*" not in text:
        return None
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        if isinstance(token, yaml.AliasToken):
            name = shown(f"*{token.value}").strip("'")
            return f"line {token.start_mark.line + 1}: a value written out is needed, but got the alias {name}"
    return None


def to_dict(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain mappings, lists and scalars: what `parse` takes."""
    composed = asdict(settings)
    composed["keras"]["units"] = list(settings.keras.units)
    return composed


def shown(value: object) -> str:
    r"""Return a value as a message shows it: on one line, and no more of it than MAX_SHOWN letters.

    >>> print(shown("a\nb"))
    'a\nb'
    """
    try:
        text = SHORT.repr(value)
    except ValueError:  # Python prints no number of more than 4,300 digits
        return "a number too long to print"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _printable(key: str) -> str:
    return key if key.isprintable() and len(key) <= MAX_SHOWN else shown(key)


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, its keys joined by dots.

    >>> flatten({"seed": 0, "keras": {"units": [512]}})
    {'seed': 0, 'keras.units': [512]}
    """
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _section(cls: type[T], mapping: object, prefix: str, complaints: list[str]) -> T | None:
    if not isinstance(mapping, Mapping):
        complaints.append(
            f"{prefix.rstrip('.')}: a section of settings is needed, but got {shown(mapping)}{_place(prefix)}"
        )
        return None
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    late = {field.name for field in fields(cls) if field.default is not MISSING}  # type: ignore[arg-type]
    missing = [name for name in names if name not in mapping and name not in late]
    for key in mapping:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
            complaints.append(f"{prefix}{_printable(str(key))}: unknown key ({hint}){_place(prefix)}")
            missing = [name for name in missing if name not in near]  # one mistake, one line
    if missing:
        what = "this key is missing" if len(missing) == 1 else f"keys are missing: {', '.join(missing)}"
        where = prefix + missing[0] if len(missing) == 1 else prefix.rstrip(".") or "settings"
        complaints.append(f"{where}: {what}{_place(prefix)}")
    hints = get_type_hints(cls, include_extras=True)
    values = {name: _value(hints[name], mapping[name], name, prefix, complaints) for name in names if name in mapping}
    return cls(**values) if late.union(values) >= set(names) else None


def _value(hint: Any, value: Any, name: str, prefix: str, complaints: list[str]) -> Any:
    key = prefix + name
    if not get_args(hint):
        return _section(hint, value, f"{key}.", complaints)
    kind, rule = get_args(hint)
    if not rule.holds(value):
        complaints.append(f"{key}: {rule.says} is needed, but got {redact(shown(value))}{_place(prefix)}")
        return None
    if any(_is_whole(item) and item > LARGEST_WHOLE for item in (value if isinstance(value, list) else [value])):
        complaints.append(f"{key}: at most {LARGEST_WHOLE:,} is needed, but got {shown(value)}{_place(prefix)}")
        return None
    if kind is float:
        return float(value)
    if rule is LAYERS:
        return tuple(value) if isinstance(value, list | tuple) else (value,)
    return value


def _place(prefix: str) -> str:
    group = prefix.rstrip(".")
    is_group = group in Settings.__dataclass_fields__ and group not in ("seed", "net", "objective")
    return f"; see conf/{group}/" if is_group else "; see conf/config.yaml"


def _contradictions(settings: Settings) -> list[str]:
    """Return what is wrong although each value alone is allowed."""
    mnist, synthetic, keras = settings.mnist, settings.synthetic, settings.keras
    no_validation = settings.preprocess.validation_fraction == 0
    names_one = (mnist.train_csv is None) != (mnist.test_csv is None)
    n_made = synthetic.n_informative + synthetic.n_redundant
    names_csv = mnist.train_csv is not None or mnist.test_csv is not None
    checks = {
        "mnist.train_csv and mnist.test_csv go together: name both or none; see conf/mnist/": names_one,
        "mnist.source: csv needs mnist.train_csv and mnist.test_csv, but both are null; see conf/mnist/": (
            mnist.source == "csv" and mnist.train_csv is None and mnist.test_csv is None
        ),
        f"mnist.source: auto or csv is needed where CSVs are named, but got {mnist.source}; see conf/mnist/": (
            names_csv and mnist.source not in ("auto", "csv")
        ),
        f"mnist.label_column: null is needed where no CSVs are named, but got {shown(mnist.label_column)}; "
        "see conf/mnist/": mnist.label_column is not None and not names_csv,
        f"synthetic.n_train: less than n_samples ({synthetic.n_samples}) is needed, "
        f"but got {synthetic.n_train}; see conf/synthetic/": synthetic.n_train >= synthetic.n_samples,
        f"synthetic.n_features: at least n_informative + n_redundant ({n_made}) is needed, "
        f"but got {synthetic.n_features}; see conf/synthetic/": n_made > synthetic.n_features,
        f"keras.early_stopping: null is needed where preprocess.validation_fraction is 0, "
        f"but got {keras.early_stopping}; see conf/keras/": no_validation and keras.early_stopping is not None,
    }
    return [complaint for complaint, is_wrong in checks.items() if is_wrong]
