"""Health of an installation: which hosts it has and whether they fit, what is missing, and whether files are whole."""
