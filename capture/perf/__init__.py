"""Recording tracepoints through perf_event_open(2), for hosts that allow that and no tracefs instances."""
