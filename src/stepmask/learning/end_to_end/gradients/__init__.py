"""What every cell does to the final images, by a plan run forwards and backwards. Begin with `probe` and `chain`."""
