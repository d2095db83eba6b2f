"""Readahead: how many pages to read ahead of a file that is read."""
