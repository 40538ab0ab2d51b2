"""What a run says reaches its store, at once or later: nothing is lost, nothing is doubled, order is kept."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from graft.track.away import can_wait, first_line, hide_password, is_unknown
from graft.track.journal import Journal, Message

if TYPE_CHECKING:
    from graft.track.store import Store

#: MLflow takes at most so many parameters in one call.
_MOST_PARAMS = 100

#: Nobody else writes for a run that is under way, unless somebody forgot to let go: rather fail than hang.
_HOLD_SECONDS = 60.0


class Outbox:
    """Sends the messages of one run, and keeps on disk what its store does not take now.

    What is kept is held under a file lock that dies with its process, so that one process at a time sends it.

    Args:
        store: Where to send.
        run_id: MLflow's id of the run.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self.store = store
        self.run_id = run_id
        self._journal = Journal(unsent_folder(store.root) / run_id)
        self._held = FileLock(f"{self._journal.folder}.lock", thread_local=False)
        self._kept: deque[Message] = deque()
        self._order = threading.Lock()
        self._sending = threading.Lock()

    @property
    def is_empty(self) -> bool:
        """Whether everything has been sent."""
        return not self._held.is_locked

    @property
    def holds_end(self) -> bool:
        """Whether the end of the run is among what waits."""
        return any(message.kind == "end" for message in self._kept)

    def send(self, message: Message) -> None:
        """Send ``message``, or keep it when it has to wait.

        Raises:
            Exception: What the store says to a message that it will never take.
        """
        with self._order:
            if self.is_empty:
                try:
                    _deliver(self.store, self.run_id, message)
                    return
                except Exception as error:
                    if not can_wait(error):
                        raise
                    self._begin(first_line(error))
            self._kept.append(self._journal.append(message))

    def pick_up(self, timeout: float = -1) -> None:
        """Take over what a process that ended has kept of this run, if anything.

        Args:
            timeout: Seconds to wait for another process that is sending it; -1 = as long as that takes.

        Raises:
            Timeout: When that is too long.
        """
        with self._order:
            if self.is_empty and self._journal.folder.is_dir():
                self._hold(timeout)

    def drain(self) -> bool:
        """Send what is kept, in order, and return whether nothing is left."""
        with self._sending:
            while True:
                with self._order:
                    if not self._kept:
                        if self._held.is_locked:
                            self._journal.remove()
                            self._held.release()
                        return True
                    message = self._kept[0]
                try:
                    _deliver(self.store, self.run_id, message)
                except Exception as error:
                    if can_wait(error) or is_unknown(error):
                        return False
                    self._set_aside(message, error)
                with self._order:
                    self._kept.popleft()

    def close(self) -> None:
        """Try once more, and leave what still cannot be sent to the next process that opens the store."""
        if not self.is_empty and not self.drain():
            _tell(
                f"What the run {self.run_id} has to say is kept under {self._journal.folder}, and sent when "
                "graft next opens the store."
            )
        self._held.release()

    def _begin(self, reason: str) -> None:
        _tell(
            f"The tracking store {hide_password(self.store.uri)} does not take what is recorded: {reason} "
            f"The run goes on; its record is kept under {self._journal.folder} and sent later."
        )
        self._hold(_HOLD_SECONDS)

    def _hold(self, timeout: float = -1) -> None:
        self._journal.folder.parent.mkdir(parents=True, exist_ok=True)
        self._held.acquire(timeout=timeout)
        self._kept = deque(self._journal.read())

    def _set_aside(self, message: Message, error: Exception) -> None:
        """Keep what the store refuses where a person finds it, and let the rest pass."""
        refused = Journal(self._journal.folder.with_name(f"{self.run_id}.refused"))
        refused.append(message)
        _tell(f"The store refused a part of the run {self.run_id}: {first_line(error)} See {refused.folder}")


def unsent_folder(root: Path) -> Path:
    """Return where the messages of runs wait, a folder for each run."""
    return root / "unsent"


def list_unsent(root: Path) -> list[str]:
    """Return the ids of the runs that have something to send."""
    folder = unsent_folder(root)
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.suffix)


def send_unsent(store: Store) -> None:
    """Send what ended processes have kept, for as long as the store answers."""
    for run_id in list_unsent(store.root):
        try:
            store.client.get_run(run_id)
        except Exception as error:
            if is_unknown(error):  # recorded elsewhere, or deleted
                continue
            return
        outbox = Outbox(store, run_id)
        with contextlib.suppress(Timeout):  # its process is at work, or another one sends it
            outbox.pick_up(timeout=0)
            outbox.close()


def _deliver(store: Store, run_id: str, message: Message) -> None:
    _DELIVERIES[message.kind](store, run_id, message.content)


def _deliver_batch(store: Store, run_id: str, content: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(key, value) for key, value in content["params"].items()]
    while len(params) > _MOST_PARAMS:
        store.client.log_batch(run_id, params=params[:_MOST_PARAMS])
        params = params[_MOST_PARAMS:]
    # MLflow leaves out a number that it holds already with the same time and step.
    store.client.log_batch(
        run_id,
        metrics=[Metric(*point) for point in content["points"]],
        params=params,
        tags=[RunTag(key, value) for key, value in content["tags"].items()],
    )


def _deliver_files(store: Store, run_id: str, content: Mapping[str, Any]) -> None:
    store.client.log_artifacts(run_id, content["folder"], content["path"])


def _deliver_end(store: Store, run_id: str, content: Mapping[str, Any]) -> None:
    store.client.set_terminated(run_id, content["status"], content["time"])


_DELIVERIES: Mapping[str, Callable[[Store, str, Mapping[str, Any]], None]] = {
    "batch": _deliver_batch,
    "files": _deliver_files,
    "end": _deliver_end,
}


def _tell(said: str) -> None:
    with contextlib.suppress(OSError):
        print(f"graft: {said}", file=sys.stderr, flush=True)
