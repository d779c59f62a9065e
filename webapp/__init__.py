"""HTTP in, server-sent events out: the gateway. The only Flask."""
