"""What starts and stops engine workers on this machine, chosen by name."""
