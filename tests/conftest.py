"""What all tests need of their process."""

import signal

# In the background of a shell SIGINT is ignored, and so it is in the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
