"""Measurements, run by `make bench`. Numbers, no verdicts: the suite asserts none of them."""
