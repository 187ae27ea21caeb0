"""The one importer of `kubernetes`: discover, watch."""
