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
from graft.errors import GraftError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

#: Set before MLflow is imported: nothing is sent anywhere unless the user turned it on.
_QUIET_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

#: While a store is opened: by default MLflow tries eight times over minutes.
_IMPATIENT_MLFLOW = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


@dataclass(frozen=True)
class Store:
    """An opened tracking store.

    Attributes:
        uri: MLflow tracking URI, absolute.
        artifacts: Folder of artifacts for a local store, None where the server decides.
        client: MLflow's client.
    """

    uri: str
    artifacts: Path | None
    client: MlflowClient

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
    """Open the store of a configuration.

    A fresh SQLite file is migrated by MLflow on first use, and concurrent migrations destroy each other; so
    the first use happens under a file lock.

    Args:
        uri: ``tracking.uri``.
        root: ``paths.root``.

    Raises:
        GraftError: When nothing answers at the URI, or ``root`` cannot be written.
    """
    resolved = resolve_uri(uri, root)
    make_root(root)
    return _open(resolved, root.resolve())


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
    for name, value in _QUIET_MLFLOW.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("alembic").setLevel(logging.WARNING)
    local = uri.startswith("sqlite:")
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0]) if local else root / "mlflow.db"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"), _impatient():
            if local:
                _probe_sqlite(file)
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError, ValueError) as error:
        came = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise GraftError(
            f"Expected an MLflow tracking store at {uri!r}, but got: {came} "
            "Check `tracking.uri` and MLFLOW_TRACKING_URI; leave both out for a local file."
        ) from error
    return Store(uri, root / "artifacts" if local else None, client)


def _probe_sqlite(file: Path) -> None:
    """Open the file before MLflow does, which would try for minutes to read what is no database."""
    with contextlib.closing(sqlite3.connect(file)) as probe:
        probe.execute("PRAGMA schema_version").fetchone()


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Let a wrong URI fail within seconds; once a server answered, MLflow's own patience is right."""
    added = [name for name in _IMPATIENT_MLFLOW if name not in os.environ]
    os.environ.update({name: _IMPATIENT_MLFLOW[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@functools.lru_cache(maxsize=1)
def provenance() -> Mapping[str, str]:
    """Return what is needed to repeat a run, as tags: code, versions, machine."""
    tags = {
        "graft.version": __version__,
        "graft.host": platform.node(),
        "graft.pid": str(os.getpid()),
        "graft.python": platform.python_version(),
    }
    for package in ("torch", "torchvision", "pytorch-lightning", "mlflow", "hydra-core"):
        tags[f"graft.{package}"] = version(package)
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags |= {
            "mlflow.source.git.commit": commit,
            "graft.git_dirty": str(bool(_git("status", "--porcelain"))).lower(),
        }
    return tags


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
