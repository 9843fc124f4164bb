"""Images: decoding, augmented views, resampling."""
