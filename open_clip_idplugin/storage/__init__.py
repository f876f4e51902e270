"""Safe writing and named places: atomic files, locks, JSON and arrays from outside, paths and URLs, Spark's session."""
