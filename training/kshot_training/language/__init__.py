"""Language models that learn on while they read: a learned updater writes their weights (Wolf et al., 2018)."""
