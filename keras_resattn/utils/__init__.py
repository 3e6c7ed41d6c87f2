"""Helpers that know nothing of networks: files, validation, suggestions."""
