"""Stage 1 with unlabelled images: FixMatch, Mean Teacher, MixMatch. One base, one loss a file."""
