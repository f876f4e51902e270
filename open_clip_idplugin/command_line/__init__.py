"""Command lines: verbs' arguments, what is proposed next, missing packages, and the last word on a terminal."""
