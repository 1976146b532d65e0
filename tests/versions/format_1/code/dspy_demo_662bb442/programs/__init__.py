"""The programs that people chat with: the shipped ones and their own."""
