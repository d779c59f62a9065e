"""What starts and watches everything: the command line, the local supervisor, the demo model."""
