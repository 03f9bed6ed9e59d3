"""Errors of PostgreSQL and its driver: what they mean for a batch, and what to do about them."""

from __future__ import annotations

from enum import Enum
from typing import Literal

import asyncpg  # type: ignore[import-untyped]

from perdure.errors import StoreError, StoreFormat, StoreUnavailable
from perdure.store.seal import refused_by


class Meaning(Enum):
    """What an error says about the statement that it ended."""

    LOST = "the connection is gone, and the statement may have been done"
    AGAIN = "the transaction was rolled back because of another one"
    BATCH = "the server could not do it at this time, whatever it was"
    CONTENT = "something in the statement cannot be stored"


_LOST: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # A former primary. The next connection may find the new one.
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalClientError,
)
DRIVER_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # Of no class of the driver's: the server ended a session at which a statement just began.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""All that a connection raises."""
_AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_BATCH: tuple[type[BaseException], ...] = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.OperatorInterventionError,
    asyncpg.DataCorruptedError,
    asyncpg.IndexCorruptedError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedObjectError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
    MemoryError,
)


SEALED_STATE = "PRDSL"
"""The code of the error with which a sealed store refuses a write."""


def meaning_of(error: BaseException) -> Meaning:
    """What an error says about the statement that it ended."""
    if isinstance(error, _AGAIN):
        return Meaning.AGAIN
    if isinstance(error, _LOST):
        return Meaning.LOST
    if isinstance(error, _BATCH) or _is_refused_by_seal(error):
        return Meaning.BATCH
    # asyncpg says so of a connection that was closed under it.
    if isinstance(error, asyncpg.InterfaceError) and "clos" in str(error):
        return Meaning.LOST
    return Meaning.CONTENT


def _is_refused_by_seal(error: BaseException) -> bool:
    return getattr(error, "sqlstate", None) == SEALED_STATE


_PERMANENT = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)
_NO_TABLES = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedObjectError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
)


def explain(
    error: BaseException, name: str, outcome: Literal["none", "unknown"] = "none"
) -> StoreError:
    """An error in words, with the remedy. `name` is that of the store."""
    if isinstance(error, StoreError):
        return error
    moved = refused_by(error, name, outcome)
    if moved is not None:
        return moved
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        text = f"{name} refuses the user or the password ({error}); check the URL"
    elif isinstance(error, asyncpg.InvalidCatalogNameError):
        text = f"{name}: {error}; create it (createdb), or name another one in the URL"
    elif isinstance(error, asyncpg.InsufficientPrivilegeError):
        text = (
            f"{name}: the user of the URL lacks a right ({error}); have the owner of the database "
            "grant it, or create the store as a user who has it"
        )
    elif isinstance(error, _NO_TABLES):
        msg = (
            f"{name} has not the tables of a store ({error}); they were removed, or another "
            "program has changed them: restore a backup"
        )
        return StoreFormat(msg)
    elif isinstance(error, asyncpg.DataCorruptedError | asyncpg.IndexCorruptedError):
        msg = f"{name} is damaged ({error}); stop the nodes and restore a backup"
        return StoreFormat(msg)
    elif isinstance(error, asyncpg.DiskFullError):
        text = f"the disk of {name} is full ({error}); nothing acknowledged is lost"
    elif isinstance(error, asyncpg.TooManyConnectionsError):
        text = (
            f"{name} takes no more connections ({error}); raise max_connections, lower ?readers=, "
            "or put a pooler in front of it"
        )
    elif isinstance(error, asyncpg.LockNotAvailableError):
        text = (
            f"{name}: another transaction held a lock for too long ({error}); look for one in "
            "pg_stat_activity"
        )
    elif isinstance(error, asyncpg.QueryCanceledError):
        text = f"{name} took too long ({error}); look at its load, or raise ?statement_ms="
    elif "unsupported startup parameter" in str(error):
        text = (
            f"{name} is a pooler ({error}); add ?pooled=true to the URL, and ?listen= with the "
            "URL of the server itself for notifications"
        )
    else:
        text = f"{name} did not answer ({type(error).__name__}: {error}); see that it runs"
    return StoreUnavailable(text, outcome, permanent=isinstance(error, _PERMANENT))
