"""Recordings that lie on the device as waveforms: how they are read and changed, and what a network sees of them."""
