"""Interval counters: what the kernel counts anyway, read beside the trace and on its clock."""
