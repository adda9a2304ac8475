"""The two-step system: picture in, faces with their expressions out."""
