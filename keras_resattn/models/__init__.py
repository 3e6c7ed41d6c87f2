"""Networks: their builders, the registry of ids, and functions on built models."""
