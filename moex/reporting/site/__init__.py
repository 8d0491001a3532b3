"""A static site of all that `results/` holds: tables, figures and where each number is from."""
