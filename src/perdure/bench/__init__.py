"""Load: shapes of work, what they cost, and the machine on which they ran."""
