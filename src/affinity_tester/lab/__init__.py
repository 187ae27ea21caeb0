"""Pods and a UDP load balancer with seeded faults on loopback."""
