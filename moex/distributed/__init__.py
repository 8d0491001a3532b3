"""One run on many devices. Every process, a rank, does the same; rank 0 writes and prints."""
