"""What finds the faces in a picture, whatever stands behind it."""
