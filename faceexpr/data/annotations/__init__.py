"""Readers of box annotations, one format a file, all giving the same record."""
