"""Replacements of host functions: where one keeps the function whose place it took, so that none is replaced twice."""

ORIGINAL = "open_clip_idplugin_original"  # name of the attribute
