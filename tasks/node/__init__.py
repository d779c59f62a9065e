"""What the agent of one machine does: it makes up the difference between its orders and what runs."""
