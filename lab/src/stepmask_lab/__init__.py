"""stepmask-lab: everything that exists to compare masks and to reproduce results.

The laboratory depends on stepmask, never the other way round. `rivals` and `schedules` are other people's ways to a
mask, run on stepmask's executor; `shipped` are their packages as they ship; `reference` are the small trained models;
`benchmark` and `reproduce` measure, `scores` judges sets of images, `pages` writes down what came out. `plugin` and
`cli` say to stepmask what is here.
"""

__version__ = "0.1.0"
