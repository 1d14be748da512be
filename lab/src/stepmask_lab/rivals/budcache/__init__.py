"""Method "budcache": annealing and hill climbing over key steps, judged by final latents. Begin with `search`.

`timesteps` has the second stage.
"""
