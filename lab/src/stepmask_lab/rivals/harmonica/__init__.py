"""HarmoniCa (Huang et al., ICML 2025, arXiv 2410.01723): the whole run of the student, weighted by image error."""
