"""What is printed of an address holds no secret."""

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import server, sync
from pipeline.address import NO_DATABASE_USER, NOT_LET_IN, holds_secret, reason, redact
from pipeline.study import move
from pipeline.tracking import tracking_uri

WORD = st.text("abcdefghij", min_size=1, max_size=8)
# what a password may hold: anything but blanks, and signs that the places around it do not have
PASSWORD = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=20).map(
    lambda text: f"Å{text}Å"
)
UNREACHED = (
    "API request to http://host/api failed with exception HTTPConnectionPool(host='host', port=5000): Max retries "
    "exceeded with url: /api (Caused by NewConnectionError('<urllib3.connection.HTTPConnection object at 0x7f5ba15>: "
    "Failed to establish a new connection: {}'))"
)
OFFLINE = "names cannot be looked up: is this machine offline?"
FAILED = "it answers with an error of its own, HTTP {}: its log says more"


@pytest.mark.parametrize(
    ("uri", "printed"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://ann:secret@mlflow.example.com/team", "https://mlflow.example.com/team"),
        ("https://token@mlflow.example.com", "https://mlflow.example.com"),
        ("https://mlflow.example.com/?access_token=secret", "https://mlflow.example.com/"),
        ("postgresql+psycopg://ann:p@ss@db:5432/runs?sslpassword=x", "postgresql+psycopg://db:5432/runs"),
        ("http://ann:12/34?5#6@host/x", "http://***"),
        ("http://ann:secret@[::1]:5000/x", "http://[::1]:5000/x"),
        ("s3://bucket/models@v1", "s3://bucket/models@v1"),
        ("sqlite:////home/ann@work/mlflow.db", "sqlite:////home/ann@work/mlflow.db"),
        ("/home/ann/remote", "/home/ann/remote"),
        ("http://127.0.0.1:5000/#/experiments/1/runs?workflowType=x", None),
    ],
)
def test_only_the_place_is_left_of_an_address(uri, printed):
    assert redact(uri) == (uri if printed is None else printed)


@pytest.mark.parametrize(
    "line",
    [
        "# Source: https://en.wikipedia.org/wiki/Backpropagation#Derivation",
        "see https://example.com/search?q=net&page=2",
        "git+ssh://git@github.com/team/project",
        "https://medium.com/@ann/nets",
        "postgresql://ann@db/runs",
        "sqlite:////home/ann@work/mlflow.db",
        'f"postgresql://{user}:{password}@{host}/runs"',
        "postgresql://ann:${oc.env:PGPASSWORD}@db/runs",
        "postgresql://${oc.env:PGUSER}:${oc.env:PGPASSWORD}@db/runs",
        "http://{host}/?token={token}",
        "http://127.0.0.1:5000/models@champion",
        '["http://127.0.0.1:5000","ann@example.com"]',
        'environ["PGPASSWORD"] = password',
        "export PGPASSWORD=$WORD",
        "the environment's PGUSER and PGPASSWORD are to hold them",
    ],
)
def test_ordinary_lines_of_code_hold_no_secret(line):
    assert not holds_secret(line)


@pytest.mark.parametrize(
    "line",
    [
        "redis://:secret@host",
        "postgresql://ann:pa/ss@db/runs",
        "postgresql://ann:12/34@db/runs",
        "postgresql://${oc.env:PGUSER}:secret@db/runs",
        "http://ann:12-34@host:5000/x",
        '{"uri":"http://ann:secret@host"}',
        'environ["PGPASSWORD"] = "secret"',
        "git+https://ghp_abc@github.com/team/project",
        "HTTPS://ghp_abc@github.com/team/project",
        "https://host/x?page=2&access_token=abc",
        "https://bucket/x?X-Amz-Signature=0a1b",
        "PGPASSWORD=secret",
        "+export MLFLOW_TRACKING_TOKEN='abc'",
        'env = {"AWS_SECRET_ACCESS_KEY": "abc"}',
    ],
)
def test_a_secret_in_a_line_is_seen(line):
    assert holds_secret(line)


