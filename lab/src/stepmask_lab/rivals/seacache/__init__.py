"""SeaCache: computes when the input, filtered to what is image in it, has changed enough. Begin with `rule`."""
