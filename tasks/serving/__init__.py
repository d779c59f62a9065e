"""What lives in an engine worker: it claims requests, streams answers, beats, and hands over when it must end."""
