"""Celerity beside what people would pick instead, in one run: `make bench`."""
