"""Command lines: words of verbs and of `--device`, what is proposed next, missing packages, and the last line on a terminal."""
