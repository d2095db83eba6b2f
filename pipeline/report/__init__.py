"""Render report.json for people: HTML, Markdown, terminal."""
