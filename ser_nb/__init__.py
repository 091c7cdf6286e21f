"Emotional speech, recognised and converted."
__version__ = "0.1.0"
