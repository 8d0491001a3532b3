"""Images in files that are decoded when they are needed: where the files lie, what workers do with them."""
