"""Who answers: the life of a version, the route table derived from it, and the gateways that follow it."""
