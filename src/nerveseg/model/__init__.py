"""The network: how it is built, loaded, fed and asked."""
