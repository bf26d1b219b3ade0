"""Malformed CSVs and settings through the commands themselves: one line each, no traceback, no output."""

import gzip
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from counted import Faults
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import command, compose, config, fetch, mnist_csv
from pipeline.errors import DataError

SEED = 0
N_GENERATED = 60
OUTPUTS = "bad outputs"
ROOT = Path(__file__).resolve().parents[2]

HEADER = "label,1x1,1x2,2x1,2x2"
N_COLUMNS = 5
BAD_CELLS = [
    "\U00085dfd",
    *("256", "-1", "1.5", "1e2", "nan", "inf", "", " ", "x", "0x10", "٣", "1 2", "--1", "999999999999999999999999"),
    *('"12"', "'1'", "\t", "NULL", "1_0", "\x1b[2J", "\u2028", "\x85", "a" * 5000, "=1+1", "½", "+", "1;2"),
]

# ---------------------------------------------------------------------------------------------------------- CSVs


def good_rows(rng: random.Random, n: int) -> list[list[str]]:
    return [[str(rng.randrange(10)), *(str(rng.randrange(256)) for _ in range(N_COLUMNS - 1))] for _ in range(n)]


def joined(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def bad_csv(rng: random.Random) -> tuple[bytes, str]:
    """Return a CSV with one mistake in it, and what the message must say of the place."""
    rows = good_rows(rng, rng.randrange(2, 40))
    has_header = rng.random() < 0.5
    at, column = rng.randrange(1, len(rows)), rng.randrange(N_COLUMNS)
    line = at + 1 + has_header
    place = f", line {line}"
    kind = rng.choice(["cell", "cell", "cell", "short", "long", "header", "bytes", "zipped", "comment"])
    if kind in ("cell", "zipped"):
        rows[at][column] = rng.choice(BAD_CELLS if column else ["10", *BAD_CELLS])
        place = f", line {line}, column {column + 1}"
    elif kind == "short":
        del rows[at][column]
    elif kind == "long":
        rows[at].insert(column, "1")
    lines = [HEADER] * has_header + [",".join(row) for row in rows]
    if kind == "header":
        lines.insert(line - 1, HEADER)
        place = place if has_header else f"{place}, column 1"
    elif kind == "comment":
        lines[line - 1] = f"# {lines[line - 1]}"
        place = f"{place}, column 1"
    content = joined(lines)
    if kind == "bytes":
        before = joined(lines[: line - 1])
        content = before + rng.choice([b"\xff", b"\0", b"\xc3(", b"\xed\xa0\x80"]) + content[len(before) :]
    return (gzip.compress(content) if kind == "zipped" else content), place


def by_hand() -> dict[str, bytes]:
    rows = joined(["5,0,1,2,3", "0,10,20,30,255"])
    good = f"{HEADER}\n".encode() + rows
    zipped = gzip.compress(good + rows * 50)
    return {
        "empty": b"",
        "a line feed": b"\n",
        "blanks": b" \n\t\n\r\n",
        "a byte-order mark": b"\xef\xbb\xbf",
        "UTF-16": good.decode().encode("utf-16"),
        "UTF-32": good.decode().encode("utf-32"),
        "latin-1": good.replace(b"1x1", b"\xe9"),
        "old Mac line ends": good.replace(b"\n", b"\r"),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "a zip archive": b"PK\x03\x04" + bytes(100),
        "gzip, cut": zipped[:-9],
        "gzip, its head alone": zipped[:10],
        "gzip, its first bytes alone": zipped[:2],
        "gzip, broken": zipped[:30] + b"\xff\xff\xff" + zipped[33:],
        "gzip, wrong checksum": zipped[:-8] + b"\0\0\0\0" + zipped[-4:],
        "gzip, rubbish behind": zipped + b"rubbish",
        "gzip in gzip": gzip.compress(zipped),
        "header alone": f"{HEADER}\n".encode(),
        "header without line end": HEADER.encode(),
        "headers of two files": f"{HEADER}\n".encode() + good,
        "semicolons": good.replace(b",", b";"),
        "tabs": good.replace(b",", b"\t"),
        "blanks as separators": good.replace(b",", b" "),
        "names that are equal": good.replace(b"1x2", b"1x1"),
        "no labels": joined(["0,1,2,3", "10,20,30,255"]),
        "one column": joined(["label", "5", "0"]),
        "no square": joined(["label,1,2,3", "5,0,0,0"]),
        "a line of 2 MB": good + b"1," * 10**6 + b"\n",
        "a first line of 2 MB": b"1," * 10**6 + b"\n",
        "2 MB without a line feed": b"1" * 2 * 10**6,
        "a trailing comma": good.replace(b"3\n", b"3,\n"),
        "an index column": joined([f"{i},{line}" for i, line in enumerate(good.decode().splitlines())]),
        "quoted numbers": good.replace(b"255", b'"255"'),
        "a quoted line feed": good.replace(b"255", b'"25\n5"'),
        "floats": good.replace(b"255", b"0.5"),
        "scaled already": joined([HEADER, "5,0.0,0.1,1.0,0.5"]),
        "negative": good.replace(b"255", b"-255"),
        "a label of 10": good.replace(b"\n0,", b"\n10,"),
        "JSON": b'{"label": 5}\n',
        "HTML": b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "an escape in a name": good.replace(b"2x2", b"\x1b[31m").replace(b"255", b"256"),
        "a line separator in a name": good.replace(b"2x2", "a\u2028b".encode()).replace(b"255", b"256"),
        "a vertical tab in a name": good.replace(b"2x2", b"a\x0bb").replace(b"255", b"x"),
        "NULs": bytes(4000),
        "a NUL in a row": good.replace(b"255", b"2\x005"),
        "a number of 5,000 digits": good.replace(b"255", b"9" * 5000),
        "Arabic digits": good.replace(b"255", "٢٥٥".encode()),
        "full-width digits": good.replace(b"255", "２５５".encode()),
        "a formula": good.replace(b"255", b"=cmd|'/C calc'!A0"),
        "minus zero": good.replace(b"255", b"-0"),
        "hexadecimal": good.replace(b"255", b"0xff"),
        "thousands": good.replace(b"255", b"1_0"),
        "exponent": good.replace(b"255", b"1e2"),
        "not a number": good.replace(b"255", b"nan"),
        "infinity": good.replace(b"255", b"inf"),
        "missing": good.replace(b"255", b"NA"),
        "a byte-order mark in the middle": good + b"\xef\xbb\xbf" + rows,
        "another width below": good + joined(["5,0,0,0,0,0,0,0,0,0"]),
    }


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty project that this test stands in."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "conf", "conf")
    return tmp_path


def told(main) -> str:
    """Return what a command ends with: one line; it fails if there are more, or another error."""
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, str)
    assert len(ended.value.code.splitlines()) == 1, ended.value.code
    assert ended.value.code.isprintable()
    assert ended.value.code.startswith("error: ")
    assert len(ended.value.code) < 600
    return ended.value.code