def test_a_long_line_full_of_addresses_is_searched_in_a_moment():
    line = '"https://example.com/x?v=2",' * 30_000  # 0.1 s; minutes, if the search led from each to the line's end
    started = time.process_time()
    assert not holds_secret(line)
    assert time.process_time() - started < 3


@given(scheme=st.sampled_from(["http", "https", "postgresql+psycopg", "ssh", "mysql"]), user=WORD, password=PASSWORD)
def test_no_password_is_left_escaped_or_not(scheme, user, password):
    for written in (password, quote(password, safe="")):
        text = redact(f"cannot reach {scheme}://{user}:{written}@host:5000/path?sig={written} now")
        assert text in (f"cannot reach {scheme}://host:5000/path now", f"cannot reach {scheme}://*** now")
    assert "host:5000/path" in text  # escaped, as it has to be, it hides nothing else


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("API request to endpoint /api failed with error code 401 != 200. Response body: 'You", NOT_LET_IN),
        ("401 Client Error: UNAUTHORIZED for url: http://ann:secret@host/api", NOT_LET_IN),
        ('(psycopg.OperationalError) connection failed: connection to server at "127.0.0.1", port 1 failed: '
         'FATAL: password authentication failed for user "ann"', NO_DATABASE_USER),
        ('(psycopg.OperationalError) connection failed: connection to server at "127.0.0.1", port 1 failed: FATAL: '
         'database "x" does not exist (Background on this error at: https://sqlalche.me/e/21/e3q8)',
         'FATAL: database "x" does not exist'),
        ("API request to http://host/api failed with exception HTTPConnectionPool(host='host', port=5000): Max "
         "retries exceeded with url: /api (Caused by ResponseError('too many 500 error responses'))",
         FAILED.format(500)),
        ("API request to endpoint /api failed with error code 503 != 200. Response body: '", FAILED.format(503)),
        ("502 Server Error: Bad Gateway for url: http://host/api", FAILED.format(502)),
        (UNREACHED.format("Failed to resolve 'host' ([Errno -2] Name or service not known)"), "no such host"),
        (UNREACHED.format("Failed to resolve 'host' ([Errno -3] Temporary failure in name resolution)"), OFFLINE),
        ("failed to resolve host 'db': [Errno -3] Temporary failure in name resolution", OFFLINE),
        (UNREACHED.format("[Errno 101] Network is unreachable"), "network is unreachable"),
        (UNREACHED.format("[Errno 113] No route to host"), "no route to host"),
        ("a" * 300, "a" * 200 + "..."),
        ("", "OSError"),
        (f"tracking.uri: http://host cannot be opened: {NOT_LET_IN}", NOT_LET_IN),
    ],
)  # fmt: skip
def test_why_is_told_in_a_few_words(said, told):
    assert reason(OSError(said)) == told


@given(st.text())
def test_any_text_is_redacted_once_and_for_all(text):
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    ("command", "arguments", "asked"),
    [
        (sync.main, ["--to", "http://ann:secret@127.0.0.1:9"], "--to"),
        (sync.main, ["--from", "postgresql://ann:secret@127.0.0.1:9/runs"], "--from"),
        (move.main, ["s", "--to", "postgresql://127.0.0.1:9/studies?password=secret"], "--to"),
        (move.main, ["s", "--to", "sqlite:///s.db", "--from", "mysql://ann:secret@127.0.0.1:9/s"], "--from"),
        (server.main, [], "MLFLOW_BACKEND_STORE_URI"),
    ],
)
def test_a_password_in_an_address_is_refused_where_others_would_see_it(
    command, arguments, asked, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://ann:secret@127.0.0.1:9/runs")
    monkeypatch.setattr("sys.argv", ["command", *arguments])
    with pytest.raises(SystemExit) as ended:
        command()
    assert str(ended.value.code).startswith(f"error: {asked}: an address without user, password and query is needed")
    assert "MLFLOW_TRACKING_PASSWORD" in str(ended.value.code)
    assert "secret" not in str(ended.value.code)
    assert list(tmp_path.iterdir()) == []


def test_a_tracking_address_of_the_environment_may_hold_a_password(settings_of, monkeypatch):
    uri = "https://ann:secret@mlflow.example.com"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking_uri(settings_of()) == uri
