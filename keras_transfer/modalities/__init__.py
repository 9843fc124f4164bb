"""What is particular to images; one folder a kind of example."""
