"""Programs that stand in for slow or destructive ones, started by tests as processes of their own."""
