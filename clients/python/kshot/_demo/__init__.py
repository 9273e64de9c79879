"""What `kshot demo` is made of.

sources       classes to teach: glyphs, Omniglot, a folder     server   `kshot serve`, started and surely ended
episodes      one task: support and queries, and its scoring   table    the live table
measurements  accuracy and latencies so far                    sheet    the contact sheet
"""
