"""What the routes do, without HTTP: service.py is the flow, step by step; the other files are what it is made of."""
