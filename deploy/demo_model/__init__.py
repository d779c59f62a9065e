"""The built-in demo model: a toy that proves the whole path, from the HTTP request to the engine and back."""
