"""What training data is made of, on disk and in bounded memory: mixtures, shards, duplicates, health. No torch."""
