"""The ML proxy: its contract, and a client that reads one over any transport. Nothing here changes a host."""