def assert_none(faults: Faults, *outputs: str) -> None:
    """Count a fault as survived if it has left no output; else fail."""
    left = [name for name in outputs if Path(name).exists()]
    faults.lost += len(left)
    assert left == []
    faults.survived += 1


def fetch_params(folder: Path, train: str, test: str = "good.csv") -> None:
    """Write the params.yaml of a project whose CSVs are these, and a good one."""
    (folder / "good.csv").write_bytes(joined([HEADER, "5,0,1,2,3"]))
    overrides = ["mnist.source=csv", f"mnist.train_csv={train}", f"mnist.test_csv={test}"]
    (folder / "params.yaml").write_text(compose.run(ROOT / "conf", overrides))


def test_each_generated_csv_is_refused_in_one_line_that_names_its_place(place, count):
    rng = random.Random(SEED)
    faults = count("generated malformed CSVs, through stage fetch", OUTPUTS)
    fetch_params(place, "bad.csv")
    for _ in range(N_GENERATED):
        faults.injected += 1
        content, where = bad_csv(rng)
        Path("bad.csv").write_bytes(content)
        line = told(fetch.main)
        assert f"bad.csv{where}" in line, line
        assert "but" in line
        assert_none(faults, "data")


def test_each_csv_that_is_malformed_by_hand_is_refused_in_one_line(place, count):
    faults = count("malformed CSVs by hand, through stage fetch", OUTPUTS)
    fetch_params(place, "bad.csv")
    for name, content in by_hand().items():
        faults.injected += 1
        Path("bad.csv").write_bytes(content)
        line = told(fetch.main)
        assert line.startswith("error: bad.csv"), (name, line)
        assert_none(faults, "data")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.csv", "none.csv: no such file"),
        (".", ".: a CSV file is needed, but this is a folder"),
        ("/dev/zero", "/dev/zero: a CSV file is needed, but this is a device"),
        ("fifo", "fifo: a CSV file is needed, but this is a device or a pipe"),
        ("a" * 300, "File name too long"),
        ("good.csv/x", "good.csv/x: "),
        ("a\nb", "a b: no such file"),
        ("a\x1bb", r"a\x1bb: no such file"),
        ("a\u2028b", "a b: no such file"),
        ("a\0b", r"a\x00b: no such file"),
    ],
)
def test_what_is_no_file_is_refused_in_one_line(place, name, says):
    os.mkfifo("fifo")
    fetch_params(place, "good.csv")
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["mnist"]["train_csv"] = name
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert says in told(fetch.main)
    assert not Path("data").exists()


