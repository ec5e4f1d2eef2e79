"""The live page: a board that holds what the last runs said, and the server that shows it."""
