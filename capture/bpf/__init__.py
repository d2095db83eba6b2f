"""What programs in the kernel (BPF) tell that no tracepoint shows: which open file it was."""
