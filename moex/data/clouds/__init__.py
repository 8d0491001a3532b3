"""Clouds of points: how they are read, sampled from meshes, and drawn a batch at a time."""
