"""One run: build it, resume it, train its epochs, and leave `result.json`."""
