"""What runs an exported package against a live proxy, under guard. So far: whether a package may be used."""
