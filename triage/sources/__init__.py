"""Where frames come from: detector streams and files."""
