"""Helpers without knowledge of particular networks: validation, files, data formats, lazy imports."""
