"""How fast kshot is, beside its peers and the machine's limit: `kshot bench`."""
