"""Traces that other tools recorded, trace.dat and perf.data, turned into the same tables."""
