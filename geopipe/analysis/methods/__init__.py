"""The methods of analysis, a module each."""
