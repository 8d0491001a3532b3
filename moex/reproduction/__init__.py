"""A table of the paper as runs: which it needs, which are there, what the others cost."""
