"""DPCache: key steps by dynamic programming over errors that depend on the path. Begin with `plan`."""
