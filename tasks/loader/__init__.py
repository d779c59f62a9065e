"""One tick of the loader, who may do it, and what operators ask of it."""
