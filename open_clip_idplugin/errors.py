"""The one exception family for bad input: a sentence that names the input and the remedy.

The command line prints these without a traceback; everything else is a defect and keeps its traceback.
"""


class IdClipError(ValueError):
    """Bad input of any kind; the message is one clear sentence for the user."""


class Busy(IdClipError):
    """Nothing is wrong with what was asked, but others are being served at this moment; the message names no path."""


class HostMismatchError(RuntimeError):
    """A host library no longer looks as a row of the patch table expects (see `host_patches`)."""
