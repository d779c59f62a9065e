"""How much memory a replica takes, term by term, before it is loaded. Pure.

`needs.estimate` is the way in. What it is made of: the settings that the engine will run
under (`setup`), its weights (`parameters`), its KV cache (`kv_cache`), what a step takes
(`activations`), and what was seen when the model was loaded before (`measured`).
"""
