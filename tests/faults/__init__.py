"""The fault suite: the whole system, a steady load, and one real fault after another. `make faults` runs it."""
