"""From what runs leave in their folders to tables and figures; imports nothing of training."""
