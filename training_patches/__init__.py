"""Training with open_clip's own loop: `python -m training_patches` is `open_clip_train.main` plus the `--id-*` flags.

Role: batches with identities, validation on held-out people, and the few rows that let the host do the rest.
"""
