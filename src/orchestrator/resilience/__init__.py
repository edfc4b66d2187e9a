"""Guards of a call: breaker, limits, deadline, retry; each usable alone, none knows another provider."""
