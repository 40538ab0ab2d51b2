"""graft: does transfer learning pay on your own images, and how sure are we?"""

__version__ = "0.1.0"
