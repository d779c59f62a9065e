"""The OpenAI protocol, one file a resource."""
