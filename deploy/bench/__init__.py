"""`celerity bench`: load for any server that speaks the OpenAI API, by one thread that shares its cores."""