# ------------------------------------------------------------------------------------------------------ settings

NO_NUMBERS = ["x", "", None, True, [1], {"a": 1}, "1,5", "1e", "٣", "a\nb", "x" * 3000, "${nope}", "???", [], [None]]
BAD_VALUES = {
    "whole": [*NO_NUMBERS, -1, 1.5, 1e300, 10**13, 10**4000, ".nan", float("inf")],
    "number": [*NO_NUMBERS, -1, float("nan"), float("inf"), 10**400, -0.001],
    "flag": ["x", "", None, 0, 1, 2, [True], {"a": True}, "ja", "a\nb", "${nope}", 0.5],
    "choice": [
        "x",
        "",
        None,
        0,
        True,
        ["mnist"],
        {"a": 1},
        "../mnist",
        "mnist/../x",
        "MNIST",
        "a\nb",
        "\x1b[2J",
        "x" * 3000,
    ],
}


def kind_of(value: object) -> str | None:
    """Return the kind of a setting by its value in conf/; None where its kind is not to be seen there."""
    if isinstance(value, bool):
        return "flag"
    return {int: "whole", float: "number", str: "choice"}.get(type(value))


def bad_setting(rng: random.Random, composed: dict) -> tuple[str, object]:
    """Return a key and a value that it must not have."""
    kinds = {key: kind_of(value) for key, value in config.flatten(composed).items()}
    keys = [key for key, kind in kinds.items() if kind and key not in ("tracking.experiment", "seed")]
    key = rng.choice(keys)
    return key, rng.choice(BAD_VALUES[kinds[key]])


def nested(key: str, value: object) -> dict:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def write_experiment(key: str, value: object) -> None:
    text = yaml.safe_dump(nested(key, value), allow_unicode=True)
    Path("conf/experiment/bad.yaml").write_text(f"# @package _global_\n{text}")
    main = (ROOT / "conf/config.yaml").read_text()
    Path("conf/config.yaml").write_text(main.replace("- experiment: null", "- experiment: bad"))


