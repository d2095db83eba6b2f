"""Segments on disk: opened, sealed, verified, recovered."""
