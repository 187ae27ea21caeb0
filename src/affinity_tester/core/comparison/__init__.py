"""Two runs or two reports of experiments side by side: what got worse, what got better, and what chance may have made."""
