"""The errors that a user is meant to read."""


class NervesegError(Exception):
    """Something that the user can mend; its text says what is wrong, where, and how to mend it.

    Stages and the command line print the text without a traceback and exit with `status`.
    """

    status = 1


class TransientError(NervesegError):
    """A failure of a network or a server that may pass by itself: worth another try."""

    status = 75  # EX_TEMPFAIL of sysexits.h


class ChangedError(TransientError):
    """A file is no longer what the caller read: another process wrote it in the meantime."""

    @classmethod
    def of(cls, what: str) -> "ChangedError":
        return cls(f"{what} was written by another process in the meantime; run again.")
