"""The verbs of the command line; each joins the parts for one purpose."""