def test_each_generated_setting_is_refused_in_one_line_that_names_its_key(place, count):
    rng = random.Random(SEED)
    faults = count("generated malformed settings, through stage compose", OUTPUTS)
    composed = yaml.safe_load(compose.run())
    for _ in range(N_GENERATED):
        faults.injected += 1
        key, value = bad_setting(rng, composed)
        write_experiment(key, value)
        line = told(compose.main)
        assert key in line, (key, value, line)
        assert "conf/" in line
        assert_none(faults, "params.yaml")


KERAS = "keras/default.yaml"
UNITS = "units: 512"
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(  # ten lines that stand for 3.5 thousand million values
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


def conf_by_hand() -> dict[str, tuple[str, bytes]]:
    """Return files of conf/ with one mistake in each."""
    own = {name: (ROOT / "conf" / name).read_text() for name in (KERAS, "config.yaml", "mnist/full.yaml")}

    def units(text: str) -> tuple[str, bytes]:
        return KERAS, own[KERAS].replace(UNITS, text).encode()

    def more(text: str, file: str = KERAS) -> tuple[str, bytes]:
        return file, f"{own[file]}\n{text}\n".encode()

    def main(old: str, new: str) -> tuple[str, bytes]:
        assert old in own["config.yaml"]
        return "config.yaml", own["config.yaml"].replace(old, new).encode()

    def mnist(old: str, new: str) -> tuple[str, bytes]:
        assert old in own["mnist/full.yaml"]
        return "mnist/full.yaml", own["mnist/full.yaml"].replace(old, new).encode()

    return {
        "a tab": units("\tunits: 512"),
        "an indent": units("  units: 512"),
        "two colons": units("units: a: b"),
        "a list that goes on": units("units: [1"),
        "a quote that goes on": units('units: "1'),
        "an anchor that is none": units("units: *units"),
        "an alias": units("units: &units 512\nepochs: *units"),
        "aliases of aliases": more(LAUGHS),
        "a Python object": units("units: !!python/object/apply:os.system ['touch hacked']"),
        "a Python name": units("units: !!python/name:os.system"),
        "an unknown tag": units("units: !units 3"),
        "a date": units("units: 2020-01-01"),
        "bytes": units("units: !!binary aGk="),
        "a set": units("units: !!set {1, 2}"),
        "a target of Hydra": units("units: {_target_: os.system, _args_: ['touch hacked']}"),
        "a key of the environment": units("units: ${oc.env:NO_SUCH_NAME}"),
        "a key that is none": units("units: ${nope}"),
        "a key that is itself": units("units: ${keras.units}"),
        "an interpolation that goes on": units("units: ${"),
        "a resolver that is none": units("units: ${nope:1}"),
        "a resolver's mistake": units("units: ${oc.decode:'[1'}"),
        "a value that is missing": units("units: ???"),
        "5,000 digits": units(f"units: {'9' * 5000}"),
        "5,000 hexadecimal digits": units(f"units: 0x{'f' * 5000}"),
        "lists in lists": units(f"units: {'[' * 2000}{']' * 2000}"),
        "no layer": units("units: []"),
        "a layer of none": units("units: [64, 0]"),
        "a layer that is text": units("units: [64, x]"),
        "a layer too large": units(f"units: [{10**13}]"),
        "the key again": more("units: 3"),
        "a key too many": more("layers: 3"),
        "a key misspelt": units("unit: 512"),
        "a key left out": units(""),
        "a key with a line feed": more('"a\\nb": 1'),
        "a key with an escape": more('"a\\eb": 1'),
        "a key that is a number": more("1: 2"),
        "a key that is null": more("null: 2"),
        "a key that is a list": more("? [1, 2]\n: 3"),
        "a key of 5,000 letters": more(f"{'k' * 5000}: 1"),
        "an unknown default": (KERAS, f"defaults: [nope]\n{own[KERAS]}".encode()),
        "defaults that are none": (KERAS, f"defaults: 3\n{own[KERAS]}".encode()),
        "two documents": more("---\nunits: 3"),
        "an unknown directive": (KERAS, b"%YAML 9.9\nunits: 1\n"),
        "no text": (KERAS, b"\x89PNG\r\n\x1a\n"),
        "latin-1": (KERAS, "# gr\xf6\xdfe\n".encode("latin-1")),
        "UTF-16": (KERAS, own[KERAS].encode("utf-16")),
        "a NUL": (KERAS, b"units: \0\n"),
        "an empty file": (KERAS, b""),
        "a list": (KERAS, b"- 1\n"),
        "a number": (KERAS, b"3\n"),
        "main: empty": ("config.yaml", b""),
        "main: no text": ("config.yaml", b"\xff\n"),
        "main: a list": ("config.yaml", b"- 1\n"),
        "main: an option that is none": main("keras: default", "keras: nope"),
        "main: an option above the folder": main("keras: default", "keras: ../../nope"),
        "main: a group that is none": main("  - keras: default", "  - keras: default\n  - kears: default"),
        "main: a group twice": main("  - keras: default", "  - keras: default\n  - keras: deep"),
        "main: a section that is a number": main("seed: 0", "seed: 0\nscratch: 3"),
        "main: a section that is null": main("seed: 0", "seed: 0\nsynthetic: null"),
        "main: a seed below 0": main("seed: 0", "seed: -1"),
        "main: a seed of 33 bits": main("seed: 0", f"seed: {2**32}"),
        "main: a net with a path": main("net: keras", "net: ../../keras"),
        "a CSV alone": mnist("train_csv: null", "train_csv: a.csv"),
        "CSVs that are not named": mnist("source: auto", "source: csv"),
        "a label without a CSV": mnist("label_column: null", "label_column: y"),
        "an empty path": mnist("train_csv: null", "train_csv: ''"),
        "a limit of none": mnist("max_csv_bytes: 1000000000", "max_csv_bytes: 0"),
    }


def test_each_conf_that_is_malformed_by_hand_is_refused_in_one_line(place, count):
    faults = count("malformed files of conf/ by hand, through stage compose", OUTPUTS)
    for name, (file, content) in conf_by_hand().items():
        faults.injected += 1
        earlier = Path("conf", file).read_bytes()
        Path("conf", file).write_bytes(content)
        line = told(compose.main)
        assert ": " in line.removeprefix("error: "), (name, line)
        assert_none(faults, "params.yaml", "hacked")
        Path("conf", file).write_bytes(earlier)


@pytest.mark.parametrize(
    "content",
    [b"seed: [", b"\xff", b"- 1", b"", b"a: " + b"9" * 5000, b"a: " + b"[" * 2000, LAUGHS.encode()],
    ids=["open", "no text", "list", "empty", "digits", "lists", "aliases"],
)
def test_a_params_file_that_is_none_is_one_line(place, content):
    Path("params.yaml").write_bytes(content)
    assert "params.yaml" in told(fetch.main)
    assert "params.yaml" in told(compose.main)
    assert Path("params.yaml").read_bytes() == content


# ------------------------------------------------------------------------------- in the terminal


@pytest.mark.parametrize("name", ["empty", "UTF-16", "gzip, cut", "a NUL in a row", "a line of 2 MB", "floats"])
def test_in_the_terminal_a_malformed_csv_is_one_line_and_leaves_nothing(name, tmp_path, call):
    (tmp_path / "bad.csv").write_bytes(by_hand()[name])
    fetch_params(tmp_path, "bad.csv")
    before = sorted(tmp_path.iterdir())
    done = call(tmp_path, sys.executable, "-m", "pipeline.fetch", code=1, env={"PYTHONPATH": str(ROOT)})
    assert done.stdout == ""
    assert done.stderr.startswith("error: bad.csv")
    assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "name",
    ["a tab", "a key left out", "a Python object", "5,000 digits", "main: empty", "lists in lists", "an alias"],
)
def test_in_the_terminal_a_malformed_setting_is_one_line_and_leaves_nothing(name, tmp_path, call):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    file, content = conf_by_hand()[name]
    (tmp_path / "conf" / file).write_bytes(content)
    done = call(tmp_path, sys.executable, "-m", "pipeline.compose", code=1, env={"PYTHONPATH": str(ROOT)})
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["conf"]


