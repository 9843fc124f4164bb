"""What never trains: engines, the store of activations, features."""
