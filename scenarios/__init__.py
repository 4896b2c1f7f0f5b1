"""What is run against an event service. Scenarios name no backend: the bench decides."""
