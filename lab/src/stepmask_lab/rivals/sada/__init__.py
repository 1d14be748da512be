"""SADA: skips a step where the trajectory bends away from an estimate, and corrects for it. Begin with `rule`."""
