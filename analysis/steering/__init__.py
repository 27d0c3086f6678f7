"""Which run to buy next, what it would tell, and when to stop: `choose` and `judge`."""
