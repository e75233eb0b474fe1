"""SelMix's mathematics. It knows torch alone: somebody with a training loop of their own can use it."""
