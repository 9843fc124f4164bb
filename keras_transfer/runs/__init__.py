"""What a run leaves behind: its folder, its page, and what can be asked of it later."""
