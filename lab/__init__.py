"""Real workloads on a real, throttled device: ground truth for the simulators."""
