"""What a pipeline and its denoiser are, found out without computing anything.

Three questions are answered here, each in a file of its own: which sites there are and which of them read which
(`describe`), what each of them costs (`measure_cost`), and what a pipeline asks of its denoiser (`first_step`).

- `architecture` is the base of a model family, `registry` finds families by class name, `sites` matches patterns of
  names, and `guess` proposes sites of models that no family knows.
- `trace` runs a `twin`, a copy of the model without values, and writes down the flow;
  `structure` keeps what was found for models of the same structure.
- `pipeline_call` says what the call of a pipeline takes, with `prompts` and `inputs`; `sampler_loop` samples where
  there is no pipeline; `overrides` switches parts of a pipeline off for a while.
"""
