"""Method "global": actions selected by what they do to the final image.

Begin with `select`, which turns what users ask for into a search, and what it found into masks. Each round of `search`
takes a table, at first one of the `portfolio`; `probe` says what every switch in it would do, by one run backwards
(`chain`); `switches` chooses for a budget, and what comes out is run. `measured` keeps every number, on disk too: that
is how a search is resumed.
"""
