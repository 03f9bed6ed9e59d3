"""Units: what one commit advances, and the turns that advance it."""
