"""One paper a file: equations and pure steps."""
