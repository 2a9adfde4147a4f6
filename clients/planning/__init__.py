"""How many replicas a traffic needs: a load test's service times through a simulated queue."""
