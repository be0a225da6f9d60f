"""Readers of data, a file for each format."""