# ------------------------------------------------------------------------------- a search

PIXELS = st.one_of(st.integers(0, 255).map(str), st.sampled_from(["007", " 3", "+4", "0"]))
CELLS = st.one_of(PIXELS, st.sampled_from(BAD_CELLS), st.text(max_size=4))
WIDTHS = st.sampled_from([1, 2, 3, 5, 10, 17])
ENDS = st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n", "\x0b", "\u2028"])
HEADERS = st.sampled_from(["", f"{HEADER}\n", "label,1\n", '"label","1"\n', "1x1,label\n", "a,b\n", "\ufeff"])


@st.composite
def good_tables(draw) -> bytes:
    """Return a table that is legal, but for its first line perhaps."""
    n_pixels = draw(st.sampled_from([1, 4, 9]))
    row = st.tuples(st.integers(0, 9).map(str), st.lists(PIXELS, min_size=n_pixels, max_size=n_pixels).map(",".join))
    rows = draw(st.lists(row.map(",".join), min_size=1, max_size=6))
    header = draw(HEADERS) if draw(st.booleans()) else ""
    content = (header + draw(st.sampled_from(["\n", "\r\n"])).join(rows)).encode()
    return gzip.compress(content) if draw(st.integers(0, 3)) == 0 else content


@st.composite
def tables(draw) -> bytes:
    """Return a table, most of whose rows have one width, with another end, header or encoding; maybe spoilt."""
    width, end = draw(WIDTHS), draw(ENDS)
    rows = draw(st.lists(st.lists(CELLS, min_size=width, max_size=width).map(",".join), max_size=6))
    text = draw(HEADERS) + end.join(rows) + draw(st.sampled_from(["", "\n"]))
    content = text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])), "surrogatepass")
    return spoilt(draw, content)


