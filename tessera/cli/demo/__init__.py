"""`tessera demo`: train on a photograph, register, deploy, ask, and show what came of it."""
