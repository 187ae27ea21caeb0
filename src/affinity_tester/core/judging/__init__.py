"""What a run means: the class of each change and outage, and the verdict."""