def spoilt(draw, content: bytes) -> bytes:
    """Return content with some bytes exchanged, zipped or cut off, or as it was."""
    if draw(st.booleans()):
        at = draw(st.integers(0, len(content)))
        content = content[:at] + draw(st.binary(max_size=3)) + content[at + draw(st.integers(0, 3)) :]
    if draw(st.integers(0, 3)) == 0:
        content = gzip.compress(content)
        content = content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content
    return content


INPUTS = st.one_of(good_tables(), tables(), tables(), st.binary(max_size=300), st.text(max_size=100).map(str.encode))
FEW_INPUTS = 500
LABELS = st.sampled_from([None, None, "label", "b", "\x1b"])


@pytest.mark.parametrize("n_inputs", [FEW_INPUTS, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_search_finds_no_input_but_is_read_or_refused_in_one_line(n_inputs, count):
    outcomes = {"read": 0, "refused": 0}
    faults = count("inputs of a search over the CSV reader", "")

    @given(INPUTS, LABELS)
    @settings(
        max_examples=n_inputs,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=n_inputs == FEW_INPUTS,  # `make faults` looks further each time
    )
    def search(content: bytes, label_column: str | None) -> None:
        faults.injected += 1
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "file.csv")
            path.write_bytes(content)
            try:
                X, y = mnist_csv.read(path, max_bytes=2000, label_column=label_column)
            except DataError as error:
                line = command.one_line(error)
                assert len(line.splitlines()) == 1
                assert line.isprintable()
                assert str(path) in line
                outcomes["refused"] += 1
            else:
                assert len(X) == len(y) > 0
                assert X.dtype == y.dtype == "uint8"
                assert y.max() <= 9
                outcomes["read"] += 1
        faults.survived += 1
        faults.note = f"{outcomes['read']} of them read"

    search()
    assert faults.injected >= n_inputs
    assert min(outcomes.values()) > n_inputs / 20
