"""A site that is not there: nodes, devices, engines and requests in virtual time, under the real planner."""
