"""The environment without what a caller's shell, a git hook or another test may have set for the tools under test."""

from collections.abc import Mapping

LEAKS = ("DVC_", "MLFLOW_", "GIT_", "HYDRA_", "PG", "AWS_", "RAY_", "MAKE", "MFLAGS", "PYTHONDONTWRITEBYTECODE")
KEPT = "AWS_CA_BUNDLE"  # like a proxy: without it a machine may reach nothing
HERE = "127.0.0.1,localhost"  # which no proxy reaches


def bare(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment that has settings of none of these tools, and no proxy before this machine.

    >>> bare({"PGSSLMODE": "require", "HOME": "/root", "NO_PROXY": ".example.com"})["NO_PROXY"]
    '.example.com,127.0.0.1,localhost'
    """
    own = {name: value for name, value in environment.items() if name == KEPT or not name.startswith(LEAKS)}
    direct = ",".join(filter(None, [own.get("no_proxy", own.get("NO_PROXY")), HERE]))
    return own | {"no_proxy": direct, "NO_PROXY": direct}
