"""The one error that a user is meant to read."""


class NervesegError(Exception):
    """Something that the user can mend; its text says what is wrong, where, and how to mend it.

    Stages and the command line print the text without a traceback and exit with status 1.
    """
