"""The online store: LMDB, one writer process, any number of readers."""
