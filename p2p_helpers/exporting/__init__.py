"""A pipeline as ONNX files in which an edit is data, for programs without Python, such as a browser."""
