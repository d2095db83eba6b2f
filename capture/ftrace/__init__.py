"""Events through a private tracefs instance: its ring buffers and their pages."""
