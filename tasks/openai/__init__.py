"""The bodies of requests: what OpenAI's API allows in them, and how a refusal looks. Pure; no HTTP."""
