"""What the loader should do next: pure functions from facts to actions.

Nothing in here reads a clock, a device or Redis. `plan.plan` is the way in; `facts` is
what it is told, `actions` what it answers.
"""
