"""Pictures become an index folder: listed, embedded, built, and later added to, removed from and compacted."""
