"""Working copies of the repository, and DVC and git in them."""
