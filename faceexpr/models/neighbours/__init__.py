"""Exact nearest neighbours at the speed of the machine: no approximation, no sampling, no index to build."""
