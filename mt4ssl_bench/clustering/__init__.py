"""Offline targets: k-means over features, and how good its clusters are."""
