"""The network: building, loading and saving it, its inputs and its outputs."""
