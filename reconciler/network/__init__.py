"""Bridges, veth pairs, addresses, firewall rules and names: how containers reach each other and the world."""
