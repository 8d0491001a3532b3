"""What `scripts/benchmark.py` measures, part by part."""
