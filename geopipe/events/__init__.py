"""Records of a run (`records`), how code emits them (`emit`), and log lines (`logs`)."""
