"""Telling a store that does not answer at the moment from one that will never take what it is given."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from graft.errors import StoreAwayError

T = TypeVar("T")

#: What MLflow calls a request that is wrong in itself: sending it again gives the same answer.
_REFUSALS = {
    "INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS",
    "NOT_FOUND",
}  # fmt: skip

#: What it calls a server, or a database behind it, that is not there or has too much to do.
_AWAY = {
    "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED",
}  # fmt: skip

#: Libraries behind artifact stores in a cloud; what they raise is about the network or its permissions.
_CLOUDS = ("boto3", "botocore", "google", "azure", "urllib3")

_TRIES = 5
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500


def is_away(error: BaseException) -> bool:
    """Whether ``error`` says that the store does not answer now."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import InterfaceError, OperationalError

    if isinstance(error, OperationalError | InterfaceError):
        return True
    if isinstance(error, MlflowException):
        if error.__cause__ is not None and is_away(error.__cause__):
            return True
        return error.error_code in _AWAY
    if isinstance(error, RequestException):
        status = error.response.status_code if error.response is not None else _SERVER_ERROR
        return status >= _SERVER_ERROR or status == _TOO_MANY_REQUESTS
    return False


def can_wait(error: BaseException) -> bool:
    """Whether what could not be sent may be taken later: all but what the store refuses for good.

    A password that ran out is put right by a person; until then nothing may be lost.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    if is_away(error):
        return True
    if isinstance(error, MlflowException):
        return error.error_code not in _REFUSALS
    if isinstance(error, RequestException):
        return error.response is not None and error.response.status_code in (401, 403, 408)
    return type(error).__module__.partition(".")[0] in _CLOUDS


def is_unknown(error: BaseException) -> bool:
    """Whether ``error`` says that the store has no such run."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code == "RESOURCE_DOES_NOT_EXIST"


def ask_patiently(call: Callable[[], T]) -> T:
    """Return what ``call`` gives, asked again for a few seconds while the store is busy or away."""
    for tried in range(_TRIES):
        try:
            return call()
        except Exception as error:
            if tried == _TRIES - 1 or not is_away(error):
                raise
            time.sleep(random.uniform(0.05, 0.1) * 2**tried)
    raise AssertionError


@contextlib.contextmanager
def needing_answers(uri: str) -> Iterator[None]:
    """Say plainly that the store is away when it does not answer what happens inside.

    Raises:
        StoreAwayError: When it does not.
    """
    try:
        yield
    except Exception as error:
        if not is_away(error):
            raise
        raise StoreAwayError(
            f"The tracking store {hide_password(uri)} does not answer: {first_line(error)} "
            "Try again when it is back; finished runs are not run again."
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of what ``error`` says, as a sentence."""
    said = next(iter(str(error).splitlines()), "").strip() or type(error).__name__
    return said if said.endswith((".", "!", "?")) else f"{said}."


def hide_password(uri: str) -> str:
    """Return ``uri`` without the password that it may carry.

    >>> hide_password("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'
    """
    scheme, sign, rest = uri.partition("://")
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}{sign}{user}{colon and ':***'}{at}{place}" if colon else uri
