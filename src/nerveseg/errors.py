"""Errors for the user to read."""


class NervesegError(Exception):
    """A problem the user can fix; the message says what is wrong, where, and how to fix it.

    Stages and the command line print it without a traceback and exit with `status`.
    """

    status = 1


class TransientError(NervesegError):
    """A network or server failure that a retry may solve."""

    status = 75  # EX_TEMPFAIL in sysexits.h


class ChangedError(TransientError):
    """A file is no longer what the caller read: another process wrote it in the meantime."""

    @classmethod
    def of(cls, what: str) -> "ChangedError":
        return cls(f"{what} was written by another process in the meantime; run again.")
