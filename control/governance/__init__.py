"""Who may do what, who said yes, and what happened."""
