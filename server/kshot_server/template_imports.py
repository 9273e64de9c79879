"""The first module that the template imports: a program, as far as it goes. It takes a fifth off all other imports.

Importing torch makes half a million objects that stay, and looking for garbage among them, again and again while they
come, finds none. Engines, which are forked from the template, look again (garbage.py).
"""

import gc

gc.disable()
