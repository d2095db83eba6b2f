"""The recording itself: launch, session, ring buffers, ledger, budgets."""
