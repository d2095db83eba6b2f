"""Random ways of reading on a real file system, recorded, replayed and compared with what the kernel did."""
