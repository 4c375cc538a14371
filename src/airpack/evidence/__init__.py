"""Records, the Merkle log they stand in, signed checkpoints, the export and its audit."""
