"""Method "ecad": a genetic search over binary masks, as in ECAD. Begin with `search`; `nsga2` knows no masks."""
