"""The exception for everything a user can cause and cure."""


class UserError(ValueError):
    """A rule was broken by input, a setting or a file; the message states rule, value and cure.

    Our commands print it as one line and exit 1; under ``monai.bundle run`` it is the last line of
    the traceback.
    """


class UsageError(Exception):
    """A command was given wrongly; exit code 2."""
