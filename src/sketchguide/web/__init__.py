"""The drawing page: one loaded model behind HTTP. Needs the extra `web`."""
