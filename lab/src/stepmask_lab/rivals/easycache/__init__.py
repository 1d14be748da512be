"""EasyCache: computes when the outputs must have changed enough, by how they changed before. Begin with `rule`."""
