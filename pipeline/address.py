"""How an address is printed: without user, password and query."""

import re

HIDDEN = "***"
URI = re.compile(r"\b([a-z][a-z0-9+.-]*://)(\S*)", re.IGNORECASE)


def redact(text: str) -> str:
    """Return a text with the user, the password and the query of each address in it left out.

    >>> redact("no answer from https://ann:secret@host:5000/mlflow?token=abc")
    'no answer from https://host:5000/mlflow'
    >>> redact("sqlite:////home/ann@work/mlflow.db")
    'sqlite:////home/ann@work/mlflow.db'
    """
    return URI.sub(lambda found: found[1] + _without_secrets(found[2]), text)


def _without_secrets(rest: str) -> str:
    """Return what follows `://`, without secrets; HIDDEN where an @ / ? # that is not escaped may be one's part."""
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :] and ("@" in authority or ":" in authority):
        return HIDDEN
    place, sign, route = rest[authority.rfind("@") + 1 :].partition("#/")  # behind it: MLflow's pages, query and all
    return re.split("[?#]", place, maxsplit=1)[0] + sign + route
