"""What lives in a gateway: it follows the answers of its requests, and watches models and engine workers."""
