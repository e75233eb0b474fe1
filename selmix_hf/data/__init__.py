"""Labels, splits, and samples that become batches."""
