"""The default way to learn: actions are selected by what they do to the final image.

Begin with `learner`, which turns what users ask for into a search, and what it found into masks. `search` looks for
tables of actions; `judge` runs them and remembers; `gradients` says what every switch in a table would do, by one
run back through the whole chain of steps, and learns the gains of forecasts. `fit` learns gains alone.
"""
