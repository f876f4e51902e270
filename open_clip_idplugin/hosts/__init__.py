"""What is replaced or relied on in open_clip and clip-retrieval, and how open_clip learns of the IdCLIP models."""
