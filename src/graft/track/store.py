"""Where runs are recorded: a local SQLite file by default, any MLflow tracking server by URI."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from graft import __version__
from graft.errors import GraftError, StoreAwayError
from graft.track.away import first_line, hide_password, is_away
from graft.track.outbox import send_unsent

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

#: Set before MLflow is imported: nothing is sent anywhere unless the user turned it on.
_QUIET_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

#: By default MLflow tries eight times over minutes, and a run would wait with it. What is not sent is kept.
_IMPATIENT_MLFLOW = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}

#: Libraries that print what they also raise, or what they are about to do.
_LOUDEST = {
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
}

#: Seconds for the first word of a database server; by default that may take minutes.
_CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Store:
    """An opened tracking store.

    Attributes:
        uri: MLflow tracking URI, absolute.
        artifacts: Folder of artifacts for a file or a database, None where a server decides.
        client: MLflow's client.
        root: ``paths.root``, where what cannot be sent waits.
    """

    uri: str
    artifacts: Path | None
    client: MlflowClient
    root: Path

    def experiment_id(self, name: str) -> str:
        """Return the id of the experiment ``name``, made when it is not there yet."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            location = (self.artifacts / name).as_uri() if self.artifacts else None
            try:
                return str(self.client.create_experiment(name, artifact_location=location))
            except MlflowException:  # another process was faster
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise GraftError(
                f"The experiment {name!r} is in MLflow's trash. Restore it in the dashboard, "
                "or use another `tracking.experiment`."
            )
        return str(found.experiment_id)


def resolve_uri(uri: str | None, root: Path) -> str:
    """Return the tracking URI: the configured one, else MLFLOW_TRACKING_URI, else a file under ``root``."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def open_store(uri: str | None, root: Path) -> Store:
    """Open the store of a configuration, and send what runs could not send before.

    A fresh database is migrated by MLflow on first use, and concurrent migrations destroy each other; so the
    first use happens under a file lock.

    Args:
        uri: ``tracking.uri``.
        root: ``paths.root``.

    Raises:
        GraftError: When what answers at the URI is no store for us, or ``root`` cannot be written.
        StoreAwayError: When nothing answers.
    """
    resolved = resolve_uri(uri, root)
    make_root(root)
    store = _open(resolved, root.resolve())
    send_unsent(store)
    return store


def make_root(root: Path) -> None:
    """Make the folder under which everything is written.

    Raises:
        GraftError: When that is not possible.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = (error.strerror or "not writable").lower()
        raise GraftError(
            f"Expected `paths.root` to be a folder that can be written, but got {str(root)!r}: {reason}. "
            "Give another one: `paths.root=<folder>`."
        ) from error


@functools.lru_cache(maxsize=8)
def _open(uri: str, root: Path) -> Store:
    for name, value in (_QUIET_MLFLOW | _IMPATIENT_MLFLOW).items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    for noisy, level in _LOUDEST.items():
        logging.getLogger(noisy).setLevel(level)
    file = find_database(uri)
    try:
        with _one_at_a_time(uri, file or root / "mlflow.db"):
            if file is not None:
                _probe_sqlite(file)
            elif _is_database(uri):
                _probe_database(uri)
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError, ValueError) as error:
        raise _explain(uri, error) from error
    # MLflow would put those of a database into the working directory of whoever writes.
    artifacts = root / "artifacts" if file is not None or _is_database(uri) else None
    return Store(uri, artifacts, client, root)


def find_database(uri: str) -> Path | None:
    """Return the SQLite file that ``uri`` names, None where it is another store."""
    if not uri.startswith("sqlite:"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def _is_database(uri: str) -> bool:
    return uri.partition(":")[0].partition("+")[0] in ("postgresql", "mysql", "mssql")


@contextlib.contextmanager
def _one_at_a_time(uri: str, file: Path) -> Iterator[None]:
    """Let one process of this machine at a time open a database; servers look after themselves."""
    if find_database(uri) is None and not _is_database(uri):
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        yield


def _probe_sqlite(file: Path) -> None:
    """Open the file before MLflow does, which would try for minutes to read what is no database."""
    with contextlib.closing(sqlite3.connect(file)) as probe:
        probe.execute("PRAGMA schema_version").fetchone()


def _probe_database(uri: str) -> None:
    """Connect once before MLflow does, which would try for minutes."""
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url
    from sqlalchemy.pool import NullPool

    patience = {} if "connect_timeout" in make_url(uri).query else {"connect_timeout": _CONNECT_SECONDS}
    limited = uri.startswith(("postgresql", "mysql"))
    create_engine(uri, poolclass=NullPool, connect_args=patience if limited else {}).connect().close()


def _explain(uri: str, error: Exception) -> GraftError:
    """Return what a person can do about a store that does not open."""
    said = next(iter(str(error).splitlines()), "") or type(error).__name__
    code = getattr(error, "error_code", "")
    start = f"Expected an MLflow tracking store at {hide_password(uri)!r}, but got: {first_line(error)} "
    end = "Check `tracking.uri` and MLFLOW_TRACKING_URI; leave both out for a local file."
    if code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"):
        wants = "It needs a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
        return GraftError(f"{start}{wants}MLFLOW_TRACKING_TOKEN. {end}")
    if uri.startswith("http") and _is_other_answer(said, code):
        return GraftError(f"{start}What answers there is no MLflow server. {end}")
    if isinstance(error, ModuleNotFoundError) and "psycopg" in said:
        return GraftError(f"{start}Install the driver: pip install 'graft-transfer[postgres]'. {end}")
    if find_database(uri) is None and is_away(error):
        return StoreAwayError(f"{start}If it is away for a while, try again when it is back. {end}")
    return GraftError(f"{start}{end}")


def _is_other_answer(said: str, code: str) -> bool:
    """Whether something answered, as no MLflow server and no proxy before one would."""
    return "valid JSON" in said or code in ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "BAD_REQUEST")


@functools.lru_cache(maxsize=1)
def provenance() -> Mapping[str, str]:
    """Return what is needed to repeat a run, as tags: code and versions."""
    tags = {
        "graft.version": __version__,
        "graft.python": platform.python_version(),
    }
    for package in ("torch", "torchvision", "pytorch-lightning", "mlflow", "hydra-core"):
        tags[f"graft.{package}"] = version(package)
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags |= {
            "mlflow.source.git.commit": commit,
            "graft.git_dirty": str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower(),
        }
    return tags


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
