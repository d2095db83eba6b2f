"""The ML proxy: its contract, and a client that reads one over every transport. Nothing here changes a host."""
