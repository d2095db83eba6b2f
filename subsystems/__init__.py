"""One folder per kernel decision: its logic, demand, features, actions, arms and metrics."""
