"""The registered model: its gate, versions, verification and delivery."""
