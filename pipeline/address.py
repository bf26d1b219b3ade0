"""How an address is printed, without user, password and query; in a few words why it could not be used; secrets."""

import re

from pipeline.errors import SettingsError

HIDDEN = "***"
URI = re.compile(r"\b([a-z][a-z0-9+.-]*://)(\S*)", re.IGNORECASE)
SECRET_VARIABLES = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    "PGPASSWORD",
)
HTTP = "(?i:(?<=http://)|(?<=https://))"
SECRET = re.compile(  # none of its parts goes on behind the next address, as a line may hold thousands
    rf"""
    ://(?!{HTTP}[^\s/?#@:]*+:\d++[/?#"'])[^\s/?#@:]*+:(?:(?!://)[^\s@])++@  # user:password@; no port, but of a path
    | ://{HTTP}[^\s/?#@:"']++@                                               # token@
    | [?&](?i:[\w.%-]*(?:token|pass|passw(?:or)?d|pwd|secret|key|sig|signature|credentials?|auth))=[^\s&"']
    | (?:{"|".join(SECRET_VARIABLES)})
      (?:["']?[ ]*[=:][ ]*|["']\][ ]*=[ ]*(?=["']))["']?[^\s"'=$<.]           # a value, not a variable that holds it
    """,
    re.VERBOSE,
)
PLACEHOLDER = re.compile(r"""\$?\{[^{}\s/@"']*\}""")  # for what a program or Hydra fills in
LONGEST_REASON = 200  # characters
NOT_LET_IN = (
    "user, password or token is missing, wrong or expired: the environment's MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, are to hold them"
)
BARE = "an address without user, password and query is needed"
IN_ENVIRONMENT = (
    "the environment may hold these: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a server, PGUSER and "
    "PGPASSWORD for PostgreSQL"
)
NOT_TO_A_FILE = (
    f"{BARE}, as Hydra writes it to a file; {IN_ENVIRONMENT}, or KEY='${{oc.env:NAME}}' for all of the address"
)
NO_DATABASE_USER = "user or password is missing or wrong: the environment's PGUSER and PGPASSWORD are to hold them"
KNOWN_REASONS = {
    "Connection refused": "connection refused",
    "Could not connect to the endpoint URL": "it cannot be connected to",
    "Read timed out": "no answer in time",
    "timed out": "no answer in time",
    "timeout expired": "no answer in time",
    "Connection reset": "connection reset",
    "Connection aborted": "connection closed",
    "Network is unreachable": "network is unreachable",
    "No route to host": "no route to host",
    "Temporary failure in name resolution": "names cannot be looked up: is this machine offline?",
    "Name or service not known": "no such host",
    "failed to resolve host": "no such host",
    "file is not a database": "the file is not a database",
    "error code 401": NOT_LET_IN,
    "401 Client Error": NOT_LET_IN,
    "Invalid Host header": "the server does not know this name as its own: its --allowed-hosts lists them",
    "error code 403": "its user may not do that here: the server's administrator gives the permission",
    "password authentication failed": NO_DATABASE_USER,
    "no password supplied": NO_DATABASE_USER,
    "No module named 'psycopg'": "the package psycopg is missing: pip install 'psycopg[binary]'",
}
SERVER_FAILED = re.compile(
    r"too many (5\d\d) error responses|error code (5\d\d)|(5\d\d) Server Error|own, HTTP (5\d\d)"
)
NOISE = re.compile(
    r"\(psycopg\S*\) (connection failed: connection to server at [^:]*: )?| ?\(Background on this error .*"
)


def redact(text: str) -> str:
    """Return a text with the user, the password and the query of each address in it left out.

    >>> redact("no answer from https://ann:secret@host:5000/mlflow?token=abc")
    'no answer from https://host:5000/mlflow'
    >>> redact("sqlite:////home/ann@work/mlflow.db")
    'sqlite:////home/ann@work/mlflow.db'
    """
    return URI.sub(lambda found: found[1] + _without_secrets(found[2]), text)


def holds_secret(text: str) -> bool:
    """Return whether a password or token stands in a text: in an address, or as the value of a well-known variable.

    >>> holds_secret("see postgresql://ann:secret@db/runs"), holds_secret("see https://host/page?v=2#Derivation")
    (True, False)
    """
    return any(
        SECRET.search(PLACEHOLDER.sub("", line))
        for line in text.splitlines()
        if "://" in line or any(name in line for name in SECRET_VARIABLES)
    )


def check_bare(address: str, asked: str, why: str) -> None:
    """Raise SettingsError where an address holds a user, a password or a query.

    Args:
        address: of a store or a database; or a file.
        asked: the option or variable that has named it.
        why: it may hold none: who would see it.
    """
    if redact(address) != address:
        raise SettingsError(f"{asked}: {BARE}, as {why}; {IN_ENVIRONMENT}, but got {redact(address)}")


def check_typed(address: str | None, option: str) -> None:
    """Raise SettingsError where an address of the command line holds a user, a password or a query."""
    if address is not None:
        check_bare(address, option, "a command line is seen by the other users of a machine, and kept by the shell")


def _without_secrets(rest: str) -> str:
    """Return what follows `://`, without secrets; HIDDEN where an @ / ? # that is not escaped may be one's part."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :] and ("@" in authority or ":" in authority):
        return HIDDEN
    place, sign, route = rest[authority.rfind("@") + 1 :].partition("#/")  # behind it: MLflow's pages, query and all
    return re.split("[?#]", place, maxsplit=1)[0] + sign + route


def reason(error: BaseException) -> str:
    """Return in a few words, and without a password, why a store could not be used.

    >>> reason(OSError("[Errno 111] Connection refused by http://ann:secret@host"))
    'connection refused'
    """
    text = redact(NOISE.sub("", " ".join(str(error).split())))
    failed = SERVER_FAILED.search(text)
    if failed:
        return f"it answers with an error of its own, HTTP {failed[failed.lastindex or 0]}: its log says more"
    known = next((words for sign, words in KNOWN_REASONS.items() if sign in text or words in text), None)
    return known or (text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}...") or type(error).__name__
