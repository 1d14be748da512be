"""What a pipeline and its denoiser are, found out without running them.

Three questions are answered here, each in a file of its own: which blocks there are and who reads whom (`describe`),
what each of them costs (`costs`), and what a pipeline asks of its denoiser (`first_call`). All else serves these.

- Which submodules are sites: `architecture` (the base of a model family), `registry` (families by class name), `sites`
  (patterns of names), `guess` (models that no family knows).
- Who reads whom: `trace` runs a copy without values (`skeleton`), writing down the flow (`builder`); `structure` keeps
  answers for models of the same structure.
- What a pipeline's call takes: `call`, `prompts`, `inputs`; `loop` samples where there is no pipeline; `overrides`
  switches parts of a pipeline off for a while.
"""
