"""What runs on a host, as one archive: standard library only, Python >= 3.10; `__main__` says what there is."""
